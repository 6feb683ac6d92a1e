//! Attention over blocks of keys and values, with the softmax computed as the blocks go by.

use super::elementwise::exp;
use super::isa::Isa;
use crate::pool::Band;
use crate::{AttentionShape, KvSource, MAX_KV_BLOCK};

/// Query heads that walk the blocks together, so that a block is read once for all query heads that share it.
const GROUP: usize = 8;

/// `out[t, h] = softmax(scale · q[t, h] · Kᵀ) · V` over the entries that are visible and not later than the query.
///
/// The band counts in values of `out` seen as one row `[T·H·D]` and starts and ends between heads. Each head is computed
/// alone, so the result does not depend on the band.
///
/// Source: online softmax, Milakov and Gimelshein 2018, arXiv:1805.02867, §3; the maximum is updated per block.
#[inline(always)]
pub(crate) fn attention<I: Isa>(
    isa: I,
    q: &[f32],
    q_positions: &[u32],
    shape: AttentionShape,
    kv: &dyn KvSource,
    out: &mut Band<'_>,
) {
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        ..
    } = shape;
    let group = heads / kv_heads;
    let columns = out.columns();
    let (mut head, end) = (columns.start / head_dim, columns.end / head_dim);
    let mut out = out.row_mut(0);
    while head < end {
        let (t, h) = (head / heads, head % heads);
        let n = (end - head).min(group - h % group).min(GROUP);
        let (now, later) = out.split_at_mut(n * head_dim);
        let q = &q[head * head_dim..][..n * head_dim];
        heads_of_group(isa, q, q_positions[t], h / group, shape, kv, now);
        out = later;
        head += n;
    }
}

/// Up to [`GROUP`] query heads of one token that share key and value head `g`.
#[inline(always)]
fn heads_of_group<I: Isa>(
    isa: I,
    q: &[f32],
    q_position: u32,
    g: usize,
    shape: AttentionShape,
    kv: &dyn KvSource,
    out: &mut [f32],
) {
    let dim = shape.head_dim;
    let mut states = [Softmax {
        max: f32::NEG_INFINITY,
        total: 0.0,
    }; GROUP];
    out.fill(0.0);
    for b in 0..kv.blocks() {
        let block = kv.block(b);
        // The entries seen, in order. Entries that are not seen leave no trace in the sums, so that a later entry in the
        // same block (a prompt is stored before it is read) changes nothing.
        let mut seen = [0u8; MAX_KV_BLOCK];
        let mut n = 0;
        for (j, position) in block.positions[..block.len].iter().enumerate() {
            seen[n] = j as u8;
            n += usize::from(block.visible >> j & 1 == 1 && *position <= q_position);
        }
        if n == 0 {
            continue;
        }
        let range = g * block.stride * dim..(g + 1) * block.stride * dim;
        let (k, v) = (&block.k[range.clone()], &block.v[range]);
        for ((q, out), state) in q
            .chunks_exact(dim)
            .zip(out.chunks_exact_mut(dim))
            .zip(&mut states)
        {
            head_over_block(isa, q, k, v, &seen[..n], shape.scale, state, out);
        }
    }
    for (out, state) in out.chunks_exact_mut(dim).zip(&states) {
        // A query that sees nothing attends to nothing.
        let factor = if state.total == 0.0 {
            0.0
        } else {
            1.0 / state.total
        };
        for out in out {
            *out *= factor;
        }
    }
}

/// The running maximum of the scores and the sum of `e^(score - max)`.
#[derive(Clone, Copy)]
struct Softmax {
    max: f32,
    total: f32,
}

/// Adds the seen entries of one block to a head's running softmax and its unnormalised `out`.
#[inline(always)]
fn head_over_block<I: Isa>(
    isa: I,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    seen: &[u8],
    scale: f32,
    state: &mut Softmax,
    out: &mut [f32],
) {
    let dim = q.len();
    // Unused scores stay at minus infinity, whose exponential is an exact zero.
    let mut scores = [f32::NEG_INFINITY; MAX_KV_BLOCK];
    let mut max = state.max;
    for (score, j) in scores.iter_mut().zip(seen) {
        *score = scale * dot(isa, q, &k[usize::from(*j) * dim..][..dim]);
        max = if *score > max { *score } else { max };
    }
    if max == f32::NEG_INFINITY {
        // Every score is minus infinity (or NaN, which stays in `total`): no weight to give.
        state.total += if scores.iter().any(|s| s.is_nan()) {
            f32::NAN
        } else {
            0.0
        };
        return;
    }
    let correction = isa.first(exp(isa, isa.splat(state.max - max)));
    let (weights, _) = I::chunks_mut(&mut scores);
    let mut total = isa.splat(0.0);
    for w in &mut weights[..seen.len().div_ceil(I::LANES)] {
        let e = exp(isa, isa.sub(isa.load(w), isa.splat(max)));
        total = isa.add(total, e);
        isa.store(e, w);
    }
    *state = Softmax {
        max,
        total: state.total * correction + isa.sum(total),
    };

    let correction = isa.splat(correction);
    let (chunks, rest) = I::chunks_mut(out);
    let mut at = 0;
    // Four vectors of the head at a time: four chains hide the latency of a multiply-add.
    let (fours, ones) = chunks.as_chunks_mut::<4>();
    for four in fours {
        let mut sums = [correction; 4];
        for (sum, out) in sums.iter_mut().zip(four.iter()) {
            *sum = isa.mul(isa.load(out), correction);
        }
        for (weight, j) in scores.iter().zip(seen) {
            let weight = isa.splat(*weight);
            let (v, _) = I::chunks(&v[usize::from(*j) * dim + at..][..4 * I::LANES]);
            for (sum, v) in sums.iter_mut().zip(v) {
                *sum = isa.fma(weight, isa.load(v), *sum);
            }
        }
        for (sum, out) in sums.iter().zip(four) {
            isa.store(*sum, out);
        }
        at += 4 * I::LANES;
    }
    for out in ones {
        let mut sum = isa.mul(isa.load(out), correction);
        for (weight, j) in scores.iter().zip(seen) {
            let (v, _) = I::chunks(&v[usize::from(*j) * dim + at..][..I::LANES]);
            sum = isa.fma(isa.splat(*weight), isa.load(&v[0]), sum);
        }
        isa.store(sum, out);
        at += I::LANES;
    }
    if !rest.is_empty() {
        let mut sum = isa.mul(isa.load_partial(rest), correction);
        for (weight, j) in scores.iter().zip(seen) {
            let v = &v[usize::from(*j) * dim + at..][..rest.len()];
            sum = isa.fma(isa.splat(*weight), isa.load_partial(v), sum);
        }
        isa.store_partial(sum, rest);
    }
}

/// `Σ a·b`
#[inline(always)]
fn dot<I: Isa>(isa: I, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (I::chunks(a), I::chunks(b));
    let mut sum = isa.splat(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = isa.fma(isa.load(a), isa.load(b), sum);
    }
    if !a_rest.is_empty() {
        sum = isa.fma(isa.load_partial(a_rest), isa.load_partial(b_rest), sum);
    }
    isa.sum(sum)
}
