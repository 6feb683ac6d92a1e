//! Stepwise internalization: the rationale loses its beginning, token by token, until the answer comes at once.
//!
//! ```text
//! q <|cot|> c1 c2 c3 c4 <|answer|> a      share `full` of the steps
//! q <|cot|>       c3 c4 <|answer|> a      `tokens_per_stage` more go at each stage, the optimizer forgets its moments
//! q <|cot|>             <|answer|> a      share `none` of the steps
//! ```
//!
//! Each time a row is used it loses `o` tokens more than the schedule says, `P(o) = (1 − e^−λ) e^−λo`, so that a stage does not come as a surprise.
//! The learning rate stays at its peak, as in the published code.
//!
//! Source: Deng, Choi & Shieber, arXiv 2405.14838 and its code. There the student is pretrained and tokens go from the first step on; here it starts
//! from random weights, so it first learns the full rationale, as the steps of a stage are too few for that.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::context::{COT, Context, Taught};
use crate::curriculum::{Change, Curriculum};
use crate::data::{Span, TokenizedRow};
use crate::error::{Error, Result};
use crate::student::Student;

/// Stepwise internalization.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Icot {
    /// Tokens that go at a stage.
    pub tokens_per_stage: usize,
    /// Share of the steps with the full rationale.
    pub full: f64,
    /// Share of the steps without any of it.
    pub none: f64,
    /// `λ` of the additional tokens.
    pub smoothing: f64,
}

impl Default for Icot {
    fn default() -> Self {
        Icot {
            tokens_per_stage: 4,
            full: 0.3,
            none: 0.2,
            // The published code's value: 1.8 % of rows lose more than the stage says.
            smoothing: 4.0,
        }
    }
}

impl Icot {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.tokens_per_stage == 0 {
            return Err("`tokens_per_stage` is 0; expected at least 1".to_owned());
        }
        let shares = (0.0..1.0).contains(&self.full) && (0.0..1.0).contains(&self.none);
        if !shares || self.full + self.none >= 1.0 {
            return Err(format!(
                "`full` is {} and `none` is {}; expected shares whose sum is below 1",
                self.full, self.none
            ));
        }
        match self.smoothing > 0.0 {
            true => Ok(()),
            false => Err(format!(
                "`smoothing` is {}; expected more than 0",
                self.smoothing
            )),
        }
    }

    pub(super) fn teach(&self, context: &Context) -> Result<Taught> {
        let encoder = context.encoder()?;
        let rows = context.encode(&encoder, COT, context.rows)?;
        let starts: Vec<usize> = rows
            .iter()
            .map(|row| super::segments(&encoder, row, COT)[0].start)
            .collect();
        // The token that starts the answer stays.
        let lengths = rows
            .iter()
            .zip(&starts)
            .map(|(row, start)| row.answer - 1 - start);
        let longest = lengths.max().unwrap_or(0);
        let schedule =
            Removal::new(self, longest, context.spec.steps).map_err(Error::Experiment)?;
        let mut training = context.training(COT);
        training.constant_rate = true;
        let curriculum = Removing {
            rows,
            starts,
            schedule,
            smoothing: self.smoothing,
            seed: context.seed,
            state: State::default(),
        };
        context.train_with(training, Box::new(curriculum))
    }
}

/// When how much is gone.
#[derive(Clone, Copy, Debug)]
struct Removal {
    first: u64,
    every: u64,
    tokens: usize,
    stages: u64,
}

impl Removal {
    fn new(method: &Icot, longest: usize, steps: u64) -> Result<Removal, String> {
        let stages = longest.div_ceil(method.tokens_per_stage).max(1) as u64;
        let first = (steps as f64 * method.full).round() as u64;
        let window = (steps as f64 * (1.0 - method.none)).round() as u64 - first;
        let every = window / stages;
        if every == 0 {
            return Err(format!(
                "icot: {stages} stages of {} tokens do not fit {window} steps; let more tokens go at a stage",
                method.tokens_per_stage
            ));
        }
        Ok(Removal {
            first,
            every,
            tokens: method.tokens_per_stage,
            stages,
        })
    }

    /// Stages begun at a step.
    fn stage(&self, step: u64) -> u64 {
        match step.checked_sub(self.first) {
            Some(since) => (since / self.every + 1).min(self.stages),
            None => 0,
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    /// Stages begun.
    stage: u64,
    /// Times that rows were made: every time with other additional tokens.
    drawn: u64,
}

#[derive(Debug)]
struct Removing {
    rows: Vec<TokenizedRow>,
    /// First token of each rationale.
    starts: Vec<usize>,
    schedule: Removal,
    smoothing: f64,
    seed: u64,
    state: State,
}

impl Curriculum for Removing {
    fn advance(&mut self, step: u64, epoch_ended: bool, _: &Student) -> Result<Option<Change>> {
        let stage = self.schedule.stage(step);
        let restarts_optimizer = stage > self.state.stage;
        if !restarts_optimizer && !epoch_ended {
            return Ok(None);
        }
        self.state.stage = stage;
        self.state.drawn += 1;
        Ok(Some(Change {
            restarts_optimizer: restarts_optimizer && step > 0,
            flops: 0,
        }))
    }

    fn rows(&self) -> Result<Vec<TokenizedRow>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.state.drawn);
        let gone = self.state.stage as usize * self.schedule.tokens;
        let pairs = self.rows.iter().zip(&self.starts);
        Ok(pairs
            .map(|(row, start)| {
                without_beginning(row, *start, gone + more(&mut rng, self.smoothing))
            })
            .collect())
    }

    fn state(&self) -> Value {
        serde_json::to_value(&self.state).expect("numbers serialise")
    }

    fn restore(&mut self, state: Value) -> Result<()> {
        self.state = serde_json::from_value(state)
            .map_err(|error| Error::Experiment(format!("state of removal: {error}")))?;
        Ok(())
    }
}

/// Additional tokens: geometric with ratio `e^−λ`.
fn more(rng: &mut ChaCha8Rng, smoothing: f64) -> usize {
    // The inverse of the distribution function; 1 − u is above 0.
    ((1.0 - rng.random::<f64>()).ln() / -smoothing).floor() as usize
}

/// A row without the first `gone` tokens of its rationale, which begins at `start`; the token that starts the answer stays.
fn without_beginning(row: &TokenizedRow, start: usize, gone: usize) -> TokenizedRow {
    let gone = gone.min(row.answer - 1 - start);
    let mut tokens = row.tokens.clone();
    tokens.drain(start..start + gone);
    TokenizedRow {
        group: row.group,
        answer: row.answer - gone,
        spans: vec![
            Span {
                range: 0..start,
                weight: 0.0,
            },
            Span {
                range: start..tokens.len(),
                weight: 1.0,
            },
        ],
        tokens,
        ..TokenizedRow::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_begin_when_they_should_and_end_with_nothing() {
        let method = Icot {
            tokens_per_stage: 4,
            full: 0.25,
            none: 0.25,
            ..Icot::default()
        };
        // 10 tokens in 3 stages over 50 of 100 steps: every 16.
        let removal = Removal::new(&method, 10, 100).unwrap();
        let stages = [0, 24, 25, 40, 41, 56, 57, 99].map(|step| removal.stage(step));
        assert_eq!(stages, [0, 0, 1, 1, 2, 2, 3, 3]);
        let error = Removal::new(&method, 1000, 100).unwrap_err();
        assert!(error.contains("250 stages of 4 tokens do not fit 50 steps"));
    }

    #[test]
    fn a_rationale_loses_its_beginning_and_keeps_the_answer() {
        let row = TokenizedRow {
            tokens: (0..10).collect(),
            answer: 8,
            ..TokenizedRow::default()
        };
        let short = without_beginning(&row, 3, 2);
        assert_eq!(short.tokens, [0, 1, 2, 5, 6, 7, 8, 9]);
        assert_eq!((short.answer, short.scored().count()), (6, 5));
        assert_eq!(without_beginning(&row, 3, 99).tokens, [0, 1, 2, 7, 8, 9]);
    }

    #[test]
    fn few_rows_lose_more() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let drawn: Vec<usize> = (0..100_000).map(|_| more(&mut rng, 4.0)).collect();
        let share = drawn.iter().filter(|o| **o > 0).count() as f64 / 1e5;
        assert!((share - (-4f64).exp()).abs() < 2e-3, "e⁻⁴ = 1.8 %: {share}");
    }
}
