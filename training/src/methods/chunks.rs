//! Chunk-wise training: one chunk of each rationale per iteration, the chunks before it as context.
//!
//! ```text
//! segments  s1 s2 s3 s4 s5 s6          the row's own steps
//! chunks   [s1 s2][s3 s4 s5][s6]       boundaries, by count (AC) or by the student's loss (SBC)
//! epoch e   q s1 s2 ▸s3 s4 s5◂         loss on one chunk of the row; what follows is cut off; the answer is a chunk, too
//! ```
//!
//! An example visits its chunks in an order that is drawn anew each time it has seen all of them. Each chunk's tokens have together the weight 1.
//!
//! Search-based chunking moves boundaries so that the sum of mean losses per chunk falls. Because every chunk is read after the true beginning
//! and no marker stands between chunks, the loss of a token does not depend on the boundaries: one forward pass and prefix sums answer for all of
//! them. The published criterion is not public; this one is after third-party notes. Greedy moves are what is described; the exact search is ours.
//!
//! Source: Skip-Thinking, arXiv 2505.18642.

use std::ops::Range;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::context::{COT, Context, Taught, Training};
use super::segments;
use crate::curriculum::{Change, Curriculum};
use crate::data::{Row, Span, TokenizedRow};
use crate::error::{Error, Result};
use crate::score::{predictions, scoring_flops};
use crate::student::Student;

/// Where a rationale is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chunker {
    /// Equal numbers of segments (AC).
    #[default]
    Average,
    /// From the average, boundaries move while the student's loss falls (SBC).
    Search,
    /// The boundaries of lowest loss (ours).
    ExactSearch,
}

/// Chunk-wise training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cwt {
    /// Chunks of a rationale; a shorter one has as many as it has segments. The answer is one more.
    pub chunks: usize,
    /// Where a rationale is cut.
    pub chunker: Chunker,
    /// Epochs between two searches.
    pub search_every: u64,
}

impl Default for Cwt {
    fn default() -> Self {
        Cwt {
            chunks: 4,
            chunker: Chunker::Average,
            search_every: 2,
        }
    }
}

/// Full rationales with as many tokens in a step as `cwt` has: control for the size of its batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CotSmallBatch {
    /// Chunks of the `cwt` that it is held against.
    pub chunks: usize,
}

/// Full rationales in which each chunk has the weight 1, as in `cwt`: control for its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CotChunkNormalised {
    /// Chunks of the `cwt` that it is held against.
    pub chunks: usize,
}

pub(super) fn check_chunks(chunks: usize) -> Result<(), String> {
    match chunks {
        0 => Err("`chunks` is 0; expected at least 1".to_owned()),
        _ => Ok(()),
    }
}

impl Cwt {
    pub(super) fn check(&self) -> Result<(), String> {
        check_chunks(self.chunks)?;
        match self.search_every {
            0 => Err("`search_every` is 0; expected epochs, at least 1".to_owned()),
            _ => Ok(()),
        }
    }

    pub(super) fn teach(&self, context: &Context) -> Result<Taught> {
        self.train(context, context.training(COT), context.rows)
    }

    /// A training on the chunks of `rows`.
    pub(super) fn train(
        &self,
        context: &Context,
        training: Training,
        rows: &[Row],
    ) -> Result<Taught> {
        let rows = cut(context, rows)?;
        let curriculum = OneChunk {
            state: State {
                epoch: 0,
                ends: rows
                    .iter()
                    .map(|row| average(row.segments.len() - 1, self.chunks))
                    .collect(),
            },
            rows,
            method: self.clone(),
            seed: context.seed,
        };
        context.train_with(training, Box::new(curriculum))
    }
}

impl CotSmallBatch {
    pub(super) fn teach(&self, context: &Context) -> Result<Taught> {
        let rows = cut(context, context.rows)?;
        let parts: usize = rows
            .iter()
            .map(|row| (row.segments.len() - 1).min(self.chunks) + 1)
            .sum();
        let share = rows.len() as f64 / parts as f64;
        let mut training = context.training(COT);
        training.batch_rows = ((training.batch_rows as f64 * share).round() as usize).max(1);
        let batch_rows = training.batch_rows as f64;
        let rows = rows.into_iter().map(|row| row.row).collect();
        let mut taught = context.train_on(training, rows)?;
        taught.notes.push(("batch_rows".to_owned(), batch_rows));
        Ok(taught)
    }
}

impl CotChunkNormalised {
    pub(super) fn teach(&self, context: &Context) -> Result<Taught> {
        let rows = cut(context, context.rows)?;
        let weighted = rows.into_iter().map(|cut| {
            let ends = average(cut.segments.len() - 1, self.chunks);
            let mut row = cut.row.clone();
            row.spans = vec![Span {
                range: 0..cut.segments[0].start,
                weight: 0.0,
            }];
            let parts = (0..=ends.len()).map(|chunk| cut.chunk(&ends, chunk));
            row.spans.extend(parts.map(|range| Span {
                weight: 1.0 / range.len() as f32,
                range,
            }));
            row
        });
        context.train_on(context.training(COT), weighted.collect())
    }
}

/// A row with the token ranges of its segments; the last one is the answer.
#[derive(Debug)]
struct CutRow {
    row: TokenizedRow,
    segments: Vec<Range<usize>>,
}

impl CutRow {
    /// The tokens of a chunk, given the ends of all in segments; the chunk after the last is the answer.
    fn chunk(&self, ends: &[usize], chunk: usize) -> Range<usize> {
        let Some(end) = ends.get(chunk) else {
            return self.segments[self.segments.len() - 1].clone();
        };
        let first = if chunk == 0 { 0 } else { ends[chunk - 1] };
        self.segments[first].start..self.segments[end - 1].end
    }
}

fn cut(context: &Context, rows: &[Row]) -> Result<Vec<CutRow>> {
    let encoder = context.encoder()?;
    let rows = context.encode(&encoder, COT, rows)?.into_iter();
    Ok(rows
        .map(|row| CutRow {
            segments: segments(&encoder, &row, COT),
            row,
        })
        .collect())
}

/// Ends of `chunks` groups of `segments` whose sizes differ by one at most, the larger ones first; fewer groups than `chunks` if there are
/// fewer segments.
pub fn average(segments: usize, chunks: usize) -> Vec<usize> {
    let chunks = chunks.min(segments).max(1);
    (1..=chunks)
        .map(|chunk| chunk * (segments / chunks) + chunk.min(segments % chunks))
        .collect()
}

/// Sums of losses and numbers of tokens before each segment, `[segments + 1]`.
#[derive(Clone, Debug)]
pub struct Losses {
    sums: Vec<f64>,
    tokens: Vec<usize>,
}

impl Losses {
    /// From the losses of the tokens of each segment, in nats.
    pub fn new(segments: &[Vec<f64>]) -> Losses {
        let mut losses = Losses {
            sums: vec![0.0],
            tokens: vec![0],
        };
        for (index, segment) in segments.iter().enumerate() {
            losses
                .sums
                .push(losses.sums[index] + segment.iter().sum::<f64>());
            losses.tokens.push(losses.tokens[index] + segment.len());
        }
        losses
    }

    fn segments(&self) -> usize {
        self.sums.len() - 1
    }

    /// Mean loss of the tokens of segments `from..to`.
    fn mean(&self, from: usize, to: usize) -> f64 {
        let tokens = self.tokens[to] - self.tokens[from];
        (self.sums[to] - self.sums[from]) / tokens.max(1) as f64
    }

    /// The sum of mean losses of the chunks that end at `ends`.
    pub fn cost(&self, ends: &[usize]) -> f64 {
        let mut from = 0;
        let mut cost = 0.0;
        for end in ends {
            cost += self.mean(from, *end);
            from = *end;
        }
        cost
    }
}

/// A move must lower the loss by more than rounding.
const LEAST_GAIN: f64 = 1e-9;

/// Moves one boundary by one segment as long as the cost falls. May end in a local optimum.
pub fn search(losses: &Losses, mut ends: Vec<usize>) -> Vec<usize> {
    loop {
        let mut has_moved = false;
        for boundary in 0..ends.len().saturating_sub(1) {
            let from = if boundary == 0 { 0 } else { ends[boundary - 1] };
            let (at, to) = (ends[boundary], ends[boundary + 1]);
            let cost = |at: usize| losses.mean(from, at) + losses.mean(at, to);
            for moved in [at - 1, at + 1] {
                if from < moved && moved < to && cost(moved) < cost(ends[boundary]) - LEAST_GAIN {
                    ends[boundary] = moved;
                    has_moved = true;
                }
            }
        }
        if !has_moved {
            return ends;
        }
    }
}

/// The ends of `chunks` chunks of lowest cost, by dynamic programming in `O(chunks · segments²)`.
pub fn search_exactly(losses: &Losses, chunks: usize) -> Vec<usize> {
    let n = losses.segments();
    let chunks = chunks.min(n).max(1);
    // Lowest cost of the first `to` segments in `chunk` chunks, and where the last of them begins.
    let mut best = vec![vec![(f64::INFINITY, 0); n + 1]; chunks + 1];
    best[0][0] = (0.0, 0);
    for chunk in 1..=chunks {
        for to in chunk..=n {
            for from in chunk - 1..to {
                let cost = best[chunk - 1][from].0 + losses.mean(from, to);
                if cost < best[chunk][to].0 {
                    best[chunk][to] = (cost, from);
                }
            }
        }
    }
    let mut ends = vec![n];
    for chunk in (2..=chunks).rev() {
        let to = ends[ends.len() - 1];
        ends.push(best[chunk][to].1);
    }
    ends.reverse();
    ends
}

/// What must be remembered of each example: where its rationale is cut, and how often all rows have been used.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    epoch: u64,
    ends: Vec<Vec<usize>>,
}

/// One chunk of each row per epoch.
#[derive(Debug)]
struct OneChunk {
    rows: Vec<CutRow>,
    method: Cwt,
    seed: u64,
    state: State,
}

impl OneChunk {
    /// The chunk that row `index` is at in this epoch.
    fn turn(&self, index: usize) -> usize {
        let chunks = self.state.ends[index].len() as u64 + 1;
        let (round, turn) = (self.state.epoch / chunks, self.state.epoch % chunks);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        // A stream of its own for every row and round; no run has 2³² rounds.
        rng.set_stream((index as u64) << 32 | round);
        let mut order: Vec<usize> = (0..chunks as usize).collect();
        order.shuffle(&mut rng);
        order[turn as usize]
    }

    /// Cuts all rationales anew by the student's losses; returns what that took.
    fn search(&mut self, student: &Student) -> Result<u64> {
        let whole: Vec<TokenizedRow> = self
            .rows
            .iter()
            .map(|cut| {
                let start = cut.segments[0].start;
                let mut row = cut.row.clone();
                row.tokens.truncate(row.answer);
                row.spans = weighted(start..row.answer, 1.0);
                row
            })
            .collect();
        let predicted = predictions(student, &whole)?;
        for ((cut, predicted), ends) in self.rows.iter().zip(predicted).zip(&mut self.state.ends) {
            let start = cut.segments[0].start;
            let loss = |token: usize| {
                let probability = predicted[token - start].probability;
                -f64::from(probability.max(f32::MIN_POSITIVE)).ln()
            };
            let rationale = &cut.segments[..cut.segments.len() - 1];
            let losses: Vec<Vec<f64>> = rationale
                .iter()
                .map(|segment| segment.clone().map(loss).collect())
                .collect();
            let losses = Losses::new(&losses);
            *ends = match self.method.chunker {
                Chunker::ExactSearch => search_exactly(&losses, self.method.chunks),
                _ => search(&losses, std::mem::take(ends)),
            };
        }
        Ok(scoring_flops(student.config(), &whole))
    }
}

/// Weight on one range of tokens, none before it.
fn weighted(range: Range<usize>, weight: f32) -> Vec<Span> {
    let before = Span {
        range: 0..range.start,
        weight: 0.0,
    };
    vec![before, Span { range, weight }]
}

impl Curriculum for OneChunk {
    fn advance(
        &mut self,
        step: u64,
        epoch_ended: bool,
        student: &Student,
    ) -> Result<Option<Change>> {
        if !epoch_ended {
            return Ok(None);
        }
        let mut change = Change::default();
        if step > 0 {
            self.state.epoch += 1;
            let searches = self.method.chunker != Chunker::Average
                && self.state.epoch.is_multiple_of(self.method.search_every);
            if searches {
                change.flops = self.search(student)?;
            }
        }
        Ok(Some(change))
    }

    fn rows(&self) -> Result<Vec<TokenizedRow>> {
        let rows = self.rows.iter().enumerate().map(|(index, cut)| {
            let range = cut.chunk(&self.state.ends[index], self.turn(index));
            TokenizedRow {
                group: cut.row.group,
                tokens: cut.row.tokens[..range.end].to_vec(),
                answer: cut.row.answer,
                spans: weighted(range.clone(), 1.0 / range.len() as f32),
                ..TokenizedRow::default()
            }
        });
        Ok(rows.collect())
    }

    fn state(&self) -> Value {
        serde_json::to_value(&self.state).expect("numbers serialise")
    }

    fn restore(&mut self, state: Value) -> Result<()> {
        let state: State = serde_json::from_value(state)
            .map_err(|error| Error::Experiment(format!("state of chunks: {error}")))?;
        if state.ends.len() != self.rows.len() {
            return Err(Error::Experiment(format!(
                "state of chunks: of {} rows, there are {}",
                state.ends.len(),
                self.rows.len()
            )));
        }
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    /// Every way to cut `n` segments into `chunks`.
    fn all(n: usize, chunks: usize) -> Vec<Vec<usize>> {
        if chunks == 1 {
            return vec![vec![n]];
        }
        let mut out = Vec::new();
        for last in chunks - 1..n {
            out.extend(all(last, chunks - 1).into_iter().map(|mut ends| {
                ends.push(n);
                ends
            }));
        }
        out
    }

    #[test]
    fn groups_are_as_equal_as_can_be() {
        assert_eq!(average(7, 3), [3, 5, 7]);
        assert_eq!(average(6, 3), [2, 4, 6]);
        assert_eq!(average(2, 4), [1, 2]);
        assert_eq!(average(1, 1), [1]);
    }

    #[test]
    fn searches_agree_with_brute_force() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for n in 1..8 {
            for chunks in 1..=n {
                let segments: Vec<Vec<f64>> = (0..n)
                    .map(|_| (0..rng.random_range(1..5)).map(|_| rng.random()).collect())
                    .collect();
                let losses = Losses::new(&segments);
                let ways = all(n, chunks);
                let lowest = ways.iter().map(|ends| losses.cost(ends));
                let lowest = lowest.fold(f64::INFINITY, f64::min);
                let exact = search_exactly(&losses, chunks);
                assert_eq!(exact.len(), chunks);
                assert!((losses.cost(&exact) - lowest).abs() < 1e-12);
                let start = average(n, chunks);
                let found = search(&losses, start.clone());
                assert!(ways.contains(&found), "{found:?} is a way to cut");
                assert!(losses.cost(&found) <= losses.cost(&start));
                // No single move lowers the cost further.
                for way in &ways {
                    let moved: usize = way.iter().zip(&found).map(|(a, b)| a.abs_diff(*b)).sum();
                    assert!(moved != 1 || losses.cost(way) > losses.cost(&found) - 1e-8);
                }
            }
        }
    }

    #[test]
    fn an_easy_stretch_and_a_hard_one_are_parted() {
        let losses = Losses::new(&[vec![3.0], vec![0.1, 0.1], vec![0.1, 0.1], vec![0.1, 0.1]]);
        // One hard segment costs 3 alone; in a chunk with easy ones its mean is lower, so it takes all but one of them.
        assert_eq!(search_exactly(&losses, 2), [3, 4]);
        assert_eq!(search(&losses, vec![2, 4]), [3, 4]);
    }
}
