//! The training objective of a micro-batch: span-weighted cross-entropy over its scored targets.

use candle_core::Tensor;

use crate::error::Result;
use crate::ops::cross_entropy::{cross_entropy, into_gradient};
use crate::pack::Batch;
use crate::pass::Pass;
use crate::student::Student;

/// The loss of a micro-batch, as sums that add up over micro-batches.
#[derive(Debug)]
pub struct Loss {
    /// `Σ weight · −ln p`, a scalar that carries the gradients.
    pub sum: Tensor,
    /// Scored targets that would have been picked greedily.
    pub correct: usize,
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
