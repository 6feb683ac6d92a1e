//! Scoring rows without gradients: whether the student, reading the row, would have picked each target greedily.
//!
//! One packed forward answers for a whole trial rationale what step-by-step generation would answer token by token, so that
//! thousands of deletions can be tried per minute.

use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Tensor;
use skimstone::ModelConfig;

use crate::data::TokenizedRow;
use crate::error::Result;
use crate::flops;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::with_values;
use crate::pack::{Batch, Packing, build};
use crate::student::Student;

/// Tokens in a scoring micro-batch: enough to amortize a pass, small enough that activations stay in cache.
const MICRO_BATCH_TOKENS: usize = 2048;

/// What the student makes of one target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Whether greedy decoding would have picked the target.
    pub is_picked: bool,
    /// The target's probability.
    pub probability: f32,
}

impl Prediction {
    /// Ties go to the lower id, as in the runtime's greedy sampler.
    fn new(logits: &[f32], target: u32) -> Self {
        let best = argmax(logits);
        let sum: f32 = logits.iter().map(|x| (x - logits[best]).exp()).sum();
        Prediction {
            is_picked: best == target as usize,
            probability: (logits[target as usize] - logits[best]).exp() / sum,
        }
    }
}

/// For every row, in order, what the student predicts at each scored token (weight above zero).
///
/// Rows of one group should share a prefix: they are packed as trees. Runs on all cores.
///
/// # Errors
/// If a row does not fit the student's vocabulary.
pub fn predictions(student: &Student, sequences: &[TokenizedRow]) -> Result<Vec<Vec<Prediction>>> {
    let scored = over_batches(sequences, |batch| {
        let logits = student.forward(batch)?;
        Ok(batch_predictions(&logits, &batch.targets)?)
    })?;
    let mut out = vec![Vec::new(); sequences.len()];
    for (members, row_targets, predictions) in scored {
        let mut at = 0;
        for (member, count) in members.into_iter().zip(row_targets) {
            out[member] = predictions[at..at + count].to_vec();
            at += count;
        }
    }
    Ok(out)
}

fn batch_predictions(logits: &Tensor, targets: &[u32]) -> candle_core::Result<Vec<Prediction>> {
    let vocabulary = logits.dims2()?.1;
    with_values(logits, |logits| {
        let rows = logits.chunks_exact(vocabulary).zip(targets);
        rows.map(|(row, target)| Prediction::new(row, *target))
            .collect()
    })
}

/// The weighted loss of held-out rows and how much of them is predicted.
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
    /// Rows in which every token of the answer would have been picked, reading the row's own thinking.
    pub correct_rows: usize,
}

/// Scores held-out rows.
///
/// # Errors
/// If a row does not fit the student's vocabulary.
pub fn score(student: &Student, sequences: &[TokenizedRow]) -> Result<Score> {
    let parts = over_batches(sequences, |batch| {
        let logits = student.forward(batch)?;
        let entropy = cross_entropy(&logits, &batch.targets, &batch.weights)?;
        let loss = f64::from(entropy.loss.to_scalar::<f32>()?);
        let predictions = batch_predictions(&logits, &batch.targets)?;
        Ok((loss, batch.total_weight(), predictions))
    })?;
    let mut score = Score::default();
    for (members, row_targets, (loss, weight, predictions)) in parts {
        score.loss += loss;
        score.weight += weight;
        score.targets += predictions.len();
        score.correct += predictions.iter().filter(|p| p.is_picked).count();
        score.rows += members.len();
        let mut at = 0;
        for (member, count) in members.into_iter().zip(row_targets) {
            let row = &sequences[member];
            let mut targets = row.scored().zip(&predictions[at..at + count]);
            let is_right = targets.all(|((token, _), p)| token < row.answer || p.is_picked);
            score.correct_rows += usize::from(is_right);
            at += count;
        }
    }
    Ok(score)
}

/// The first of the largest values.
pub(crate) fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best
}

/// Threads that scoring uses; 0: one per core.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Sets the threads that scoring uses in this process, 0 for one per core. Results do not depend on it.
pub fn use_threads(threads: usize) {
    THREADS.store(threads, Ordering::Relaxed);
}

fn threads() -> usize {
    match THREADS.load(Ordering::Relaxed) {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        threads => threads,
    }
}

fn packing() -> Packing {
    Packing {
        micro_batch_tokens: MICRO_BATCH_TOKENS,
        micro_batch_rows: 0,
        tree_rows: 64,
        seed: 0,
    }
}

/// Floating-point operations of scoring `rows`, by [`flops::forward`].
pub fn scoring_flops(config: &ModelConfig, rows: &[TokenizedRow]) -> u64 {
    let plan = packing().in_order(rows);
    let batches = plan.iter().map(|trees| build(rows, trees));
    batches.map(|batch| flops::forward(config, &batch)).sum()
}

/// Indices of a micro-batch's rows, the number of targets of each, and what was computed.
type Scored<R> = (Vec<usize>, Vec<usize>, R);

/// Packs rows in their order and runs `f` on the micro-batches, all cores at once; results come in order, each with the indices
/// and the target counts of its rows.
fn over_batches<R: Send>(
    rows: &[TokenizedRow],
    f: impl Fn(&Batch) -> Result<R> + Sync,
) -> Result<Vec<Scored<R>>> {
    let plan = packing().in_order(rows);
    let next = AtomicUsize::new(0);
    let workers = threads().min(plan.len());
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
