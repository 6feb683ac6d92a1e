//! Norms, activations and rotary embedding, as definitions.

/// `out = x / √(mean(x²) + eps) · weight` for one row.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    out.copy_from_slice(x);
    rms_norm_in_place(out, weight, eps);
}

/// [`rms_norm`] where `out` is `x`.
pub(crate) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean + f64::from(eps)).sqrt();
    for (x, w) in x.iter_mut().zip(weight) {
        *x = (f64::from(*x) * factor * f64::from(*w)) as f32;
    }
}

/// `x += y`
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// `gate = gate / (1 + e^-gate) · up`
pub(crate) fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        let x = f64::from(*g);
        *g = (x / (1.0 + (-x).exp()) * f64::from(*u)) as f32;
    }
}

/// Rotates the pairs `(x[i], x[i + D/2])` of one head by the angle whose cosine and sine are given, `[D/2]` each.
pub(crate) fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = x.split_at_mut(cos.len());
    for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        let (p, q, cos, sin) = (
            f64::from(*a),
            f64::from(*b),
            f64::from(*cos),
            f64::from(*sin),
        );
        *a = (p * cos - q * sin) as f32;
        *b = (q * cos + p * sin) as f32;
    }
}

/// `ln Σ e^x`, minus infinity if that is all there is.
pub(crate) fn log_sum_exp(x: &[f32]) -> f64 {
    let max = f64::from(x.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v)));
    if max == f64::NEG_INFINITY {
        return max;
    }
    let sum: f64 = x.iter().map(|v| (f64::from(*v) - max).exp()).sum();
    max + sum.ln()
}

/// Index of the largest value, the first of equals; NaN never wins; 0 if there is nothing to choose.
pub(crate) fn argmax(x: &[f32]) -> usize {
    let mut best = 0;
    let mut max = f32::NEG_INFINITY;
    for (i, v) in x.iter().enumerate() {
        if *v > max {
            (best, max) = (i, *v);
        }
    }
    best
}
