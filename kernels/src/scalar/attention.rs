//! Attention of every head over every visible entry, as a definition.

use half::f16;

use crate::cpu::Part;
use crate::pool::Band;
use crate::{AttentionShape, KvFormat, KvSource};

/// Gets a score and the value by dimension.
type Visit<'a> = dyn FnMut(f64, &dyn Fn(usize) -> f32) + 'a;

/// `out[t, h] = Σ_j softmax_j(scale · q[t, h] · k[j]) · v[j]` over the entries `j` that are visible and not later than
/// the query. The band counts in values of `out` seen as one row `[T·H·D]` and starts and ends between heads: always [`Part::Heads`].
pub(crate) fn attention(
    q: &[f32],
    q_positions: &[u32],
    shape: AttentionShape,
    kv: &dyn KvSource,
    _: Part,
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
        // Value `at` of an entry of head `g` in slot `j`.
        let read = |bytes: &[u8], stride: usize, at: usize, j: usize| -> f32 {
            let head = kv.format().head_bytes(stride, head_dim);
            let (bytes, scales) = (&bytes[g * head..][..head], stride * head_dim);
            match kv.format() {
                KvFormat::F32 => f32::from_le_bytes(bytes.as_chunks().0[at]),
                KvFormat::F16 => f16::from_le_bytes(bytes.as_chunks().0[at]).to_f32(),
                KvFormat::Q8 => {
                    let scale = f32::from_le_bytes(bytes[scales..].as_chunks().0[j]);
                    scale * f32::from(bytes[at] as i8)
                }
            }
        };
        let for_each_seen = |f: &mut Visit<'_>| {
            for b in 0..kv.blocks() {
                let block = kv.block(b);
                for j in 0..block.len {
                    if block.visible >> j & 1 == 1 && block.positions[j] <= q_positions[t] {
                        let stride = block.stride;
                        let k = |d: usize| read(block.k, stride, d * stride + j, j);
                        let v = |d: usize| read(block.v, stride, j * head_dim + d, j);
                        let products = q
                            .iter()
                            .enumerate()
                            .map(|(d, q)| f64::from(*q) * f64::from(k(d)));
                        f(f64::from(scale) * products.sum::<f64>(), &v);
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
            for_each_seen(&mut |score, v| sum += (score - max).exp() * f64::from(v(d)));
            // A query that sees nothing attends to nothing.
            *out = if total > 0.0 {
                (sum / total) as f32
            } else {
                0.0
            };
        }
    }
}
