//! `y[t, r] = Σ_c w[r, c] · x[t, c]`, as a definition.

use half::f16;

use crate::pool::Band;
use crate::quant::{self, Int8Block, MIN_MAGNITUDE};
use crate::{Activations, BLOCK, Format, Matrix, PANEL};

/// Float weights: the exact products, summed in f64, rounded once.
pub(crate) fn matmul(w: &Matrix<'_>, x: &Activations, y: &mut Band<'_>) {
    for t in 0..x.tokens() {
        let first = y.columns().start;
        for (i, y) in y.row_mut(t).iter_mut().enumerate() {
            let row = w.panel(first + i);
            let mut sum = 0.0f64;
            for (c, x) in x.row(t).iter().enumerate() {
                sum += f64::from(float_weight(w.format(), row, c)) * f64::from(*x);
            }
            *y = sum as f32;
        }
    }
}

fn float_weight(format: Format, row: &[u8], c: usize) -> f32 {
    match format {
        Format::F32 => f32::from_le_bytes(row.as_chunks().0[c]),
        Format::F16 => f16::from_le_bytes(row.as_chunks().0[c]).to_f32(),
        Format::Q8 | Format::Q4 => unreachable!("quantized weights go to matmul_int8"),
    }
}

/// Quantized weights against int8 activations.
///
/// Per block: an exact integer dot product, times the product of both scales. The blocks are summed in order, in f64
/// here and in f32 by the fast tables.
pub(crate) fn matmul_int8(w: &Matrix<'_>, x: &Activations, y: &mut Band<'_>) {
    for t in 0..x.tokens() {
        let first = y.columns().start;
        let x = x.int8_row(t);
        for (i, y) in y.row_mut(t).iter_mut().enumerate() {
            let (panel, lane) = (w.panel((first + i) / PANEL), (first + i) % PANEL);
            let mut sum = 0.0f64;
            for (b, x) in x.iter().enumerate() {
                let (w_scale, w) = quant::block_of(w.format(), panel, b, lane);
                let products = w
                    .iter()
                    .zip(&x.bytes)
                    .map(|(w, x)| i32::from(*w) * i32::from(*x));
                sum += f64::from(w_scale.to_f32() * x.scale) * f64::from(products.sum::<i32>());
            }
            *y = sum as f32;
        }
    }
}

/// Rounds one row of activations to int8 blocks; see [`crate::quant`]. All tables give these very bytes and scales.
pub(crate) fn quantize(x: &[f32], out: &mut [Int8Block]) {
    for (x, out) in x.chunks(BLOCK).zip(out) {
        *out = Int8Block::ZERO;
        let max = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        if x.iter().any(|v| !v.is_finite()) {
            out.scale = f32::NAN;
        } else if max >= MIN_MAGNITUDE {
            out.scale = max / 127.0;
            let inverse = 127.0 / max;
            for (o, v) in out.bytes.iter_mut().zip(x) {
                *o = (v * inverse).round_ties_even() as i8;
            }
        }
        out.sum = out.bytes.iter().map(|v| i32::from(*v)).sum();
    }
}
