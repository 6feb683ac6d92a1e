//! One JSON object per event, appended: the record that is always kept.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Event, View};
use crate::error::{Error, Result};

/// Appends events to a file.
#[derive(Debug)]
pub struct JsonlLog {
    file: File,
    path: PathBuf,
}

impl JsonlLog {
    /// Opens or creates the file; what a resumed run already wrote stays.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(path: &Path) -> Result<JsonlLog> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(Error::io(path))?;
        Ok(JsonlLog {
            file,
            path: path.to_owned(),
        })
    }
}

impl View for JsonlLog {
    fn event(&mut self, event: &Event) -> Result<()> {
        let mut line =
            serde_json::to_string(event).expect("an event has string keys and plain fields");
        line.push('\n');
        self.file
            .write_all(line.as_bytes())
            .map_err(Error::io(&self.path))
    }
}
