//! Checkpoints: everything that a run needs to go on as if it had never stopped.
//!
//! ```text
//! step-1200/
//!   config.json             the student's shape
//!   tokenizer.json          its tokenizer
//!   model.safetensors       weights under Hugging Face's names
//!   optimizer.safetensors   both moments, flat
//!   state.json              position in the data, seed
//!   curriculum.json         what a changing selection of rows remembers, where there is one
//! ```
//!
//! A checkpoint is written under another name and renamed when complete, so that a folder with this name is whole. The order of
//! rows is a function of seed and epoch, so the random state is the epoch and the place in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use skimstone::ModelConfig;

use crate::error::{Error, Result};
use crate::optimizer::AdamW;
use crate::student::Student;

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Optimizer steps made.
    pub step: u64,
    /// Passes over the rows begun, from 0.
    pub epoch: u64,
    /// Micro-batches of this epoch that are done.
    pub micro_batch: u64,
    /// Seed of the run; another seed has another order of rows.
    pub seed: u64,
    /// The step at which the optimizer's moments were last cleared.
    #[serde(default)]
    pub restarted_at: u64,
    /// Floating-point operations so far, by [`crate::flops`].
    #[serde(default)]
    pub flops: u64,
}

/// Writes a checkpoint `step-N` into `folder` and returns its path.
///
/// # Errors
/// [`Error::Io`]; the folder is then as it was.
pub fn save(
    folder: &Path,
    student: &Student,
    optimizer: &AdamW,
    position: Position,
    tokenizer: &Path,
    curriculum: Option<&serde_json::Value>,
) -> Result<PathBuf> {
    let path = folder.join(format!("step-{}", position.step));
    let mut weights = Vec::new();
    for (name, variable) in student.variables() {
        let values: Vec<f32> = variable.flatten_all()?.to_vec1()?;
        weights.push((name.clone(), variable.dims().to_vec(), bytes_of(&values)));
    }
    let flat = |name: &str, values: &[f32]| (name.to_owned(), vec![values.len()], bytes_of(values));
    let moments = [
        flat("first", &optimizer.first),
        flat("second", &optimizer.second),
    ];
    let state = serde_json::to_vec_pretty(&position).expect("plain fields");
    let mut files = vec![
        ("model.safetensors", serialize(&weights, &path)?),
        ("optimizer.safetensors", serialize(&moments, &path)?),
        ("config.json", student.config().to_json().into_bytes()),
        ("state.json", state),
    ];
    if let Some(state) = curriculum {
        let json = serde_json::to_vec(state).expect("a value serialises");
        files.push(("curriculum.json", json));
    }
    let tokenizer = std::fs::read(tokenizer).map_err(Error::io(tokenizer))?;
    files.push(("tokenizer.json", tokenizer));
    write_whole(path, &files)
}

/// Writes a checkpoint `step-0` of weights alone: name, shape, little-endian f32.
///
/// # Errors
/// [`Error::Io`]; the folder is then as it was.
pub(crate) fn save_weights(
    folder: &Path,
    config: &ModelConfig,
    weights: &[(String, Vec<usize>, Vec<u8>)],
    tokenizer: &[u8],
) -> Result<PathBuf> {
    let path = folder.join("step-0");
    let files = [
        ("model.safetensors", serialize(weights, &path)?),
        ("config.json", config.to_json().into_bytes()),
        ("tokenizer.json", tokenizer.to_vec()),
    ];
    write_whole(path, &files)
}

/// Writes a checkpoint's files under another name, which becomes `path` when all are there.
fn write_whole(path: PathBuf, files: &[(&str, Vec<u8>)]) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    std::fs::create_dir_all(&partial).map_err(Error::io(&partial))?;
    for (name, bytes) in files {
        let file = partial.join(name);
        std::fs::write(&file, bytes).map_err(Error::io(&file))?;
    }
    if path.exists() {
        std::fs::remove_dir_all(&path).map_err(Error::io(&path))?;
    }
    std::fs::rename(&partial, &path).map_err(Error::io(&path))?;
    Ok(path)
}

/// Removes all but the newest `keep` checkpoints of a folder.
///
/// # Errors
/// [`Error::Io`].
pub fn prune(folder: &Path, keep: usize) -> Result<()> {
    let mut found = list(folder)?;
    found.truncate(found.len().saturating_sub(keep.max(1)));
    found
        .iter()
        .try_for_each(|(_, path)| std::fs::remove_dir_all(path).map_err(Error::io(path)))
}

/// The newest checkpoint of a folder.
///
/// # Errors
/// [`Error::Io`].
pub fn latest(folder: &Path) -> Result<Option<PathBuf>> {
    Ok(list(folder)?.pop().map(|(_, path)| path))
}

/// The newest checkpoint of a folder, or `path` itself if it is one.
///
/// # Errors
/// [`Error::Checkpoint`] if there is none.
pub fn newest(path: &Path) -> Result<PathBuf> {
    if path.join("model.safetensors").exists() {
        return Ok(path.to_owned());
    }
    let none = || Error::Checkpoint {
        path: path.to_owned(),
        message: "holds no checkpoint".to_owned(),
    };
    latest(path)?.ok_or_else(none)
}

fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if let Some(step) = name
            .strip_prefix("step-")
            .and_then(|step| step.parse().ok())
        {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The student of a checkpoint.
///
/// # Errors
/// [`Error::Checkpoint`] if a file is missing or damaged.
pub fn load_student(path: &Path) -> Result<Student> {
    let config = std::fs::read_to_string(path.join("config.json"))
        .map_err(Error::io(path.join("config.json")))?;
    let config = ModelConfig::from_json(&config)?;
    Student::from_tensors(&config, &deserialize(&path.join("model.safetensors"))?)
}

/// Puts a checkpoint's moments and step count into `optimizer`, which already has the checkpoint's weights.
///
/// # Errors
/// [`Error::Checkpoint`] if a file is missing, damaged or of another student.
pub fn load_optimizer(path: &Path, optimizer: &mut AdamW) -> Result<Position> {
    let fail = |message: String| Error::Checkpoint {
        path: path.to_owned(),
        message,
    };
    let position = load_position(path)?;
    let tensors = deserialize(&path.join("optimizer.safetensors"))?;
    for (name, moments) in [
        ("first", &mut optimizer.first),
        ("second", &mut optimizer.second),
    ] {
        let tensor = tensors
            .get(name)
            .ok_or_else(|| fail(format!("optimizer.safetensors has no `{name}`")))?;
        if tensor.elem_count() != moments.len() {
            let (found, expected) = (tensor.elem_count(), moments.len());
            return Err(fail(format!(
                "`{name}` has {found} values, the student {expected} parameters"
            )));
        }
        *moments = tensor.flatten_all()?.to_vec1()?;
    }
    optimizer.steps = position.step - position.restarted_at.min(position.step);
    Ok(position)
}

/// The position of a checkpoint.
///
/// # Errors
/// [`Error::Checkpoint`] if it is missing or damaged.
pub fn load_position(path: &Path) -> Result<Position> {
    let state = path.join("state.json");
    let text = std::fs::read_to_string(&state).map_err(Error::io(&state))?;
    serde_json::from_str(&text).map_err(|error| Error::Checkpoint {
        path: path.to_owned(),
        message: format!("state.json: {error}"),
    })
}

/// What the curriculum of a checkpoint remembers.
///
/// # Errors
/// [`Error::Checkpoint`] if it is missing or damaged.
pub fn load_curriculum(path: &Path) -> Result<serde_json::Value> {
    let file = path.join("curriculum.json");
    let text = std::fs::read_to_string(&file).map_err(Error::io(&file))?;
    serde_json::from_str(&text).map_err(|error| Error::Checkpoint {
        path: path.to_owned(),
        message: format!("curriculum.json: {error}"),
    })
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn serialize(tensors: &[(String, Vec<usize>, Vec<u8>)], path: &Path) -> Result<Vec<u8>> {
    let fail = |error: safetensors::SafeTensorError| Error::Checkpoint {
        path: path.to_owned(),
        message: error.to_string(),
    };
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((
                name,
                TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(fail)?,
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    safetensors::serialize(views, None).map_err(fail)
}

fn deserialize(path: &Path) -> Result<HashMap<String, Tensor>> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|error| Error::Checkpoint {
        path: path.to_owned(),
        message: error.to_string(),
    })
}
