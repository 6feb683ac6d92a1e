//! A whole distillation from one file: stages that read files and write files, in order.
//!
//! ```text
//! skim-train distill recipes/sleep.toml --out runs/sleep
//! data-sleep ─▶ train.jsonl ─tokenizer─▶ tokenizer.json ─train─▶ teach/step-N ─skip─▶ skip.jsonl ─train─▶ …/step-N ─export─▶ sleep.skim ─eval─▶ card.json
//! ```
//!
//! Paths in the file are relative to the output folder. A stage whose definition and whose predecessors' definitions have not changed since it
//! finished is passed over; a training that was interrupted goes on from its newest checkpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skimstone::kernels::Format;

use crate::card::markdown;
use crate::data::{read_rows, write_rows};
use crate::error::{Error, Result};
use crate::eval::{Card, EvalOptions, evaluate};
use crate::manifest::Manifest;
use crate::recipe::Recipe;
use crate::skip::{Criterion, Rule, drop_at_random, shorten_file};
use crate::sleep::rows;
use crate::tasks::{Split, Task};
use crate::trainer::Trainer;
use crate::{checkpoint, export, progress, tokenize};

/// One step of a distillation.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "run", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Stage {
    /// Rows of the sleep task from generated nights.
    DataSleep {
        /// Number of rows.
        n: usize,
        /// Seed of nights, questions and words.
        seed: u64,
        /// Output.
        out: PathBuf,
    },
    /// Rows of a task.
    Data {
        /// The task with its parameters.
        task: Task,
        /// The split that the questions are from.
        split: Split,
        /// Number of rows.
        n: usize,
        /// Seed of what is drawn.
        seed: u64,
        /// Output.
        out: PathBuf,
    },
    /// A tokenizer from rows.
    Tokenizer {
        /// Files of rows.
        rows: Vec<PathBuf>,
        /// Size of the vocabulary.
        vocab_size: usize,
        /// Rows to read of each file.
        max_rows: usize,
        /// Output.
        out: PathBuf,
    },
    /// A training run.
    Train {
        /// Its recipe.
        recipe: Box<Recipe>,
        /// Folder of its checkpoints.
        out: PathBuf,
    },
    /// Rows from which chunks are missing at random.
    DropAtRandom {
        /// Rows with full rationales.
        rows: PathBuf,
        /// Largest share of chunks that a row loses.
        most: f64,
        /// Seed of what goes.
        seed: u64,
        /// Output.
        out: PathBuf,
    },
    /// Rows with shorter rationales, by deletion.
    Skip {
        /// Folder of checkpoints; the newest is asked.
        checkpoint: PathBuf,
        /// Rows with full rationales.
        rows: PathBuf,
        /// Rows to read.
        limit: Option<usize>,
        /// When a deletion is kept.
        criterion: Criterion,
        /// See [`Rule::margin`].
        margin: f32,
        /// Output.
        out: PathBuf,
    },
    /// A bundle from the newest checkpoint.
    Export {
        /// Folder of checkpoints.
        checkpoint: PathBuf,
        /// How matrices are stored.
        format: String,
        /// Output.
        out: PathBuf,
    },
    /// An evaluation card, as JSON and Markdown.
    Eval {
        /// The bundle.
        bundle: PathBuf,
        /// The questions.
        rows: PathBuf,
        /// Output.
        out: PathBuf,
    },
}

impl Stage {
    fn out(&self) -> &Path {
        match self {
            Stage::DataSleep { out, .. }
            | Stage::Data { out, .. }
            | Stage::Tokenizer { out, .. }
            | Stage::Train { out, .. }
            | Stage::DropAtRandom { out, .. }
            | Stage::Skip { out, .. }
            | Stage::Export { out, .. }
            | Stage::Eval { out, .. } => out,
        }
    }
}

/// The stages of a distillation, in order.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// The stages.
    pub stage: Vec<Stage>,
}

/// Output of a finished stage → hash of its definition and of all before it.
type Finished = BTreeMap<PathBuf, String>;

impl Pipeline {
    /// Reads a pipeline.
    ///
    /// # Errors
    /// [`Error::Recipe`], naming file and key.
    pub fn load(path: &Path) -> Result<Pipeline> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let fail = |message: String| Error::Recipe(format!("{}: {message}", path.display()));
        let pipeline: Pipeline = toml::from_str(&text).map_err(|error| fail(error.to_string()))?;
        for stage in &pipeline.stage {
            match stage {
                Stage::Data { task, .. } => task.check()?,
                Stage::Train { recipe, .. } => recipe.check()?,
                Stage::Export { format, .. } => parse_format(format).map(drop)?,
                _ => {}
            }
        }
        Ok(pipeline)
    }

    /// Runs what is not done yet, with outputs in `folder`. Returns early, without error, once `stop` is set.
    ///
    /// # Errors
    /// Whatever a stage reports. Finished stages stay finished.
    pub fn run(&self, folder: &Path, stop: &Arc<AtomicBool>) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let record = folder.join("stages.json");
        let mut finished: Finished = match std::fs::read(&record) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(_) => Finished::default(),
        };
        let mut chain = String::new();
        for (index, stage) in self.stage.iter().enumerate() {
            let definition = serde_json::to_string(stage).expect("a stage has string keys");
            chain = format!("{:x}", Sha256::digest(chain + &definition));
            let out = folder.join(stage.out());
            let name = format!(
                "[{}/{}] {}",
                index + 1,
                self.stage.len(),
                stage.out().display()
            );
            if finished.get(stage.out()) == Some(&chain) && out.exists() {
                eprintln!("{name}: done before");
                continue;
            }
            eprintln!("{name}");
            let began = std::time::Instant::now();
            run_stage(stage, folder, &chain, stop)?;
            if stop.load(Ordering::Relaxed) {
                eprintln!("stopped; the same command goes on from here");
                return Ok(());
            }
            eprintln!("{name}: {:.1} min", began.elapsed().as_secs_f64() / 60.0);
            finished.insert(stage.out().to_owned(), chain.clone());
            let json = serde_json::to_vec_pretty(&finished).expect("a map with string keys");
            std::fs::write(&record, json).map_err(Error::io(&record))?;
        }
        Ok(())
    }
}

fn run_stage(stage: &Stage, folder: &Path, chain: &str, stop: &Arc<AtomicBool>) -> Result<()> {
    let at = |path: &Path| folder.join(path);
    match stage {
        Stage::DataSleep { n, seed, out } => write_rows(&at(out), &rows::generated(*n, *seed)),
        Stage::Data {
            task,
            split,
            n,
            seed,
            out,
        } => {
            let mut task = task.clone();
            task.resolve(folder);
            write_rows(&at(out), &task.generate(*split, *n, *seed)?)
        }
        Stage::Tokenizer {
            rows,
            vocab_size,
            max_rows,
            out,
        } => {
            let rows: Vec<PathBuf> = rows.iter().map(|r| at(r)).collect();
            tokenize::train_to_file(&rows, *vocab_size, *max_rows, &at(out))
        }
        Stage::Train { recipe, out } => {
            let mut recipe = (**recipe).clone();
            recipe.resolve(folder);
            if let Some(from) = &mut recipe.init.from {
                *from = checkpoint::newest(from)?;
            }
            let out = at(out);
            start_over_unless(&out, chain)?;
            train(recipe, &out, stop)
        }
        Stage::DropAtRandom {
            rows,
            most,
            seed,
            out,
        } => {
            let mut rows = read_rows(&at(rows))?.collect::<Result<Vec<_>>>()?;
            drop_at_random(&mut rows, *most, *seed);
            write_rows(&at(out), &rows)
        }
        Stage::Skip {
            checkpoint,
            rows,
            limit,
            criterion,
            margin,
            out,
        } => {
            let from = checkpoint::newest(&at(checkpoint))?;
            let rule = Rule::new(*criterion, *margin);
            shorten_file(&from, &at(rows), *limit, rule, &at(out), |n| {
                eprintln!("{n} rows")
            })
            .map(drop)
        }
        Stage::Export {
            checkpoint,
            format,
            out,
        } => {
            let from = checkpoint::newest(&at(checkpoint))?;
            let recipe = Recipe::load(&at(checkpoint).join("recipe.toml"))?;
            export::export(&from, &recipe, parse_format(format)?, None, &at(out))
        }
        Stage::Eval { bundle, rows, out } => {
            let card = evaluate(
                &at(bundle),
                &at(rows),
                &EvalOptions::default(),
                |_, _, _| (),
            )?;
            write_card(&card, &at(out))
        }
    }
}

/// Writes a card as JSON, and beside it as Markdown.
///
/// # Errors
/// [`Error::Io`].
pub fn write_card(card: &Card, out: &Path) -> Result<()> {
    let json =
        serde_json::to_string_pretty(card).expect("a card has string keys and finite numbers");
    std::fs::write(out, json + "\n").map_err(Error::io(out))?;
    let out = out.with_extension("md");
    std::fs::write(&out, markdown(card)).map_err(Error::io(&out))
}

/// A storage format by its name.
///
/// # Errors
/// [`Error::Recipe`] for an unknown one.
pub fn parse_format(name: &str) -> Result<Format> {
    Format::from_name(name)
        .ok_or_else(|| Error::Recipe(format!("unknown format `{name}`; known: f32, f16, q8, q4")))
}

/// Trains by a recipe whose paths are resolved; goes on from the newest checkpoint in `out`.
///
/// # Errors
/// As [`Trainer::run`].
pub fn train(recipe: Recipe, out: &Path, stop: &Arc<AtomicBool>) -> Result<()> {
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    let text = recipe.to_toml()?;
    std::fs::write(out.join("recipe.toml"), &text).map_err(Error::io(out))?;
    Manifest::new(&recipe, &text)?.write(&out.join("manifest.json"))?;
    let mut trainer = Trainer::new(recipe)?;
    trainer.stop_with(stop.clone());
    if let Some(path) = checkpoint::latest(out)? {
        trainer.resume(&path)?;
    }
    trainer.run(Some(out), &mut progress::views(out)?)?;
    progress::write_curve(&out.join("events.jsonl"), &out.join("curve.svg"))
}

/// Empties the folder of a training whose definition has changed: its checkpoints belong to another run.
fn start_over_unless(out: &Path, chain: &str) -> Result<()> {
    let marker = out.join("definition.sha256");
    if std::fs::read_to_string(&marker).is_ok_and(|text| text == chain) {
        return Ok(());
    }
    if marker.exists() {
        std::fs::remove_dir_all(out).map_err(Error::io(out))?;
    } else if out.exists() {
        return Err(Error::Recipe(format!(
            "{} exists and is not a run of this command; move it away",
            out.display()
        )));
    }
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    std::fs::write(&marker, chain).map_err(Error::io(&marker))
}
