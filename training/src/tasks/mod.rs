//! Tasks for experiments: questions with chains of thought, what is known about each chunk, and a grader.
//!
//! | task | asks for | truth about chunks | chance |
//! |---|---|---|---|
//! | [`chain`] | a value modulo 11 | skippable, parents | 9 % |
//! | [`expressions`] | a number | skippable, parents | ~0 |
//! | [`multiplication`] | a product | skippable, parents | 0 |
//! | [`prosqa`] | one of two classes | all needed, parents | 50 %, by a shortcut 92 % |
//! | [`knights`] | a role for each person | none | 1/2ⁿ |
//! | [`babi`] | a word | skippable | 25 % |
//! | [`gsm8k`] | a number | none | ~0 |
//! | [`sleep`] | a value and a verdict | skippable | ~0 |
//!
//! A task is its parameters. [`Task::generate`] draws rows of a [`Split`], which depends on the question alone, so that no two splits have a question
//! in common; [`contamination`] checks the same for any files. Where parents are known, no needed chunk has a skippable parent.

pub mod babi;
pub mod chain;
pub mod command;
pub mod contamination;
pub mod expressions;
mod grade;
pub mod gsm8k;
pub mod knights;
pub mod multiplication;
pub mod prosqa;
pub mod sleep;
pub mod split;

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::data::Row;
use crate::error::{Error, Result};

pub use babi::Babi;
pub use chain::Chain;
pub use expressions::Expressions;
pub use gsm8k::Gsm8k;
pub use knights::Knights;
pub use multiplication::Multiplication;
pub use prosqa::Prosqa;
pub use sleep::Sleep;
pub use split::{Split, fingerprint};

/// A task with its parameters. In recipes a table with the task's `name`; parameters that are left out have their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Task {
    /// See [`chain`].
    Chain(Chain),
    /// See [`expressions`].
    Expressions(Expressions),
    /// See [`multiplication`].
    Multiplication(Multiplication),
    /// See [`prosqa`].
    Prosqa(Prosqa),
    /// See [`knights`].
    Knights(Knights),
    /// See [`babi`].
    Babi(Babi),
    /// See [`gsm8k`].
    Gsm8k(Gsm8k),
    /// See [`sleep`].
    Sleep(Sleep),
}

impl Task {
    /// The name in recipes and commands.
    pub fn name(&self) -> &'static str {
        match self {
            Task::Chain(_) => "chain",
            Task::Expressions(_) => "expressions",
            Task::Multiplication(_) => "multiplication",
            Task::Prosqa(_) => "prosqa",
            Task::Knights(_) => "knights",
            Task::Babi(_) => "babi",
            Task::Gsm8k(_) => "gsm8k",
            Task::Sleep(_) => "sleep",
        }
    }

    /// Whether rows can be made with these parameters.
    ///
    /// # Errors
    /// [`Error::Task`], naming the parameter, its value and what is expected.
    pub fn check(&self) -> Result<()> {
        match self {
            Task::Chain(task) => task.check(),
            Task::Expressions(task) => task.check(),
            Task::Multiplication(task) => task.check(),
            Task::Knights(task) => task.check(),
            Task::Babi(task) => task.check(),
            Task::Prosqa(_) | Task::Gsm8k(_) | Task::Sleep(_) => Ok(()),
        }
    }

    /// Makes file names of the parameters relative to `folder`.
    pub fn resolve(&mut self, folder: &Path) {
        self.each_file(|path| *path = folder.join(&*path));
    }

    /// Leaves only the names of files: where they lie is no part of the task.
    pub fn forget_folders(&mut self) {
        self.each_file(|path| *path = path.file_name().unwrap_or_default().into());
    }

    fn each_file(&mut self, resolve: impl Fn(&mut PathBuf)) {
        match self {
            Task::Multiplication(task) => task.test.iter_mut().for_each(&resolve),
            Task::Prosqa(task) => task.test.iter_mut().for_each(&resolve),
            Task::Knights(task) => task.file.iter_mut().for_each(&resolve),
            Task::Babi(task) => task.files.iter_mut().for_each(&resolve),
            Task::Gsm8k(task) => [&mut task.train, &mut task.test]
                .into_iter()
                .for_each(resolve),
            Task::Chain(_) | Task::Expressions(_) | Task::Sleep(_) => {}
        }
    }

    /// `n` rows of different questions of a split; the same seed gives the same rows. Rows that come from a file are at most `n`.
    ///
    /// # Errors
    /// [`Error::Task`] for wrong parameters or fewer than `n` questions, [`Error::Io`] and [`Error::Row`] for files.
    pub fn generate(&self, split: Split, n: usize, seed: u64) -> Result<Vec<Row>> {
        self.check()?;
        let drawn = |taken: HashSet<u64>, draw: &mut dyn FnMut(&mut ChaCha8Rng) -> Row| {
            let draw = |rng: &mut ChaCha8Rng| vec![draw(rng)];
            split::draw_rows(
                self.name(),
                split,
                n,
                seed,
                taken,
                |question| question,
                draw,
            )
        };
        let none = HashSet::new;
        let of_split = |mut rows: Vec<Row>| {
            rows.retain(|row| Split::of(&row.question) == split);
            rows
        };
        let mut rows = match self {
            Task::Chain(task) => drawn(none(), &mut |rng| task.draw(rng))?,
            Task::Expressions(task) => drawn(none(), &mut |rng| task.draw(rng))?,
            Task::Multiplication(task) => match (&task.test, split) {
                (None, _) => drawn(none(), &mut |rng| task.draw(rng))?,
                (Some(file), Split::Test) => split::some_of(task.read(file)?, n, seed),
                (Some(file), _) => {
                    let taken = questions(&task.read(file)?);
                    drawn(taken, &mut |rng| task.draw(rng))?
                }
            },
            Task::Prosqa(task) => match (&task.test, split) {
                (None, _) => drawn(none(), &mut |rng| task.draw(rng))?,
                (Some(file), Split::Test) => split::some_of(prosqa::read(file)?, n, seed),
                (Some(file), _) => {
                    let taken = questions(&prosqa::read(file)?);
                    drawn(taken, &mut |rng| task.draw(rng))?
                }
            },
            Task::Knights(task) => match &task.file {
                None => drawn(none(), &mut |rng| task.draw(rng))?,
                Some(file) => {
                    let people = task.min_people..=task.max_people;
                    split::some_of(of_split(knights::read(file, people)?), n, seed)
                }
            },
            Task::Babi(task) => split::some_of(of_split(task.read()?), n, seed),
            Task::Gsm8k(task) => split::some_of(task.rows(split)?, n, seed),
            Task::Sleep(_) => {
                let mut night = 0;
                let draw = |rng: &mut ChaCha8Rng| {
                    night += 1;
                    sleep::draw(&format!("s{seed}-{night}"), rng)
                };
                split::draw_rows(self.name(), split, n, seed, none(), sleep::record, draw)?
            }
        };
        for (index, row) in rows.iter_mut().enumerate() {
            if row.id.is_empty() {
                row.id = format!("{}-{}-{index}", self.name(), split.name());
            }
        }
        Ok(rows)
    }

    /// Whether a generated answer is the row's, after the normalisation that suits the task: numbers by value, digits without white space, roles in
    /// any order, words without case and final dot.
    pub fn grade(&self, row: &Row, generated: &str) -> bool {
        let expected = &row.answer;
        match self {
            Task::Chain(_) | Task::Expressions(_) | Task::Gsm8k(_) => {
                grade::same_number(expected, generated)
            }
            Task::Multiplication(_) => grade::same_characters(expected, generated),
            Task::Knights(_) => knights::same_roles(expected, generated),
            Task::Prosqa(_) | Task::Babi(_) | Task::Sleep(_) => {
                grade::same_words(expected, generated)
            }
        }
    }
}

/// The fingerprints of the rows' questions.
fn questions(rows: &[Row]) -> HashSet<u64> {
    rows.iter().map(|row| fingerprint(&row.question)).collect()
}

/// Refuses a range that is empty or not within `allowed`.
fn check_range(
    task: &str,
    what: &str,
    (low, high): (usize, usize),
    allowed: RangeInclusive<usize>,
) -> Result<()> {
    if low <= high && allowed.contains(&low) && allowed.contains(&high) {
        return Ok(());
    }
    let given = if low == high {
        low.to_string()
    } else {
        format!("{low} to {high}")
    };
    Err(Error::Task(format!(
        "`{task}`: {what} {given}; expected a range within {} to {}",
        allowed.start(),
        allowed.end()
    )))
}

/// Refuses what is not from 0 to 1.
fn check_share(task: &str, what: &str, share: f64) -> Result<()> {
    if (0.0..=1.0).contains(&share) {
        return Ok(());
    }
    Err(Error::Task(format!(
        "`{task}`: {what} is {share}; expected 0 to 1"
    )))
}
