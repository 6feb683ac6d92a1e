//! Early exits: a token that leaves the stack once a lower layer is sure of what comes next.
//!
//! ```text
//! layers 0..e1 ─▶ confidence ≥ threshold? ─yes─▶ norm, head
//!                     │ no                   └─▶ layers e1..: keys and values of this state, or no entry
//! layers e1..e2 ─▶ confidence …
//! ```
//!
//! Sources: CALM, arXiv 2207.07061 (measures, threshold, state propagation); LITE, arXiv 2310.18581 (one norm and head for all exits).

use std::ops::Range;

use skimstone_kernels::Table;

use super::{Session, StepInput, no_layer};
use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};
use crate::forward::OneCache;
use crate::spec::{DepthPolicy, ExitMeasure, ExitSpec, MissingKv};

impl Session {
    /// Feeds one token, which leaves out layers as `exits` say, and returns how many it ran; the logits after it are there. `index`: how
    /// many tokens were generated before, for a threshold that falls. Does not allocate. If nothing is left out, all outputs are bit for
    /// bit those of [`Session::step`].
    ///
    /// # Errors
    /// As [`Session::step`]; then the position is as before, but its outputs may be gone. [`ErrorKind::Argument`] for exits that are not
    /// ascending, or that the model does not have.
    pub fn step_exit(&mut self, id: TokenId, exits: &ExitSpec, index: usize) -> Result<usize> {
        let layers = self.model.config().num_hidden_layers;
        if let Some(&exit) = exits.layers.iter().find(|&&exit| exit >= layers) {
            return Err(no_layer(exit, layers));
        }
        self.check_room(1)?;
        self.load(StepInput::Token(id))?;
        self.begin(1);
        let before = self.usage.layer_passes;
        let logits = match self.leave(exits, exits.threshold_at(index)) {
            Ok(logits) => logits,
            Err(error) => {
                self.kv.rewind();
                self.forget_outputs();
                return Err(error);
            }
        };
        self.finish(1)?;
        self.usage.tokens += 1;
        if logits {
            // Those of the exit: nothing ran since.
            self.fresh = super::Fresh::Logits;
        } else {
            self.head()?;
        }
        Ok(self.usage.layer_passes - before)
    }

    /// Runs the layers that are not left out; whether the logits are those of the state in which that ends.
    fn leave(&mut self, exits: &ExitSpec, threshold: Option<f32>) -> Result<bool> {
        let layers = self.model.config().num_hidden_layers;
        let (mut next, mut confidence, mut logits) = (0, f32::NEG_INFINITY, false);
        let mut left_out = false;
        let asked = threshold.map_or(&[][..], |_| &exits.layers);
        for (i, &exit) in asked.iter().enumerate() {
            if exit == 0 || i > 0 && exit <= exits.layers[i - 1] {
                let message = format!("exits after {:?} layers do not ascend", exits.layers);
                return Err(Error::new(ErrorKind::Argument, message));
            }
            if next < exit {
                self.run(next..exit - 1, 1)?;
                let width = self.previous.len();
                self.previous.copy_from_slice(&self.scratch.hidden[..width]);
                self.run(exit - 1..exit, 1)?;
                next = exit;
                confidence = self.confidence(exits.measure)?;
                logits = exits.measure == ExitMeasure::Softmax;
            }
            if threshold.is_some_and(|threshold| confidence >= threshold) {
                next = match exits.policy {
                    DepthPolicy::Halt => layers,
                    DepthPolicy::Bypass => exit + 1,
                };
                self.leave_out(exit..next, exits.missing_kv)?;
                left_out = true;
                if next == layers {
                    break;
                }
            }
        }
        if next < layers {
            self.run(next..layers, 1)?;
            logits = false;
        }
        self.usage.exits += usize::from(left_out);
        Ok(logits)
    }

    /// How sure the state after the layers so far is.
    fn confidence(&mut self, measure: ExitMeasure) -> Result<f32> {
        let state = &self.scratch.hidden[..self.hidden.len()];
        match measure {
            ExitMeasure::Softmax => {
                let forward = self.model.forward();
                forward.norm(state, &mut self.normed)?;
                forward.head(&self.normed, &mut self.scratch, &mut self.logits)?;
                self.usage.head_passes += 1;
                Ok(gap(forward.cpu.table(), &self.logits))
            }
            ExitMeasure::Saturation => Ok(cosine(&self.previous, state)),
        }
    }

    /// What `layers` keep of a token that does not run through them.
    fn leave_out(&mut self, layers: Range<usize>, missing: MissingKv) -> Result<()> {
        match missing {
            MissingKv::Ragged => Ok(()),
            MissingKv::Propagate => {
                let Session {
                    model,
                    kv,
                    room,
                    scratch,
                    cancel,
                    ..
                } = self;
                let mut cache = OneCache { kv, room, rows: 1 };
                let count = layers.len();
                let forward = model.forward();
                forward.propagate(layers, 1, scratch, &mut cache, cancel)?;
                self.usage.kv_passes += count;
                Ok(())
            }
        }
    }
}

/// The difference of the two largest probabilities. Shapes: `logits` is `[V]`.
fn gap(table: &Table, logits: &[f32]) -> f32 {
    let best = table.argmax(logits);
    let Some(&first) = logits.get(best) else {
        return 0.0;
    };
    let (below, above) = (&logits[..best], &logits[best + 1..]);
    let second = largest(below).max(largest(above));
    let sum = table.log_sum_exp(logits);
    let probability = |logit: f32| (f64::from(logit) - sum).exp();
    (probability(first) - probability(second)) as f32
}

/// The largest value; minus infinity of none. Sixteen at a time, so that the compiler makes vectors of them.
fn largest(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<16>();
    let mut most = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (most, &x) in most.iter_mut().zip(chunk) {
            *most = if x > *most { x } else { *most };
        }
    }
    let all = most.iter().chain(rest);
    all.copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The cosine of the angle between two states; not a number if one of them is zero.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum()
    };
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    cosine.clamp(-1.0, 1.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_by_hand() {
        let table = Table::from_env().unwrap();
        // Probabilities 0.5, 0.25, 0.125, 0.125.
        let logits = [0.25f32, 0.125, 0.5, 0.125].map(f32::ln);
        assert!((gap(table, &logits) - 0.25).abs() < 1e-6);
        let mut many = vec![-30.0; 100];
        (many[3], many[97]) = (2.0, 2.0);
        assert_eq!(gap(table, &many), 0.0, "two alike");
        many[50] = 40.0;
        assert!(gap(table, &many) > 0.9999);
        assert_eq!(gap(table, &[]), 0.0);
        assert_eq!(gap(table, &[1.5]), 1.0);

        assert_eq!(cosine(&[1.0, 2.0], &[2.0, 4.0]), 1.0);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 3.0]), 0.0);
        assert_eq!(cosine(&[1.0, 0.0], &[-2.0, 0.0]), -1.0);
        assert!(cosine(&[0.0, 0.0], &[1.0, 0.0]).is_nan());
    }
}
