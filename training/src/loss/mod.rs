//! The training objective of a micro-batch: span-weighted cross-entropy over its scored targets.

mod exits;
mod shortcut;

use candle_core::Tensor;
use skimstone::ModelConfig;

pub use self::exits::{ExitWeights, Moment};
pub use self::shortcut::ShortcutWeights;
use crate::error::Result;
use crate::flops;
use crate::ops::cross_entropy::{cross_entropy, into_gradient};
use crate::pack::Batch;
use crate::pass::{Depth, Pass, Taps};
use crate::student::Student;

/// The loss of a micro-batch, as sums that add up over micro-batches.
#[derive(Debug)]
pub struct Loss {
    /// `Σ weight · −ln p`, a scalar that carries the gradients.
    pub sum: Tensor,
    /// Scored targets that would have been picked greedily.
    pub correct: usize,
}

/// What a training makes small.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Objective {
    /// Cross-entropy of the scored targets.
    #[default]
    Supervised,
    /// For rows with teachers: cross-entropy of both, and the hidden states of all layers at the token before the answer are drawn to the
    /// teacher's, which stay as they are. With `W` the weight of all targets, half of it the teachers':
    ///
    /// ```text
    /// loss / W = (CE_student + CE_teacher + γ · mean over states j of SmoothL1(h_student[j] − h_teacher[j]) / std(h_teacher[j])) / 2
    /// ```
    ///
    /// The states are what each layer reads and what the final norm writes.
    ///
    /// Source: CODI, arXiv 2502.21074 and its code.
    SelfDistillation {
        /// `γ`
        gamma: f32,
    },
    /// Cross-entropy after intermediate layers as well.
    EarlyExits {
        /// What the losses weigh.
        weights: ExitWeights,
        /// Probability of leaving out the last layer at the end of the training.
        layer_dropout: f64,
    },
    /// For rows with teachers: cross-entropy of both, and the last state of every latent token is drawn to the teacher's at the step that it stands for,
    /// which stays as it is. With `W` the weight of all targets, half of it the teachers':
    ///
    /// ```text
    /// loss / W = (CE_student + CE_teacher + α · mean of (h_latent − h_step)²) / 2
    /// ```
    ///
    /// The states are what the final norm writes. Source: System-1.5 Reasoning, arXiv 2505.18962, eq. 6–9.
    Alignment {
        /// `α`
        alpha: f32,
    },
    /// Routers and adapters learn; all else stays as it is.
    Shortcut(ShortcutWeights),
}

impl Objective {
    /// Whether only routers and adapters learn.
    pub(crate) fn trains_shortcuts_only(self) -> bool {
        matches!(self, Objective::Shortcut(_))
    }

    /// Floating-point operations of a training step over a micro-batch.
    pub(crate) fn flops(self, config: &ModelConfig, batch: &Batch) -> u64 {
        let targets = match self {
            Objective::Shortcut(_) => flops::forward(config, batch),
            _ => 0,
        };
        flops::training(config, batch) + targets
    }

    /// Adds the gradients of flat `weights` to `gradient`; returns the loss as a sum over targets, and the number of targets that would have been
    /// picked greedily.
    ///
    /// # Errors
    /// As [`supervised_gradient`].
    pub fn gradient(
        self,
        pass: &mut Pass,
        weights: &[f32],
        batch: &Batch,
        gradient: &mut [f32],
        moment: Moment,
    ) -> Result<(f64, usize)> {
        let vocabulary = pass.vocabulary();
        match self {
            Objective::Supervised => supervised_gradient(pass, weights, batch, gradient),
            Objective::SelfDistillation { gamma } => {
                pass.run(weights, batch, gradient, |logits, taps| {
                    let (loss, correct) =
                        into_gradient(logits, vocabulary, &batch.targets, &batch.weights)?;
                    let scale = f64::from(gamma) * batch.total_weight() / 2.0;
                    Ok((loss + self_distillation(taps, scale), correct))
                })
            }
            Objective::Alignment { alpha } => pass.run(weights, batch, gradient, |logits, taps| {
                let (loss, correct) =
                    into_gradient(logits, vocabulary, &batch.targets, &batch.weights)?;
                let scale = f64::from(alpha) * batch.total_weight() / 2.0;
                Ok((loss + shortcut::alignment(taps, scale), correct))
            }),
            Objective::Shortcut(losses) => {
                let targets = pass.written(weights, batch)?;
                let depth = Depth {
                    routed: true,
                    ..Depth::default()
                };
                let mut found = (0.0, 0);
                pass.run_with(weights, batch, depth, gradient, |_, logits, taps| {
                    let (loss, correct) =
                        into_gradient(logits, vocabulary, &batch.targets, &batch.weights)?;
                    let scale = batch.total_weight();
                    let more = shortcut::shortcut(losses, taps, &targets, &batch.critical, scale);
                    found = (loss + more, correct);
                    Ok(())
                })?;
                Ok(found)
            }
            Objective::EarlyExits {
                weights: losses,
                layer_dropout,
            } => {
                let losses = losses.at(pass.layers(), moment);
                let exits: Vec<usize> = losses.iter().map(|(layers, _)| *layers).collect();
                let left_out = match layer_dropout > 0.0 {
                    true => exits::left_out(pass.layers(), layer_dropout, batch, moment),
                    false => Vec::new(),
                };
                let depth = Depth {
                    exits: &exits[..exits.len() - 1],
                    left_out: &left_out,
                    ..Depth::default()
                };
                let (mut total, mut last, mut next) = (0.0, 0, losses.iter());
                pass.run_with(weights, batch, depth, gradient, |_, logits, _| {
                    let weight = next.next().map_or(0.0, |(_, weight)| *weight);
                    let weights: Vec<f32> = batch.weights.iter().map(|w| w * weight).collect();
                    let (loss, correct) =
                        into_gradient(logits, vocabulary, &batch.targets, &weights)?;
                    (total, last) = (total + loss, correct);
                    Ok(())
                })?;
                Ok((total, last))
            }
        }
    }
}

/// Adds the gradient of the students' states, times `scale`, and returns the loss times `scale`. Taps are teacher and student in turn.
fn self_distillation(taps: &mut Taps, scale: f64) -> f64 {
    let (layers, mut total) = (taps.states.len(), 0.0);
    for (states, gradients) in taps.states.iter().zip(&mut taps.gradients) {
        let width = states.len() / taps.count.max(1);
        let pairs = || {
            states
                .chunks_exact(2 * width)
                .map(|pair| pair.split_at(width))
        };
        let teacher = || {
            pairs()
                .flat_map(|(teacher, _)| teacher)
                .map(|x| f64::from(*x))
        };
        let len = (states.len() / 2) as f64;
        let mean = teacher().sum::<f64>() / len;
        // Unbiased, as the published code has it.
        let variance = teacher().map(|x| (x - mean).powi(2)).sum::<f64>() / (len - 1.0);
        let scale = scale / (variance.sqrt().max(1e-6) * len * layers as f64);
        for ((teacher, student), gradient) in pairs().zip(gradients.chunks_exact_mut(2 * width)) {
            for ((t, s), gradient) in teacher.iter().zip(student).zip(&mut gradient[width..]) {
                let difference = f64::from(s - t);
                let size = difference.abs();
                total += scale
                    * if size < 1.0 {
                        0.5 * size * size
                    } else {
                        size - 0.5
                    };
                *gradient += (scale * difference.clamp(-1.0, 1.0)) as f32;
            }
        }
    }
    total
}

/// What [`supervised`] computes and its gradients, without a graph: adds the gradients of flat `weights` to `gradient` and returns
/// `Σ weight · −ln p` and the number of targets that would have been picked greedily.
///
/// # Errors
/// If the batch leaves the vocabulary or points outside itself.
pub fn supervised_gradient(
    pass: &mut Pass,
    weights: &[f32],
    batch: &Batch,
    gradient: &mut [f32],
) -> Result<(f64, usize)> {
    let vocabulary = pass.vocabulary();
    pass.run(weights, batch, gradient, |logits, _| {
        into_gradient(logits, vocabulary, &batch.targets, &batch.weights)
    })
}

/// Runs the student over a micro-batch and scores its targets, as a graph that carries gradients: the slow twin of
/// [`supervised_gradient`], and the form to build other objectives on.
pub fn supervised(student: &Student, batch: &Batch) -> Result<Loss> {
    let scored = cross_entropy(&student.forward(batch)?, &batch.targets, &batch.weights)?;
    Ok(Loss {
        sum: scored.loss,
        correct: scored.correct,
    })
}
