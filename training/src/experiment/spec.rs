//! What an experiment compares: one TOML file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::methods::Method;
use crate::pipeline::parse_format;
use crate::recipe::{Model, Optimizer, Shape};
use crate::tasks::Task;

/// A grid of methods × tasks × seeds, with everything that is equal for all of them.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Its name, in the report.
    pub name: String,
    /// Seeds of initialisation, order of rows and whatever a method draws. The first one chooses the learning rates.
    pub seeds: Vec<u64>,
    /// Peak learning rates, the same list for every method.
    pub learning_rates: Vec<f64>,
    /// Optimizer steps of a student, over all trainings of its method together.
    pub steps: u64,
    /// Rows in an optimizer step; a method that takes fewer says so.
    pub batch_rows: usize,
    /// Size of the vocabulary, without the pause token. Without a meaning where `init` is given.
    pub vocab_size: usize,
    /// A bundle that every student begins as, with its vocabulary and the shape of `model`; random weights if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// How many rows of which seed.
    pub rows: Rows,
    /// The student's shape.
    pub model: Model,
    /// Course of the learning rate in each training.
    #[serde(default)]
    pub schedule: Course,
    /// AdamW without its learning rate.
    #[serde(default)]
    pub optimizer: Adam,
    /// How students are asked.
    #[serde(default)]
    pub evaluation: Evaluation,
    /// Optimizer steps between two checkpoints.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: u64,
    /// What is learned.
    pub task: Vec<TaskEntry>,
    /// How it is learned.
    pub method: Vec<MethodEntry>,
}

/// A task under a label.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TaskEntry {
    /// Name of the column; the task's name if left out.
    #[serde(default)]
    pub label: String,
    /// The task with its parameters.
    pub task: Task,
}

/// A method under a label.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MethodEntry {
    /// Name of the row; the method's name if left out.
    #[serde(default)]
    pub label: String,
    /// Labels of the methods that it must beat. Only what is itself a control may have none.
    #[serde(default)]
    pub controls: Vec<String>,
    /// The method with its parameters.
    pub method: Method,
}

/// Rows of a task.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// Rows to learn from.
    pub train: usize,
    /// Rows on which the learning rate is chosen.
    pub validation: usize,
    /// Rows on which everything else is measured.
    pub test: usize,
    /// Seed of what is drawn, the same for every seed of the students.
    pub seed: u64,
}

/// Course of the learning rate, as shares of a training's steps.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Course {
    /// Shape after the warm-up.
    pub shape: Shape,
    /// Share of linear rise.
    pub warmup_share: f64,
    /// Floor as a share of the peak.
    pub floor: f64,
    /// Share of the training that a `wsd` course decays over.
    pub decay_share: f64,
}

impl Default for Course {
    fn default() -> Self {
        Course {
            shape: Shape::Cosine,
            warmup_share: 0.05,
            floor: 0.02,
            decay_share: 0.3,
        }
    }
}

/// AdamW without its learning rate; see [`Optimizer`].
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adam {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Gradients of a larger norm are scaled down to it; 0: never.
    pub clip_norm: f64,
}

impl Default for Adam {
    fn default() -> Self {
        let of = Optimizer::default();
        Adam {
            beta1: of.beta1,
            beta2: of.beta2,
            eps: of.eps,
            weight_decay: of.weight_decay,
            clip_norm: of.clip_norm,
        }
    }
}

impl Adam {
    /// The optimizer at a learning rate.
    pub(crate) fn at(self, learning_rate: f64) -> Optimizer {
        Optimizer {
            learning_rate,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
            clip_norm: self.clip_norm,
        }
    }
}

/// How students are asked: greedily, one question at a time, through the runtime.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// How matrices are stored in the bundle: f32, f16, q8 or q4.
    pub format: String,
    /// Most tokens of an answer.
    pub max_answer_tokens: usize,
    /// Questions that are timed, after everything else is done and with nothing of the grid beside them.
    pub timed_questions: usize,
}

impl Default for Evaluation {
    fn default() -> Self {
        Evaluation {
            format: "f32".to_owned(),
            max_answer_tokens: 64,
            timed_questions: 100,
        }
    }
}

fn default_checkpoint_every() -> u64 {
    250
}

impl Spec {
    /// Reads an experiment; its paths become relative to the current folder instead of to the file.
    ///
    /// # Errors
    /// [`Error::Experiment`], naming file and key.
    pub fn load(path: &Path) -> Result<Spec> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let mut spec = Spec::from_toml(&text).map_err(|error| match error {
            Error::Experiment(message) => {
                Error::Experiment(format!("{}: {message}", path.display()))
            }
            other => other,
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for entry in &mut spec.task {
            entry.task.resolve(folder);
        }
        if let Some(init) = &mut spec.init {
            *init = folder.join(&*init);
        }
        Ok(spec)
    }

    /// Reads an experiment from TOML.
    ///
    /// # Errors
    /// [`Error::Experiment`], naming the key.
    pub fn from_toml(text: &str) -> Result<Spec> {
        let mut spec: Spec =
            toml::from_str(text).map_err(|error| Error::Experiment(error.to_string()))?;
        for entry in &mut spec.task {
            if entry.label.is_empty() {
                entry.label = entry.task.name().to_owned();
            }
        }
        for entry in &mut spec.method {
            if entry.label.is_empty() {
                entry.label = entry.method.name().to_owned();
            }
        }
        spec.check()?;
        Ok(spec)
    }

    /// The experiment as TOML, to be saved beside what it made.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|error| Error::Experiment(error.to_string()))
    }

    /// The task of a label.
    ///
    /// # Errors
    /// [`Error::Experiment`] for an unknown one.
    pub fn task(&self, label: &str) -> Result<&TaskEntry> {
        let found = self.task.iter().find(|entry| entry.label == label);
        found.ok_or_else(|| Error::Experiment(format!("no task has the label `{label}`")))
    }

    /// The method of a label.
    ///
    /// # Errors
    /// [`Error::Experiment`] for an unknown one.
    pub fn method(&self, label: &str) -> Result<&MethodEntry> {
        let found = self.method.iter().find(|entry| entry.label == label);
        found.ok_or_else(|| Error::Experiment(format!("no method has the label `{label}`")))
    }

    fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Experiment(message));
        for (what, is_empty) in [
            ("seeds", self.seeds.is_empty()),
            ("learning_rates", self.learning_rates.is_empty()),
            ("task", self.task.is_empty()),
            ("method", self.method.is_empty()),
        ] {
            if is_empty {
                return fail(format!("`{what}` is empty"));
            }
        }
        let positive = [
            ("steps", self.steps as usize),
            ("batch_rows", self.batch_rows),
            ("rows.train", self.rows.train),
            ("rows.validation", self.rows.validation),
            ("rows.test", self.rows.test),
            (
                "evaluation.max_answer_tokens",
                self.evaluation.max_answer_tokens,
            ),
        ];
        if let Some((what, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return fail(format!("`{what}` must be at least 1"));
        }
        unique("seeds", self.seeds.iter())?;
        unique("learning_rates", self.learning_rates.iter())?;
        unique("task label", self.task.iter().map(|e| &e.label))?;
        unique("method label", self.method.iter().map(|e| &e.label))?;
        if let Some(rate) = self.learning_rates.iter().find(|rate| {
            // Neither zero nor a value that is not a number trains anything.
            !(**rate > 0.0 && rate.is_finite())
        }) {
            return fail(format!("learning rate {rate}; expected a positive number"));
        }
        parse_format(&self.evaluation.format)?;
        for entry in &self.task {
            check_label(&entry.label)?;
            entry.task.check()?;
        }
        let are_controls: BTreeSet<&String> =
            self.method.iter().flat_map(|e| &e.controls).collect();
        for entry in &self.method {
            let label = &entry.label;
            check_label(label)?;
            let inside =
                |message: String| Error::Experiment(format!("method `{label}`: {message}"));
            entry.method.check(self.steps).map_err(inside)?;
            if self.init.is_some() && entry.method.needs_tokens() {
                return Err(inside(
                    "needs tokens that the vocabulary of `init` does not have".to_owned(),
                ));
            }
            let others = entry.controls.iter().chain(entry.method.depends_on());
            for other in others {
                if other == label {
                    return Err(inside("refers to itself".to_owned()));
                }
                self.method(other).map_err(|_| {
                    inside(format!("refers to `{other}`, which is no method's label"))
                })?;
            }
            if let Some(other) = entry.method.depends_on() {
                let measured = self.method(other)?;
                if !measured.method.measures_deletion() {
                    return Err(inside(format!(
                        "takes the deletion rate of `{other}`, which deletes nothing by a test"
                    )));
                }
            }
        }
        for entry in &self.method {
            if entry.controls.is_empty() && !are_controls.contains(&entry.label) {
                return fail(format!(
                    "method `{}`: has no control; name at least one method in `controls`, for example {}",
                    entry.label,
                    entry.method.usual_control()
                ));
            }
        }
        Ok(())
    }
}

fn check_label(label: &str) -> Result<()> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !label.is_empty() && label.chars().all(is_good) && !label.starts_with('.') {
        return Ok(());
    }
    Err(Error::Experiment(format!(
        "label `{label}`: expected ASCII letters, digits, `-`, `_` and `.`; it names a folder"
    )))
}

fn unique<T: PartialEq + std::fmt::Display>(
    what: &str,
    values: impl Iterator<Item = T> + Clone,
) -> Result<()> {
    for (index, value) in values.clone().enumerate() {
        if values.clone().take(index).any(|other| other == value) {
            return Err(Error::Experiment(format!("{what} `{value}` twice")));
        }
    }
    Ok(())
}
