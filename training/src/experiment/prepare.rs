//! Rows and tokenizer of each task, made once before the cells.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::spec::{Spec, TaskEntry};
use crate::data::{Row, read_rows, write_rows};
use crate::error::{Error, Result};
use crate::manifest::Input;
use crate::methods::context::{read_json, write_json};
use crate::tasks::Split;
use crate::tokenize::{LATENT, PAUSE, add_tokens, train_tokenizer};
use crate::unpack::unpack;

/// Rows that the tokenizer learns from: more do not change a small vocabulary.
const TOKENIZER_ROWS: usize = 20_000;

/// The files of a task, by their hashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prepared {
    /// Hash of what they were made by.
    definition: String,
    /// Training, validation and test rows, tokenizer, weights that students begin with.
    pub files: Vec<Input>,
}

/// The files of a task.
pub(crate) struct Files {
    folder: PathBuf,
}

impl Files {
    pub(super) fn new(experiment: &Path, task: &str) -> Files {
        Files {
            folder: experiment.join("tasks").join(task),
        }
    }

    pub(super) fn rows(&self, split: Split) -> PathBuf {
        self.folder.join(format!("{}.jsonl", split.name()))
    }

    pub(super) fn tokenizer(&self) -> PathBuf {
        self.folder.join("tokenizer.json")
    }

    /// The checkpoint that students begin as, if the experiment has one.
    pub(super) fn init(&self, spec: &Spec) -> Option<PathBuf> {
        spec.init.as_ref().map(|_| self.folder.join("step-0"))
    }

    pub(super) fn read(&self, split: Split) -> Result<Vec<Row>> {
        read_rows(&self.rows(split))?.collect()
    }

    /// What was prepared.
    pub(super) fn prepared(&self) -> Result<Prepared> {
        read_json(&self.folder.join("prepared.json"))
    }
}

/// Makes the files of a task unless they are there.
pub(crate) fn prepare(spec: &Spec, entry: &TaskEntry, experiment: &Path) -> Result<()> {
    let files = Files::new(experiment, &entry.label);
    let mut json = json!({ "task": entry.task, "rows": spec.rows, "vocab_size": spec.vocab_size });
    let mut special = vec![PAUSE];
    if spec
        .method
        .iter()
        .any(|entry| entry.method.thinks_in_latents())
    {
        special.push(LATENT);
        json["special"] = json!(special);
    }
    if let Some(init) = &spec.init {
        json["init"] = json!(Input::of(init)?.sha256);
    }
    let definition = format!("{:x}", Sha256::digest(json.to_string()));
    let is_prepared = files.prepared().is_ok_and(|p| p.definition == definition);
    if is_prepared {
        return Ok(());
    }
    std::fs::create_dir_all(&files.folder).map_err(Error::io(&files.folder))?;
    let sizes = [
        (Split::Train, spec.rows.train),
        (Split::Validation, spec.rows.validation),
        (Split::Test, spec.rows.test),
    ];
    let mut inputs = Vec::new();
    for (split, n) in sizes {
        let rows = entry.task.generate(split, n, spec.rows.seed)?;
        if rows.is_empty() {
            let name = split.name();
            let message = format!("task `{}` has no rows in split {name}", entry.label);
            return Err(Error::Experiment(message));
        }
        write_rows(&files.rows(split), &rows)?;
        inputs.push(Input::of(&files.rows(split))?);
    }
    let path = files.tokenizer();
    match &spec.init {
        Some(bundle) => {
            let checkpoint = unpack(bundle, &files.folder)?;
            let from = checkpoint.join("tokenizer.json");
            std::fs::copy(&from, &path).map_err(Error::io(&from))?;
            inputs.push(Input::of(&checkpoint.join("model.safetensors"))?);
        }
        None => {
            let train = [files.rows(Split::Train)];
            let mut tokenizer = train_tokenizer(&train, spec.vocab_size, TOKENIZER_ROWS)?;
            add_tokens(&mut tokenizer, &special);
            tokenizer
                .save(&path, false)
                .map_err(|error| Error::Tokenizer(format!("{}: {error}", path.display())))?;
        }
    }
    inputs.push(Input::of(&path)?);
    // Written last: files without it are made again.
    write_json(
        &files.folder.join("prepared.json"),
        &Prepared {
            definition,
            files: inputs,
        },
    )
}
