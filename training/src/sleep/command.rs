//! `skim-train data sleep`: rows from generated or real nights.

use std::path::PathBuf;

use super::{nights, rows};
use crate::data::write_rows;
use crate::error::Result;

/// Writes rows of the sleep task.
#[derive(Clone, Debug, clap::Args)]
pub struct DataSleep {
    /// Real nights: a CSV in one of the known formats, several times for several files. Without it nights are generated.
    #[arg(long, value_name = "CSV")]
    pub nights: Vec<PathBuf>,
    /// Number of rows (with --nights: at most that many).
    #[arg(long)]
    pub n: Option<usize>,
    /// Seed of nights, questions and words.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Output, `.jsonl` or `.jsonl.gz`.
    #[arg(long)]
    pub out: PathBuf,
}

/// Rows written without `--n` when nights are generated.
const DEFAULT_ROWS: usize = 1000;

impl DataSleep {
    /// Writes the rows and returns how many.
    ///
    /// # Errors
    /// [`Error::Nights`](crate::Error::Nights) for a CSV that cannot be read, [`Error::Io`](crate::Error::Io) for the output. Nothing is written on an error in the input.
    pub fn run(&self) -> Result<usize> {
        let rows = if self.nights.is_empty() {
            rows::generated(self.n.unwrap_or(DEFAULT_ROWS), self.seed)
        } else {
            let mut all = Vec::new();
            for path in &self.nights {
                all.extend(nights::read_csv(path)?);
            }
            rows::of_nights(&all, self.n, self.seed)
        };
        write_rows(&self.out, &rows)?;
        Ok(rows.len())
    }
}
