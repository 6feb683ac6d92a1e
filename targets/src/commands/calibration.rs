//! What all calibrations have in common: their questions, how figures are told, and the refusal where nothing keeps the promise.

use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};
use skimstone::{Error, ErrorKind};

use crate::data::{Row, read_rows};
use crate::failure::Result;
use crate::terminal::print_json;

/// Thresholds in the order in which they are tested, whatever the questions are. Close to 1 at first, where confidences of small
/// students lie.
pub(super) const THRESHOLDS: [f32; 28] = [
    0.9999, 0.9995, 0.999, 0.998, 0.996, 0.994, 0.992, 0.99, 0.985, 0.98, 0.97, 0.96, 0.95, 0.925,
    0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.0,
];

/// The questions of a calibration.
pub(super) struct Questions {
    path: PathBuf,
    pub(super) rows: Vec<Row>,
    /// Of the file, in hexadecimal digits.
    pub(super) sha256: String,
}

impl Questions {
    pub(super) fn read(path: &Path, limit: Option<usize>) -> Result<Questions> {
        let rows = read_rows(path, limit)?;
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
        Ok(Questions {
            path: path.to_owned(),
            rows,
            sha256: format!("{:x}", Sha256::digest(bytes)),
        })
    }

    /// An error that `line` of the file caused.
    pub(super) fn at(&self, line: usize, error: Error) -> Error {
        error
            .at(format_args!("line {line}"))
            .at(self.path.display())
    }
}

/// Tells the figures and returns what was chosen; if that is nothing, the figures come first all the same: they say why.
pub(super) fn tell<R: Serialize, T>(
    report: &R,
    json: bool,
    print: impl FnOnce(&R) -> Result,
    chosen: Option<T>,
    refusal: impl FnOnce() -> (String, &'static str),
) -> Result<T> {
    match json {
        true => print_json(report)?,
        false => print(report)?,
    }
    chosen.ok_or_else(|| {
        let (message, hint) = refusal();
        Error::new(ErrorKind::Data, message).with_hint(hint).into()
    })
}

/// Parses a share from nothing to all.
pub(super) fn share(argument: &str) -> Result<f64, String> {
    match argument.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        Ok(share) => Err(format!("{share} is not from 0 to 1")),
        Err(error) => Err(format!("{error}")),
    }
}

/// Parses a share that is neither nothing nor all.
pub(super) fn within(argument: &str) -> Result<f64, String> {
    match argument.parse() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        Ok(share) => Err(format!("{share} is not between 0 and 1")),
        Err(error) => Err(format!("{error}")),
    }
}
