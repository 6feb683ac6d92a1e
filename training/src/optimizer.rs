//! AdamW over one flat buffer.
//!
//! Gradients of all workers arrive flat, are summed, scaled and clipped, and one fused loop updates moments and weights. Decay is
//! decoupled and touches matrices only (Loshchilov & Hutter 2019): norms and biases have no reason to shrink.

use candle_core::Tensor;

use crate::error::Result;
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

    /// Copies the gradients of a backward pass into a flat buffer, adding to what is there.
    ///
    /// # Errors
    /// If a gradient cannot be read. A variable without a gradient counts as zero.
    pub(crate) fn gather(
        &self,
        student: &Student,
        grads: &candle_core::backprop::GradStore,
        flat: &mut [f32],
    ) -> Result<()> {
        for (slot, (_, variable)) in self.slots.iter().zip(student.variables()) {
            let Some(grad) = grads.get(variable) else {
                continue;
            };
            crate::ops::with_values(grad, |grad| {
                for (sum, grad) in flat[slot.start..slot.start + slot.len].iter_mut().zip(grad) {
                    *sum += grad;
                }
            })?;
        }
        Ok(())
    }

    /// One update from the summed gradient of targets that weigh `total_weight`; returns the norm before clipping.
    ///
    /// # Errors
    /// If a variable cannot be written.
    pub fn step(
        &mut self,
        student: &Student,
        gradient: &[f32],
        total_weight: f64,
        learning_rate: f64,
    ) -> Result<f64> {
        let mean = 1.0 / total_weight.max(f64::MIN_POSITIVE);
        let norm = gradient
            .iter()
            .map(|g| f64::from(*g) * f64::from(*g))
            .sum::<f64>()
            .sqrt()
            * mean;
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
        for (slot, (_, variable)) in self.slots.iter().zip(student.variables()) {
            let range = slot.start..slot.start + slot.len;
            let decay = if slot.is_matrix {
                1.0 - (learning_rate * weight_decay) as f32
            } else {
                1.0
            };
            Update { decay, ..update }.apply(
                &mut self.weights[range.clone()],
                &mut self.first[range.clone()],
                &mut self.second[range.clone()],
                &gradient[range.clone()],
            );
            variable.set(&Tensor::from_slice(
                &self.weights[range],
                variable.shape(),
                variable.device(),
            )?)?;
        }
        Ok(norm)
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

impl Update {
    fn apply(self, weights: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32]) {
        for (((w, m), v), g) in weights.iter_mut().zip(first).zip(second).zip(gradient) {
            let g = g * self.scale;
            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
            *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
            *w = *w * self.decay
                - self.rate * *m / ((*v * self.second_correction).sqrt() + self.eps);
        }
    }
}
