//! Rationales that are shortened before anything is learned: to what is needed, or by difficulty.
//!
//! By difficulty: easy questions are answered at once, middling ones keep the second half of their
//! rationale, hard ones all of it.
//!
//! The idea is difficulty-aware prompting (DAP, arXiv 2505.19716), where a large teacher judges and rewrites. There is no teacher here: difficulty is
//! the number of chunks of the full rationale, and a shorter rationale is its last chunks. So it carries a name of its own.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::context::{COT, Context, Taught};
use crate::data::Row;
use crate::error::{Error, Result};
use crate::skip::without;

/// Rationales as long as the question is difficult (ours).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DifficultyRewrite {
    /// Share of questions, the easiest ones, that are answered at once.
    pub easy: f64,
    /// Share of questions, the next ones, that keep the second half of their rationale.
    pub medium: f64,
}

impl Default for DifficultyRewrite {
    fn default() -> Self {
        DifficultyRewrite {
            easy: 0.33,
            medium: 0.33,
        }
    }
}

/// The lengths of [`DifficultyRewrite`], dealt out at random: control for the lengths themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandomLength {
    /// As in the method that it is held against.
    pub easy: f64,
    /// As in the method that it is held against.
    pub medium: f64,
}

impl Default for RandomLength {
    fn default() -> Self {
        let DifficultyRewrite { easy, medium } = DifficultyRewrite::default();
        RandomLength { easy, medium }
    }
}

/// Rationales without the chunks that the task says may go: what a perfect deletion test would leave. Needs a task that knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condensed {}

/// How much of a rationale stays.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Length {
    None,
    Half,
    Full,
}

impl DifficultyRewrite {
    pub(super) fn check(&self) -> Result<(), String> {
        let shares = self.easy >= 0.0 && self.medium >= 0.0 && self.easy + self.medium <= 1.0;
        match shares {
            true => Ok(()),
            false => Err(format!(
                "`easy` is {} and `medium` is {}; expected shares whose sum is at most 1",
                self.easy, self.medium
            )),
        }
    }

    pub(super) fn teach(&self, context: &Context) -> Result<Taught> {
        learn(context, &self.lengths(context.rows))
    }

    /// The length of every row's rationale, the easiest questions the shortest.
    fn lengths(&self, rows: &[Row]) -> Vec<Length> {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|index| rows[*index].chunks.len());
        let easy = (self.easy * rows.len() as f64).round() as usize;
        let medium = ((self.easy + self.medium) * rows.len() as f64).round() as usize;
        let mut lengths = vec![Length::Full; rows.len()];
        for (rank, index) in order.into_iter().enumerate() {
            if rank < easy {
                lengths[index] = Length::None;
            } else if rank < medium {
                lengths[index] = Length::Half;
            }
        }
        lengths
    }
}

pub(super) fn condensed(context: &Context) -> Result<Taught> {
    let rows = context.rows.iter().map(|row| {
        if row.skippable.len() != row.chunks.len() {
            return Err(Error::Experiment(format!(
                "condensed: row {} does not say which of its chunks may go; take a task that knows",
                row.id
            )));
        }
        let needed: Vec<bool> = row.skippable.iter().map(|may_go| !may_go).collect();
        Ok(without(row, &needed))
    });
    let rows = rows.collect::<Result<Vec<Row>>>()?;
    let rows = context.encode(&context.encoder()?, COT, &rows)?;
    context.train_on(context.training(COT), rows)
}

impl RandomLength {
    pub(super) fn rewrite(&self) -> DifficultyRewrite {
        DifficultyRewrite {
            easy: self.easy,
            medium: self.medium,
        }
    }

    pub(super) fn teach(&self, context: &Context) -> Result<Taught> {
        let mut lengths = self.rewrite().lengths(context.rows);
        lengths.shuffle(&mut ChaCha8Rng::seed_from_u64(context.seed));
        learn(context, &lengths)
    }
}

fn learn(context: &Context, lengths: &[Length]) -> Result<Taught> {
    let rows: Vec<Row> = context
        .rows
        .iter()
        .zip(lengths)
        .map(|(row, length)| shortened(row, *length))
        .collect();
    let rows = context.encode(&context.encoder()?, COT, &rows)?;
    context.train_on(context.training(COT), rows)
}

fn shortened(row: &Row, length: Length) -> Row {
    let chunks = row.chunks.len();
    let first = match length {
        Length::None => chunks,
        Length::Half => chunks / 2,
        Length::Full => 0,
    };
    without(row, &(0..chunks).map(|i| i >= first).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn easy_questions_lose_most_and_the_control_has_the_same_lengths() {
        let rows: Vec<Row> = (0..9)
            .map(|n| Row {
                chunks: vec!["c".to_owned(); 9 - n],
                ..Row::default()
            })
            .collect();
        let method = DifficultyRewrite::default();
        let lengths = method.lengths(&rows);
        assert_eq!(lengths[..3], [Length::Full; 3]);
        assert_eq!(lengths[3..6], [Length::Half; 3]);
        assert_eq!(lengths[6..], [Length::None; 3]);
        assert_eq!(shortened(&rows[3], Length::Half).chunks.len(), 3);
        assert!(shortened(&rows[8], Length::None).chunks.is_empty());
    }
}
