//! Norms, activations, rotary embedding and softmax over [`Isa`].

use super::isa::Isa;

/// `e^x`, within 2 ulp of the exact value for `x` in [`EXP_MIN`]..=[`EXP_MAX`].
///
/// Below it is 0, above it stays at `e^EXP_MAX`; NaN gives NaN.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`, and `e^r` is a polynomial of degree 6. `ln 2` is split in two, the first part
/// with trailing zeros so that `n` times it is exact (Cody and Waite). The coefficients interpolate
/// `(e^r − 1 − r) / r²` at Chebyshev points and leave a relative error of 1.1e-8, under a fifth of an ulp.
#[inline(always)]
pub(crate) fn exp<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4; // ln 2 - 355/512
    const COEFFICIENTS: [f32; 5] = [
        1.392_621_3e-3,
        8.363_203e-3,
        4.166_655_6e-2,
        1.666_657_6e-1,
        0.5,
    ];
    let clamped = isa.min(isa.splat(EXP_MAX), isa.max(isa.splat(EXP_MIN), x));
    let n = isa.round(isa.mul(clamped, isa.splat(std::f32::consts::LOG2_E)));
    let r = isa.fma(n, isa.splat(-LN2_HIGH), clamped);
    let r = isa.fma(n, isa.splat(-LN2_LOW), r);
    let mut p = isa.splat(COEFFICIENTS[0]);
    for c in &COEFFICIENTS[1..] {
        p = isa.fma(p, r, isa.splat(*c));
    }
    let p = isa.add(isa.fma(p, isa.mul(r, r), r), isa.splat(1.0));
    isa.select_lt(
        x,
        isa.splat(EXP_MIN),
        isa.splat(0.0),
        isa.mul(p, isa.pow2(n)),
    )
}

/// `x = e^x`
#[inline(always)]
pub(crate) fn exp_all<I: Isa>(isa: I, x: &mut [f32]) {
    let (chunks, rest) = I::chunks_mut(x);
    for x in chunks {
        isa.store(exp(isa, isa.load(x)), x);
    }
    if !rest.is_empty() {
        isa.store_partial(exp(isa, isa.load_partial(rest)), rest);
    }
}

/// `126.5 ln 2` under zero, a little inside: there `n` is -126 and [`Isa::pow2`] still normal.
pub(crate) const EXP_MIN: f32 = -87.33;

/// `127.5 ln 2`, a little inside: there `n` is 127, the last exponent.
pub(crate) const EXP_MAX: f32 = 88.37;

/// `out = x / √(mean(x²) + eps) · weight` for one row.
#[inline(always)]
pub(crate) fn rms_norm<I: Isa>(isa: I, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let factor = isa.splat(rms_factor(isa, x, eps));
    let (x, x_rest) = I::chunks(x);
    let (w, w_rest) = I::chunks(weight);
    let (out, out_rest) = I::chunks_mut(out);
    for ((x, w), out) in x.iter().zip(w).zip(out) {
        isa.store(isa.mul(isa.mul(isa.load(x), factor), isa.load(w)), out);
    }
    if !x_rest.is_empty() {
        let v = isa.mul(
            isa.mul(isa.load_partial(x_rest), factor),
            isa.load_partial(w_rest),
        );
        isa.store_partial(v, out_rest);
    }
}

/// [`rms_norm`] where `out` is `x`.
#[inline(always)]
pub(crate) fn rms_norm_in_place<I: Isa>(isa: I, x: &mut [f32], weight: &[f32], eps: f32) {
    let factor = isa.splat(rms_factor(isa, x, eps));
    map2(
        isa,
        x,
        weight,
        #[inline(always)]
        |x, w| isa.mul(isa.mul(x, factor), w),
    );
}

#[inline(always)]
fn rms_factor<I: Isa>(isa: I, x: &[f32], eps: f32) -> f32 {
    // Four chains, so that the sum does not wait for the latency of each multiply-add.
    let mut sums = [isa.splat(0.0); 4];
    let (chunks, rest) = I::chunks(x);
    let (fours, ones) = chunks.as_chunks::<4>();
    for four in fours {
        for (sum, x) in sums.iter_mut().zip(four) {
            let x = isa.load(x);
            *sum = isa.fma(x, x, *sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(ones) {
        let x = isa.load(x);
        *sum = isa.fma(x, x, *sum);
    }
    let last = isa.load_partial(rest);
    sums[3] = isa.fma(last, last, sums[3]);
    let sum = isa.sum(isa.add(isa.add(sums[0], sums[1]), isa.add(sums[2], sums[3])));
    1.0 / (sum / x.len() as f32 + eps).sqrt()
}

/// `x += y`
#[inline(always)]
pub(crate) fn add<I: Isa>(isa: I, x: &mut [f32], y: &[f32]) {
    map2(
        isa,
        x,
        y,
        #[inline(always)]
        |x, y| isa.add(x, y),
    );
}

/// `gate = gate / (1 + e^-gate) · up`
#[inline(always)]
pub(crate) fn silu_mul<I: Isa>(isa: I, gate: &mut [f32], up: &[f32]) {
    let (zero, one) = (isa.splat(0.0), isa.splat(1.0));
    map2(
        isa,
        gate,
        up,
        #[inline(always)]
        |g, u| isa.mul(isa.div(g, isa.add(one, exp(isa, isa.sub(zero, g)))), u),
    );
}

/// `x = f(x, y)`, the same for a rest as for whole vectors.
#[inline(always)]
pub(crate) fn map2<I: Isa>(isa: I, x: &mut [f32], y: &[f32], f: impl Fn(I::F32, I::F32) -> I::F32) {
    let (x, x_rest) = I::chunks_mut(x);
    let (y, y_rest) = I::chunks(y);
    for (x, y) in x.iter_mut().zip(y) {
        isa.store(f(isa.load(x), isa.load(y)), x);
    }
    if !x_rest.is_empty() {
        isa.store_partial(
            f(isa.load_partial(x_rest), isa.load_partial(y_rest)),
            x_rest,
        );
    }
}

/// Rotates the pairs `(x[i], x[i + D/2])` of one head; `cos` and `sin` are `[D/2]`.
#[inline(always)]
pub(crate) fn rope<I: Isa>(isa: I, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = x.split_at_mut(cos.len());
    let ((a, a_rest), (b, b_rest)) = (I::chunks_mut(a), I::chunks_mut(b));
    let ((cos, cos_rest), (sin, sin_rest)) = (I::chunks(cos), I::chunks(sin));
    for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        let (p, q) = rotate(isa, isa.load(a), isa.load(b), isa.load(cos), isa.load(sin));
        isa.store(p, a);
        isa.store(q, b);
    }
    if !a_rest.is_empty() {
        let (cos, sin) = (isa.load_partial(cos_rest), isa.load_partial(sin_rest));
        let (p, q) = rotate(
            isa,
            isa.load_partial(a_rest),
            isa.load_partial(b_rest),
            cos,
            sin,
        );
        isa.store_partial(p, a_rest);
        isa.store_partial(q, b_rest);
    }
}

#[inline(always)]
fn rotate<I: Isa>(isa: I, a: I::F32, b: I::F32, cos: I::F32, sin: I::F32) -> (I::F32, I::F32) {
    (
        isa.sub(isa.mul(a, cos), isa.mul(b, sin)),
        isa.fma(a, sin, isa.mul(b, cos)),
    )
}

/// Values whose sum is made in f32, and whose maximum is looked for before anything else: 64 additions per lane at most.
const STRETCH: usize = 1024;

/// `ln Σ e^x`, minus infinity if that is all there is.
#[inline(always)]
pub(crate) fn log_sum_exp<I: Isa>(isa: I, x: &[f32]) -> f64 {
    let largest = max(isa, x);
    if largest == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    let (max, mut total) = (isa.splat(largest), 0.0);
    for x in x.chunks(STRETCH) {
        let mut sum = isa.splat(0.0);
        let (chunks, rest) = I::chunks(x);
        for x in chunks {
            sum = isa.add(sum, exp(isa, isa.sub(isa.load(x), max)));
        }
        total += f64::from(isa.sum(sum));
        let mut last = I::ZEROS;
        isa.store(exp(isa, isa.sub(isa.load_partial(rest), max)), &mut last);
        for e in &last.as_ref()[..rest.len()] {
            total += f64::from(*e);
        }
    }
    f64::from(largest) + total.ln()
}

/// The largest value; NaN never wins; minus infinity if there is none.
#[inline(always)]
fn max<I: Isa>(isa: I, x: &[f32]) -> f32 {
    let (chunks, rest) = I::chunks(x);
    let mut max = isa.splat(f32::NEG_INFINITY);
    for x in chunks {
        let x = isa.load(x);
        max = isa.select_lt(max, x, x, max);
    }
    let mut lanes = I::ZEROS;
    isa.store(max, &mut lanes);
    let mut max = f32::NEG_INFINITY;
    for v in lanes.as_ref().iter().chain(rest) {
        max = max.max(*v);
    }
    max
}

/// Index of the largest value, the first of equals; NaN never wins; 0 if there is nothing to choose.
#[inline(always)]
pub(crate) fn argmax<I: Isa>(isa: I, x: &[f32]) -> usize {
    // The maximum of each stretch with vectors, then one search in the stretch that holds it.
    let (mut best, mut start) = (f32::NEG_INFINITY, 0);
    for (i, x) in x.chunks(STRETCH).enumerate() {
        let max = max(isa, x);
        if max > best {
            (best, start) = (max, i * STRETCH);
        }
    }
    start + x[start..].iter().position(|v| *v == best).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Generic;

    fn exp_one<I: Isa>(isa: I, x: f32) -> f32 {
        isa.first(exp(isa, isa.splat(x)))
    }

    fn check_exp<I: Isa>(isa: I) {
        // Every 10007th float: 429,000 of both signs and all exponents, with no pattern in the low bits.
        let mut worst = 0.0f64;
        for bits in (0..=u32::MAX).step_by(10_007) {
            let x = f32::from_bits(bits);
            let got = exp_one(isa, x);
            if x.is_nan() {
                assert!(got.is_nan(), "exp of {bits:#x}");
            } else if x < EXP_MIN {
                assert_eq!(got, 0.0, "exp({x})");
            } else if x > EXP_MAX {
                assert_eq!(got, exp_one(isa, EXP_MAX), "exp({x})");
            } else {
                let want = f64::from(x).exp();
                let ulp = f64::from((want as f32).next_up()) - f64::from(want as f32);
                worst = worst.max((f64::from(got) - want).abs() / ulp);
            }
        }
        println!("e^x is off by at most {worst:.3} ulp");
        assert!(worst <= 2.0, "off by {worst} ulp");
        assert_eq!(exp_one(isa, 0.0), 1.0);
        assert_eq!(exp_one(isa, f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn exp_is_within_two_ulp() {
        check_exp(Generic);
        #[cfg(target_arch = "x86_64")]
        {
            use crate::cpu::isa::{Avx2, Avx512};
            if let Some(isa) = Avx2::<false>::new() {
                check_exp(isa);
            }
            if let Some(isa) = Avx512::new() {
                check_exp(isa);
            }
        }
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        if let Some(isa) = crate::cpu::isa::Base::new() {
            check_exp(isa);
        }
    }
}
