//! What a run was made of: hashes of its inputs, seed and versions, written beside its outputs and into the bundle.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::recipe::Recipe;

/// A file that went into a run.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Input {
    /// Its name without folders: a manifest says what was used, not where it lay.
    pub name: String,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

impl Input {
    /// Hashes a file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of(path: &Path) -> Result<Input> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = file.read(&mut buffer).map_err(Error::io(path))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            bytes += read as u64;
        }
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        Ok(Input {
            name,
            sha256: format!("{:x}", hasher.finalize()),
            bytes,
        })
    }
}

/// The record of a run.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// Version of this crate.
    pub version: String,
    /// Seed of the run.
    pub seed: u64,
    /// The recipe as it was written.
    pub recipe: String,
    /// Tokenizer, rows, validation rows, initial weights.
    pub inputs: Vec<Input>,
}

impl Manifest {
    /// The record of a run by `recipe`, whose text was `text`.
    ///
    /// # Errors
    /// [`Error::Io`] if an input cannot be read.
    pub fn new(recipe: &Recipe, text: &str) -> Result<Manifest> {
        let rows = recipe
            .data
            .iter()
            .chain(recipe.validation.iter().flat_map(|v| &v.data))
            .map(|data| data.path.clone());
        let weights = recipe
            .init
            .from
            .iter()
            .map(|path| path.join("model.safetensors"));
        let mut paths: Vec<_> = std::iter::once(recipe.tokenizer.clone())
            .chain(rows)
            .chain(weights)
            .collect();
        paths.dedup();
        Ok(Manifest {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seed: recipe.seed,
            recipe: text.to_owned(),
            inputs: paths
                .iter()
                .map(|path| Input::of(path))
                .collect::<Result<_>>()?,
        })
    }

    /// Writes the record as JSON.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let json =
            serde_json::to_vec_pretty(self).expect("a manifest has string keys and plain fields");
        std::fs::write(path, json).map_err(Error::io(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_known_by_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, "abc").unwrap();
        let input = Input::of(&path).unwrap();
        assert_eq!((input.name.as_str(), input.bytes), ("rows.jsonl", 3));
        assert_eq!(
            input.sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
