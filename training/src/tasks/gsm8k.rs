//! School mathematics with its solutions cut down to equations: GSM8K.
//!
//! ```text
//! rationale  She sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 clips altogether.
//! chunks     <<48/2=24>> | <<48+24=72>>
//! ```
//!
//! No truth is claimed about what is skippable: an operand is a number, not a reference, and the same number may come from several places.
//! In 5 % of the training rows (377 of 7378) the last equation does not end in the answer, which the solution goes on to in words; they are kept as
//! they are.
//!
//! The validation questions in equation form that go with arXiv 2405.14838 were cut out of GSM8K's *training* questions. Whoever takes them as the
//! test has to leave them out of the training; [`Gsm8k`] therefore asks for both files.
//!
//! Source: Cobbe et al., "Training Verifiers to Solve Math Word Problems", arXiv 2110.14168; equations as in arXiv 2405.14838.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Split, fingerprint, questions};
use crate::data::{LineError, Row, read_lines, record};
use crate::error::Result;

/// Rows of two files with question, rationale and answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Gsm8k {
    /// Training and validation questions: all of this file that are not in `test` and whose rationale has an equation.
    #[arg(long)]
    pub train: PathBuf,
    /// Test questions: all of this file.
    #[arg(long)]
    pub test: PathBuf,
}

/// A line of the files.
#[derive(Deserialize)]
struct Published {
    question: String,
    rationale: String,
    answer: String,
}

impl Gsm8k {
    /// The rows of a split. A tenth of the training questions, by hash, is for validation.
    pub(super) fn rows(&self, split: Split) -> Result<Vec<Row>> {
        let test = read(&self.test)?;
        if split == Split::Test {
            return Ok(test);
        }
        let taken = questions(&test);
        let mut rows = read(&self.train)?;
        rows.retain(|row| {
            let for_validation = Split::of(&row.question) == Split::Validation;
            !row.chunks.is_empty()
                && !taken.contains(&fingerprint(&row.question))
                && for_validation == (split == Split::Validation)
        });
        Ok(rows)
    }
}

fn read(path: &Path) -> Result<Vec<Row>> {
    read_lines(path, row)?.collect()
}

fn row(line: &str) -> Result<Row, LineError> {
    let published: Published = record(line)?;
    let chunks = equations(&published.rationale);
    Ok(Row {
        kind: format!("{} equations", chunks.len()),
        question: published.question,
        chunks,
        answer: published.answer,
        ..Row::default()
    })
}

/// Every `<<…>>` of a text, in order.
fn equations(text: &str) -> Vec<String> {
    let parts = text.split("<<").skip(1);
    parts
        .filter_map(|part| part.split_once(">>"))
        .map(|(equation, _)| format!("<<{equation}>>"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_cut_out_of_words() {
        let text = "She sold 48/2 = <<48/2=24>>24 clips. So $<<0.5*24=12>>12. <<open";
        assert_eq!(equations(text), ["<<48/2=24>>", "<<0.5*24=12>>"]);
        assert!(equations("5 > 3 >> 1").is_empty());
    }
}
