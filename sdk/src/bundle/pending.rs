//! [`PendingFile`]: a file that appears under its name whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Bytes of a write of a small file.
const SMALL: usize = 8 << 10;

/// Bytes of a write of a bundle. Linux keeps a file in its cache in pieces as large as it was written, and maps what lies in one piece with
/// fewer address translations: a model that was just written in pieces of a few KiB decodes at two thirds of the speed on one Zen 4 core
/// (56 instead of 83 tokens/s at 0.5B), until it is read from storage again.
const LARGE: usize = 2 << 20;

/// A file that gets its name when it is whole, and vanishes otherwise.
///
/// It is written beside its target under a name of its own, flushed to the storage, renamed, and the folder flushed, too: whoever looks
/// at the target, after whatever crash, finds the old file or the new one, whole. A process that is killed leaves its unfinished file
/// behind; the next one that writes the same target takes it away, which a lock tells it is allowed to.
pub struct PendingFile {
    /// `None` once it is persisted.
    file: Option<BufWriter<File>>,
    temporary: PathBuf,
    target: PathBuf,
}

impl PendingFile {
    /// A file that will be called `target`. Until then it stands beside it under another name.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if it cannot be created; [`ErrorKind::Argument`] if `target` names no file.
    pub fn create(target: &Path) -> Result<PendingFile> {
        let file = PendingFile::with_buffer(target, SMALL)?;
        file.remove_abandoned();
        Ok(file)
    }

    /// As [`create`](Self::create), for a file that is mapped later: written in [large pieces](LARGE).
    pub(super) fn create_large(target: &Path) -> Result<PendingFile> {
        PendingFile::with_buffer(target, LARGE)
    }

    fn with_buffer(target: &Path, bytes: usize) -> Result<PendingFile> {
        // Unique among the writers of this process; the process id keeps processes apart.
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let name = target.file_name().ok_or_else(|| {
            Error::new(ErrorKind::Argument, "is not the name of a file").at(target.display())
        })?;
        let suffix = format!(
            ".{}.{}.tmp",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        );
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(suffix);
        let temporary = target.with_file_name(temporary);
        let file = File::create_new(&temporary).map_err(|error| Error::io(target, error))?;
        // Where the file system has no locks, nothing is taken away either.
        let _ = file.try_lock();
        Ok(PendingFile {
            file: Some(BufWriter::with_capacity(bytes, file)),
            temporary,
            target: target.to_owned(),
        })
    }

    /// Removes what killed processes left of earlier tries. Nothing hangs on it, so failures are passed over.
    fn remove_abandoned(&self) {
        let (Some(folder), Some(name)) = (self.temporary.parent(), self.target.file_name()) else {
            return;
        };
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        let folder = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let other = Some(name.as_os_str()) != self.temporary.file_name();
            let bytes = name.as_encoded_bytes();
            if other && bytes.starts_with(prefix.as_encoded_bytes()) && bytes.ends_with(b".tmp") {
                let file = File::options().write(true).open(entry.path());
                // Who still writes it holds the lock.
                if file.is_ok_and(|file| file.try_lock().is_ok()) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }

    /// Writes everything to storage and gives the file its name, in place of what had it before.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; what had the name before stays then, unless it is only the folder that could not be flushed.
    pub fn persist(mut self) -> Result<()> {
        let rename = |file: BufWriter<File>| {
            file.into_inner()
                .map_err(io::IntoInnerError::into_error)?
                .sync_all()?;
            fs::rename(&self.temporary, &self.target)?;
            sync_folder(&self.target)
        };
        match self.file.take().map(rename) {
            Some(Err(error)) => {
                // Best effort: the error that matters is the first.
                let _ = fs::remove_file(&self.temporary);
                Err(Error::io(&self.target, error))
            }
            _ => Ok(()),
        }
    }

    fn inner(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.file
            .as_mut()
            .ok_or_else(|| io::Error::other("the file is already complete"))
    }
}

/// Makes a rename last: the folder is what it changed.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // A folder that may not be read, or a file system that has nothing to flush for folders.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Elsewhere folders cannot be opened.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

impl Write for PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner()?.flush()
    }
}

impl Seek for PendingFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.inner()?.seek(position)
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Nothing useful can be done about a failure here.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
