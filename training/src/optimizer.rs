//! AdamW over one flat buffer.
//!
//! Gradients of all workers arrive flat, are summed, scaled and clipped, and one fused loop updates moments and weights. Decay is
//! decoupled and touches matrices only (Loshchilov & Hutter 2019): norms and biases have no reason to shrink.

use candle_core::Tensor;

use crate::error::Result;
use crate::ops::simd::{LANES, multiversion};
use crate::recipe::Optimizer;
use crate::student::Student;

/// Where a variable lies in the flat buffers.
#[derive(Clone, Debug)]
struct Slot {
    start: usize,
    len: usize,
    is_matrix: bool,
}

/// The optimizer's state, one value per parameter in the order of [`Student::variables`].
#[derive(Clone, Debug)]
pub struct AdamW {
    knobs: Optimizer,
    slots: Vec<Slot>,
    /// The weights themselves; variables are written from here.
    pub(crate) weights: Vec<f32>,
    /// First moments.
    pub(crate) first: Vec<f32>,
    /// Second moments.
    pub(crate) second: Vec<f32>,
    /// Updates made.
    pub(crate) steps: u64,
}

impl AdamW {
    /// A fresh state for the student's present weights.
    ///
    /// # Errors
    /// If a variable cannot be read.
    pub fn new(student: &Student, knobs: Optimizer) -> Result<AdamW> {
        let mut slots = Vec::new();
        let mut weights = Vec::new();
        for (_, variable) in student.variables() {
            let values: Vec<f32> = variable.flatten_all()?.to_vec1()?;
            slots.push(Slot {
                start: weights.len(),
                len: values.len(),
                is_matrix: variable.rank() == 2,
            });
            weights.extend(values);
        }
        let zeros = vec![0f32; weights.len()];
        Ok(AdamW {
            knobs,
            slots,
            weights,
            first: zeros.clone(),
            second: zeros,
            steps: 0,
        })
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// Whether there is nothing to train.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// One update from the summed gradient of targets that weigh `total_weight`; returns the norm before clipping. Variables before the parameter `first`
    /// stay as they are.
    ///
    /// The student's variables stay as they are until [`AdamW::publish`].
    pub fn step(
        &mut self,
        first: usize,
        gradient: &[f32],
        total_weight: f64,
        learning_rate: f64,
    ) -> f64 {
        let mean = 1.0 / total_weight.max(f64::MIN_POSITIVE);
        let norm = sum_of_squares(&gradient[first..]).sqrt() * mean;
        let clip = self.knobs.clip_norm;
        let scale = if clip > 0.0 && norm > clip {
            mean * clip / norm
        } else {
            mean
        } as f32;
        self.steps += 1;
        let Optimizer {
            beta1,
            beta2,
            eps,
            weight_decay,
            ..
        } = self.knobs;
        let steps = self.steps as f64;
        let update = Update {
            scale,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            eps: eps as f32,
            // Bias corrections folded into the rate and into the second moment.
            rate: (learning_rate / (1.0 - beta1.powf(steps))) as f32,
            second_correction: (1.0 / (1.0 - beta2.powf(steps))) as f32,
            decay: 1.0,
        };
        for slot in self.slots.iter().filter(|slot| slot.start >= first) {
            let range = slot.start..slot.start + slot.len;
            let decay = if slot.is_matrix {
                1.0 - (learning_rate * weight_decay) as f32
            } else {
                1.0
            };
            apply(
                Update { decay, ..update },
                &mut self.weights[range.clone()],
                &mut self.first[range.clone()],
                &mut self.second[range.clone()],
                &gradient[range],
            );
        }
        norm
    }

    /// Writes the weights into the student's variables.
    ///
    /// # Errors
    /// If a variable cannot be written.
    pub fn publish(&self, student: &Student) -> Result<()> {
        for (slot, (_, variable)) in self.slots.iter().zip(student.variables()) {
            let values = &self.weights[slot.start..slot.start + slot.len];
            let (shape, device) = (variable.shape(), variable.device());
            variable.set(&Tensor::from_slice(values, shape, device)?)?;
        }
        Ok(())
    }
}

/// The constants of one update.
#[derive(Clone, Copy)]
struct Update {
    scale: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    rate: f32,
    second_correction: f32,
    decay: f32,
}

multiversion! {
    fn apply(update: Update, weights: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32]) {
        let Update { scale, beta1, beta2, eps, rate, second_correction, decay } = update;
        for (((w, m), v), g) in weights.iter_mut().zip(first).zip(second).zip(gradient) {
            let g = g * scale;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *w = *w * decay - rate * *m / ((*v * second_correction).sqrt() + eps);
        }
    }
}

multiversion! {
    /// In `f64`: ten million squares would lose digits of the norm in `f32`.
    fn sum_of_squares(x: &[f32]) -> f64 {
        let mut lanes = [0f64; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest: f64 = chunks.remainder().iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(*x) * f64::from(*x);
            }
        }
        lanes.iter().sum::<f64>() + rest
    }
}

#[cfg(test)]
mod tests {
    use candle_nn::optim::{Optimizer as _, ParamsAdamW};
    use skimstone::{ModelConfig, SideModules};

    use super::*;
    use crate::data::{Span, TokenizedRow};
    use crate::loss::{supervised, supervised_gradient};
    use crate::pack::Batch;
    use crate::pass::Pass;

    fn student() -> Student {
        let json = r#"{"model_type":"qwen3","hidden_size":16,"intermediate_size":24,"num_hidden_layers":1,
            "num_attention_heads":2,"num_key_value_heads":1,"head_dim":8,"vocab_size":20,"max_position_embeddings":64,
            "rms_norm_eps":1e-6,"rope_theta":10000,"tie_word_embeddings":true,"eos_token_id":1}"#;
        Student::random(&ModelConfig::from_json(json).unwrap(), 1, 0.1).unwrap()
    }

    fn batch() -> Batch {
        let tokens: Vec<u32> = (0..12).map(|i| i * 5 % 20).collect();
        let mut batch = Batch::default();
        batch.push_row(&TokenizedRow {
            group: 0,
            spans: vec![Span {
                range: 1..12,
                weight: 1.0,
            }],
            tokens,
            ..TokenizedRow::default()
        });
        batch
    }

    #[test]
    fn agrees_with_candles_optimizer() {
        let knobs = Optimizer {
            weight_decay: 0.0,
            clip_norm: 0.0,
            eps: 1e-8,
            ..Optimizer::default()
        };
        let (ours, theirs) = (student(), student());
        let mut flat = AdamW::new(&ours, knobs).unwrap();
        let mut pass = Pass::new(ours.config(), SideModules::default());
        let variables = theirs
            .variables()
            .iter()
            .map(|(_, variable)| variable.clone())
            .collect();
        let params = ParamsAdamW {
            lr: 3e-3,
            beta1: knobs.beta1,
            beta2: knobs.beta2,
            eps: 1e-8,
            weight_decay: 0.0,
        };
        let mut reference = candle_nn::AdamW::new(variables, params).unwrap();
        for _ in 0..5 {
            let mut gradient = vec![0f32; flat.len()];
            supervised_gradient(&mut pass, &flat.weights, &batch(), &mut gradient).unwrap();
            flat.step(0, &gradient, 11.0, 3e-3);
            let loss = (supervised(&theirs, &batch()).unwrap().sum / 11.0).unwrap();
            reference.backward_step(&loss).unwrap();
        }
        flat.publish(&ours).unwrap();
        for ((name, a), (_, b)) in ours.variables().iter().zip(theirs.variables()) {
            crate::ops::check::close(a, b, 1e-4, name);
        }
    }

    #[test]
    fn clipping_bounds_the_norm_and_decay_spares_vectors() {
        let student = student();
        let knobs = Optimizer {
            weight_decay: 0.5,
            clip_norm: 0.1,
            ..Optimizer::default()
        };
        let mut flat = AdamW::new(&student, knobs).unwrap();
        let before = flat.weights.clone();
        let zeros = vec![0f32; flat.len()];
        assert_eq!(flat.step(0, &zeros, 1.0, 0.1), 0.0);
        for slot in flat.slots.clone() {
            let shrunk = if slot.is_matrix { 0.95 } else { 1.0 };
            let range = slot.start..slot.start + slot.len;
            for (after, before) in flat.weights[range.clone()].iter().zip(&before[range]) {
                assert!((after - before * shrunk).abs() < 1e-6);
            }
        }
        let large = vec![1f32; flat.len()];
        let norm = flat.step(0, &large, 1.0, 0.0);
        assert!((norm - (flat.len() as f64).sqrt()).abs() < 1e-3);
        let second: f64 = flat.second.iter().map(|v| f64::from(*v)).sum();
        assert!(
            (second - 0.01 * (1.0 - knobs.beta2)).abs() < 1e-6,
            "moments see the clipped gradient"
        );
    }
}
