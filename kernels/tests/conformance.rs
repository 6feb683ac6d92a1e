//! Every kernel table of this CPU against the scalar specification, on ragged and on real shapes.
//!
//! Tolerances are error bounds, not measurements: `U` is the relative error of one rounding, and a sum of `n` terms in
//! any order is off by at most `n · U` times the sum of the magnitudes (Higham, Accuracy and Stability, §4.2).

mod support;

use skimstone_kernels::{
    Activations, AttentionShape, BLOCK, Cpu, Format, KvFormat, Linear, RmsNorm, quant,
};
use support::{
    Kv, Packed, Rng, U, assert_close, assert_same, cpus, fast_tables, quick, roundings, scalar,
    scalar_table,
};

/// One less, as many as, and one more than the lanes of every table (4, 8, 16), around one block and two, and the
/// feed-forward width of the smallest real model in the tests.
const RAGGED: [usize; 17] = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 172];

/// `Σ |w| · |x|` for every output: what the roundings are relative to.
fn magnitudes(w: &[f32], x: &[f32], cols: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for x in x.chunks_exact(cols) {
        for w in w.chunks_exact(cols) {
            out.push(w.iter().zip(x).map(|(w, x)| (w * x).abs()).sum());
        }
    }
    out
}

/// `|x|` rounded up to what its int8 block can make of it: half a step more.
fn with_half_steps(x: &[f32], cols: usize) -> (Vec<f32>, Vec<f32>) {
    let mut values = Vec::new();
    let mut steps = Vec::new();
    for x in x.chunks_exact(cols).flat_map(|row| row.chunks(BLOCK)) {
        let half_step = x.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 254.0 * (1.0 + 4.0 * U)
            + f32::MIN_POSITIVE * 64.0;
        values.extend(x.iter().map(|v| v.abs() + half_step));
        steps.extend(x.iter().map(|_| half_step));
    }
    (values, steps)
}

fn check_matmul(
    cpus: &[Cpu],
    reference: &Cpu,
    format: Format,
    rows: usize,
    cols: usize,
    tokens: usize,
) {
    let mut rng = Rng((rows * 1_000_003 + cols * 1009 + tokens) as u64);
    let w = Packed::new(format, rows, cols, &rng.values(rows * cols));
    let x = rng.values(tokens * cols);
    let want = w.matmul(reference, &x);
    let unpacked = w.unpacked();
    let (reach, _) = with_half_steps(&x, cols);
    let magnitudes = magnitudes(
        &unpacked,
        if format.is_quantized() { &reach } else { &x },
        cols,
    );
    for cpu in cpus {
        let what = format!("{} {format} [{rows}, {cols}] T={tokens}", cpu.name());
        let got = w.matmul(cpu, &x);
        assert_close(&what, &got, &want, |i| magnitudes[i] * U * roundings(cols));
        for (t, x) in x.chunks_exact(cols).enumerate() {
            let alone = w.matmul(cpu, x);
            assert_same(
                &format!("{what}, token {t} alone"),
                &got[t * rows..(t + 1) * rows],
                &alone,
            );
        }
    }
}

#[test]
fn matmul_agrees_on_ragged_shapes() {
    let (cpus, reference) = (cpus(1), scalar());
    for format in Format::ALL {
        for cols in RAGGED {
            for (rows, tokens) in [(1, 1), (3, 2), (4, 3), (5, 4), (17, 7), (16, 13)] {
                check_matmul(&cpus, &reference, format, rows, cols, tokens);
            }
        }
    }
}

#[test]
fn matmul_agrees_on_real_shapes() {
    let (cpus, reference) = (cpus(1), scalar());
    for format in Format::ALL {
        // stories260K's feed-forward both ways, a head of 512 tokens, SmolLM-135M's attention; 37 tokens cross the
        // block of 32.
        check_matmul(&cpus, &reference, format, 172, 64, 37);
        check_matmul(&cpus, &reference, format, 64, 172, 5);
        if !quick() {
            check_matmul(&cpus, &reference, format, 512, 64, 6);
            check_matmul(&cpus, &reference, format, 576, 576, 5);
            check_matmul(&cpus, &reference, format, 16, 8192, 2);
        }
    }
}

/// The int8 path against float arithmetic on the unpacked weights.
///
/// Rounding an activation moves it by at most half a step, max|x of its block| / 254; so the result moves by at most
/// that times the sum of |w|. This is a property of the specification; the tables follow it through the tests above.
#[test]
fn int8_products_stay_near_float_products() {
    let reference = scalar();
    let mut rng = Rng(7);
    for format in [Format::Q8, Format::Q4] {
        for cols in RAGGED {
            let (rows, tokens) = (5, 3);
            let w = Packed::new(format, rows, cols, &rng.values(rows * cols));
            let x = rng.values(tokens * cols);
            let unpacked = w.unpacked();
            let exact = Packed::new(Format::F32, rows, cols, &unpacked).matmul(&reference, &x);
            let (reach, half_steps) = with_half_steps(&x, cols);
            let rounding = magnitudes(&unpacked, &half_steps, cols);
            let magnitudes = magnitudes(&unpacked, &reach, cols);
            let got = w.matmul(&reference, &x);
            assert_close(&format!("{format} cols {cols}"), &got, &exact, |i| {
                rounding[i] + 8.0 * U * magnitudes[i]
            });
        }
    }
}

/// Bytes that no encoder of ours writes: -128, and any scale.
#[test]
fn foreign_q8_bytes_are_multiplied_exactly() {
    let (cpus, reference) = (cpus(1), scalar());
    let cols = 64;
    let mut panel = vec![0; Format::Q8.panel_bytes(cols)];
    quant::clear_panel(Format::Q8, &mut panel);
    let scales = [half::f16::ONE; 2];
    quant::pack_codes(Format::Q8, cols, 0, &scales, &[-128; 64], &mut panel).unwrap();
    let w = Packed::from_bytes(Format::Q8, 1, cols, &panel);
    let x: Vec<f32> = (0..cols)
        .map(|i| if i % 3 == 0 { 127.0 } else { -127.0 })
        .collect();
    let want = w.matmul(&reference, &x);
    assert_eq!(want, [-128.0 * x.iter().sum::<f32>()]);
    for cpu in cpus {
        assert_same(cpu.name(), &w.matmul(&cpu, &x), &want);
    }
}

/// What is not finite must not vanish in the rounding to int8.
#[test]
fn nan_and_infinity_come_through() {
    for cpu in cpus(1).into_iter().chain([scalar()]) {
        for format in Format::ALL {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let w = Packed::new(format, 4, 40, &[0.5; 160]);
                let mut x = vec![1.0; 80];
                x[35] = bad;
                let y = w.matmul(&cpu, &x);
                assert!(
                    y[..4].iter().all(|y| !y.is_finite()),
                    "{} {format} {bad}: {y:?}",
                    cpu.name()
                );
                assert!(
                    y[4..].iter().all(|y| y.is_finite()),
                    "{} {format} {bad}: {y:?}",
                    cpu.name()
                );
            }
        }
    }
}

#[test]
fn thread_counts_give_the_same_bits() {
    let mut rng = Rng(3);
    // Large enough to be shared, with a width that no band divides.
    let (rows, cols, tokens) = if quick() {
        (331, 172, 5)
    } else {
        (1021, 576, 9)
    };
    let x = rng.values(tokens * cols);
    let values = rng.values(rows * cols);
    let weight = rng.values(cols);
    let bias = rng.values(rows);
    let shape = AttentionShape {
        heads: 6,
        kv_heads: 2,
        head_dim: 40,
        scale: 0.16,
    };
    let entries = if quick() { 100 } else { 300 };
    let kv = Kv::new(&mut rng, KvFormat::F32, 2, 40, 64, entries);
    let q_positions: Vec<u32> = (0..9).map(|t| (entries - 9) as u32 + t).collect();
    let q = rng.values(9 * 6 * 40);
    let packed: Vec<_> = Format::ALL
        .map(|f| Packed::new(f, rows, cols, &values))
        .into();
    for table in fast_tables() {
        let run = |threads: usize| {
            let cpu = Cpu::with_table(table, threads).unwrap();
            let mut out: Vec<Vec<f32>> = packed.iter().map(|w| w.matmul(&cpu, &x)).collect();
            let mut norm = vec![0.0; x.len()];
            cpu.rms_norm(&x, &weight, 1e-5, &mut norm).unwrap();
            for w in &packed {
                let linear = Linear {
                    weight: w.matrix(),
                    bias: Some(&bias),
                };
                let [mut acts, mut gated] = [cols, rows].map(|c| Activations::new(tokens, c));
                let norm = RmsNorm {
                    weight: &weight,
                    eps: 1e-5,
                };
                cpu.load_norm(&mut acts, &x, norm, true).unwrap();
                let (mut sum, mut room) = (vec![1.0; tokens * rows], vec![0.0; tokens * rows]);
                cpu.linear_add(&linear, &acts, &mut room, &mut sum).unwrap();
                cpu.load_silu_mul([&linear, &linear], &acts, &mut room, &mut gated, true)
                    .unwrap();
                let (mut y, weight) = (vec![0.0; tokens], Packed::new(Format::Q8, 1, rows, &bias));
                cpu.linear(&weight.matrix().into(), &gated, &mut y).unwrap();
                out.extend([sum, gated.values().to_vec(), y]);
            }
            let mut attended = vec![0.0; q.len()];
            cpu.attention(&q, &q_positions, shape, &kv, &mut [], &mut attended)
                .unwrap();
            out.extend([norm, attended]);
            out
        };
        let one = run(1);
        for threads in [2, 3] {
            for (i, (many, one)) in run(threads).iter().zip(&one).enumerate() {
                assert_same(
                    &format!("{} threads {threads}, output {i}", table.name()),
                    many,
                    one,
                );
            }
        }
    }
}

#[test]
fn elementwise_ops_agree() {
    let reference = scalar();
    for cpu in cpus(1) {
        let name = cpu.name();
        for cols in RAGGED.into_iter().chain([576, 2048]) {
            for rows in [1, 3] {
                let mut rng = Rng((cols * 10 + rows) as u64);
                let (x, weight) = (rng.values(rows * cols), rng.values(cols));
                let what = format!("{name} [{rows}, {cols}]");

                // The sum of squares has only positive terms; its root halves the error. A handful of roundings follow.
                let (mut got, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                cpu.rms_norm(&x, &weight, 1e-5, &mut got).unwrap();
                reference.rms_norm(&x, &weight, 1e-5, &mut want).unwrap();
                let bound = |i: usize| want[i].abs() * U * roundings(cols) + f32::MIN_POSITIVE;
                assert_close(&format!("rms_norm {what}"), &got, &want, bound);
                let mut in_place = x.clone();
                cpu.rms_norm_in_place(&mut in_place, &weight, 1e-5).unwrap();
                assert_same(&format!("rms_norm_in_place {what}"), &in_place, &got);
            }
        }
    }
}

/// What is fused with a product against the same steps one after the other.
#[test]
fn fused_products_agree_with_their_parts() {
    let mut rng = Rng(11);
    for cpu in cpus(1).into_iter().chain([scalar()]) {
        for (rows, cols, tokens) in [(33, 40, 1), (5, 33, 3), (100, 64, 6)] {
            for format in Format::ALL {
                let what = format!("{} {format} [{rows}, {cols}] T={tokens}", cpu.name());
                let quantize = format.is_quantized();
                let w = Packed::new(format, rows, cols, &rng.values(rows * cols));
                let [x, y] = [cols, rows].map(|width| rng.values(tokens * width));
                let [weight, bias] = [cols, rows].map(|width| rng.values(width));
                let linear = Linear {
                    weight: w.matrix(),
                    bias: Some(&bias),
                };

                let mut normed = vec![0.0; x.len()];
                cpu.rms_norm(&x, &weight, 1e-5, &mut normed).unwrap();
                let norm = RmsNorm {
                    weight: &weight,
                    eps: 1e-5,
                };
                let mut acts = Activations::new(tokens, cols);
                cpu.load_norm(&mut acts, &x, norm, quantize).unwrap();
                assert_same(&format!("load_norm {what}"), acts.values(), &normed);

                let mut product = w.matmul(&cpu, &normed);
                for (i, product) in product.iter_mut().enumerate() {
                    *product += bias[i % rows];
                }
                let mut got = vec![f32::NAN; product.len()];
                cpu.linear(&linear, &acts, &mut got).unwrap();
                assert_same(&format!("linear {what}"), &got, &product);

                let (mut room, mut sum) = (vec![f32::NAN; y.len()], y.clone());
                cpu.linear_add(&linear, &acts, &mut room, &mut sum).unwrap();
                let want: Vec<f32> = y.iter().zip(&product).map(|(y, p)| y + p).collect();
                assert_same(&format!("linear_add {what}"), &sum, &want);

                // e^-x within 2 ulp, then three roundings; far below zero as in the next test.
                let mut gated = Activations::new(tokens, rows);
                let unbiased = Linear::from(w.matrix());
                cpu.load_silu_mul([&linear, &unbiased], &acts, &mut room, &mut gated, true)
                    .unwrap();
                let up = w.matmul(&cpu, &normed);
                let want: Vec<f32> = product
                    .iter()
                    .zip(&up)
                    .map(|(g, u)| {
                        (f64::from(*g) / (1.0 + f64::from(-g).exp()) * f64::from(*u)) as f32
                    })
                    .collect();
                let name = format!("load_silu_mul {what}");
                assert_close(&name, gated.values(), &want, |i| {
                    want[i].abs() * 10.0 * U + 1e-38 * (product[i] * up[i]).abs()
                });

                // The rounding that came with it against one of its own.
                let head = Packed::new(Format::Q8, 7, rows, &rng.values(7 * rows));
                let mut got = vec![0.0; tokens * 7];
                cpu.linear(&head.matrix().into(), &gated, &mut got).unwrap();
                assert_same(&name, &got, &head.matmul(&cpu, gated.values()));
            }
        }
    }
}

/// Far below zero the exponential is cut at e^88.37, so that what should be under 1e-36 is only that.
#[test]
fn the_gate_closes_far_below_zero() {
    for cpu in cpus(1) {
        let one = Packed::new(Format::F32, 3, 1, &[-100.0, -88.0, 100.0]);
        let (mut acts, mut out) = (Activations::new(1, 1), Activations::new(1, 3));
        cpu.load(&mut acts, &[1.0], 1, false).unwrap();
        let w = Linear::from(one.matrix());
        cpu.load_silu_mul([&w, &w], &acts, &mut [0.0; 3], &mut out, false)
            .unwrap();
        let y = out.values();
        assert!(
            y[0].abs() < 1e-33 && y[1].abs() < 1e-33,
            "{}: {y:?}",
            cpu.name()
        );
        assert!((y[2] - 1e4).abs() < 1e-2, "{}: {y:?}", cpu.name());
    }
}

#[test]
fn argmax_and_log_sum_exp_agree() {
    let reference = scalar_table();
    for table in fast_tables() {
        for len in RAGGED.into_iter().chain([1023, 1040, 5000]) {
            let x = Rng(len as u64).values(len);
            let what = format!("{} [{len}]", table.name());
            assert_eq!(table.argmax(&x), reference.argmax(&x), "argmax {what}");
            // The argument of e^(x - max) is rounded once: a relative error of |x - max| · U, at most 88 · U where the result is not cut
            // to zero; two ulp of e^x, and 64 additions in a lane. In the logarithm that is an absolute error.
            let (got, want) = (table.log_sum_exp(&x), reference.log_sum_exp(&x));
            let bound = f64::from(U) * (88.0 + 4.0 + 64.0);
            assert!(
                (got - want).abs() <= bound,
                "log_sum_exp {what}: {got}, expected {want} ± {bound:e}"
            );
        }
    }
}

#[test]
fn argmax_and_log_sum_exp_at_their_edges() {
    for table in skimstone_kernels::tables() {
        let name = table.name();
        let mut x = vec![-5.0; 3000];
        for (i, v) in [(17, f32::NAN), (1023, 2.0), (1024, 2.0), (2999, 1.0)] {
            x[i] = v;
        }
        assert_eq!(table.argmax(&x), 1023, "{name}: the first of equals");
        x[2999] = f32::INFINITY;
        assert_eq!(table.argmax(&x), 2999, "{name}");
        assert_eq!(table.argmax(&[]), 0, "{name}");
        assert_eq!(table.argmax(&[f32::NAN; 40]), 0, "{name}");
        assert_eq!(table.argmax(&[f32::NEG_INFINITY; 40]), 0, "{name}");

        let masked = [1.0, f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY, -200.0];
        let want = 1.0 + std::f64::consts::LN_2;
        assert!((table.log_sum_exp(&masked) - want).abs() < 1e-6, "{name}");
        for nothing in [&[][..], &[f32::NEG_INFINITY; 40]] {
            let got = table.log_sum_exp(nothing);
            assert_eq!(got, f64::NEG_INFINITY, "{name}");
        }
        // Far from zero as well as near it.
        let got = table.log_sum_exp(&[3e38, 3e38]);
        assert_eq!(got, f64::from(3e38f32) + std::f64::consts::LN_2, "{name}");
    }
}

#[test]
fn rope_agrees() {
    let reference = scalar();
    for cpu in cpus(1) {
        for (tokens, heads, dim) in [
            (1, 1, 2),
            (3, 2, 8),
            (2, 3, 10),
            (2, 4, 64),
            (1, 2, 66),
            (2, 1, 128),
        ] {
            let mut rng = Rng(dim as u64);
            let x = rng.values(tokens * heads * dim);
            let angles: Vec<f32> = (0..tokens * dim / 2).map(|_| 10.0 * rng.unit()).collect();
            let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
            let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
            let (mut got, mut want) = (x.clone(), x.clone());
            cpu.rope(&mut got, heads, dim, &cos, &sin).unwrap();
            reference.rope(&mut want, heads, dim, &cos, &sin).unwrap();
            // Two products and a difference: three roundings, relative to both members of the pair.
            let bound = |i: usize| {
                let partner = if i % dim < dim / 2 {
                    i + dim / 2
                } else {
                    i - dim / 2
                };
                3.0 * U * (x[i].abs() + x[partner].abs()) + f32::MIN_POSITIVE
            };
            assert_close(
                &format!("rope {} {tokens} {heads} {dim}", cpu.name()),
                &got,
                &want,
                bound,
            );
        }
    }
}

#[test]
fn tables_are_listed_best_first_with_the_specification_last() {
    let names: Vec<_> = skimstone_kernels::tables()
        .iter()
        .map(|t| t.name())
        .collect();
    assert_eq!(names[names.len() - 2..], ["generic", "scalar"]);
    println!("kernel tables of this CPU: {}", names.join(", "));
}
