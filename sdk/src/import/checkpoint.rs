//! The safetensors files of a Hugging Face folder, mapped, and their tensors row by row as f32.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde::Deserialize;

use crate::bundle::Storage;
use crate::bundle::safetensors::{Dtype, Entry, parse};
use crate::config::{ModelConfig, names};
use crate::error::{Error, ErrorKind, Result};

/// The cap of the safetensors crate itself.
const MAX_HEADER_BYTES: usize = 100_000_000;

/// More shards than the largest published model has, and few enough to map.
const MAX_SHARDS: usize = 4096;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// One mapped file.
struct Shard {
    path: PathBuf,
    storage: Storage,
}

/// All tensors of a folder.
pub(super) struct Checkpoint {
    shards: Vec<Shard>,
    /// Tensor name → shard and entry.
    tensors: HashMap<String, (usize, Entry)>,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Maps the single file of `folder`, or all shards that its index names, and validates their headers.
    pub(super) fn open(folder: &Path) -> Result<Checkpoint> {
        let index_path = folder.join(INDEX);
        let mut checkpoint = Checkpoint {
            shards: Vec::new(),
            tensors: HashMap::new(),
        };
        if !index_path.exists() {
            let single = folder.join(SINGLE);
            if !single.exists() {
                let message = format!("there is neither `{SINGLE}` nor `{INDEX}`");
                return Err(Error::new(ErrorKind::Io, message)
                    .at(folder.display())
                    .with_hint("convert the checkpoint to safetensors with `save_pretrained(…, safe_serialization=True)`"));
            }
            checkpoint.add(single)?;
            return Ok(checkpoint);
        }
        let index = read_index(&index_path).map_err(|error| error.at(index_path.display()))?;
        let files: BTreeSet<&String> = index.weight_map.values().collect();
        for file in files {
            checkpoint.add(folder.join(file))?;
        }
        if let Some(name) = index
            .weight_map
            .keys()
            .find(|name| !checkpoint.tensors.contains_key(*name))
        {
            let message = format!("tensor `{name}` is not in `{}`", index.weight_map[name]);
            return Err(Error::new(ErrorKind::MissingTensor, message).at(index_path.display()));
        }
        Ok(checkpoint)
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let storage = Storage::open(&path).map_err(|error| Error::io(&path, error))?;
        let header = parse(&storage, MAX_HEADER_BYTES).map_err(|error| error.at(path.display()))?;
        for entry in header.entries {
            let name = entry.name.clone();
            if self
                .tensors
                .insert(name.clone(), (self.shards.len(), entry))
                .is_some()
            {
                return Err(Error::new(
                    ErrorKind::Format,
                    format!("tensor `{name}` is in two files"),
                )
                .at(path.display()));
            }
        }
        self.shards.push(Shard { path, storage });
        Ok(())
    }

    /// Checks that the checkpoint has every tensor that `config` requires, with its shape and a float type, and none that would
    /// be left unused in silence. Returns the bytes that an import reads.
    pub(super) fn check(&self, config: &ModelConfig) -> Result<u64> {
        let mut total = 0;
        let mut required = BTreeSet::new();
        for tensor in config.tensors() {
            let place = |error: Error| error.at(format_args!("tensor `{}`", tensor.name));
            let (_, entry) = self.tensors.get(&tensor.name).ok_or_else(|| {
                let message = format!("tensor `{}` is missing", tensor.name);
                Error::new(ErrorKind::MissingTensor, message).with_hint(self.hint(&tensor.name))
            })?;
            if entry.shape != tensor.shape {
                let message = format!(
                    "expected {:?} by the config, checkpoint has {:?}",
                    tensor.shape, entry.shape
                );
                return Err(place(Error::new(ErrorKind::Shape, message)));
            }
            if !matches!(entry.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                let message = format!(
                    "data type {} is not supported; supported: F32, F16, BF16",
                    entry.dtype.name()
                );
                return Err(place(Error::new(ErrorKind::Dtype, message)));
            }
            total += entry.range.len() as u64;
            required.insert(tensor.name);
        }
        // A bias that the config does not mention would change the logits if it were ignored.
        let ignored = |name: &str| name.ends_with("rotary_emb.inv_freq") || name == names::LM_HEAD;
        match self
            .tensors
            .keys()
            .filter(|name| !required.contains(*name) && !ignored(name))
            .min()
        {
            None => Ok(total),
            Some(name) => {
                let message = format!(
                    "tensor `{name}` has no place in a {} of this config",
                    config.model_type
                );
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }

    fn hint(&self, name: &str) -> String {
        let shards: Vec<_> = self
            .shards
            .iter()
            .filter_map(|s| s.path.file_name())
            .map(|n| n.to_string_lossy())
            .collect();
        match name == names::LM_HEAD {
            true => "is `tie_word_embeddings` missing in the config?".to_owned(),
            false => format!("looked in {}", shards.join(", ")),
        }
    }

    /// A tensor that [`check`](Self::check) has seen.
    pub(super) fn tensor(&self, name: &str) -> Result<SourceTensor<'_>> {
        let missing = || {
            Error::new(
                ErrorKind::MissingTensor,
                format!("tensor `{name}` is missing"),
            )
        };
        let (shard, entry) = self.tensors.get(name).ok_or_else(missing)?;
        Ok(SourceTensor {
            dtype: entry.dtype,
            bytes: &self.shards[*shard].storage[entry.range.clone()],
        })
    }
}

fn read_index(path: &Path) -> Result<Index> {
    let malformed = |message: String| Error::new(ErrorKind::Format, message);
    let json = std::fs::read_to_string(path)
        .map_err(|e| Error::new(ErrorKind::Io, e.to_string()).with_source(e))?;
    let index: Index =
        serde_json::from_str(&json).map_err(|e| malformed(e.to_string()).with_source(e))?;
    let files: BTreeSet<&String> = index.weight_map.values().collect();
    if files.len() > MAX_SHARDS {
        return Err(malformed(format!(
            "{} files, at most {MAX_SHARDS} are allowed",
            files.len()
        )));
    }
    // The index comes from outside: it may name files of its own folder only.
    for file in files {
        if Path::new(file).file_name() != Some(file.as_ref()) {
            return Err(malformed(format!(
                "`{file}` is not the name of a file in this folder"
            )));
        }
    }
    Ok(index)
}

/// The bytes of one tensor of a checkpoint.
pub(super) struct SourceTensor<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
}

impl SourceTensor<'_> {
    /// Reads row `row` of as many values as `out` has; returns the bytes that were read.
    ///
    /// The source need not be aligned, so values are put together from bytes.
    pub(super) fn read_row(&self, row: usize, out: &mut [f32]) -> usize {
        let size = self.dtype.bytes() * out.len();
        let bytes = &self.bytes[row * size..][..size];
        match self.dtype {
            Dtype::F16 => {
                let values = bytes.as_chunks::<2>().0;
                out.iter_mut()
                    .zip(values)
                    .for_each(|(out, le)| *out = f16::from_le_bytes(*le).to_f32());
            }
            Dtype::BF16 => {
                let values = bytes.as_chunks::<2>().0;
                out.iter_mut()
                    .zip(values)
                    .for_each(|(out, le)| *out = bf16::from_le_bytes(*le).to_f32());
            }
            _ => {
                let values = bytes.as_chunks::<4>().0;
                out.iter_mut()
                    .zip(values)
                    .for_each(|(out, le)| *out = f32::from_le_bytes(*le));
            }
        }
        size
    }
}
