//! In which order a pass computes the tokens of a stream.

use std::collections::HashMap;
use std::ops::Range;

use crate::ops::rope::Angles;
use crate::pack::{Batch, Segment};

/// The waves of a batch, and where the rows of each lie in buffers that hold wave after wave.
///
/// Attention reads buffers in the order of the stream, where the keys of a row are one run. Products read buffers in the order of the waves, where
/// the rows that are computed together are. With one wave both orders are the same.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) waves: Vec<Step>,
    /// For each source of the batch its row among all outputs, `[M]`; `None` if they are the same.
    pub(super) source_outputs: Option<Vec<u32>>,
    /// For each source of the batch its row in buffers of wave order, `[M]`.
    pub(super) source_rows: Vec<u32>,
    /// The tapped tokens, `[T]`.
    pub(super) taps: Vec<Tap>,
    /// Outputs of all waves, `O`.
    pub(super) outputs: usize,
}

/// One wave.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) segments: Vec<Segment>,
    /// Its rows in buffers of wave order.
    pub(super) rows: Range<usize>,
    /// The tokens of the rows as indices into the stream; `None` if they are the whole stream.
    pub(super) stream: Option<Vec<u32>>,
    /// The tokens themselves; what stands for a latent one is not used.
    pub(super) tokens: Vec<u32>,
    pub(super) angles: Angles,
    /// Its outputs among all outputs.
    pub(super) outputs: Range<usize>,
    /// The outputs as rows of this wave: the last layer runs for these alone.
    pub(super) output_rows: Vec<u32>,
    /// The outputs as tokens of the stream.
    pub(super) output_stream: Vec<u32>,
    /// Latent rows of this wave.
    pub(super) latents: Vec<Latent>,
}

/// A tapped token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tap {
    /// Its row in buffers of wave order.
    pub(super) row: usize,
    /// Its row among all outputs.
    pub(super) output: usize,
    /// Its number among all latent tokens in the order of the waves, if it is one.
    pub(super) latent: Option<usize>,
}

/// A latent row of a wave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latent {
    /// Its row in the wave.
    pub(super) row: usize,
    /// The output of an earlier wave that it reads.
    pub(super) output: usize,
    /// Whether no gradient goes back there.
    pub(super) is_detached: bool,
}

impl Step {
    fn push_output(&mut self, row: u32, token: u32) {
        self.output_rows.push(row);
        self.output_stream.push(token);
    }
}

impl Plan {
    /// Orders a batch whose indices have been checked.
    pub(super) fn new(batch: &Batch, inverse_frequencies: &[f64]) -> Plan {
        let waves = batch.waves();
        let tokens = batch.len();
        let is_plain = waves.len() == 1 && batch.taps.is_empty();
        // For each token of the stream its row in wave order and its wave.
        let mut place = vec![(0usize, 0usize); tokens];
        let mut steps = Vec::with_capacity(waves.len());
        let mut begin = 0;
        for (index, wave) in waves.iter().enumerate() {
            let stream: Vec<u32> = wave
                .segments
                .iter()
                .flat_map(|s| s.start as u32..(s.start + s.len) as u32)
                .collect();
            for (row, at) in stream.iter().enumerate() {
                place[*at as usize] = (begin + row, index);
            }
            let take = |values: &[u32]| stream.iter().map(|at| values[*at as usize]).collect();
            let positions: Vec<u32> = take(&batch.positions);
            steps.push(Step {
                segments: wave.segments.clone(),
                rows: begin..begin + stream.len(),
                tokens: take(&batch.tokens),
                angles: Angles::new(&positions, inverse_frequencies),
                outputs: 0..0,
                output_rows: Vec::new(),
                output_stream: Vec::new(),
                latents: Vec::new(),
                stream: (waves.len() > 1).then_some(stream),
            });
            begin += steps[index].rows.len();
        }
        let local = |steps: &[Step], at: u32| {
            let (row, wave) = place[at as usize];
            (wave, (row - steps[wave].rows.start) as u32)
        };
        // Which rows of which wave somebody reads after the last layer: sources, taps and what latent tokens are made of.
        let mut sources = Vec::with_capacity(batch.sources.len());
        for at in &batch.sources {
            let (wave, row) = local(&steps, *at);
            sources.push((wave, steps[wave].output_rows.len()));
            steps[wave].push_output(row, *at);
        }
        let mut taps = Vec::with_capacity(batch.taps.len());
        for at in &batch.taps {
            let (wave, row) = local(&steps, *at);
            taps.push((place[*at as usize].0, wave, steps[wave].output_rows.len()));
            steps[wave].push_output(row, *at);
        }
        let numbers = waves.iter().flat_map(|wave| &wave.latents).copied();
        let numbers: HashMap<u32, usize> = numbers.zip(0..).collect();
        let mut latents = Vec::new();
        for (index, wave) in waves.iter().enumerate() {
            for at in &wave.latents {
                let (read, is_detached) = batch.read_by(*at);
                let (before, row) = local(&steps, read);
                let reader = local(&steps, *at).1 as usize;
                let output = steps[before].output_rows.len();
                latents.push((index, reader, before, output, is_detached));
                steps[before].push_output(row, read);
            }
        }
        let mut outputs = 0;
        for step in &mut steps {
            step.outputs = outputs..outputs + step.output_rows.len();
            outputs = step.outputs.end;
        }
        let among_all = |wave: usize, row: usize| steps[wave].outputs.start + row;
        let source_outputs = (!is_plain).then(|| {
            let rows = sources.iter().map(|(wave, row)| among_all(*wave, *row));
            rows.map(|row| row as u32).collect()
        });
        let taps = taps
            .iter()
            .zip(&batch.taps)
            .map(|((row, wave, output), at)| Tap {
                row: *row,
                output: among_all(*wave, *output),
                latent: numbers.get(at).copied(),
            });
        let taps = taps.collect();
        let latents: Vec<(usize, Latent)> = latents
            .into_iter()
            .map(|(wave, row, before, output, is_detached)| {
                let output = among_all(before, output);
                (
                    wave,
                    Latent {
                        row,
                        output,
                        is_detached,
                    },
                )
            })
            .collect();
        for (wave, latent) in latents {
            steps[wave].latents.push(latent);
        }
        let source_rows = batch.sources.iter();
        let source_rows = source_rows.map(|at| place[*at as usize].0 as u32).collect();
        Plan {
            waves: steps,
            source_rows,
            source_outputs,
            taps,
            outputs,
        }
    }
}
