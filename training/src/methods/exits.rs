//! Full rationales, with heads after every layer: students whose tokens can leave the stack early.

use serde::{Deserialize, Serialize};

use super::context::{COT, Context, Taught};
use crate::error::Result;
use crate::loss::{ExitWeights, Objective};

/// Losses after all layers through one norm and head ([`ExitWeights`]), and layers that are left out at random.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyExits {
    /// What the losses weigh.
    pub weights: ExitWeights,
    /// Probability of leaving out the last layer at the end of the training; earlier layers and steps less. LayerSkip: 0.1 to 0.2.
    pub layer_dropout: f64,
}

impl EarlyExits {
    pub(super) fn check(&self) -> Result<(), String> {
        match (0.0..1.0).contains(&self.layer_dropout) {
            true => Ok(()),
            false => Err(format!(
                "`layer_dropout` is {}; expected a probability below 1",
                self.layer_dropout
            )),
        }
    }

    pub(super) fn teach(&self, context: &Context) -> Result<Taught> {
        let rows = context.encode(&context.encoder()?, COT, context.rows)?;
        let mut training = context.training(COT);
        training.objective = Objective::EarlyExits {
            weights: self.weights,
            layer_dropout: self.layer_dropout,
        };
        context.train_on(training, rows)
    }
}
