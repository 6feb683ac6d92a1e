//! What can go wrong in a stage, with the place where it did.

use std::path::{Path, PathBuf};

/// The result of a training stage.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the training crate. Messages name the thing, both values where two disagree, and the place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line of a data file is not a row.
    #[error("{}:{line}: field `{field}`: {message}", path.display())]
    Row {
        /// The data file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The field of the row.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// A recipe cannot be followed.
    #[error("recipe: {0}")]
    Recipe(String),
    /// A task cannot be made as its parameters ask.
    #[error("task {0}")]
    Task(String),
    /// An experiment cannot be run as its file asks, or a part of it failed.
    #[error("experiment: {0}")]
    Experiment(String),
    /// Somebody asked the run to stop; the same command goes on from here.
    #[error("stopped; the same command goes on from here")]
    Stopped,
    /// The tokenizer cannot be trained, read or used as the recipe asks.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A checkpoint does not fit the run or is damaged.
    #[error("checkpoint {}: {message}", path.display())]
    Checkpoint {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The run produced a loss that is not a number; lower the learning rate or look at the data.
    #[error(
        "loss is {loss} at step {step}; lower the learning rate or look at the rows of this step"
    )]
    Diverged {
        /// The optimizer step.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// A file of nights cannot be read.
    #[error(transparent)]
    Nights(#[from] crate::sleep::nights::NightsError),
    /// A tensor operation refused its arguments.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The runtime refused a configuration, a bundle or a prompt.
    #[error(transparent)]
    Runtime(#[from] skimstone::Error),
}

impl Error {
    /// Attaches a path to an I/O error.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_owned();
        move |source| Error::Io { path, source }
    }
}
