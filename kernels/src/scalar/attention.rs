//! Attention of every head over every visible entry, as a definition.

use crate::pool::Band;
use crate::{AttentionShape, KvSource};

/// `out[t, h] = Σ_j softmax_j(scale · q[t, h] · k[j]) · v[j]` over the entries `j` that are visible and not later than
/// the query. The band counts in values of `out` seen as one row `[T·H·D]` and starts and ends between heads.
pub(crate) fn attention(
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
        scale,
    } = shape;
    let first = out.columns().start / head_dim;
    for (i, out) in out.row_mut(0).chunks_exact_mut(head_dim).enumerate() {
        let (t, h) = ((first + i) / heads, (first + i) % heads);
        let g = h / (heads / kv_heads);
        let q = &q[(first + i) * head_dim..][..head_dim];
        let for_each_seen = |f: &mut dyn FnMut(f64, &[f32])| {
            for b in 0..kv.blocks() {
                let block = kv.block(b);
                for j in 0..block.len {
                    if block.visible >> j & 1 == 1 && block.positions[j] <= q_positions[t] {
                        let at = (g * block.stride + j) * head_dim;
                        let k = &block.k[at..][..head_dim];
                        let dot: f64 = q
                            .iter()
                            .zip(k)
                            .map(|(q, k)| f64::from(*q) * f64::from(*k))
                            .sum();
                        f(f64::from(scale) * dot, &block.v[at..][..head_dim]);
                    }
                }
            }
        };
        let mut max = f64::NEG_INFINITY;
        for_each_seen(&mut |score, _| max = max.max(score));
        let mut total = 0.0;
        for_each_seen(&mut |score, _| total += (score - max).exp());
        for (d, out) in out.iter_mut().enumerate() {
            let mut sum = 0.0;
            for_each_seen(&mut |score, v| sum += (score - max).exp() * f64::from(v[d]));
            // A query that sees nothing attends to nothing.
            *out = if total > 0.0 {
                (sum / total) as f32
            } else {
                0.0
            };
        }
    }
}
