//! Causal grouped-query attention over segments of a flat stream.
//!
//! A segment sees all of its prefix and itself causally; tokens of different segments do not meet. So a batch of rows of many
//! lengths needs no padding, and rows that share a prefix compute it once. Scores are made in blocks of query rows, so
//! they stay in cache; the backward pass makes them again from the saved log-sum-exp instead of storing them (as in
//! FlashAttention, Dao et al. 2022, §3.1).

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::matmul::{View, matmul};
use super::rope::Heads;
use super::simd::{dot, exp, max, multiversion};
use super::{dims2, tensor_like, values, with_values};
use crate::pack::Segment;

/// Query rows per block: 64 rows against a few hundred keys keep scores and their gradient inside the second-level cache.
const BLOCK: usize = 64;

/// Attention output `[N, H·D]` from rotated, packed `qkv` `[N, (H+2G)·D]`.
///
/// Scores are scaled by `1/√D`. Every token lies in exactly one segment.
pub fn attention(qkv: &Tensor, heads: Heads, segments: &Arc<[Segment]>) -> Result<Tensor> {
    qkv.apply_op1(Attention {
        heads,
        segments: segments.clone(),
        lse: OnceLock::new(),
    })
}

struct Attention {
    heads: Heads,
    segments: Arc<[Segment]>,
    /// Natural log of the sum of exponentials of each query's scores, `[N, H]`.
    lse: OnceLock<Vec<f32>>,
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, width) = dims2(layout, "attention")?;
        let Heads { query, kv, dim } = self.heads;
        if width != self.heads.width() || !query.is_multiple_of(kv) {
            bail!(
                "attention: rows of {width} values do not fit {:?}",
                self.heads
            );
        }
        if let Some(segment) = self.segments.iter().find(|s| !s.is_inside(tokens)) {
            bail!("attention: {segment:?} leaves the {tokens} tokens");
        }
        let qkv = values(qkv, layout, "attention")?;
        let mut out = vec![0f32; tokens * query * dim];
        let mut lse = vec![0f32; tokens * query];
        let mut scratch = Scratch::default();
        forward(
            self.heads,
            &self.segments,
            qkv,
            &mut scratch,
            &mut out,
            &mut lse,
        );
        // A second forward of the same op would compute the same values, so losing this race is harmless.
        let _ = self.lse.set(lse);
        Ok((CpuStorage::F32(out), (tokens, query * dim).into()))
    }

    fn bwd(&self, qkv: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Some(lse) = self.lse.get() else {
            bail!("attention: backward before forward")
        };
        let mut dqkv = vec![0f32; qkv.elem_count()];
        with_values(qkv, |qkv| {
            with_values(out, |out| {
                with_values(grad, |dout| {
                    let mut scratch = Scratch::default();
                    let saved = (out, dout, &**lse);
                    backward(
                        self.heads,
                        &self.segments,
                        qkv,
                        saved,
                        &mut scratch,
                        &mut dqkv,
                    );
                })
            })
        })???;
        Ok(Some(tensor_like(dqkv, qkv.shape(), qkv)?))
    }
}

/// Scores and their gradient of one block, kept from block to block.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    scores: Vec<f32>,
    gradient: Vec<f32>,
}

/// Writes `out` `[N, H·D]` and the log-sum-exp of every query's scores `lse` `[N, H]`.
pub(crate) fn forward(
    heads: Heads,
    segments: &[Segment],
    qkv: &[f32],
    scratch: &mut Scratch,
    out: &mut [f32],
    lse: &mut [f32],
) {
    for block in blocks(segments) {
        for head in 0..heads.query {
            heads.block_forward(&block, head, qkv, &mut scratch.scores, out, lse);
        }
    }
}

/// Adds the gradient of `qkv` to `dqkv`, given the output, its gradient and the log-sum-exp.
pub(crate) fn backward(
    heads: Heads,
    segments: &[Segment],
    qkv: &[f32],
    saved: (&[f32], &[f32], &[f32]),
    scratch: &mut Scratch,
    dqkv: &mut [f32],
) {
    for block in blocks(segments) {
        for head in 0..heads.query {
            heads.block_backward(&block, head, qkv, saved, scratch, dqkv);
        }
    }
}

/// Some query rows of a segment and the keys that the last of them sees.
struct Block {
    /// First query row in the stream.
    start: usize,
    rows: usize,
    /// Runs of key rows in the stream, in order: the prefix, then the segment up to the block's end.
    keys: [(usize, usize); 2],
    /// Keys that the first query row sees; each following row sees one more.
    first_visible: usize,
}

impl Block {
    fn key_count(&self) -> usize {
        self.keys[0].1 + self.keys[1].1
    }

    /// Runs of keys as (column in the scores, first row in the stream, count).
    fn runs(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let [prefix, own] = self.keys;
        [(0, prefix.0, prefix.1), (prefix.1, own.0, own.1)]
            .into_iter()
            .filter(|run| run.2 > 0)
    }
}

fn blocks(segments: &[Segment]) -> impl Iterator<Item = Block> {
    segments.iter().flat_map(|segment| {
        let prefix = segment.prefix.unwrap_or((segment.start, 0));
        (0..segment.len).step_by(BLOCK).map(move |at| {
            let rows = BLOCK.min(segment.len - at);
            Block {
                start: segment.start + at,
                rows,
                keys: [prefix, (segment.start, at + rows)],
                first_visible: prefix.1 + at + 1,
            }
        })
    })
}

impl Heads {
    fn scale(self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// Offsets of a query head and of its key and value heads inside a packed row.
    fn columns(self, head: usize) -> (usize, usize, usize) {
        let Heads { query, kv, dim } = self;
        let group = head / (query / kv);
        (
            head * dim,
            (query + group) * dim,
            (query + kv + group) * dim,
        )
    }

    /// `scores = scale · Q Kᵀ` for a block, `[rows, keys]`.
    fn scores(self, block: &Block, head: usize, qkv: &[f32], scores: &mut Vec<f32>) {
        let (width, dim, keys) = (self.width(), self.dim, block.key_count());
        let (q, k, _) = self.columns(head);
        scores.resize(block.rows * keys, 0.0);
        let queries = View::new(&qkv[block.start * width + q..], block.rows, dim, width);
        for (column, row, count) in block.runs() {
            let run = View::new(&qkv[row * width + k..], count, dim, width);
            matmul(
                &mut scores[column..],
                keys,
                queries,
                run.t(),
                self.scale(),
                false,
            );
        }
    }

    fn block_forward(
        self,
        block: &Block,
        head: usize,
        qkv: &[f32],
        scores: &mut Vec<f32>,
        out: &mut [f32],
        lse: &mut [f32],
    ) {
        let Heads { query, dim, .. } = self;
        let (width, keys, v) = (self.width(), block.key_count(), self.columns(head).2);
        self.scores(block, head, qkv, scores);
        let stride = query * dim;
        let mut inverse = [0f32; BLOCK];
        softmax(
            scores,
            keys,
            block.first_visible,
            &mut inverse,
            &mut lse[block.start * query + head..],
            query,
        );
        let out = &mut out[block.start * stride + head * dim..];
        let mut add = false;
        for (column, row, count) in block.runs() {
            let weights = View::new(&scores[column..], block.rows, count, keys);
            matmul(
                out,
                stride,
                weights,
                View::new(&qkv[row * width + v..], count, dim, width),
                1.0,
                add,
            );
            add = true;
        }
        for (row, inverse) in out.chunks_mut(stride).zip(&inverse[..block.rows]) {
            row[..dim].iter_mut().for_each(|x| *x *= inverse);
        }
    }

    fn block_backward(
        self,
        block: &Block,
        head: usize,
        qkv: &[f32],
        (out, dout, lse): (&[f32], &[f32], &[f32]),
        scratch: &mut Scratch,
        dqkv: &mut [f32],
    ) {
        let Heads { query, dim, .. } = self;
        let (width, keys, stride) = (self.width(), block.key_count(), query * dim);
        let (q, k, v) = self.columns(head);
        let Scratch {
            scores: probabilities,
            gradient,
        } = scratch;
        self.scores(block, head, qkv, probabilities);
        renormalize(
            probabilities,
            keys,
            block.first_visible,
            &lse[block.start * query + head..],
            query,
        );

        let at = block.start * stride + head * dim;
        let upstream = View::new(&dout[at..], block.rows, dim, stride);
        gradient.resize(block.rows * keys, 0.0);
        for (column, row, count) in block.runs() {
            // dP = dO Vᵀ and dV += Pᵀ dO.
            let run = View::new(&qkv[row * width + v..], count, dim, width);
            matmul(&mut gradient[column..], keys, upstream, run.t(), 1.0, false);
            let weights = View::new(&probabilities[column..], block.rows, count, keys);
            matmul(
                &mut dqkv[row * width + v..],
                width,
                weights.t(),
                upstream,
                1.0,
                true,
            );
        }
        let mut delta = [0f32; BLOCK];
        for (row, delta) in delta[..block.rows].iter_mut().enumerate() {
            let span = at + row * stride..at + row * stride + dim;
            *delta = dot(&out[span.clone()], &dout[span]);
        }
        softmax_back(
            probabilities,
            gradient,
            keys,
            block.first_visible,
            &delta[..block.rows],
        );
        let scale = self.scale();
        let queries = View::new(&qkv[block.start * width + q..], block.rows, dim, width);
        let mut add = false;
        for (column, row, count) in block.runs() {
            // dQ += dS K and dK += dSᵀ Q.
            let ds = View::new(&gradient[column..], block.rows, count, keys);
            let run = View::new(&qkv[row * width + k..], count, dim, width);
            matmul(
                &mut dqkv[block.start * width + q..],
                width,
                ds,
                run,
                scale,
                add,
            );
            add = true;
            matmul(
                &mut dqkv[row * width + k..],
                width,
                ds.t(),
                queries,
                scale,
                true,
            );
        }
    }
}

multiversion! {
    /// Turns scores into unnormalized weights, zero where a row does not look; writes each row's `1/Σ` and log-sum-exp.
    fn softmax(scores: &mut [f32], keys: usize, first_visible: usize, inverse: &mut [f32], lse: &mut [f32], heads: usize) {
        for (row, scores) in scores.chunks_exact_mut(keys).enumerate() {
            let (seen, hidden) = scores.split_at_mut(first_visible + row);
            let peak = max(seen);
            let mut lanes = [0f32; super::simd::LANES];
            let mut chunks = seen.chunks_exact_mut(super::simd::LANES);
            for chunk in &mut chunks {
                for (x, lane) in chunk.iter_mut().zip(&mut lanes) {
                    *x = exp(*x - peak);
                    *lane += *x;
                }
            }
            let mut sum = lanes.iter().sum::<f32>();
            for x in chunks.into_remainder() {
                *x = exp(*x - peak);
                sum += *x;
            }
            hidden.fill(0.0);
            inverse[row] = 1.0 / sum;
            lse[row * heads] = peak + sum.ln();
        }
    }
}

multiversion! {
    /// Turns scores into probabilities by their known log-sum-exp.
    fn renormalize(scores: &mut [f32], keys: usize, first_visible: usize, lse: &[f32], heads: usize) {
        for (row, scores) in scores.chunks_exact_mut(keys).enumerate() {
            let (seen, hidden) = scores.split_at_mut(first_visible + row);
            let lse = lse[row * heads];
            seen.iter_mut().for_each(|x| *x = exp(*x - lse));
            hidden.fill(0.0);
        }
    }
}

multiversion! {
    /// `dS = P ∘ (dP − Σ dO∘O)`; hidden columns are zero because `P` is.
    fn softmax_back(probabilities: &[f32], gradient: &mut [f32], keys: usize, first_visible: usize, delta: &[f32]) {
        let rows = probabilities.chunks_exact(keys).zip(gradient.chunks_exact_mut(keys));
        for (row, ((probabilities, gradient), delta)) in rows.zip(delta).enumerate() {
            let (seen, hidden) = gradient.split_at_mut(first_visible + row);
            for (gradient, probability) in seen.iter_mut().zip(probabilities) {
                *gradient = probability * (*gradient - delta);
            }
            hidden.fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{gradients_agree, wave};
    use super::*;

    const HEADS: Heads = Heads {
        query: 4,
        kv: 2,
        dim: 6,
    };

    /// Full scores with a mask that says who sees whom, in candle's elementary, differentiable operations.
    fn plain(qkv: &Tensor, segments: &[Segment]) -> Result<Tensor> {
        let tokens = qkv.dims2()?.0;
        let mut mask = vec![f32::NEG_INFINITY; tokens * tokens];
        for segment in segments {
            for row in 0..segment.len {
                let (start, len) = segment.prefix.unwrap_or((0, 0));
                let at = segment.start + row;
                mask[at * tokens + start..][..len].fill(0.0);
                mask[at * tokens + segment.start..][..row + 1].fill(0.0);
            }
        }
        let mask = Tensor::from_vec(mask, (tokens, tokens), qkv.device())?;
        let head = |index: usize| qkv.narrow(1, index * HEADS.dim, HEADS.dim);
        let outputs = (0..HEADS.query)
            .map(|h| {
                let group = h / (HEADS.query / HEADS.kv);
                let (k, v) = (
                    head(HEADS.query + group)?,
                    head(HEADS.query + HEADS.kv + group)?,
                );
                let scores = (head(h)?.matmul(&k.t()?)? / (HEADS.dim as f64).sqrt())?.add(&mask)?;
                candle_nn::ops::softmax(&scores, 1)?.matmul(&v)
            })
            .collect::<Result<Vec<_>>>()?;
        Tensor::cat(&outputs, 1)
    }

    #[test]
    fn agrees_with_the_plain_form_on_a_tree_and_on_long_segments() -> Result<()> {
        let tree = vec![
            Segment {
                start: 0,
                len: 5,
                prefix: None,
            },
            Segment {
                start: 5,
                len: 3,
                prefix: Some((0, 5)),
            },
            Segment {
                start: 8,
                len: 1,
                prefix: Some((0, 5)),
            },
            Segment {
                start: 9,
                len: 4,
                prefix: None,
            },
        ];
        let long = vec![
            Segment {
                start: 0,
                len: 70,
                prefix: None,
            },
            Segment {
                start: 70,
                len: 67,
                prefix: Some((0, 70)),
            },
        ];
        for segments in [tree, long] {
            let tokens = segments.iter().map(|s| s.len).sum();
            let qkv = wave(&[tokens, HEADS.width()], 0.37)?;
            let segments: Arc<[Segment]> = segments.into();
            gradients_agree(
                &[qkv],
                |t| attention(&t[0], HEADS, &segments),
                |t| plain(&t[0], &segments),
                1e-5,
            )?;
        }
        Ok(())
    }
}
