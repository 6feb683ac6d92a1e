//! Attention over blocks of keys and values, with the softmax computed as the blocks go by.
//!
//! Per block: the scores of a few query heads at a time, a position per lane, so that a key is read once for the heads that share it and
//! no sum crosses lanes; the softmax of each head; then the values, a dimension per lane.
//!
//! A fixed number of blocks makes a *span*, whose sums are made on their own and then added to those of the spans before it. Where few
//! heads have much to read, threads share the spans instead of the heads; the sums are the same.

use std::ops::Range;

use super::elementwise::{exp, exp_all, map2};
use super::isa::Isa;
use super::matmul::{F16, F32, FloatFormat};
use crate::kv::STATE;
use crate::pool::Band;
use crate::{AttentionShape, KvFormat, KvSource, MAX_HEAD_DIM, MAX_KV_BLOCK};

/// How keys and values are stored, and whether a scale per position belongs to them.
pub(crate) trait KvValues: FloatFormat {
    /// Whether the scales `[stride]` of a head follow its values.
    const SCALED: bool = false;
}

impl KvValues for F32 {}
impl KvValues for F16 {}

/// [`KvFormat::Q8`](crate::KvFormat::Q8): signed bytes with scales.
pub(crate) enum Q8 {}

impl FloatFormat for Q8 {
    const BYTES: usize = 1;
    type Chunk<I: Isa> = I::I8Bytes;

    #[inline(always)]
    fn chunks<I: Isa>(row: &[u8]) -> (&[I::I8Bytes], &[u8]) {
        I::chunks_i8(row)
    }

    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &I::I8Bytes) -> I::F32 {
        isa.load_i8(x)
    }

    #[inline(always)]
    fn unpack(rest: &[u8], out: &mut [f32]) {
        for (o, b) in out.iter_mut().zip(rest) {
            *o = f32::from(*b as i8);
        }
    }
}

impl KvValues for Q8 {
    const SCALED: bool = true;
}

/// Query heads that walk the blocks together, so that a block is read from memory once for all query heads that share it.
const GROUP: usize = 8;

/// One score, then one weight, per position of a block.
type Scores = [f32; MAX_KV_BLOCK];

/// The same dimension of the queries of all heads that walk together, times the scale of the scores.
type Query = [f32; GROUP];

/// Working memory of a group of heads, cleared once per band. What a smaller group leaves in the places of the heads that it has not is
/// computed with and thrown away.
struct Room {
    scores: [Scores; GROUP],
    queries: [Query; MAX_HEAD_DIM],
}

/// What a band of attention holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Heads of the output, which is one row `[T·H·D]`.
    Heads,
    /// Heads of spans of the only token, one row `[S·H·(D + 2)]`: the weighted sum of a span's values, its largest score, and the sum
    /// of its weights.
    Spans,
}

/// `out[t, h] = softmax(scale · q[t, h] · Kᵀ) · V` over the entries that are visible and not later than the query; or the
/// [`Part::Spans`] from which [`merge`] makes that.
///
/// The band starts and ends between heads. Each head is computed alone, and its spans one by one, so the result depends neither on the
/// band nor on which of the two parts it was.
///
/// Source: online softmax, Milakov and Gimelshein 2018, arXiv:1805.02867, §3; the maximum is updated per block.
#[inline(always)]
pub(crate) fn attention<I: Isa>(
    isa: I,
    q: &[f32],
    q_positions: &[u32],
    shape: AttentionShape,
    kv: &dyn KvSource,
    part: Part,
    out: &mut Band<'_>,
) {
    match kv.format() {
        KvFormat::F32 => heads_of_band::<I, F32>(isa, q, q_positions, shape, kv, part, out),
        KvFormat::F16 => heads_of_band::<I, F16>(isa, q, q_positions, shape, kv, part, out),
        KvFormat::Q8 => heads_of_band::<I, Q8>(isa, q, q_positions, shape, kv, part, out),
    }
}

#[inline(always)]
fn heads_of_band<I: Isa, W: KvValues>(
    isa: I,
    q: &[f32],
    q_positions: &[u32],
    shape: AttentionShape,
    kv: &dyn KvSource,
    part: Part,
    out: &mut Band<'_>,
) {
    let (heads, dim) = (shape.heads, shape.head_dim);
    let group = heads / shape.kv_heads;
    let spans = shape.spans(kv.blocks());
    let width = match part {
        Part::Heads => dim,
        Part::Spans => dim + STATE,
    };
    let columns = out.columns();
    let (mut head, end) = (columns.start / width, columns.end / width);
    let mut out = out.row_mut(0);
    let mut room = Room {
        scores: [[0.0; MAX_KV_BLOCK]; GROUP],
        queries: [[0.0; GROUP]; MAX_HEAD_DIM],
    };
    // The first span of a head of the output is summed up where it is to stay.
    let mut sums = (part == Part::Spans || spans > 1).then_some([0.0; GROUP * MAX_HEAD_DIM]);
    while head < end {
        let (row, h) = (head / heads, head % heads);
        let n = (end - head).min(group - h % group).min(GROUP);
        let (now, later) = out.split_at_mut(n * width);
        let (t, own) = match part {
            Part::Heads => (row, 0..spans),
            Part::Spans => (0, row..row + 1),
        };
        let q = &q[(t * heads + h) * dim..][..n * dim];
        for (h, q) in q.chunks_exact(dim).enumerate() {
            for (query, q) in room.queries.iter_mut().zip(q) {
                query[h] = q * shape.scale;
            }
        }
        let mut states = [Softmax::NONE; GROUP];
        for span in own {
            let blocks = shape.span(span, kv.blocks());
            let target = match &mut sums {
                Some(sums) if part == Part::Spans || span > 0 => &mut sums[..n * dim],
                _ => &mut *now,
            };
            let (position, g, room) = (q_positions[t], h / group, &mut room);
            let of = span_of_heads::<I, W>(isa, position, g, shape, kv, blocks, room, target);
            let Some(sums) = sums.as_ref().filter(|_| part == Part::Spans || span > 0) else {
                states = of;
                continue;
            };
            match part {
                Part::Heads => fold(isa, [dim, dim], now, &mut states, sums, of),
                Part::Spans => {
                    let heads = now.chunks_exact_mut(width).zip(sums.chunks_exact(dim));
                    for ((now, sums), of) in heads.zip(of) {
                        now[..dim].copy_from_slice(sums);
                        now[dim..].copy_from_slice(&[of.max, of.total]);
                    }
                }
            }
        }
        if part == Part::Heads {
            for (now, state) in now.chunks_exact_mut(dim).zip(states) {
                finish(now, state);
            }
        }
        out = later;
        head += n;
    }
}

/// The output `[H·D]` of the only token from its [`Part::Spans`]: the same operations in the same order as where one thread goes from span
/// to span.
#[inline(always)]
pub(crate) fn merge<I: Isa>(isa: I, shape: AttentionShape, spans: &[f32], out: &mut [f32]) {
    let (dim, width) = (shape.head_dim, shape.head_dim + STATE);
    for (i, out) in out.chunks_mut(GROUP * dim).enumerate() {
        let mut states = [Softmax::NONE; GROUP];
        for (span, heads) in spans.chunks_exact(shape.heads * width).enumerate() {
            let heads = &heads[i * GROUP * width..];
            let mut of = [Softmax::NONE; GROUP];
            for (of, head) in of.iter_mut().zip(heads.chunks_exact(width)) {
                (of.max, of.total) = (head[dim], head[dim + 1]);
            }
            if span == 0 {
                for (out, head) in out.chunks_exact_mut(dim).zip(heads.chunks_exact(width)) {
                    out.copy_from_slice(&head[..dim]);
                }
                states = of;
            } else {
                fold(isa, [dim, width], out, &mut states, heads, of);
            }
        }
        for (out, state) in out.chunks_exact_mut(dim).zip(states) {
            finish(out, state);
        }
    }
}

/// Adds the sums of one more span, one head every `width` values, to those before it in `out`, one head every `dim`.
#[inline(always)]
fn fold<I: Isa>(
    isa: I,
    [dim, width]: [usize; 2],
    out: &mut [f32],
    states: &mut [Softmax; GROUP],
    sums: &[f32],
    of: [Softmax; GROUP],
) {
    // The exponents of all heads at once.
    let [mut before, mut now] = [[0.0; GROUP]; 2];
    for (h, (state, of)) in states.iter_mut().zip(of).enumerate() {
        let max = if of.max > state.max {
            of.max
        } else {
            state.max
        };
        (before[h], now[h]) = (state.max - max, of.max - max);
        state.max = max;
    }
    exp_all(isa, &mut before);
    exp_all(isa, &mut now);
    let heads = out.chunks_exact_mut(dim).zip(sums.chunks_exact(width));
    for (h, (out, sums)) in heads.enumerate() {
        let (state, of) = (&mut states[h], of[h]);
        if of.max == f32::NEG_INFINITY {
            // Nothing was seen, or what was seen is not a number, which the total tells.
            state.total += of.total;
            continue;
        }
        let (before, now) = (before[h], now[h]);
        state.total = state.total * before + of.total * now;
        let (before, now) = (isa.splat(before), isa.splat(now));
        map2(
            isa,
            out,
            &sums[..dim],
            #[inline(always)]
            |out, sum| isa.fma(sum, now, isa.mul(out, before)),
        );
    }
}

/// Divides by the sum of the weights. A query that sees nothing attends to nothing.
#[inline(always)]
fn finish(out: &mut [f32], state: Softmax) {
    let factor = if state.total == 0.0 {
        0.0
    } else {
        1.0 / state.total
    };
    for out in out {
        *out *= factor;
    }
}

/// Sums up `blocks` for up to [`GROUP`] query heads of one token that share key and value head `g`. Their queries are in `room`; the
/// weighted values go to `out` `[heads, D]`, what they are relative to is returned.
#[inline(always)]
fn span_of_heads<I: Isa, W: KvValues>(
    isa: I,
    q_position: u32,
    g: usize,
    shape: AttentionShape,
    kv: &dyn KvSource,
    blocks: Range<usize>,
    room: &mut Room,
    out: &mut [f32],
) -> [Softmax; GROUP] {
    let (dim, heads) = (shape.head_dim, out.len() / shape.head_dim);
    let mut states = [Softmax::NONE; GROUP];
    let Room { scores, queries } = room;
    let queries = &queries[..dim];
    out.fill(0.0);
    for b in blocks {
        let block = kv.block(b);
        // What comes next is asked for while this is computed; the hardware cannot know where it is.
        let next = kv.block((b + 1).min(kv.blocks() - 1));
        // The entries seen, in order. Entries that are not seen leave no trace in the sums, so that a later entry in the
        // same block (a prompt is stored before it is read) changes nothing.
        let positions = &block.positions[..block.len];
        let mut some = [0u8; MAX_KV_BLOCK];
        let mut n = 0;
        if block.visible.trailing_ones() as usize >= block.len && latest(positions) <= q_position {
            some = ALL_SEEN;
            n = block.len;
        } else {
            for (j, position) in positions.iter().enumerate() {
                some[n] = j as u8;
                n += usize::from(block.visible >> j & 1 == 1 && *position <= q_position);
            }
        }
        let seen = &some[..n];
        let Some(last) = seen.last() else { continue };
        let (codes, bytes) = (
            block.stride * dim * W::BYTES,
            kv.format().head_bytes(block.stride, dim),
        );
        let (k_scales, v_scales) = (
            &block.k[g * bytes..][codes..bytes],
            &block.v[g * bytes..][codes..bytes],
        );
        let (k, v) = (
            [&block.k[g * bytes..][..codes], &next.k[g * bytes..]],
            [&block.v[g * bytes..][..codes], &next.v[g * bytes..]],
        );
        let place = Place {
            stride: block.stride,
            dim,
            end: usize::from(*last) + 1,
        };
        let mut first = 0;
        while first < heads {
            first += match tile::<I>(heads - first) {
                8 => scores_of::<I, W, 8>(isa, queries, first, k, place, scores),
                7 => scores_of::<I, W, 7>(isa, queries, first, k, place, scores),
                6 => scores_of::<I, W, 6>(isa, queries, first, k, place, scores),
                4 => scores_of::<I, W, 4>(isa, queries, first, k, place, scores),
                3 => scores_of::<I, W, 3>(isa, queries, first, k, place, scores),
                2 => scores_of::<I, W, 2>(isa, queries, first, k, place, scores),
                _ => scores_of::<I, W, 1>(isa, queries, first, k, place, scores),
            };
        }
        if W::SCALED {
            for scores in &mut scores[..heads] {
                scale_all(isa, scores, k_scales, place.end);
            }
        }
        let corrections = softmax(isa, &mut scores[..heads], seen, &mut states);
        if W::SCALED {
            for scores in &mut scores[..heads] {
                scale_all(isa, scores, v_scales, place.end);
            }
        }
        let mut first = 0;
        while first < heads {
            let (out, of) = (&mut out[first * dim..], first..GROUP);
            let (weights, corrections) = (&scores[of.clone()], &corrections[of]);
            first += match tile::<I>(heads - first) {
                8 => add_values::<I, W, 8>(isa, weights, corrections, seen, v, place, out),
                7 => add_values::<I, W, 7>(isa, weights, corrections, seen, v, place, out),
                6 => add_values::<I, W, 6>(isa, weights, corrections, seen, v, place, out),
                4 => add_values::<I, W, 4>(isa, weights, corrections, seen, v, place, out),
                3 => add_values::<I, W, 3>(isa, weights, corrections, seen, v, place, out),
                2 => add_values::<I, W, 2>(isa, weights, corrections, seen, v, place, out),
                _ => add_values::<I, W, 1>(isa, weights, corrections, seen, v, place, out),
            };
        }
    }
    states
}

/// The entries of a block all of which are seen.
static ALL_SEEN: [u8; MAX_KV_BLOCK] = {
    let mut all = [0; MAX_KV_BLOCK];
    let mut j = 0;
    while j < MAX_KV_BLOCK {
        all[j] = j as u8;
        j += 1;
    }
    all
};

/// The latest position, 0 if there is none.
#[inline(always)]
fn latest(positions: &[u32]) -> u32 {
    let mut latest = 0;
    for position in positions {
        latest = if *position > latest {
            *position
        } else {
            latest
        };
    }
    latest
}

/// How many heads share the registers when `left` are left: a key that is loaded once serves them all. Groups of five are rare and take a
/// tile of six, whose last head fills it up.
#[inline(always)]
fn tile<I: Isa>(left: usize) -> usize {
    match left.min(I::HEADS) {
        5 => 6,
        tile => tile,
    }
}

/// The sizes of the keys and values of one head in one block.
#[derive(Clone, Copy)]
struct Place {
    stride: usize,
    dim: usize,
    /// One more than the last position that is seen.
    end: usize,
}

/// The running maximum of the scores and the sum of `e^(score - max)`.
#[derive(Clone, Copy)]
struct Softmax {
    max: f32,
    total: f32,
}

impl Softmax {
    /// Of no scores.
    const NONE: Self = Self {
        max: f32::NEG_INFINITY,
        total: 0.0,
    };
}

/// The scores of heads `first..first + H` at all positions before `place.end`. Returns `H`.
#[inline(always)]
fn scores_of<I: Isa, W: FloatFormat, const H: usize>(
    isa: I,
    queries: &[Query],
    first: usize,
    k: [&[u8]; 2],
    place: Place,
    scores: &mut [Scores; GROUP],
) -> usize {
    let whole = place.stride / I::LANES;
    let mut vector = 0;
    while vector + 2 <= whole && vector * I::LANES < place.end {
        score_strip::<I, W, H, 2>(isa, queries, first, k, place, vector, scores);
        vector += 2;
    }
    while vector < whole && vector * I::LANES < place.end {
        score_strip::<I, W, H, 1>(isa, queries, first, k, place, vector, scores);
        vector += 1;
    }
    // What a stride has beyond whole vectors; the same operations, one lane each.
    let rest = vector * I::LANES..place.end.max(vector * I::LANES);
    for h in first..(first + H).min(GROUP) {
        for (score, position) in scores[h][rest.clone()].iter_mut().zip(rest.clone()) {
            let mut sum = isa.splat(0.0);
            for (d, query) in queries.iter().enumerate() {
                let mut value = [0.0];
                let at = (d * place.stride + position) * W::BYTES;
                W::unpack(&k[0][at..at + W::BYTES], &mut value);
                sum = isa.fma(isa.splat(value[0]), isa.splat(query[h]), sum);
            }
            *score = isa.first(sum);
        }
    }
    H
}

/// The scores of heads `first..first + H` at the positions of `V` vectors.
#[inline(always)]
fn score_strip<I: Isa, W: FloatFormat, const H: usize, const V: usize>(
    isa: I,
    queries: &[Query],
    first: usize,
    [k, next]: [&[u8]; 2],
    place: Place,
    vector: usize,
    scores: &mut [Scores; GROUP],
) {
    let mut sums = [[isa.splat(0.0); V]; H];
    let (row_bytes, first_byte) = (place.stride * W::BYTES, vector * I::LANES * W::BYTES);
    // An index instead of iterators over rows: the loop is a handful of multiply-adds, and iterators over both cost as much.
    for (d, query) in queries.iter().enumerate() {
        let at = d * row_bytes + first_byte;
        isa.prefetch(next, at);
        let row = W::chunks::<I>(&k[at..at + V * I::LANES * W::BYTES]).0;
        let mut keys = [isa.splat(0.0); V];
        for i in 0..V {
            keys[i] = W::load(isa, &row[i]);
        }
        let query: &[f32; H] = query[first..]
            .first_chunk()
            .expect("a tile is within a group");
        for h in 0..H {
            let q = isa.splat(query[h]);
            for i in 0..V {
                sums[h][i] = isa.fma(keys[i], q, sums[h][i]);
            }
        }
    }
    for (scores, sums) in scores[first..].iter_mut().zip(sums) {
        let (out, _) = I::chunks_mut(scores);
        for i in 0..V {
            isa.store(sums[i], &mut out[vector + i]);
        }
    }
}

/// Multiplies the first `end` scores by the scales of their positions.
#[inline(always)]
fn scale_all<I: Isa>(isa: I, scores: &mut Scores, scales: &[u8], end: usize) {
    let (vectors, scores_rest) = scores[..end].split_at_mut(end / I::LANES * I::LANES);
    let (chunks, _) = I::chunks_f32(scales);
    for (score, scale) in I::chunks_mut(vectors).0.iter_mut().zip(chunks) {
        isa.store(isa.mul(isa.load(score), isa.load_f32(scale)), score);
    }
    let rest = &scales[4 * vectors.len()..];
    for (score, scale) in scores_rest.iter_mut().zip(rest.as_chunks().0) {
        *score *= f32::from_le_bytes(*scale);
    }
}

/// Turns the scores of some heads into weights; returns the factors on what was summed up before. Their exponentials are taken at once: of
/// one head at a time they would cost as much as the weights themselves.
#[inline(always)]
fn softmax<I: Isa>(
    isa: I,
    scores: &mut [Scores],
    seen: &[u8],
    states: &mut [Softmax; GROUP],
) -> [f32; GROUP] {
    let end = seen.last().map_or(0, |last| usize::from(*last) + 1);
    let vectors = end.div_ceil(I::LANES);
    let (mut corrections, mut largest) = ([0.0; GROUP], [f32::NEG_INFINITY; GROUP]);
    for (h, scores) in scores.iter_mut().enumerate() {
        hide(scores, seen, end..vectors * I::LANES);
        let mut lanes = isa.splat(f32::NEG_INFINITY);
        for w in &I::chunks(&scores[..]).0[..vectors] {
            lanes = isa.max(isa.load(w), lanes);
        }
        let (new, old) = (isa.largest(lanes), states[h].max);
        largest[h] = if new > old { new } else { old };
        corrections[h] = old - largest[h];
    }
    exp_all(isa, &mut corrections);
    for (h, scores) in scores.iter_mut().enumerate() {
        let (state, max) = (&mut states[h], largest[h]);
        if max == f32::NEG_INFINITY {
            // Every score is minus infinity (or NaN, which stays in `total`): no weight to give.
            if scores[..end].iter().any(|score| score.is_nan()) {
                state.total = f32::NAN;
            }
            scores[..end].fill(0.0);
            corrections[h] = 1.0;
            continue;
        }
        let mut total = isa.splat(0.0);
        for w in &mut I::chunks_mut(&mut scores[..]).0[..vectors] {
            let e = exp(isa, isa.sub(isa.load(w), isa.splat(max)));
            total = isa.add(total, e);
            isa.store(e, w);
        }
        *state = Softmax {
            max,
            total: state.total * corrections[h] + isa.sum(total),
        };
    }
    corrections
}

/// Unseen scores become minus infinity, whose exponential is an exact zero; so does what fills up the last vector.
#[inline(always)]
fn hide(scores: &mut Scores, seen: &[u8], filling: Range<usize>) {
    let end = filling.start;
    scores[filling].fill(f32::NEG_INFINITY);
    if seen.len() == end {
        return;
    }
    let mut next = seen.iter().peekable();
    for (j, score) in scores[..end].iter_mut().enumerate() {
        if next.peek().is_some_and(|seen| usize::from(**seen) == j) {
            next.next();
        } else {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// `out = correction · out + Σ weight · value` for up to `H` heads. Returns `H`.
#[inline(always)]
fn add_values<I: Isa, W: FloatFormat, const H: usize>(
    isa: I,
    weights: &[Scores],
    corrections: &[f32],
    seen: &[u8],
    v: [&[u8]; 2],
    place: Place,
    out: &mut [f32],
) -> usize {
    let whole = place.dim / I::LANES;
    let mut vector = 0;
    while vector + 2 <= whole {
        value_strip::<I, W, H, 2>(isa, weights, corrections, seen, v, place, vector, out);
        vector += 2;
    }
    while vector < whole {
        value_strip::<I, W, H, 1>(isa, weights, corrections, seen, v, place, vector, out);
        vector += 1;
    }
    let at = whole * I::LANES;
    if at < place.dim {
        for (h, out) in out.chunks_exact_mut(place.dim).take(H).enumerate() {
            let out = &mut out[at..];
            let mut sum = isa.mul(isa.load_partial(out), isa.splat(corrections[h]));
            for j in seen {
                let mut rest = I::ZEROS;
                let row = &v[0][usize::from(*j) * place.dim * W::BYTES..][..place.dim * W::BYTES];
                W::unpack(&row[at * W::BYTES..], rest.as_mut());
                sum = isa.fma(isa.splat(weights[h][usize::from(*j)]), isa.load(&rest), sum);
            }
            isa.store_partial(sum, out);
        }
    }
    H
}

/// `V` vectors of the values for `H` heads.
#[inline(always)]
fn value_strip<I: Isa, W: FloatFormat, const H: usize, const V: usize>(
    isa: I,
    weights: &[Scores],
    corrections: &[f32],
    seen: &[u8],
    [v, next]: [&[u8]; 2],
    place: Place,
    vector: usize,
    out: &mut [f32],
) {
    let mut sums = [[isa.splat(0.0); V]; H];
    for (h, out) in out.chunks_exact(place.dim).take(H).enumerate() {
        let (out, _) = I::chunks(out);
        for i in 0..V {
            sums[h][i] = isa.mul(isa.load(&out[vector + i]), isa.splat(corrections[h]));
        }
    }
    for j in seen {
        let j = usize::from(*j);
        let at = (j * place.dim + vector * I::LANES) * W::BYTES;
        isa.prefetch(next, at);
        let row = W::chunks::<I>(&v[at..at + V * I::LANES * W::BYTES]).0;
        let mut values = [isa.splat(0.0); V];
        for i in 0..V {
            values[i] = W::load(isa, &row[i]);
        }
        for h in 0..H {
            let weight = isa.splat(weights[h][j]);
            for i in 0..V {
                sums[h][i] = isa.fma(weight, values[i], sums[h][i]);
            }
        }
    }
    for (h, out) in out.chunks_exact_mut(place.dim).take(H).enumerate() {
        let (out, _) = I::chunks_mut(out);
        for i in 0..V {
            isa.store(sums[h][i], &mut out[vector + i]);
        }
    }
}
