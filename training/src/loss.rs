//! The training objective of a micro-batch: span-weighted cross-entropy over its scored targets.

use candle_core::Tensor;

use crate::error::Result;
use crate::ops::cross_entropy::cross_entropy;
use crate::pack::Batch;
use crate::student::Student;

/// The loss of a micro-batch, as sums that add up over micro-batches.
#[derive(Debug)]
pub struct Loss {
    /// `Σ weight · −ln p`, a scalar that carries the gradients.
    pub sum: Tensor,
    /// Scored targets that would have been picked greedily.
    pub correct: usize,
}

/// Runs the student over a micro-batch and scores its targets.
pub fn supervised(student: &Student, batch: &Batch) -> Result<Loss> {
    let scored = cross_entropy(&student.forward(batch)?, &batch.targets, &batch.weights)?;
    Ok(Loss {
        sum: scored.loss,
        correct: scored.correct,
    })
}
