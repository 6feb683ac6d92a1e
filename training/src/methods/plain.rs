//! One training over fixed rows: without rationale, with the full one, with pauses.

use serde::{Deserialize, Serialize};

use super::context::{COT, Context, DIRECT, Taught};
use crate::error::Result;

/// The answer at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoCot {}

/// The full rationale, every token with the same weight.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cot {}

/// Pause tokens between question and answer, in training and when asked; the loss is on the answer alone.
///
/// Source: Goyal et al., arXiv 2310.02226. The students here are not pretrained, so this is their fine-tuning part from random weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// Pause tokens.
    pub tokens: usize,
}

/// More pauses than any task's rationale has tokens say something else than "the same computation without words".
const MOST_PAUSES: usize = 512;

pub(super) fn no_cot(context: &Context) -> Result<Taught> {
    direct(context, 0)
}

fn direct(context: &Context, pauses: usize) -> Result<Taught> {
    let mut training = context.training(DIRECT);
    training.positions.pauses = pauses;
    let encoder = context.encoder_of(&training)?;
    let rows = context.encode(&encoder, DIRECT, context.rows)?;
    context.train_on(training, rows)
}

pub(super) fn cot(context: &Context) -> Result<Taught> {
    let rows = context.encode(&context.encoder()?, COT, context.rows)?;
    context.train_on(context.training(COT), rows)
}

impl Pause {
    pub(super) fn check(&self) -> Result<(), String> {
        match (1..=MOST_PAUSES).contains(&self.tokens) {
            true => Ok(()),
            false => Err(format!(
                "`tokens` is {}; expected 1 to {MOST_PAUSES}; without pauses it is `no-cot`",
                self.tokens
            )),
        }
    }

    pub(super) fn teach(&self, context: &Context) -> Result<Taught> {
        direct(context, self.tokens)
    }
}
