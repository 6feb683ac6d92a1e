//! What a method works with: rows, the grid's equal settings and a folder of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;
use skimstone::ShortcutSpec;

use super::LabelStats;
use crate::checkpoint;
use crate::curriculum::Curriculum;
use crate::data::{Encoder, Row, TokenizedRow};
use crate::error::{Error, Result};
use crate::experiment::Spec;
use crate::loss::Objective;
use crate::manifest::Manifest;
use crate::progress::{Event, JsonlLog, View};
use crate::recipe::{
    BatchKnobs, CheckpointKnobs, Data, Export, Init, Recipe, Route, Schedule, default_routes,
    latent_route,
};
use crate::student::Student;
use crate::trainer::Trainer;

/// The route of every method that writes a rationale.
pub(crate) const COT: &str = "cot";

/// The route of methods that answer at once.
pub(crate) const DIRECT: &str = "direct";

/// The route of methods that think in hidden states.
pub(crate) const LATENT: &str = "latent";

/// Tokens of thinking that a student may write beyond the longest rationale that it could have read.
const THINKING_SLACK: usize = 8;

/// What a method works with.
pub struct Context<'a> {
    /// What is equal for all methods.
    pub spec: &'a Spec,
    /// Seed of the student and of whatever the method draws.
    pub seed: u64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// The deletion rate of the method that this one depends on.
    pub measured_rate: Option<f64>,
    /// Rows to learn from, and their file.
    pub rows: &'a [Row],
    /// The file of [`Context::rows`].
    pub rows_file: PathBuf,
    /// `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// The checkpoint that students begin as; random weights if there is none.
    pub init: Option<PathBuf>,
    /// Folder of the cell.
    pub folder: PathBuf,
    /// Once true, trainings stop and save.
    pub stop: Arc<AtomicBool>,
    /// Hears of optimizer steps made in the cell so far.
    pub progress: &'a dyn Fn(u64),
}

/// A taught student.
#[derive(Clone, Debug)]
pub struct Taught {
    /// Its checkpoint.
    pub checkpoint: PathBuf,
    /// The recipe of its last training, with the routes that it knows.
    pub recipe: Recipe,
    /// The route to ask.
    pub route: &'static str,
    /// Optimizer steps of all trainings.
    pub steps: u64,
    /// Floating-point operations of all trainings and of all scoring for them.
    pub flops: u64,
    /// What a deletion test decided about the training rows, last round.
    pub labels: Option<LabelStats>,
    /// What else is worth telling: name and value.
    pub notes: Vec<(String, f64)>,
}

/// Positions between question and answer that are no words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Pause tokens.
    pub pauses: usize,
    /// Latent steps.
    pub latents: usize,
}

/// One training of a method.
#[derive(Debug)]
pub struct Training {
    /// Name of its folder in the cell.
    pub name: String,
    /// Optimizer steps.
    pub steps: u64,
    /// The training before it: its student is where this one starts.
    pub after: Option<Taught>,
    /// Rows in an optimizer step.
    pub batch_rows: usize,
    /// The route that is learned.
    pub route: &'static str,
    /// What the route has to compute in beside words.
    pub positions: Positions,
    /// Whether the learning rate stays at its peak after the warm-up.
    pub constant_rate: bool,
    /// Width of the hidden layer of the latent map, if there is one.
    pub latent_map_size: Option<usize>,
    /// Routers and adapters, and when the runtime is to listen to them, if there are any.
    pub shortcut: Option<ShortcutSpec>,
    /// What is made small.
    pub objective: Objective,
}

impl Context<'_> {
    /// A training over all steps of the experiment.
    pub fn training(&self, route: &'static str) -> Training {
        Training {
            name: "train".to_owned(),
            steps: self.spec.steps,
            after: None,
            batch_rows: self.spec.batch_rows,
            route,
            positions: Positions::default(),
            constant_rate: false,
            latent_map_size: None,
            shortcut: None,
            objective: Objective::default(),
        }
    }

    /// The routes that a training's rows are written for.
    fn routes(&self, training: &Training) -> BTreeMap<String, Route> {
        let mut routes = default_routes();
        routes.remove("skip");
        if training.route == LATENT {
            routes.insert(LATENT.to_owned(), latent_route());
        }
        if let Some(route) = routes.get_mut(training.route) {
            route.pauses = training.positions.pauses;
            route.latents = training.positions.latents;
        }
        routes
    }

    /// An encoder for rationales in words.
    ///
    /// # Errors
    /// As [`Encoder::open`].
    pub fn encoder(&self) -> Result<Encoder> {
        self.encoder_of(&self.training(COT))
    }

    /// An encoder for the rows of a training.
    ///
    /// # Errors
    /// As [`Encoder::open`].
    pub fn encoder_of(&self, training: &Training) -> Result<Encoder> {
        Encoder::open(&self.tokenizer, &self.routes(training))
    }

    /// The tokens of `rows` on a route, each row a group of its own.
    ///
    /// # Errors
    /// [`Error::Experiment`] if a row is longer than the student's context.
    pub fn encode(
        &self,
        encoder: &Encoder,
        route: &str,
        rows: &[Row],
    ) -> Result<Vec<TokenizedRow>> {
        let context = self.spec.model.max_position_embeddings;
        let encoded = rows.iter().enumerate().map(|(index, row)| {
            let mut tokens = encoder.encode(route, &row.question, &row.chunks, &row.answer)?;
            if tokens.tokens.len() > context {
                return Err(Error::Experiment(format!(
                    "row {} has {} tokens on route `{route}`, the context has {context}",
                    row.id,
                    tokens.tokens.len()
                )));
            }
            tokens.group = index as u32;
            Ok(tokens)
        });
        encoded.collect()
    }

    /// Runs a training over fixed rows, or goes on with it.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the stop handle is set; whatever the training reports.
    pub fn train_on(&self, training: Training, rows: Vec<TokenizedRow>) -> Result<Taught> {
        self.run(training, |recipe, student| {
            Trainer::with_rows(recipe, student, rows, Vec::new())
        })
    }

    /// Runs a training over rows that change, or goes on with it.
    ///
    /// # Errors
    /// As [`Context::train_on`].
    pub fn train_with(
        &self,
        training: Training,
        curriculum: Box<dyn Curriculum>,
    ) -> Result<Taught> {
        self.run(training, |recipe, student| {
            Trainer::with_curriculum(recipe, student, curriculum)
        })
    }

    fn run(
        &self,
        training: Training,
        trainer: impl FnOnce(Recipe, Student) -> Result<Trainer>,
    ) -> Result<Taught> {
        let folder = self.folder.join(&training.name);
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let encoder = self.encoder_of(&training)?;
        let recipe = self.recipe(&training, &encoder)?;
        let (before, flops_before) = match &training.after {
            Some(taught) => (taught.steps, taught.flops),
            None => (0, 0),
        };
        let mut record = recipe.clone();
        record.relative_to(&folder);
        let text = record.to_toml()?;
        write_whole(&folder.join("recipe.toml"), text.as_bytes())?;
        Manifest::new(&recipe, &text)?.write(&folder.join("manifest.json"))?;
        let config = recipe.model_config(encoder.vocab_size(), encoder.end())?;
        let student = match &recipe.init.from {
            Some(path) => {
                let student = checkpoint::load_student(path)?;
                if student.config() != &config {
                    return Err(Error::Experiment(format!(
                        "`init` is a model {}, the experiment's is {}",
                        student.config().to_json(),
                        config.to_json()
                    )));
                }
                match recipe.side_modules() {
                    side if side == student.side() => student,
                    side => student.with_side(side, self.seed, recipe.init.std)?,
                }
            }
            None => {
                let side = recipe.side_modules();
                Student::random_with(&config, side, self.seed, recipe.init.std)?
            }
        };
        let mut trainer = trainer(recipe.clone(), student)?;
        trainer.stop_with(self.stop.clone());
        trainer.set_objective(training.objective);
        if let Some(path) = checkpoint::latest(&folder)? {
            trainer.resume(&path)?;
        }
        let mut view = Steps {
            log: JsonlLog::append(&folder.join("events.jsonl"))?,
            before,
            progress: self.progress,
        };
        if trainer.position().step < training.steps {
            trainer.run(Some(&folder), &mut view)?;
        }
        let position = trainer.position();
        if position.step < training.steps || self.stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        (self.progress)(before + position.step);
        let checkpoint = checkpoint::newest(&folder)?;
        Ok(Taught {
            checkpoint,
            recipe,
            route: training.route,
            steps: before + position.step,
            flops: flops_before + position.flops,
            labels: training.after.and_then(|taught| taught.labels),
            notes: Vec::new(),
        })
    }

    fn recipe(&self, training: &Training, encoder: &Encoder) -> Result<Recipe> {
        let spec = self.spec;
        let mut routes = self.routes(training);
        if let Some(route) = routes.get_mut(COT) {
            route.max_thinking_tokens = Some(self.longest_rationale(encoder)? + THINKING_SLACK);
        }
        let warmup = (training.steps as f64 * spec.schedule.warmup_share).round() as u64;
        Ok(Recipe {
            seed: self.seed,
            tokenizer: self.tokenizer.clone(),
            model: spec.model.clone(),
            latent_map_size: training.latent_map_size,
            shortcut: training.shortcut,
            data: vec![Data {
                path: self.rows_file.clone(),
                routes: vec![training.route.to_owned()],
                limit: None,
            }],
            validation: None,
            routes,
            batch: BatchKnobs {
                micro_batch_tokens: usize::MAX >> 1,
                micro_batch_rows: training.batch_rows,
                micro_batches: 1,
                tree_rows: 1,
                workers: 1,
            },
            optimizer: spec.optimizer.at(self.learning_rate),
            schedule: Schedule {
                steps: training.steps,
                limit_minutes: None,
                shape: spec.schedule.shape,
                warmup_steps: warmup,
                floor: if training.constant_rate {
                    1.0
                } else {
                    spec.schedule.floor
                },
                decay_share: spec.schedule.decay_share,
            },
            init: Init {
                from: match &training.after {
                    Some(taught) => Some(taught.checkpoint.clone()),
                    None => self.init.clone(),
                },
                ..Init::default()
            },
            checkpoint: CheckpointKnobs {
                every: spec.checkpoint_every,
                keep: 1,
                report_every: 10,
            },
            export: Export {
                default_route: Some(training.route.to_owned()),
                answer_reserve: spec.evaluation.max_answer_tokens,
            },
        })
    }

    /// Tokens of the longest full rationale, separators and the token that starts the answer included.
    fn longest_rationale(&self, encoder: &Encoder) -> Result<usize> {
        let mut longest = 0;
        for row in self.rows {
            let tokens = encoder.encode(COT, "", &row.chunks, "")?;
            longest = longest.max(tokens.answer);
        }
        Ok(longest)
    }

    /// What `make` computes, kept in a JSON file of the cell so that a later call reads it instead.
    ///
    /// # Errors
    /// Whatever `make` reports, or the file.
    pub(crate) fn kept<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let path = self.folder.join(name);
        if path.exists() {
            return read_json(&path);
        }
        let value = make()?;
        write_json(&path, &value)?;
        // What was read back, so that a resumed run sees the same values.
        read_json(&path)
    }

    /// The error if somebody asked to stop.
    pub(crate) fn unless_stopped(&self) -> Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::Stopped),
            false => Ok(()),
        }
    }
}

/// Writes a training's events down and passes its steps on.
struct Steps<'a> {
    log: JsonlLog,
    before: u64,
    progress: &'a dyn Fn(u64),
}

impl View for Steps<'_> {
    fn event(&mut self, event: &Event) -> Result<()> {
        if let Event::Started { step, .. } | Event::Step { step, .. } = event {
            (self.progress)(self.before + step);
        }
        self.log.event(event)
    }
}

/// Writes a file that appears whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    std::fs::write(&partial, bytes).map_err(Error::io(&partial))?;
    std::fs::rename(&partial, path).map_err(Error::io(path))
}

/// Writes JSON that appears whole or not at all.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let fail = |error: serde_json::Error| {
        Error::Experiment(format!("{}: cannot be JSON: {error}", path.display()))
    };
    let mut bytes = serde_json::to_vec_pretty(value).map_err(fail)?;
    bytes.push(b'\n');
    write_whole(path, &bytes)
}

/// Reads JSON.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::Experiment(format!("{}: {error}", path.display())))
}
