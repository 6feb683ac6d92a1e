//! What lies between the products.

use skimstone_kernels::cuda::{self, Grid, Ptr};
use skimstone_kernels::{BLOCK, Format, quant};

use super::emulator::Emulator;
use super::products::assert_rounded;
use super::support::{Packed, Rng, U, assert_close, roundings, scalar};

const RAGGED: [usize; 9] = [1, 7, 31, 32, 33, 64, 100, 577, 1536];

/// The rule of `quant`, once more: codes, scale and sum of up to 32 values.
fn rounded(x: &[f32]) -> ([i8; BLOCK], f32, i32) {
    let max = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let mut codes = [0; BLOCK];
    if x.iter().any(|v| !v.is_finite()) {
        return (codes, f32::NAN, 0);
    }
    if max < quant::MIN_MAGNITUDE {
        return (codes, 0.0, 0);
    }
    for (code, v) in codes.iter_mut().zip(x) {
        *code = (v * (127.0 / max)).round_ties_even() as i8;
    }
    (
        codes,
        max / 127.0,
        codes.iter().map(|c| i32::from(*c)).sum(),
    )
}

/// The very bits of the CPU, also where a block holds what is not finite, next to nothing, or ends early.
#[test]
fn rounding_is_exact() {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    for (tokens, cols) in RAGGED.into_iter().enumerate().map(|(i, c)| (1 + i % 3, c)) {
        let mut x = Rng(cols as u64).values(tokens * cols);
        if cols == 100 {
            x[3] = f32::NAN;
            x[cols - 1] = f32::INFINITY;
        }
        if cols == 64 {
            x[..32].fill(1e-40);
        }
        let out = gpu.rounded(&x, cols);
        let got = gpu.int8(out, tokens * cols.div_ceil(BLOCK));
        let want = x.chunks_exact(cols).flat_map(|row| row.chunks(BLOCK));
        for (b, (got, want)) in got.into_iter().zip(want.map(rounded)).enumerate() {
            let same = got.1.to_bits() == want.1.to_bits() || (got.1.is_nan() && want.1.is_nan());
            let same = same && got.0 == want.0 && got.2 == want.2;
            assert!(same, "cols {cols} block {b}: {got:?}, expected {want:?}");
        }
    }
}

#[test]
fn norms_agree() {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    let reference = scalar();
    for (seed, cols) in RAGGED.into_iter().enumerate() {
        let mut rng = Rng(cols as u64);
        let (tokens, weight) = (1 + cols % 3, rng.values(cols));
        let x = rng.values(tokens * cols);
        let mut want = vec![0.0; x.len()];
        reference.rms_norm(&x, &weight, 1e-6, &mut want).unwrap();
        gpu.seed = seed as u64;
        let (xs, w) = (gpu.values(&x), gpu.values(&weight));
        let (out, int8) = (gpu.room(x.len()), gpu.int8_room(tokens, cols));
        let grid = Grid::new(tokens, 128);
        gpu.launch(&cuda::skim_rms_norm(
            grid,
            xs,
            w,
            1e-6,
            cols as u32,
            out,
            int8.codes,
            int8.scales,
        ));
        let got = gpu.floats(out, x.len());
        // The sum of squares has one sign, so its error is relative; what is denormal is off by some of its steps.
        assert_close(&format!("rms_norm {cols}"), &got, &want, |i| {
            want[i].abs() * U * roundings(cols) + f32::from_bits(8)
        });
        for (got, want) in gpu
            .unrounded(int8, tokens, cols)
            .chunks_exact(cols)
            .zip(want.chunks_exact(cols))
        {
            assert_rounded(&format!("rounded norm {cols}"), got, want);
        }
    }
}

#[test]
fn activations_agree() {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    for cols in RAGGED {
        let mut rng = Rng(cols as u64 + 1);
        let tokens = 1 + cols % 2;
        let (gate, up) = (rng.values(tokens * cols), rng.values(tokens * cols));
        let silu = |x: f32| f64::from(x) / (1.0 + (-f64::from(x)).exp());
        let want: Vec<f32> = gate
            .iter()
            .zip(&up)
            .map(|(g, u)| (silu(*g) * f64::from(*u)) as f32)
            .collect();
        let out = gpu.int8_room(tokens, cols);
        let (g, u) = (gpu.values(&gate), gpu.values(&up));
        let warps = tokens * cols.div_ceil(BLOCK);
        gpu.launch(&cuda::skim_silu_mul(
            Grid::new(warps.div_ceil(2), 64),
            g,
            u,
            out.codes,
            out.scales,
            cols as u32,
            tokens as u32,
        ));
        for (got, want) in gpu
            .unrounded(out, tokens, cols)
            .chunks_exact(cols)
            .zip(want.chunks_exact(cols))
        {
            assert_rounded(&format!("silu_mul {cols}"), got, want);
        }

        let gelu = |x: f32| {
            let x = f64::from(x);
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            (0.5 * x * (1.0 + u.tanh())) as f32
        };
        let want: Vec<f32> = gate[..cols].iter().map(|x| gelu(*x)).collect();
        let out = gpu.int8_room(1, cols);
        let grid = Grid::new(cols.div_ceil(BLOCK), 32);
        gpu.launch(&cuda::skim_gelu(
            grid,
            g,
            out.codes,
            out.scales,
            cols as u32,
        ));
        assert_rounded(&format!("gelu {cols}"), &gpu.unrounded(out, 1, cols), &want);
    }
}

#[test]
fn layer_norm_agrees() {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    for cols in RAGGED {
        let mut rng = Rng(cols as u64 + 2);
        let (x, weight, bias) = (rng.values(cols), rng.values(cols), rng.values(cols));
        let n = cols as f64;
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let off = |x: &f32| f64::from(*x) - mean;
        let variance = x.iter().map(|x| off(x).powi(2)).sum::<f64>() / n;
        let inverse = 1.0 / (variance + 1e-5).sqrt();
        let want: Vec<f32> = (0..cols)
            .map(|c| (off(&x[c]) * inverse * f64::from(weight[c]) + f64::from(bias[c])) as f32)
            .collect();
        let out = gpu.room(cols);
        let (xs, w, b) = (gpu.values(&x), gpu.values(&weight), gpu.values(&bias));
        gpu.launch(&cuda::skim_layer_norm(
            Grid::new(1, 64),
            xs,
            w,
            b,
            cols as u32,
            out,
        ));
        let largest = x.iter().fold(1.0f32, |m, x| m.max(x.abs())) * inverse as f32;
        let got = gpu.floats(out, cols);
        assert_close(&format!("layer_norm {cols}"), &got, &want, |i| {
            (largest * weight[i].abs() + bias[i].abs()) * U * roundings(cols)
        });
    }
}

#[test]
fn rows_of_the_embedding_are_exact() {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    for format in Format::ALL {
        for cols in [1, 33, 100] {
            let mut rng = Rng(cols as u64);
            let rows = 37;
            let w = Packed::new(format, rows, cols, &rng.values(rows * cols));
            let tokens = [0u32, 15, 16, 36, 5];
            let out = gpu.room(tokens.len() * cols);
            let (matrix, ids) = (gpu.matrix(&w, None), gpu.values(&tokens));
            let grid = Grid::of([cols.div_ceil(64), tokens.len(), 1], 64);
            gpu.launch(&cuda::skim_embed(grid, matrix, ids, out));
            let got = gpu.floats(out, tokens.len() * cols);
            for (token, got) in tokens.iter().zip(got.chunks_exact(cols)) {
                let mut want = vec![0.0; cols];
                w.matrix().row_into(*token as usize, &mut want).unwrap();
                assert_eq!(got, want, "{format} row {token} of {cols} columns");
            }
        }
    }
}

#[test]
fn the_gate_of_a_router_agrees() {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    for cols in RAGGED {
        let mut rng = Rng(cols as u64 + 3);
        let (tokens, weight) = (3, rng.values(cols));
        let x = rng.values(tokens * cols);
        let value = |x: &[f32]| {
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / cols as f64;
            let factor = 1.0 / (mean + 1e-6f32 as f64).sqrt();
            let terms = x.iter().zip(&weight);
            terms
                .map(|(x, w)| f64::from(*x) * factor * f64::from(*w))
                .sum::<f64>()
                + 0.25
        };
        let want: Vec<f32> = x.chunks_exact(cols).map(|x| value(x) as f32).collect();
        // Between the values, so that some gates are taken and others not.
        let threshold = want.iter().sum::<f32>() / tokens as f32;
        let (xs, w) = (gpu.values(&x), gpu.values(&weight));
        let (values, taken) = (gpu.room(tokens), gpu.room(tokens));
        let grid = Grid::new(tokens, 128);
        gpu.launch(&cuda::skim_gate(
            grid,
            xs,
            w,
            0.25,
            threshold,
            1e-6,
            cols as u32,
            values,
            taken,
        ));
        let got = gpu.floats(values, tokens);
        let reach: f32 = weight.iter().map(|w| w.abs()).sum::<f32>() * (cols as f32).sqrt() + 1.0;
        assert_close(&format!("gate {cols}"), &got, &want, |_| {
            reach * U * roundings(cols)
        });
        let taken = gpu.words(taken, tokens);
        for (value, taken) in got.iter().zip(taken) {
            assert_eq!(taken, u32::from(*value >= threshold), "gate {cols}");
        }
    }
}

#[test]
fn the_largest_are_found() {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    for (n, k) in [(1usize, 1usize), (5, 8), (2048, 3), (2049, 40), (7000, 64)] {
        let mut rng = Rng(n as u64);
        // Coarse values, so that there are equals.
        let mut x: Vec<f32> = (0..n).map(|_| (rng.unit() * 50.0).round() / 4.0).collect();
        if n > 100 {
            x[17] = f32::NAN;
            x[18] = f32::NEG_INFINITY;
            x[19] = -0.0;
        }
        let mut order: Vec<u32> = (0..n as u32)
            .filter(|i| x[*i as usize] > f32::NEG_INFINITY)
            .collect();
        order.sort_by(|a, b| x[*b as usize].partial_cmp(&x[*a as usize]).unwrap());
        let xs = gpu.values(&x);
        let best = gpu.variables(&[0u64]);
        gpu.launch(&cuda::skim_argmax(Grid::new(3, 64), xs, n as u32, best));
        let rank = u64::from_le_bytes(gpu.read_bytes(best, 1).try_into().unwrap());
        assert_eq!(cuda::index_of_rank(rank), order[0], "argmax of {n}");

        let pieces = n.div_ceil(cuda::TOP_K_PIECE);
        let (ranks, best): (Ptr<u64>, Ptr<u64>) = (gpu.room(pieces * k), gpu.room(k));
        let (indices, values) = (gpu.room(k), gpu.room(k));
        let grid = Grid::new(pieces, 64);
        gpu.launch(&cuda::skim_top_k_pieces(
            grid, xs, n as u32, k as u32, ranks,
        ));
        gpu.launch(&cuda::skim_top_k(
            Grid::new(1, 128),
            ranks,
            (pieces * k) as u32,
            k as u32,
            best,
            indices,
            values,
        ));
        order.truncate(k);
        let want: Vec<f32> = order.iter().map(|i| x[*i as usize]).collect();
        let there = order.len();
        assert_eq!(gpu.words(indices, k)[..there], order, "top {k} of {n}");
        assert_eq!(gpu.floats(values, k)[..there], want, "top {k} of {n}");
        assert!(
            gpu.words(indices, k)[there..]
                .iter()
                .all(|i| *i == u32::MAX)
        );
    }
}
