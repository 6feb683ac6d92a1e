//! Whether questions of an evaluation stand in the training rows.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::split::fingerprint;
use crate::data::{LineError, read_lines, record};
use crate::error::Result;

/// Words of a gram. GPT-3 (arXiv 2005.14165, appendix C) removed overlaps of 8 to 13 words; the strict end is taken.
const GRAM: usize = 8;
/// Common questions that a report shows.
const EXAMPLES: usize = 5;

/// What training and evaluation have in common.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Contamination {
    /// Rows of the training.
    pub train: usize,
    /// Rows of the evaluation.
    pub evaluation: usize,
    /// Rows of the evaluation whose question stands in the training, without regard to case and white space.
    pub common: usize,
    /// The first of these.
    pub examples: Vec<String>,
    /// Share of the evaluation's runs of 8 words that stand in the training, 0 to 1. Generated questions share their wording, so for them this says
    /// little; for collected ones it finds questions that were edited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gram_share: Option<f64>,
}

/// A row of any format that has a question, and what stands before it.
#[derive(Deserialize)]
struct Question {
    #[serde(default)]
    context: Context,
    question: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Context {
    Text(String),
    Sentences(Vec<String>),
    None(()),
}

impl Default for Context {
    fn default() -> Self {
        Context::None(())
    }
}

fn question(line: &str) -> Result<String, LineError> {
    let Question { context, question } = record(line)?;
    Ok(match context {
        Context::Text(context) => format!("{context} {question}"),
        Context::Sentences(context) => format!("{} {question}", context.join(" ")),
        Context::None(()) => question,
    })
}

/// Compares the questions of the files `train` with those of `evaluation`; with `grams` also their runs of 8 words.
///
/// Files are JSONL with a `question` and maybe a `context` (text or list of sentences), which counts as part of it; other fields do not matter.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) or [`Error::Row`](crate::Error::Row).
pub fn contamination(train: &[PathBuf], evaluation: &Path, grams: bool) -> Result<Contamination> {
    let mut report = Contamination::default();
    let (mut seen, mut seen_grams) = (HashSet::new(), HashSet::new());
    for path in train {
        for text in read_lines(path, question)? {
            let text = text?;
            report.train += 1;
            seen.insert(fingerprint(&text));
            if grams {
                seen_grams.extend(grams_of(&text));
            }
        }
    }
    let (mut all_grams, mut common_grams) = (0, 0);
    for text in read_lines(evaluation, question)? {
        let text = text?;
        report.evaluation += 1;
        if grams {
            for gram in grams_of(&text) {
                all_grams += 1;
                common_grams += usize::from(seen_grams.contains(&gram));
            }
        }
        if seen.contains(&fingerprint(&text)) {
            report.common += 1;
            if report.examples.len() < EXAMPLES {
                report.examples.push(text);
            }
        }
    }
    report.gram_share = grams.then(|| common_grams as f64 / all_grams.max(1) as f64);
    Ok(report)
}

/// Hashes of every run of [`GRAM`] words.
fn grams_of(text: &str) -> Vec<u64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let runs = words.windows(GRAM);
    runs.map(|run| fingerprint(&run.join(" "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_questions_and_grams_are_found_across_formats() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let train = file(
            "train.jsonl",
            concat!(
                r#"{"question":"A is b. What is A?","answer":"b"}"#,
                "\n",
                r#"{"question":"one two three four five six seven eight nine","answer":"x"}"#,
            ),
        );
        let evaluation = file(
            "evaluation.jsonl",
            concat!(
                r#"{"context":["A is b."],"question":"what  is a?","support":[]}"#,
                "\n",
                r#"{"context":"A is c.","question":"What is A?"}"#,
                "\n",
                r#"{"question":"One two three four five six seven eight ten"}"#,
            ),
        );
        let train = [train];
        let report = contamination(&train, &evaluation, true).unwrap();
        assert_eq!((report.train, report.evaluation, report.common), (2, 3, 1));
        assert_eq!(report.examples, ["A is b. what  is a?"]);
        assert_eq!(report.gram_share, Some(0.5));
        let report = contamination(&train, &evaluation, false).unwrap();
        assert_eq!((report.common, report.gram_share), (1, None));

        let bad = file("bad.jsonl", r#"{"prompt":"q"}"#);
        let error = contamination(&train, &bad, false).unwrap_err().to_string();
        assert!(error.contains("bad.jsonl:1: field `question`"), "{error}");
    }
}
