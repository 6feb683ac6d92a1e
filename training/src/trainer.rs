//! The loop: plan, forward and backward on every worker, one update, events.
//!
//! Each worker runs whole micro-batches on one thread and keeps its own flat gradient; the sums are added in the order of the workers.
//! So a run is repeatable to the bit at the same number of workers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use skimstone::ModelConfig;

use crate::checkpoint::{self, Position};
use crate::curriculum::Curriculum;
use crate::data::{Dataset, Encoder, TokenizedRow};
use crate::error::{Error, Result};
use crate::loss::{Moment, Objective};
use crate::ops::simd::multiversion;
use crate::optimizer::AdamW;
use crate::pack::{Packing, build};
use crate::pass::Pass;
use crate::progress::{Event, StopReason, View};
use crate::recipe::Recipe;
use crate::score::{Score, score};
use crate::student::Student;

/// A run: a student, its optimizer, the rows and the place in them.
#[derive(Debug)]
pub struct Trainer {
    recipe: Recipe,
    student: Student,
    optimizer: AdamW,
    rows: Vec<TokenizedRow>,
    /// What replaces the rows on the way, if anything does.
    curriculum: Option<Box<dyn Curriculum>>,
    /// Held-out rows by route.
    validation: Vec<(String, Vec<TokenizedRow>)>,
    position: Position,
    /// Micro-batches of the present epoch.
    plan: Vec<Vec<Vec<usize>>>,
    workers: Vec<Worker>,
    stop: Arc<AtomicBool>,
    objective: Objective,
}

/// The buffers of one thread.
#[derive(Debug)]
struct Worker {
    pass: Pass,
    /// Flat, in the order of the optimizer's weights.
    gradient: Vec<f32>,
}

/// Sums over micro-batches.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    loss: f64,
    weight: f64,
    targets: usize,
    correct: usize,
    tokens: usize,
    row_tokens: usize,
    flops: u64,
}

impl Sums {
    fn add(self, other: Sums) -> Sums {
        Sums {
            loss: self.loss + other.loss,
            weight: self.weight + other.weight,
            targets: self.targets + other.targets,
            correct: self.correct + other.correct,
            tokens: self.tokens + other.tokens,
            row_tokens: self.row_tokens + other.row_tokens,
            flops: self.flops + other.flops,
        }
    }
}

impl Trainer {
    /// Prepares a run: reads and tokenizes all rows, makes or loads the student.
    ///
    /// # Errors
    /// If a row, the recipe, the tokenizer or the initial checkpoint is at fault.
    pub fn new(recipe: Recipe) -> Result<Trainer> {
        let encoder = Encoder::open(&recipe.tokenizer, &recipe.routes)?;
        let config = recipe.model_config(encoder.vocab_size(), encoder.end())?;
        let student = match &recipe.init.from {
            Some(path) => {
                let student = checkpoint::load_student(path)?;
                if student.config() != &config {
                    let message = "its config.json is not the recipe's model".to_owned();
                    return Err(Error::Checkpoint {
                        path: path.clone(),
                        message,
                    });
                }
                student
            }
            None => {
                Student::random_with(&config, recipe.side_modules(), recipe.seed, recipe.init.std)?
            }
        };
        let context = config.max_position_embeddings;
        let rows = Dataset::load(&recipe.data, &encoder, context)?.rows;
        let mut validation = Vec::new();
        for source in recipe.validation.iter().flat_map(|v| &v.data) {
            for route in &source.routes {
                let one = crate::recipe::Data {
                    routes: vec![route.clone()],
                    ..source.clone()
                };
                validation.push((
                    route.clone(),
                    Dataset::load(&[one], &encoder, context)?.rows,
                ));
            }
        }
        Trainer::with_rows(recipe, student, rows, validation)
    }

    /// A run over rows that are already tokenized.
    ///
    /// # Errors
    /// [`Error::Recipe`] if there is nothing to train on.
    pub fn with_rows(
        recipe: Recipe,
        student: Student,
        rows: Vec<TokenizedRow>,
        validation: Vec<(String, Vec<TokenizedRow>)>,
    ) -> Result<Trainer> {
        if rows.is_empty() {
            return Err(Error::Recipe("the data files hold no rows".to_owned()));
        }
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let asked = if recipe.batch.workers == 0 {
            cores
        } else {
            recipe.batch.workers
        };
        let optimizer = AdamW::new(&student, recipe.optimizer)?;
        let worker = || Worker {
            pass: Pass::new(student.config(), student.side()),
            gradient: vec![0f32; optimizer.len()],
        };
        let workers = asked.min(recipe.batch.micro_batches);
        let mut trainer = Trainer {
            workers: std::iter::repeat_with(worker).take(workers).collect(),
            position: Position {
                seed: recipe.seed,
                ..Position::default()
            },
            plan: Vec::new(),
            stop: Arc::default(),
            objective: Objective::default(),
            recipe,
            student,
            optimizer,
            rows,
            curriculum: None,
            validation,
        };
        trainer.plan = trainer.packing().plan(&trainer.rows, 0);
        Ok(trainer)
    }

    /// A run over rows that change on the way.
    ///
    /// # Errors
    /// [`Error::Recipe`] if there is nothing to train on; whatever the curriculum reports.
    pub fn with_curriculum(
        recipe: Recipe,
        student: Student,
        mut curriculum: Box<dyn Curriculum>,
    ) -> Result<Trainer> {
        if recipe.batch.micro_batches != 1 {
            // Rows that change within a step would leave its other micro-batches pointing at rows that are gone.
            return Err(Error::Recipe(format!(
                "`batch.micro_batches` is {}; rows that change on the way need 1",
                recipe.batch.micro_batches
            )));
        }
        let begin = curriculum.advance(0, true, &student)?;
        let mut trainer = Trainer::with_rows(recipe, student, curriculum.rows()?, Vec::new())?;
        trainer.position.flops = begin.map_or(0, |change| change.flops);
        trainer.curriculum = Some(curriculum);
        Ok(trainer)
    }

    /// Lets the curriculum change the rows; a change begins a new epoch.
    fn advance(&mut self, epoch_ended: bool) -> Result<()> {
        let Some(curriculum) = &mut self.curriculum else {
            return Ok(());
        };
        self.optimizer.publish(&self.student)?;
        let Some(change) = curriculum.advance(self.position.step, epoch_ended, &self.student)?
        else {
            return Ok(());
        };
        self.rows = curriculum.rows()?;
        if self.rows.is_empty() {
            return Err(Error::Recipe("the curriculum leaves no rows".to_owned()));
        }
        self.position.flops += change.flops;
        if change.restarts_optimizer {
            self.optimizer = AdamW::new(&self.student, self.recipe.optimizer)?;
            self.position.restarted_at = self.position.step;
        }
        if !epoch_ended {
            self.begin_epoch();
        }
        Ok(())
    }

    fn begin_epoch(&mut self) {
        self.position.epoch += 1;
        self.position.micro_batch = 0;
        self.plan = self.packing().plan(&self.rows, self.position.epoch);
    }

    /// Goes on from a checkpoint of the same recipe: weights, moments, step and place in the rows.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it is damaged or of another run.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let fail = |message: String| {
            Err(Error::Checkpoint {
                path: path.to_owned(),
                message,
            })
        };
        let student = checkpoint::load_student(path)?;
        if student.config() != self.student.config() {
            return fail("its config.json is not the recipe's model".to_owned());
        }
        let mut optimizer = AdamW::new(&student, self.recipe.optimizer)?;
        let position = checkpoint::load_optimizer(path, &mut optimizer)?;
        if position.seed != self.recipe.seed {
            return fail(format!(
                "its seed is {}, the recipe's {}",
                position.seed, self.recipe.seed
            ));
        }
        if let Some(curriculum) = &mut self.curriculum {
            curriculum.restore(checkpoint::load_curriculum(path)?)?;
            self.rows = curriculum.rows()?;
        }
        (self.student, self.optimizer, self.position) = (student, optimizer, position);
        self.plan = self.packing().plan(&self.rows, position.epoch);
        Ok(())
    }

    /// What is made small from now on, instead of the cross-entropy.
    pub fn set_objective(&mut self, objective: Objective) {
        self.objective = objective;
    }

    /// Once `stop` is true the run stops after the present step.
    pub fn stop_with(&mut self, stop: Arc<AtomicBool>) {
        self.stop = stop;
    }

    /// Where the run stands.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The student as it is now.
    pub fn student(&self) -> &Student {
        &self.student
    }

    fn packing(&self) -> Packing {
        let batch = self.recipe.batch;
        Packing {
            micro_batch_tokens: batch.micro_batch_tokens,
            micro_batch_rows: batch.micro_batch_rows,
            tree_rows: batch.tree_rows,
            seed: self.recipe.seed,
        }
    }

    /// Trains until the recipe's steps are made, its time is over or the stop handle is set; saves at the end.
    ///
    /// Checkpoints go into `folder`; without one nothing is saved. Returns the last checkpoint.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss is not finite; whatever a view or a checkpoint reports.
    pub fn run(&mut self, folder: Option<&Path>, view: &mut impl View) -> Result<Option<PathBuf>> {
        let begin = Instant::now();
        let (steps, knobs) = (self.recipe.schedule.steps, self.recipe.checkpoint);
        let limit = self
            .recipe
            .schedule
            .limit_minutes
            .map(|minutes| Duration::from_secs_f64(minutes * 60.0));
        view.event(&Event::Started {
            parameters: self.optimizer.len(),
            rows: self.rows.len(),
            tokens: self.rows.iter().map(|row| row.tokens.len()).sum(),
            step: self.position.step,
            steps,
            workers: self.workers.len(),
        })?;
        let (mut sums, mut norms, mut since, mut reports) =
            (Sums::default(), 0.0, Instant::now(), 0u32);
        let mut saved = None;
        let reason = loop {
            if self.position.step >= steps {
                break StopReason::Steps;
            }
            if limit.is_some_and(|limit| begin.elapsed() >= limit) {
                break StopReason::Time;
            }
            if self.stop.load(Ordering::Relaxed) {
                break StopReason::Cancelled;
            }
            let rate = self.recipe.optimizer.learning_rate
                * self.recipe.schedule.factor(self.position.step);
            let (step_sums, norm) = self.step(rate)?;
            (sums, norms, reports) = (sums.add(step_sums), norms + norm, reports + 1);
            let step = self.position.step;
            if step.is_multiple_of(knobs.report_every.max(1)) || step == steps {
                let seconds = since.elapsed().as_secs_f64();
                view.event(&Event::Step {
                    step,
                    epoch: self.position.epoch,
                    loss: sums.loss / sums.weight,
                    token_accuracy: sums.correct as f64 / sums.targets.max(1) as f64,
                    learning_rate: rate,
                    gradient_norm: norms / f64::from(reports),
                    tokens_per_s: sums.tokens as f64 / seconds,
                    row_tokens_per_s: sums.row_tokens as f64 / seconds,
                    elapsed_s: begin.elapsed().as_secs_f64(),
                })?;
                (sums, norms, reports) = (Sums::default(), 0.0, 0);
                since = Instant::now();
            }
            if self
                .recipe
                .validation
                .as_ref()
                .is_some_and(|v| step.is_multiple_of(v.every.max(1)) || step == steps)
            {
                self.optimizer.publish(&self.student)?;
                view.event(&self.validate()?)?;
                since = Instant::now();
            }
            if knobs.every > 0 && step.is_multiple_of(knobs.every) && step < steps {
                saved = self.save(folder, view)?;
            }
        };
        self.optimizer.publish(&self.student)?;
        if folder.is_some() && self.position.step > 0 {
            saved = self.save(folder, view)?;
        }
        view.event(&Event::Finished {
            step: self.position.step,
            reason,
            elapsed_s: begin.elapsed().as_secs_f64(),
        })?;
        Ok(saved)
    }

    fn save(&self, folder: Option<&Path>, view: &mut impl View) -> Result<Option<PathBuf>> {
        let Some(folder) = folder else {
            return Ok(None);
        };
        self.optimizer.publish(&self.student)?;
        let path = checkpoint::save(
            folder,
            &self.student,
            &self.optimizer,
            self.position,
            &self.recipe.tokenizer,
            self.curriculum.as_ref().map(|c| c.state()).as_ref(),
        )?;
        checkpoint::prune(folder, self.recipe.checkpoint.keep)?;
        view.event(&Event::Saved {
            step: self.position.step,
            path: path.clone(),
        })?;
        Ok(Some(path))
    }

    /// The plan entries of the next step; a new epoch is planned when one is used up.
    fn next_micro_batches(&mut self) -> Result<Vec<Vec<Vec<usize>>>> {
        if self.position.step > 0 {
            self.advance(false)?;
        }
        let mut taken = Vec::with_capacity(self.recipe.batch.micro_batches);
        while taken.len() < self.recipe.batch.micro_batches {
            if self.position.micro_batch as usize >= self.plan.len() {
                self.advance(true)?;
                self.begin_epoch();
            }
            taken.push(self.plan[self.position.micro_batch as usize].clone());
            self.position.micro_batch += 1;
        }
        Ok(taken)
    }

    /// One optimizer step; returns the sums of its micro-batches and the gradient norm.
    fn step(&mut self, learning_rate: f64) -> Result<(Sums, f64)> {
        let micro_batches = self.next_micro_batches()?;
        let (weights, rows, workers) = (&self.optimizer.weights, &self.rows, self.workers.len());
        let moment = Moment {
            step: self.position.step,
            steps: self.recipe.schedule.steps,
            seed: self.recipe.seed,
        };
        let about = (self.student.config(), self.objective, moment);
        let work = |index: usize, worker: &mut Worker| {
            worker.gradient.fill(0.0);
            let mut own = micro_batches.iter().skip(index).step_by(workers);
            own.try_fold(Sums::default(), |sums, trees| {
                micro_batch(about, worker, weights, rows, trees).map(|part| sums.add(part))
            })
        };
        let parts = match self.workers.as_mut_slice() {
            [only] => vec![work(0, only)?],
            several => std::thread::scope(|scope| {
                let start = |(index, worker)| scope.spawn(move || work(index, worker));
                let handles: Vec<_> = several.iter_mut().enumerate().map(start).collect();
                let joined = handles
                    .into_iter()
                    .map(|handle| handle.join().expect("a training worker does not panic"));
                joined.collect::<Result<Vec<Sums>>>()
            })?,
        };
        let sums = parts.into_iter().fold(Sums::default(), Sums::add);
        self.position.step += 1;
        self.position.flops += sums.flops;
        if !sums.loss.is_finite() {
            return Err(Error::Diverged {
                step: self.position.step,
                loss: sums.loss,
            });
        }
        let (total, others) = self
            .workers
            .split_first_mut()
            .expect("there is at least one worker");
        for other in others {
            add(&mut total.gradient, &other.gradient);
        }
        let first = match self.objective.trains_shortcuts_only() {
            true => self.student.shortcut_start(),
            false => 0,
        };
        let norm = self
            .optimizer
            .step(first, &total.gradient, sums.weight, learning_rate);
        Ok((sums, norm))
    }

    fn validate(&self) -> Result<Event> {
        let mut all = Score::default();
        let mut row_accuracy = std::collections::BTreeMap::new();
        for (route, rows) in &self.validation {
            let part = score(&self.student, rows)?;
            row_accuracy.insert(
                route.clone(),
                part.correct_rows as f64 / part.rows.max(1) as f64,
            );
            all.loss += part.loss;
            all.weight += part.weight;
            all.targets += part.targets;
            all.correct += part.correct;
        }
        Ok(Event::Validation {
            step: self.position.step,
            loss: all.loss / all.weight.max(f64::MIN_POSITIVE),
            token_accuracy: all.correct as f64 / all.targets.max(1) as f64,
            row_accuracy,
        })
    }
}

/// Forward and backward of one micro-batch; gradients are added to the worker's.
fn micro_batch(
    (config, objective, moment): (&ModelConfig, Objective, Moment),
    worker: &mut Worker,
    weights: &[f32],
    rows: &[TokenizedRow],
    trees: &[Vec<usize>],
) -> Result<Sums> {
    let batch = build(rows, trees);
    let Worker { pass, gradient } = worker;
    let (loss, correct) = objective.gradient(pass, weights, &batch, gradient, moment)?;
    Ok(Sums {
        loss,
        weight: batch.total_weight(),
        targets: batch.targets.len(),
        correct,
        tokens: batch.len(),
        row_tokens: trees
            .iter()
            .flatten()
            .map(|index| rows[*index].total_len())
            .sum(),
        flops: objective.flops(config, &batch),
    })
}

multiversion! {
    fn add(sum: &mut [f32], other: &[f32]) {
        sum.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
    }
}
