//! Cross-entropy after intermediate layers, through the final norm and head, so that a token can leave the stack early.
//!
//! With `CE_l` the loss after `l` of `L` layers:
//!
//! ```text
//! equal     (CE_1 + … + CE_L) / L                          LITE, arXiv 2310.18581: one norm and head for all exits
//! linear    Σ l · CE_l / Σ l                               CALM, arXiv 2207.07061
//! rotating  (CE_L + CE_l) / 2, l = 1 + step mod (L − 1)     LayerSkip, arXiv 2404.16710, in its public recipe
//! ```
//!
//! LayerSkip also leaves layers out: in each step row `b` skips layer `l` (from 0) with probability `p · (2^{l/(L−1)} − 1) · (2^{t/(T−1)} − 1)`,
//! `t` the step of `T`: later layers more often, and more often later.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::pack::Batch;

/// What the losses after the layers weigh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitWeights {
    /// All the same.
    #[default]
    Equal,
    /// In proportion to the number of layers.
    Linear,
    /// The whole depth and one exit, another one in each step.
    Rotating,
}

/// Where a training stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// Optimizer steps made.
    pub step: u64,
    /// Optimizer steps in all.
    pub steps: u64,
    /// Seed of what is drawn.
    pub seed: u64,
}

impl ExitWeights {
    /// For each loss of this step the number of layers and its weight, ascending; the last is the whole depth. The weights' sum is 1.
    pub(super) fn at(self, layers: usize, moment: Moment) -> Vec<(usize, f32)> {
        match self {
            _ if layers == 1 => vec![(1, 1.0)],
            ExitWeights::Equal => {
                let weight = 1.0 / layers as f32;
                (1..=layers).map(|layer| (layer, weight)).collect()
            }
            ExitWeights::Linear => {
                let sum = (layers * (layers + 1) / 2) as f32;
                let weight = |layer: usize| (layer, layer as f32 / sum);
                (1..=layers).map(weight).collect()
            }
            ExitWeights::Rotating => {
                let exit = 1 + (moment.step % (layers as u64 - 1)) as usize;
                vec![(exit, 0.5), (layers, 0.5)]
            }
        }
    }
}

/// For each layer and token whether the layer is left out in this step, `[L][N]`; rows agree in all their tokens. Rows must not share prefixes.
pub(super) fn left_out(layers: usize, most: f64, batch: &Batch, moment: Moment) -> Vec<Vec<bool>> {
    let mut rng = ChaCha8Rng::seed_from_u64(moment.seed);
    rng.set_stream(moment.step);
    let rise = |at: u64, last: u64| (at as f64 / last.max(1) as f64).exp2() - 1.0;
    let share = rise(moment.step, moment.steps.saturating_sub(1));
    let of_layer = |layer: usize| {
        let probability = most * share * rise(layer as u64, layers as u64 - 1);
        let rows = batch.segments.iter();
        let tokens = rows.flat_map(|row| vec![rng.random_bool(probability.min(1.0)); row.len]);
        tokens.collect()
    };
    (0..layers).map(of_layer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TokenizedRow;

    fn moment(step: u64) -> Moment {
        Moment {
            step,
            steps: 101,
            seed: 3,
        }
    }

    #[test]
    fn weights_by_hand() {
        assert_eq!(ExitWeights::Equal.at(2, moment(0)), [(1, 0.5), (2, 0.5)]);
        let linear = ExitWeights::Linear.at(3, moment(0));
        assert_eq!(linear, [(1, 1.0 / 6.0), (2, 2.0 / 6.0), (3, 3.0 / 6.0)]);
        let exits = [0, 1, 2].map(|step| ExitWeights::Rotating.at(3, moment(step))[0].0);
        assert_eq!(exits, [1, 2, 1]);
        assert_eq!(ExitWeights::Rotating.at(1, moment(0)), [(1, 1.0)]);
    }

    #[test]
    fn later_layers_and_later_steps_are_left_out_more_often() {
        let mut batch = Batch::default();
        let row = TokenizedRow {
            tokens: vec![1; 3],
            ..TokenizedRow::default()
        };
        (0..4000).for_each(|_| batch.push_row(&row));
        // Tokens left out of each layer; a row's tokens agree.
        let shares = |step: u64| {
            let left_out = left_out(3, 0.4, &batch, moment(step));
            [0, 1, 2].map(|layer| {
                let tokens: &[bool] = &left_out[layer];
                assert!(tokens.chunks(3).all(|row| row == [row[0]; 3]));
                tokens.iter().filter(|out| **out).count() as f64 / tokens.len() as f64
            })
        };
        assert_eq!(shares(0), [0.0; 3], "never at the beginning");
        let [first, middle, last] = shares(100);
        assert_eq!(first, 0.0, "the first layer never");
        assert!(
            (middle - 0.4 * (0.5f64.exp2() - 1.0)).abs() < 0.02,
            "{middle}"
        );
        assert!((last - 0.4).abs() < 0.03, "{last}");
        assert!(shares(50)[2] < last);
    }
}
