//! One cell of the grid: what it is, where it lies, what it found, and which cells come next.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::interventions::Interventions;
use super::prepare::Prepared;
use super::routing::Routing;
use super::spec::Spec;
use crate::error::{Error, Result};
use crate::methods::LabelStats;
use crate::methods::Method;

/// A method taught on a task with a seed at a learning rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellId {
    /// Label of the task.
    pub task: String,
    /// Label of the method.
    pub method: String,
    /// Seed of the student.
    pub seed: u64,
    /// Peak learning rate.
    pub learning_rate: f64,
}

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CellId {
            task,
            method,
            seed,
            learning_rate,
        } = self;
        write!(f, "{task}/{method}/seed-{seed}/rate-{learning_rate:e}")
    }
}

impl CellId {
    /// The cell's folder in the experiment's.
    pub fn folder(&self, experiment: &Path) -> PathBuf {
        experiment.join("cells").join(self.to_string())
    }

    /// The cell of a name as [`fmt::Display`] writes it.
    ///
    /// # Errors
    /// [`Error::Experiment`] if it is none.
    pub fn parse(name: &str) -> Result<CellId> {
        let parts: Vec<&str> = name.split('/').collect();
        let parsed = match parts[..] {
            [task, method, seed, rate] => seed
                .strip_prefix("seed-")
                .and_then(|seed| seed.parse().ok())
                .zip(
                    rate.strip_prefix("rate-")
                        .and_then(|rate| rate.parse().ok()),
                )
                .map(|(seed, learning_rate)| CellId {
                    task: task.to_owned(),
                    method: method.to_owned(),
                    seed,
                    learning_rate,
                }),
            _ => None,
        };
        parsed.ok_or_else(|| Error::Experiment(format!("`{name}` is not the name of a cell")))
    }
}

/// What a cell found: everything in it follows from its definition, so it has neither times nor paths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Hash of the definition.
    pub definition: String,
    /// The cell.
    pub cell: CellId,
    /// Commit of the program, `unknown` outside of a repository.
    pub commit: String,
    /// Values that were trained.
    pub parameters: u64,
    /// Hash of the student's weights.
    pub weights_sha256: String,
    /// Optimizer steps of all trainings.
    pub steps: u64,
    /// Floating-point operations of all trainings and of scoring for them.
    pub flops: u64,
    /// The route that was asked.
    pub route: String,
    /// Right answers on validation rows.
    pub validation_correct: usize,
    /// Validation rows.
    pub validation_rows: usize,
    /// Test rows, one by one.
    pub items: Items,
    /// What the student itself left out of rationales when it answered test questions rightly.
    pub skips: Option<Skips>,
    /// What a deletion test decided about training rows.
    pub labels: Option<LabelStats>,
    /// Test rows with what latent steps read replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interventions: Option<Interventions>,
    /// Test rows with other rules in the place of routers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<Routing>,
    /// What else the method tells.
    pub notes: Vec<(String, f64)>,
}

impl Record {
    /// Share of right answers on validation rows.
    pub fn validation_accuracy(&self) -> f64 {
        self.validation_correct as f64 / self.validation_rows.max(1) as f64
    }
}

/// The test rows of a cell in order, one entry per row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Items {
    /// `1` for a right answer.
    pub correct: String,
    /// Tokens generated, thinking and answer.
    pub generated_tokens: Vec<usize>,
    /// Latent steps.
    pub latent_steps: Vec<usize>,
    /// Layers run per position after the question: opening and pause tokens included.
    pub layer_passes: Vec<usize>,
}

impl Items {
    /// 1 for each right answer, else 0.
    pub fn correct(&self) -> Vec<f64> {
        let bytes = self.correct.bytes();
        bytes.map(|b| f64::from(u8::from(b == b'1'))).collect()
    }

    /// Right answers.
    pub fn hits(&self) -> usize {
        self.correct.bytes().filter(|b| *b == b'1').count()
    }
}

/// Chunks of the task's rationale that a student did not write, over the test rows that it answered rightly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skips {
    /// Chunks of these rows.
    pub chunks: usize,
    /// Chunks that may go.
    pub skippable: usize,
    /// Chunks that the student did not write.
    pub skipped: usize,
    /// Of these, chunks that may go.
    pub hits: usize,
}

/// How long a bundle takes for an answer, batch 1, one thread, nothing of the grid beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Hash of the cell's definition.
    pub definition: String,
    /// Kernel table of the machine.
    pub kernels: String,
    /// Milliseconds of each question, prompt included.
    pub ms: Vec<f64>,
}

impl Timing {
    /// The smallest value that at least `share` of the questions do not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut ms = self.ms.clone();
        ms.sort_by(f64::total_cmp);
        let rank = (share * ms.len() as f64).ceil().max(1.0) as usize;
        ms.get(rank - 1).copied().unwrap_or_default()
    }
}

/// Everything that decides a cell's result, as a hash. `measured_rate` is the deletion rate of the method that it depends on.
pub(crate) fn definition(
    spec: &Spec,
    cell: &CellId,
    prepared: &Prepared,
    measured_rate: Option<f64>,
) -> Result<String> {
    let json = json!({
        // Raised when the same definition would give another result.
        "format": 1,
        "task": spec.task(&cell.task)?.task.name(),
        "data": prepared.files,
        "method": spec.method(&cell.method)?.method,
        "seed": cell.seed,
        "learning_rate": cell.learning_rate,
        "measured_rate": measured_rate,
        "steps": spec.steps,
        "batch_rows": spec.batch_rows,
        "model": spec.model,
        "schedule": spec.schedule,
        "optimizer": spec.optimizer,
        "format_of_bundle": spec.evaluation.format,
        "max_answer_tokens": spec.evaluation.max_answer_tokens,
    });
    Ok(format!("{:x}", Sha256::digest(json.to_string())))
}

/// Finished cells by name.
pub(crate) type Finished = BTreeMap<String, Record>;

/// The learning rate that a method's first seed is best at on validation rows, once all are known.
pub(crate) fn chosen_rate(
    spec: &Spec,
    task: &str,
    method: &str,
    finished: &Finished,
) -> Option<f64> {
    let mut best: Option<(f64, f64)> = None;
    for rate in &spec.learning_rates {
        let cell = id(task, method, spec.seeds[0], *rate);
        let accuracy = finished.get(&cell.to_string())?.validation_accuracy();
        if best.is_none_or(|(highest, _)| accuracy > highest) {
            best = Some((accuracy, *rate));
        }
    }
    best.map(|(_, rate)| rate)
}

/// The deletion rate that a cell takes over from another one: `None` while that is not finished, `Some(None)` if it takes none.
pub(crate) fn measured_rate(
    spec: &Spec,
    cell: &CellId,
    finished: &Finished,
) -> Result<Option<Option<f64>>> {
    let Some(other) = spec.method(&cell.method)?.method.depends_on() else {
        return Ok(Some(None));
    };
    let Some(rate) = chosen_rate(spec, &cell.task, other, finished) else {
        return Ok(None);
    };
    let measured = finished.get(&id(&cell.task, other, cell.seed, rate).to_string());
    let labels = measured.and_then(|record| record.labels);
    Ok(labels.map(|labels| Some(labels.rate())))
}

/// The cells that can run now and the number of cells that are to be run in all, finished ones included.
pub(crate) fn ready(spec: &Spec, finished: &Finished) -> Result<Vec<CellId>> {
    let mut out = Vec::new();
    for task in &spec.task {
        for method in &spec.method {
            let (task, label) = (&task.label, &method.label);
            let mut wanted: Vec<CellId> = spec
                .learning_rates
                .iter()
                .map(|rate| id(task, label, spec.seeds[0], *rate))
                .collect();
            if let Some(rate) = chosen_rate(spec, task, label, finished) {
                let others = spec.seeds[1..].iter();
                wanted.extend(others.map(|seed| id(task, label, *seed, rate)));
            }
            for cell in wanted {
                let is_done = finished.contains_key(&cell.to_string());
                if !is_done && measured_rate(spec, &cell, finished)?.is_some() {
                    out.push(cell);
                }
            }
        }
    }
    Ok(out)
}

/// Cells of the whole grid.
pub(crate) fn total(spec: &Spec) -> usize {
    spec.task.len() * spec.method.len() * (spec.learning_rates.len() + spec.seeds.len() - 1)
}

pub(crate) fn id(task: &str, method: &str, seed: u64, learning_rate: f64) -> CellId {
    CellId {
        task: task.to_owned(),
        method: method.to_owned(),
        seed,
        learning_rate,
    }
}

/// Whether a method's rationale can leave something out, so that skips are worth counting.
pub(crate) fn writes_rationales(method: &Method) -> bool {
    !matches!(method, Method::NoCot(_) | Method::Pause(_)) && !method.thinks_in_latents()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_cell() {
        let cell = id("chain", "stt-2", 3, 2.5e-3);
        assert_eq!(cell.to_string(), "chain/stt-2/seed-3/rate-2.5e-3");
        assert_eq!(CellId::parse(&cell.to_string()).unwrap(), cell);
        assert!(CellId::parse("chain/stt/3/0.1").is_err());
    }
}
