//! Stories with the facts that their question needs marked: bAbI.
//!
//! ```text
//! question  Lily is a frog. Bernhard is a frog. Bernhard is green. … What color is Lily?
//! chunks    every fact of the story, in order
//! skippable the facts that are not among the `support` of the question
//! ```
//!
//! Source: Weston et al., "Towards AI-Complete Question Answering", arXiv 1502.05698. Tasks 15 (deduction) and 16 (induction) ask for a chain of
//! two and three facts. The published rows repeat themselves; a repeated question is given once.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::{LineError, Row, read_lines, record};
use crate::error::{Error, Result};

/// Rows of published files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Babi {
    /// Files with context, question, answer and support; the start of a file's name becomes the kind of its rows.
    #[arg(long = "file", required = true)]
    pub files: Vec<PathBuf>,
}

/// A line of the files.
#[derive(Deserialize)]
struct Published {
    context: Vec<String>,
    question: String,
    answer: String,
    support: Vec<String>,
}

impl Babi {
    pub(super) fn check(&self) -> Result<()> {
        if self.files.is_empty() {
            return Err(Error::Task("`babi`: `files` names no file".to_owned()));
        }
        Ok(())
    }

    pub(super) fn read(&self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for path in &self.files {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let kind = name.split('.').next().unwrap_or_default().to_owned();
            for row in read_lines(path, row)? {
                rows.push(Row {
                    kind: kind.clone(),
                    ..row?
                });
            }
        }
        Ok(rows)
    }
}

fn row(line: &str) -> Result<Row, LineError> {
    let story: Published = record(line)?;
    if let Some(fact) = story.support.iter().find(|f| !story.context.contains(f)) {
        let message = format!("`{fact}` is not in the context");
        return Err(("support".to_owned(), message));
    }
    let facts = &story.context;
    Ok(Row {
        question: format!("{} {}", facts.join(" "), story.question),
        skippable: facts.iter().map(|f| !story.support.contains(f)).collect(),
        answer: story.answer,
        chunks: story.context,
        ..Row::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn support_is_what_may_not_go() {
        let line = |support: &str| {
            format!(
                r#"{{"context":["A is b.","C is d."],"question":"What is A?","answer":"b","support":["{support}"]}}"#
            )
        };
        let row_ = row(&line("A is b.")).unwrap();
        assert_eq!(row_.question, "A is b. C is d. What is A?");
        assert_eq!(row_.skippable, [false, true]);
        assert_eq!(row(&line("A is c.")).unwrap_err().0, "support");
    }
}
