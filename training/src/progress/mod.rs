//! What a run tells, and who listens: the loop emits [`Event`]s and never prints; [`View`]s write them down or show them.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Result;

mod bar;
mod curve;
mod jsonl;
mod lines;

pub use bar::Bar;
pub use curve::write_curve;
pub use jsonl::JsonlLog;
pub use lines::Lines;

/// Something that happened in a run.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The run begins or goes on.
    Started {
        /// Trainable values.
        parameters: usize,
        /// Rows, each route of a question counted.
        rows: usize,
        /// Tokens of all rows before prefixes are shared.
        tokens: usize,
        /// First optimizer step of this run; more than 0 when resumed.
        step: u64,
        /// Last optimizer step of the recipe.
        steps: u64,
        /// Worker threads.
        workers: usize,
    },
    /// One or several optimizer steps, averaged since the last report.
    Step {
        /// Optimizer steps made.
        step: u64,
        /// Passes over the rows begun.
        epoch: u64,
        /// Mean weighted cross-entropy in nats per target.
        loss: f64,
        /// Share of targets that would have been picked greedily.
        token_accuracy: f64,
        /// Learning rate.
        learning_rate: f64,
        /// Gradient norm before clipping.
        gradient_norm: f64,
        /// Tokens computed per second, prefixes counted once.
        tokens_per_s: f64,
        /// Tokens per second that separate rows would have needed.
        row_tokens_per_s: f64,
        /// Seconds since the run began.
        elapsed_s: f64,
    },
    /// Held-out rows were scored.
    Validation {
        /// Optimizer steps made.
        step: u64,
        /// Mean weighted cross-entropy in nats per target.
        loss: f64,
        /// Share of targets that would have been picked greedily.
        token_accuracy: f64,
        /// Share of rows in which every token of the answer would have been picked after the row's own thinking, per route.
        row_accuracy: std::collections::BTreeMap<String, f64>,
    },
    /// A checkpoint was written.
    Saved {
        /// Optimizer steps made.
        step: u64,
        /// The checkpoint's folder.
        path: PathBuf,
    },
    /// The run ended.
    Finished {
        /// Optimizer steps made.
        step: u64,
        /// Why.
        reason: StopReason,
        /// Seconds since the run began.
        elapsed_s: f64,
    },
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StopReason {
    /// All steps of the recipe are made.
    Steps,
    /// The time limit of the recipe has passed.
    Time,
    /// Somebody asked for it.
    Cancelled,
}

/// A listener of a run.
pub trait View {
    /// Takes note of an event.
    ///
    /// # Errors
    /// If it cannot be written down; the run stops rather than lose its record.
    fn event(&mut self, event: &Event) -> Result<()>;
}

/// Several views as one.
impl<V: View + ?Sized> View for Vec<Box<V>> {
    fn event(&mut self, event: &Event) -> Result<()> {
        self.iter_mut().try_for_each(|view| view.event(event))
    }
}

/// Nobody listens.
impl View for () {
    fn event(&mut self, _: &Event) -> Result<()> {
        Ok(())
    }
}

/// The views of a run from the command line: a JSONL file in `folder`, and a bar on a terminal or plain lines elsewhere.
///
/// # Errors
/// If the file cannot be created.
pub fn views(folder: &Path) -> Result<Vec<Box<dyn View>>> {
    let shown: Box<dyn View> = match std::io::stderr().is_terminal() {
        true => Box::new(Bar::new()),
        false => Box::new(Lines::new(std::time::Duration::from_secs(10))),
    };
    Ok(vec![
        Box::new(JsonlLog::append(&folder.join("events.jsonl"))?),
        shown,
    ])
}
