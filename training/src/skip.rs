//! Shortening rationales by deletion: a chunk goes when the student does not need it.
//!
//! The test of Skip-Thinking's second stage (arXiv 2505.18642; the paper's exact order and prompts are not public): remove chunks one at
//! a time and keep a removal when the student's answer stays right. With [`Criterion::Answer`] that is the whole rule. It has a hole: as long as
//! the last equation stays, the answer stays right, although a student that has to *write* that equation itself may need the steps before it.
//! [`Criterion::AnswerAndNumbers`], a variant of ours, therefore also looks at the digits of the chunks that are kept, but for a chunk's first token:
//! there the student may well prefer another chunk. A digit that is right by a hair is luck on this row and an error on the next, while one of
//! which the student was never sure says nothing about the deletion. So what counts is how much log-probability the deletion costs
//! ([`Rule::margin`]).
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
    /// The student's answer stays right, and it is as sure of it, within the margin.
    Answer,
    /// The answer stays right and the student is as sure of it and of the digits of the kept chunks, within the margin (ours).
    AnswerAndNumbers,
}

/// The deletion test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// What must stay right.
    pub criterion: Criterion,
    /// The most that the log-probability of what the criterion looks at may fall against the full chain, in nats over the whole row.
    pub margin: f32,
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
    let ask = |trials: &[(usize, Vec<bool>)]| -> Result<Vec<Evidence>> {
        let encoded = trials
            .iter()
            .map(|(row, keep)| encode(encoder, &rows[*row], keep, *row))
            .collect::<Result<Vec<_>>>()?;
        let predicted = predictions(student, &encoded)?;
        let pairs = encoded.iter().zip(&predicted);
        Ok(pairs
            .map(|(row, predicted)| Evidence::new(encoder, row, predicted, rule.criterion))
            .collect())
    };

    let full: Vec<(usize, Vec<bool>)> = rows
        .iter()
        .enumerate()
        .map(|(i, r)| (i, vec![true; r.chunks.len()]))
        .collect();
    let whole = ask(&full)?;
    let solved: Vec<bool> = whole.iter().map(Evidence::answer_is_right).collect();
    let test = |trials: &[(usize, Vec<bool>)]| -> Result<Vec<bool>> {
        let found = ask(trials)?;
        let pairs = trials.iter().zip(&found);
        Ok(pairs
            .map(|((row, keep), found)| found.holds(keep, &whole[*row], rule.margin))
            .collect())
    };

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

/// The row with the chunks that `keep` marks, and what is known of them.
fn without(row: &Row, keep: &[bool]) -> Row {
    let stays = |index: &usize| *keep.get(*index).unwrap_or(&true);
    let kept: Vec<usize> = (0..row.chunks.len()).filter(stays).collect();
    let place = |old: &usize| kept.binary_search(old).ok();
    let parents = |parents: &Vec<usize>| parents.iter().filter_map(place).collect();
    Row {
        chunks: picked(&row.chunks, &kept),
        roles: picked(&row.roles, &kept),
        skippable: picked(&row.skippable, &kept),
        parents: picked(&row.parents, &kept).iter().map(parents).collect(),
        ..row.clone()
    }
}

/// The entries at `indices`; what is not known stays not known.
fn picked<T: Clone>(entries: &[T], indices: &[usize]) -> Vec<T> {
    indices
        .iter()
        .filter_map(|index| entries.get(*index).cloned())
        .collect()
}

fn encode(encoder: &Encoder, row: &Row, keep: &[bool], group: usize) -> Result<TokenizedRow> {
    let short = without(row, keep);
    let mut tokens = encoder.encode(ROUTE, &short.question, &short.chunks, &short.answer)?;
    tokens.group = group as u32;
    Ok(tokens)
}

/// What the student predicts at the tokens that a criterion looks at.
struct Evidence {
    /// By chunk.
    chunks: Vec<Vec<Prediction>>,
    answer: Vec<Prediction>,
}

impl Evidence {
    fn new(
        encoder: &Encoder,
        row: &TokenizedRow,
        predicted: &[Prediction],
        criterion: Criterion,
    ) -> Self {
        let mut evidence = Evidence {
            chunks: vec![Vec::new()],
            answer: Vec::new(),
        };
        let mut starts_chunk = true;
        for ((at, _), prediction) in row.scored().zip(predicted) {
            let token = row.tokens[at];
            if at >= row.answer {
                evidence.answer.push(*prediction);
            } else if token == encoder.separator() {
                evidence.chunks.push(Vec::new());
                starts_chunk = true;
                continue;
            } else if criterion == Criterion::AnswerAndNumbers
                && encoder.is_digit(token)
                && !starts_chunk
            {
                let chunk = evidence.chunks.last_mut().expect("there is a first chunk");
                chunk.push(*prediction);
            }
            starts_chunk = false;
        }
        evidence
    }

    fn answer_is_right(&self) -> bool {
        self.answer.iter().all(|p| p.is_picked)
    }

    /// Whether a trial that keeps the chunks `keep` still gives the answer and loses at most `margin` against the full chain.
    fn holds(&self, keep: &[bool], full: &Evidence, margin: f32) -> bool {
        let kept = full.chunks.iter().zip(keep).filter(|(_, keep)| **keep);
        let before = kept.flat_map(|(chunk, _)| chunk).chain(&full.answer);
        let now = self.chunks.iter().flatten().chain(&self.answer);
        let sum = |total: f32, p: &Prediction| total + p.probability.max(f32::MIN_POSITIVE).ln();
        self.answer_is_right() && now.fold(0.0, sum) >= before.fold(0.0, sum) - margin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_may_cost_the_margin_and_not_the_answer() {
        let p = |probability: f32| Prediction {
            is_picked: probability > 0.5,
            probability,
        };
        let full = Evidence {
            chunks: vec![vec![p(0.4)], vec![p(0.9), p(0.9)]],
            answer: vec![p(0.95)],
        };
        let trial = |digits: [f32; 2], answer: f32| Evidence {
            chunks: vec![digits.map(p).to_vec()],
            answer: vec![p(answer)],
        };
        let holds = |trial: Evidence| trial.holds(&[false, true], &full, 0.5);
        assert!(full.answer_is_right() && holds(trial([0.9, 0.9], 0.95)));
        assert!(holds(trial([0.6, 0.9], 0.95)), "ln 0.9/0.6 = 0.41");
        assert!(!holds(trial([0.6, 0.8], 0.95)));
        assert!(!holds(trial([0.99, 0.99], 0.5)), "another answer");
    }

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
    fn without_removes_chunks_and_what_is_known_of_them() {
        let row = Row {
            chunks: vec!["a".into(), "b".into(), "c".into()],
            skippable: vec![false, true, false],
            parents: vec![vec![], vec![0], vec![0, 1]],
            ..Row::default()
        };
        let short = without(&row, &[true, false, true]);
        assert_eq!(short.chunks, ["a", "c"]);
        assert_eq!(short.skippable, [false, false]);
        assert_eq!(short.parents, [vec![], vec![0]]);
        assert!(short.roles.is_empty());
    }
}
