//! Scoring rows without gradients: whether the student, reading the row, would have picked each target greedily.
//!
//! One packed forward answers for a whole trial rationale what step-by-step generation would answer token by token, so that
//! thousands of deletions can be tried per minute.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::data::TokenizedRow;
use crate::error::Result;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::with_values;
use crate::pack::{Batch, Packing, build};
use crate::student::Student;

/// Tokens in a scoring micro-batch: enough to amortize a pass, small enough that activations stay in cache.
const MICRO_BATCH_TOKENS: usize = 2048;

/// For every row, in order, whether the arg-max equals the target at each scored token (weight above zero).
///
/// Rows of one group should share a prefix: they are packed as trees. Runs on all cores.
///
/// # Errors
/// If a row does not fit the student's vocabulary.
pub fn argmax_matches(student: &Student, sequences: &[TokenizedRow]) -> Result<Vec<Vec<bool>>> {
    let scored = over_batches(sequences, |batch| {
        let logits = student.forward(batch)?;
        let vocabulary = logits.dims2()?.1;
        Ok(with_values(&logits, |logits| {
            let rows = logits.chunks_exact(vocabulary).zip(&batch.targets);
            // Ties go to the lower id, as in the runtime's greedy sampler.
            rows.map(|(row, target)| argmax(row) == *target as usize)
                .collect::<Vec<bool>>()
        })?)
    })?;
    let mut out = vec![Vec::new(); sequences.len()];
    for (members, row_targets, matches) in scored {
        let mut at = 0;
        for (member, count) in members.into_iter().zip(row_targets) {
            out[member] = matches[at..at + count].to_vec();
            at += count;
        }
    }
    Ok(out)
}

/// The weighted loss and the matches of held-out rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Score {
    /// `Σ weight · −ln p`.
    pub loss: f64,
    /// Sum of the weights.
    pub weight: f64,
    /// Targets.
    pub targets: usize,
    /// Targets that would have been picked greedily.
    pub correct: usize,
    /// Rows.
    pub rows: usize,
    /// Rows in which every target would have been picked.
    pub correct_rows: usize,
}

/// Scores held-out rows.
///
/// # Errors
/// If a row does not fit the student's vocabulary.
pub fn score(student: &Student, sequences: &[TokenizedRow]) -> Result<Score> {
    let parts = over_batches(sequences, |batch| {
        let logits = student.forward(batch)?;
        let vocabulary = logits.dims2()?.1;
        let entropy = cross_entropy(&logits, &batch.targets, &batch.weights)?;
        let mut score = Score {
            loss: f64::from(entropy.loss.to_scalar::<f32>()?),
            weight: batch.total_weight(),
            targets: batch.targets.len(),
            correct: entropy.correct,
            rows: batch.row_targets.len(),
            correct_rows: 0,
        };
        with_values(&logits, |logits| {
            let mut rows = logits.chunks_exact(vocabulary).zip(&batch.targets);
            for count in &batch.row_targets {
                let right = rows
                    .by_ref()
                    .take(*count)
                    .filter(|(row, target)| argmax(row) == **target as usize)
                    .count();
                score.correct_rows += usize::from(right == *count);
            }
        })?;
        Ok(score)
    })?;
    Ok(parts
        .into_iter()
        .fold(Score::default(), |a, (_, _, b)| Score {
            loss: a.loss + b.loss,
            weight: a.weight + b.weight,
            targets: a.targets + b.targets,
            correct: a.correct + b.correct,
            rows: a.rows + b.rows,
            correct_rows: a.correct_rows + b.correct_rows,
        }))
}

fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best
}

/// Indices of a micro-batch's rows, the number of targets of each, and what was computed.
type Scored<R> = (Vec<usize>, Vec<usize>, R);

/// Packs rows in their order and runs `f` on the micro-batches, all cores at once; results come in order, each with the indices
/// and the target counts of its rows.
fn over_batches<R: Send>(
    rows: &[TokenizedRow],
    f: impl Fn(&Batch) -> Result<R> + Sync,
) -> Result<Vec<Scored<R>>> {
    let packing = Packing {
        micro_batch_tokens: MICRO_BATCH_TOKENS,
        tree_rows: 64,
        seed: 0,
    };
    let plan = packing.in_order(rows);
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism()
        .map_or(1, |n| n.get())
        .min(plan.len());
    let work = || -> Result<Vec<(usize, Vec<usize>, R)>> {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(trees) = plan.get(index) else {
                return Ok(done);
            };
            let batch = build(rows, trees);
            let result = f(&batch)?;
            done.push((index, batch.row_targets, result));
        }
    };
    let mut results = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let joined = handles
            .into_iter()
            .map(|handle| handle.join().expect("a scoring worker does not panic"));
        joined.collect::<Result<Vec<_>>>()
    })?
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    results.sort_by_key(|(index, ..)| *index);
    Ok(results
        .into_iter()
        .map(|(index, targets, result)| (plan[index].concat(), targets, result))
        .collect())
}
