//! Files that are written whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use skimstone::{Error, ErrorKind};

use crate::failure::Result;

/// A file under a temporary name beside its target. It gets its own name by [`OutputFile::commit`]; dropped before that, it
/// vanishes.
pub(crate) struct OutputFile {
    file: Option<BufWriter<File>>,
    temporary: PathBuf,
    target: PathBuf,
}

impl OutputFile {
    /// Begins the file, so that a folder that cannot be written to is found before the work is done.
    pub(crate) fn create(target: &Path) -> Result<OutputFile> {
        let name = target.file_name().ok_or_else(|| {
            Error::new(ErrorKind::Argument, "is not the name of a file").at(target.display())
        })?;
        if target.is_dir() {
            return Err(Error::new(ErrorKind::Io, "is a folder")
                .at(target.display())
                .into());
        }
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = target.with_file_name(temporary);
        let file = File::create_new(&temporary).map_err(|error| Error::io(target, error))?;
        Ok(OutputFile {
            file: Some(BufWriter::new(file)),
            temporary,
            target: target.to_owned(),
        })
    }

    /// Writes `bytes`, and gives the file its name.
    pub(crate) fn commit(mut self, bytes: &[u8]) -> Result {
        let write = |mut file: BufWriter<File>| -> io::Result<()> {
            file.write_all(bytes)?;
            file.into_inner()
                .map_err(io::IntoInnerError::into_error)?
                .sync_all()?;
            fs::rename(&self.temporary, &self.target)
        };
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        write(file).map_err(|error| {
            // Best effort: the error that matters is the first.
            let _ = fs::remove_file(&self.temporary);
            Error::io(&self.target, error).into()
        })
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Nothing useful can be done about a failure here.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
