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
//! independent  chunks ─each alone removed─▶ all that pass go
//! cumulative   chunks ─left to right, each removal that passes stays─▶ what is left
//! joint        chunks ─each alone removed─▶ candidates ─all removed at once─▶ right? keep that : remove cumulatively, left to right
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
use crate::score::{Prediction, predictions, scoring_flops};
use crate::student::Student;

/// When a deletion is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// The student's answer stays right, and it is as sure of it, within the margin.
    Answer,
    /// The answer stays right and the student is as sure of it and of the digits of the kept chunks, within the margin (ours).
    AnswerAndNumbers,
    /// The student is as sure of the answer, within the margin, whether or not it would pick it.
    AnswerProbability,
}

/// In which order chunks are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Each alone; if all that pass can also go together they go, else they are removed one after the other (ours).
    #[default]
    Joint,
    /// One after the other, left to right; what has gone stays gone.
    Cumulative,
    /// Each alone against the full chain; all that pass go.
    Independent,
}

/// The deletion test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// What must stay right.
    pub criterion: Criterion,
    /// The most that the log-probability of what the criterion looks at may fall against the full chain, in nats over the whole row.
    /// Infinite: only the answer counts.
    pub margin: f32,
    /// In which order chunks are tried.
    pub order: Order,
    /// Whether the first and the last chunk always stay.
    pub protect_ends: bool,
}

impl Rule {
    /// The test with which the sleep student was made: joint order, no chunk protected.
    pub fn new(criterion: Criterion, margin: f32) -> Rule {
        Rule {
            criterion,
            margin,
            order: Order::Joint,
            protect_ends: false,
        }
    }
}

/// A trial: the row and which of its chunks stay.
pub type Trial = (usize, Vec<bool>);

/// Runs the deletion test. `counts` has for each row its chunks, or `None` if it is not to be shortened; `test` says which trials pass.
///
/// # Errors
/// What `test` reports.
pub fn decide(
    counts: &[Option<usize>],
    order: Order,
    protect_ends: bool,
    mut test: impl FnMut(&[Trial]) -> Result<Vec<bool>>,
) -> Result<Vec<Option<Vec<bool>>>> {
    let may_go =
        |chunks: usize, index: usize| !(protect_ends && (index == 0 || index + 1 == chunks));
    let mut kept: Vec<Option<Vec<bool>>> = counts
        .iter()
        .map(|count| count.map(|chunks| vec![true; chunks]))
        .collect();
    // What each row might lose: everything that is not protected, or what passes alone.
    let mut candidates: Vec<Trial> = kept
        .iter()
        .enumerate()
        .filter_map(|(row, keep)| Some((row, keep.as_ref()?.len())))
        .map(|(row, chunks)| (row, (0..chunks).map(|i| !may_go(chunks, i)).collect()))
        .collect();
    if order != Order::Cumulative {
        let alone: Vec<Trial> = candidates
            .iter()
            .flat_map(|(row, stays)| {
                let gone = (0..stays.len()).filter(|index| !stays[*index]);
                gone.map(|gone| (*row, (0..stays.len()).map(|i| i != gone).collect()))
            })
            .collect();
        for (row, stays) in &mut candidates {
            stays.fill(true);
            kept[*row] = Some(stays.clone());
        }
        for ((row, trial), passes) in alone.iter().zip(test(&alone)?) {
            if let (true, Some(keep)) = (passes, &mut kept[*row]) {
                keep.iter_mut().zip(trial).for_each(|(k, t)| *k &= *t);
            }
        }
        if order == Order::Independent {
            return Ok(kept);
        }
        let mut together: Vec<Trial> = Vec::new();
        for (row, keep) in kept.iter().enumerate() {
            together.extend(keep.clone().map(|keep| (row, keep)));
        }
        let passed = test(&together)?;
        let failed = together.into_iter().zip(passed).filter(|(_, ok)| !ok);
        candidates = failed.map(|(trial, _)| trial).collect();
    }
    cumulative(&candidates, &mut kept, &mut test)?;
    Ok(kept)
}

/// Removes each row's candidates (false) one after the other, left to right, keeping each removal that passes. All rows take the same
/// step at once.
fn cumulative(
    candidates: &[Trial],
    kept: &mut [Option<Vec<bool>>],
    test: &mut impl FnMut(&[Trial]) -> Result<Vec<bool>>,
) -> Result<()> {
    for (row, stays) in candidates {
        kept[*row] = Some(vec![true; stays.len()]);
    }
    let most = candidates.iter().map(|(_, stays)| stays.len()).max();
    for index in 0..most.unwrap_or(0) {
        let trials: Vec<Trial> = candidates
            .iter()
            .filter(|(_, stays)| stays.get(index) == Some(&false))
            .filter_map(|(row, _)| {
                let mut trial = kept[*row].clone()?;
                trial[index] = false;
                Some((*row, trial))
            })
            .collect();
        for ((row, trial), passes) in trials.iter().zip(test(&trials)?) {
            if passes {
                kept[*row] = Some(trial.clone());
            }
        }
    }
    Ok(())
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

/// The route that [`shorten`] tests: the student must know rationales with gaps on it.
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
        let (kept, _) = kept_chunks(student, encoder, ROUTE, batch, rule)?;
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

/// For each row which chunks stay, `None` where even the full chain fails; and the floating-point operations that finding out took.
///
/// # Errors
/// If a row cannot be tokenized or does not fit the student.
pub fn kept_chunks(
    student: &Student,
    encoder: &Encoder,
    route: &str,
    rows: &[Row],
    rule: Rule,
) -> Result<(Vec<Option<Vec<bool>>>, u64)> {
    let mut flops = 0;
    let mut ask = |trials: &[Trial]| -> Result<Vec<Evidence>> {
        let encoded = trials
            .iter()
            .map(|(row, keep)| encode(encoder, route, &rows[*row], keep, *row))
            .collect::<Result<Vec<_>>>()?;
        flops += scoring_flops(student.config(), &encoded);
        let predicted = predictions(student, &encoded)?;
        let pairs = encoded.iter().zip(&predicted);
        Ok(pairs
            .map(|(row, predicted)| Evidence::new(encoder, row, predicted, rule.criterion))
            .collect())
    };
    let full = rows.iter().enumerate();
    let full: Vec<Trial> = full.map(|(i, r)| (i, vec![true; r.chunks.len()])).collect();
    let whole = ask(&full)?;
    let counts: Vec<Option<usize>> = rows
        .iter()
        .zip(&whole)
        .map(|(row, found)| found.answer_is_right().then_some(row.chunks.len()))
        .collect();
    let kept = decide(&counts, rule.order, rule.protect_ends, |trials| {
        let found = ask(trials)?;
        let pairs = trials.iter().zip(&found);
        Ok(pairs
            .map(|((row, keep), found)| found.holds(keep, &whole[*row], rule))
            .collect())
    })?;
    Ok((kept, flops))
}

/// The row with the chunks that `keep` marks, and what is known of them.
pub(crate) fn without(row: &Row, keep: &[bool]) -> Row {
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

fn encode(
    encoder: &Encoder,
    route: &str,
    row: &Row,
    keep: &[bool],
    group: usize,
) -> Result<TokenizedRow> {
    let short = without(row, keep);
    let mut tokens = encoder.encode(route, &short.question, &short.chunks, &short.answer)?;
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

    /// Whether a trial that keeps the chunks `keep` still gives the answer and loses at most the margin against the full chain.
    fn holds(&self, keep: &[bool], full: &Evidence, rule: Rule) -> bool {
        let kept = full.chunks.iter().zip(keep).filter(|(_, keep)| **keep);
        let before = kept.flat_map(|(chunk, _)| chunk).chain(&full.answer);
        let now = self.chunks.iter().flatten().chain(&self.answer);
        let sum = |total: f32, p: &Prediction| total + p.probability.max(f32::MIN_POSITIVE).ln();
        let may_be_wrong = rule.criterion == Criterion::AnswerProbability;
        (may_be_wrong || self.answer_is_right())
            && now.fold(0.0, sum) >= before.fold(0.0, sum) - rule.margin
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
        let rule = Rule::new(Criterion::AnswerAndNumbers, 0.5);
        let holds = |trial: Evidence| trial.holds(&[false, true], &full, rule);
        assert!(full.answer_is_right() && holds(trial([0.9, 0.9], 0.95)));
        assert!(holds(trial([0.6, 0.9], 0.95)), "ln 0.9/0.6 = 0.41");
        assert!(!holds(trial([0.6, 0.8], 0.95)));
        assert!(!holds(trial([0.99, 0.99], 0.5)), "another answer");
    }

    #[test]
    fn the_three_orders_on_a_scorer_with_a_known_answer() {
        // The answer needs chunk 1 or chunk 2, and chunk 3; chunk 0 says nothing. The second row is not solved, the third needs nothing.
        let mut asked = 0;
        let mut run = |order, protect_ends| {
            decide(&[Some(4), None, Some(3)], order, protect_ends, |trials| {
                asked += trials.len();
                let passes = |(row, keep): &Trial| *row == 2 || (keep[1] || keep[2]) && keep[3];
                Ok(trials.iter().map(passes).collect())
            })
            .expect("the scorer does not fail")
        };
        let row = |kept: &[u8]| Some(kept.iter().map(|k| *k == 1).collect::<Vec<bool>>());
        let cases = [
            // Alone 1 and 2 can both go, together they cannot: the weakness of the independent order.
            (
                Order::Independent,
                false,
                row(&[0, 0, 0, 1]),
                row(&[0, 0, 0]),
            ),
            (
                Order::Cumulative,
                false,
                row(&[0, 0, 1, 1]),
                row(&[0, 0, 0]),
            ),
            (Order::Joint, false, row(&[0, 0, 1, 1]), row(&[0, 0, 0])),
            (
                Order::Independent,
                true,
                row(&[1, 0, 0, 1]),
                row(&[1, 0, 1]),
            ),
            (Order::Cumulative, true, row(&[1, 0, 1, 1]), row(&[1, 0, 1])),
            (Order::Joint, true, row(&[1, 0, 1, 1]), row(&[1, 0, 1])),
        ];
        for (order, protect_ends, first, third) in cases {
            let kept = run(order, protect_ends);
            assert_eq!(kept, [first, None, third], "{order:?} {protect_ends}");
        }
        assert!(asked > 0);
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
