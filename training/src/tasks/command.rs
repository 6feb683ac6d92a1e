//! `skim-train data <task>` and `skim-train contamination`: rows of a task, and whether they leak into an evaluation.

use std::path::PathBuf;

use super::{
    Babi, Chain, Expressions, Gsm8k, Knights, Multiplication, Prosqa, Split, Task, contamination,
};
use crate::data::write_rows;
use crate::error::Result;
use crate::sleep::command::DataSleep;

/// Writes rows of a task.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum DataCommand {
    /// The sleep task: nights, questions and a teacher's chains of thought.
    Sleep(DataSleep),
    /// Planted chain: arithmetic modulo 11 with steps that change nothing.
    Chain(DataOf<Chain>),
    /// Definitions that build on each other, some of them beside the point.
    Expressions(DataOf<Expressions>),
    /// Long multiplication with reversed digits.
    Multiplication(DataOf<Multiplication>),
    /// Paths through a graph of invented classes.
    Prosqa(DataOf<Prosqa>),
    /// Knights, who tell the truth, and knaves, who lie.
    Knights(DataOf<Knights>),
    /// bAbI stories with the facts that matter marked, from files.
    Babi(DataOf<Babi>),
    /// GSM8K with its solutions as equations, from files.
    Gsm8k(DataOf<Gsm8k>),
}

impl DataCommand {
    /// Writes the rows; returns how many and where.
    ///
    /// # Errors
    /// As [`Task::generate`] and [`write_rows`]. Nothing is written on an error in the input.
    pub fn run(self) -> Result<(usize, PathBuf)> {
        match self {
            DataCommand::Sleep(data) => Ok((data.run()?, data.out)),
            DataCommand::Chain(data) => data.run(Task::Chain),
            DataCommand::Expressions(data) => data.run(Task::Expressions),
            DataCommand::Multiplication(data) => data.run(Task::Multiplication),
            DataCommand::Prosqa(data) => data.run(Task::Prosqa),
            DataCommand::Knights(data) => data.run(Task::Knights),
            DataCommand::Babi(data) => data.run(Task::Babi),
            DataCommand::Gsm8k(data) => data.run(Task::Gsm8k),
        }
    }
}

/// What to write of a task with parameters `T`.
#[derive(Clone, Debug, clap::Args)]
pub struct DataOf<T: clap::Args> {
    /// Parameters of the task.
    #[command(flatten)]
    pub task: T,
    /// Number of rows; of files at most that many.
    #[arg(long, default_value_t = 1000)]
    pub n: usize,
    /// Seed of what is drawn. It does not decide which split a question belongs to.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The split that the questions are from.
    #[arg(long, value_enum, default_value_t = Split::Train)]
    pub split: Split,
    /// Output, `.jsonl` or `.jsonl.gz`.
    #[arg(long)]
    pub out: PathBuf,
}

impl<T: clap::Args> DataOf<T> {
    fn run(self, task: fn(T) -> Task) -> Result<(usize, PathBuf)> {
        let rows = task(self.task).generate(self.split, self.n, self.seed)?;
        write_rows(&self.out, &rows)?;
        Ok((rows.len(), self.out))
    }
}

/// Looks for questions of an evaluation in training rows.
#[derive(Clone, Debug, clap::Args)]
pub struct ContaminationCommand {
    /// Training rows; may be given several times.
    #[arg(long, required = true)]
    pub train: Vec<PathBuf>,
    /// Any JSONL file with questions.
    pub evaluation: PathBuf,
    /// Also count common runs of 8 words.
    #[arg(long)]
    pub grams: bool,
}

impl ContaminationCommand {
    /// The report as JSON.
    ///
    /// # Errors
    /// As [`contamination::contamination`].
    pub fn run(&self) -> Result<String> {
        let report = contamination::contamination(&self.train, &self.evaluation, self.grams)?;
        Ok(serde_json::to_string_pretty(&report).expect("a report has string keys"))
    }
}
