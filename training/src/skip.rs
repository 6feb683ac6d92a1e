//! Shortening rationales by deletion: a chunk goes when the student does not need it.
//!
//! The test of Skip-Thinking's second stage (arXiv 2505.18642; the paper's exact order and prompts are not public): remove chunks one at
//! a time and keep a removal when the student's answer stays right. With [`Criterion::Answer`] that is the whole rule. It has a hole: as long as
//! the last equation stays, the answer stays right, although a student that has to *write* that equation itself may need the steps before it.
//! [`Criterion::AnswerAndNumbers`], a variant of ours, therefore also asks that the student still predicts every digit of the chunks that are kept,
//! but for a chunk's first token: there the student may well prefer another chunk. A digit that is right by a hair is luck on this row and an error on
//! the next, so both criteria can ask for a probability ([`Rule::confidence`]).
//!
//! ```text
//! chunks ─each alone removed─▶ candidates ─all removed at once─▶ right? keep that : remove cumulatively, left to right
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::data::{Encoder, Row, TokenizedRow, read_rows, write_rows};
use crate::error::{Error, Result};
use crate::recipe::default_routes;
use crate::score::{Prediction, predictions};
use crate::student::Student;

/// When a deletion is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// The student's answer stays right.
    Answer,
    /// The answer stays right and the student still predicts every digit of the kept chunks (ours).
    AnswerAndNumbers,
}

/// The deletion test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// What must stay right.
    pub criterion: Criterion,
    /// The least probability that the student must give to what must stay right, 0 to 1; 0 asks only that it picks it.
    pub confidence: f32,
}

/// What was deleted, by role of the chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletions {
    /// Rows that were tested.
    pub rows: usize,
    /// Rows whose full chain did not lead the student to the right answer: left as they were.
    pub not_solved: usize,
    /// Role of the chunk → (chunks seen, chunks deleted).
    pub by_role: BTreeMap<String, (usize, usize)>,
}

/// The stage: shortens the rows of a file with the student of a checkpoint folder; writes rows, and the counts beside them as `.json`.
///
/// # Errors
/// If checkpoint or rows cannot be read, or the output not written.
pub fn shorten_file(
    checkpoint: &Path,
    rows: &Path,
    limit: Option<usize>,
    rule: Rule,
    out: &Path,
    progress: impl FnMut(usize),
) -> Result<Deletions> {
    let student = checkpoint::load_student(checkpoint)?;
    let encoder = Encoder::open(&checkpoint.join("tokenizer.json"), &default_routes())?;
    let rows: Vec<Row> = read_rows(rows)?
        .take(limit.unwrap_or(usize::MAX))
        .collect::<Result<_>>()?;
    let (short, deletions) = shorten(&student, &encoder, &rows, rule, progress)?;
    write_rows(out, &short)?;
    let report = out.with_extension("json");
    let text = serde_json::to_string_pretty(&deletions).expect("counts serialise");
    std::fs::write(&report, text).map_err(Error::io(&report))?;
    Ok(deletions)
}

/// The route that is tested: the student must know rationales with gaps on it.
const ROUTE: &str = "skip";

/// Rows from which chunks are missing at random, whatever they say: each row draws a share up to `most`, each of its chunks goes with that
/// probability. A student that has only read whole rationales fails the deletion test for the gap itself; one that has read these does not.
pub fn drop_at_random(rows: &mut [Row], most: f64, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for row in rows {
        let share = rng.random::<f64>() * most;
        let keep: Vec<bool> = row
            .chunks
            .iter()
            .map(|_| rng.random::<f64>() >= share)
            .collect();
        *row = without(row, &keep);
    }
}

/// Rows tried in one batch of forwards.
const ROWS_PER_BATCH: usize = 256;

/// The shortened rows, in order, and what was deleted. Rows that the student does not solve with the full chain are left out.
///
/// # Errors
/// If a row cannot be tokenized or does not fit the student.
pub fn shorten(
    student: &Student,
    encoder: &Encoder,
    rows: &[Row],
    rule: Rule,
    mut progress: impl FnMut(usize),
) -> Result<(Vec<Row>, Deletions)> {
    let mut out = Vec::with_capacity(rows.len());
    let mut deletions = Deletions {
        rows: rows.len(),
        ..Deletions::default()
    };
    for (batch_index, batch) in rows.chunks(ROWS_PER_BATCH).enumerate() {
        let kept = kept_chunks(student, encoder, batch, rule)?;
        for (row, kept) in batch.iter().zip(kept) {
            let Some(kept) = kept else {
                deletions.not_solved += 1;
                continue;
            };
            for (index, keep) in kept.iter().enumerate() {
                let role = row.roles.get(index).map_or("chunk", |r| r.name());
                let entry = deletions.by_role.entry(role.to_owned()).or_default();
                entry.0 += 1;
                entry.1 += usize::from(!keep);
            }
            out.push(without(row, &kept));
        }
        progress((batch_index * ROWS_PER_BATCH + batch.len()).min(rows.len()));
    }
    Ok((out, deletions))
}

/// For each row which chunks stay; `None` where even the full chain fails.
fn kept_chunks(
    student: &Student,
    encoder: &Encoder,
    rows: &[Row],
    rule: Rule,
) -> Result<Vec<Option<Vec<bool>>>> {
    let test = |trials: &[(usize, Vec<bool>)]| -> Result<Vec<bool>> {
        let encoded = trials
            .iter()
            .map(|(row, keep)| encode(encoder, &rows[*row], keep, *row))
            .collect::<Result<Vec<_>>>()?;
        let predicted = predictions(student, &encoded)?;
        Ok(encoded
            .iter()
            .zip(&predicted)
            .map(|(row, predicted)| passes(encoder, row, predicted, rule))
            .collect())
    };

    let full: Vec<(usize, Vec<bool>)> = rows
        .iter()
        .enumerate()
        .map(|(i, r)| (i, vec![true; r.chunks.len()]))
        .collect();
    let solved = test(&full)?;

    let alone: Vec<(usize, Vec<bool>)> = full
        .iter()
        .filter(|(row, _)| solved[*row])
        .flat_map(|(row, keep)| {
            (0..keep.len()).map(|gone| {
                let mut trial = keep.clone();
                trial[gone] = false;
                (*row, trial)
            })
        })
        .collect();
    let mut kept: Vec<Option<Vec<bool>>> = full
        .into_iter()
        .zip(&solved)
        .map(|((_, keep), &ok)| ok.then_some(keep))
        .collect();
    for ((row, trial), ok) in alone.iter().zip(test(&alone)?) {
        if let (true, Some(keep)) = (ok, &mut kept[*row]) {
            keep.iter_mut().zip(trial).for_each(|(k, t)| *k &= *t);
        }
    }

    let together: Vec<(usize, Vec<bool>)> = kept
        .iter()
        .enumerate()
        .filter_map(|(i, k)| k.clone().map(|k| (i, k)))
        .collect();
    for ((row, candidates), ok) in together.iter().zip(test(&together)?) {
        if !ok {
            kept[*row] = Some(cumulative(candidates, |trial| {
                Ok(test(&[(*row, trial.to_vec())])?[0])
            })?);
        }
    }
    Ok(kept)
}

/// Removes the candidates (false) one after the other, left to right, keeping each removal that passes.
fn cumulative(
    candidates: &[bool],
    mut test: impl FnMut(&[bool]) -> Result<bool>,
) -> Result<Vec<bool>> {
    let mut keep = vec![true; candidates.len()];
    for (index, _) in candidates.iter().enumerate().filter(|(_, stays)| !**stays) {
        keep[index] = false;
        if !test(&keep)? {
            keep[index] = true;
        }
    }
    Ok(keep)
}

fn without(row: &Row, keep: &[bool]) -> Row {
    let mut row = row.clone();
    let mut flags = keep.iter();
    row.chunks.retain(|_| *flags.next().unwrap_or(&true));
    let mut flags = keep.iter();
    row.roles.retain(|_| *flags.next().unwrap_or(&true));
    row
}

fn encode(encoder: &Encoder, row: &Row, keep: &[bool], group: usize) -> Result<TokenizedRow> {
    let short = without(row, keep);
    let mut tokens = encoder.encode(ROUTE, &short.question, &short.chunks, &short.answer)?;
    tokens.group = group as u32;
    Ok(tokens)
}

/// Whether every token that the rule looks at was predicted.
fn passes(encoder: &Encoder, row: &TokenizedRow, predicted: &[Prediction], rule: Rule) -> bool {
    let open = encoder.route(ROUTE).map(|(_, token)| token);
    let starts_chunk = |at: usize| {
        let before = row.tokens[at - 1];
        before == encoder.separator() || Some(before) == open
    };
    let is_number = |at: usize| encoder.is_digit(row.tokens[at]) && !starts_chunk(at);
    row.scored().zip(predicted).all(|((at, _), prediction)| {
        let matters =
            at >= row.answer || (rule.criterion == Criterion::AnswerAndNumbers && is_number(at));
        !matters || (prediction.is_picked && prediction.probability >= rule.confidence)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cumulative_keeps_what_the_test_needs() {
        // The answer needs chunk 1 or chunk 2, and chunk 3; alone each of 1 and 2 is a candidate.
        let kept = cumulative(&[false, false, false, true], |keep| {
            Ok((keep[1] || keep[2]) && keep[3])
        })
        .expect("no error");
        assert_eq!(kept, [false, false, true, true]);
    }

    #[test]
    fn without_removes_chunks_and_roles_together() {
        let row = Row {
            chunks: vec!["a".into(), "b".into(), "c".into()],
            ..Row::default()
        };
        assert_eq!(without(&row, &[true, false, true]).chunks, ["a", "c"]);
    }
}
