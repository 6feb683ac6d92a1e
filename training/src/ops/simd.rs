//! Loops compiled several times and chosen at run time.
//!
//! The build targets the architecture's baseline so that one binary runs everywhere. [`multiversion!`] compiles a loop again
//! for AVX2 and AVX-512 and picks at run time; the loop itself stays plain Rust that the compiler vectorizes. Sums are taken
//! in a fixed number of lanes and no contraction is allowed, so every version gives the same bits.

/// Independent partial sums in a reduction: one AVX-512 register of `f32`.
pub(crate) const LANES: usize = 16;

/// Defines a function whose body is compiled for the baseline, AVX2 and AVX-512, and dispatched at run time.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code, reason = "entering a function compiled for a detected instruction set")]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                if $crate::ops::simd::has_avx512() {
                    // SAFETY: `has_avx512` detected every feature that the callee enables.
                    return unsafe { avx512($($arg),*) };
                }
                if $crate::ops::simd::has_avx2() {
                    // SAFETY: `has_avx2` detected both features that the callee enables.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use multiversion;

#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// `Σ f(i)` over `0..len` in [`LANES`] partial sums.
#[inline(always)]
pub(crate) fn sum_lanes(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = len / LANES * LANES;
    let mut base = 0;
    while base < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(base + lane);
        }
        base += LANES;
    }
    let mut total = 0.0;
    for sum in lanes {
        total += sum;
    }
    for i in whole..len {
        total += f(i);
    }
    total
}

/// The inner product of two slices of equal length.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let y = &y[..x.len()];
    sum_lanes(x.len(), |i| x[i] * y[i])
}

/// The largest value of a slice, `-inf` for an empty one.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    let best = lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    rest.iter().copied().fold(best, f32::max)
}

/// `e^x` within 2 ulp on [-87, 88], clamped outside; branch-free so that loops over it vectorize.
///
/// Source: the Cephes `expf` polynomial; `2^n` is assembled from bits after rounding by a magic constant.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // 1.5 · 2^23: adding it leaves the rounded integer in the low mantissa bits.
    const MAGIC: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    let exponent = shifted
        .to_bits()
        .wrapping_sub(MAGIC.to_bits())
        .wrapping_add(127)
        << 23;
    y * f32::from_bits(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_standard_library() {
        let mut x = -86.0f32;
        while x < 87.0 {
            let (ours, std) = (exp(x), x.exp());
            assert!(
                (ours - std).abs() <= 3e-7 * std,
                "exp({x}) = {ours}, expected {std}"
            );
            x += 0.013;
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn reductions_cover_ragged_lengths() {
        for len in [0, 1, 15, 16, 17, 33, 100] {
            let x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin()).collect();
            let sum: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
            assert!((f64::from(dot(&x, &x)) - sum).abs() < 1e-4, "len {len}");
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
