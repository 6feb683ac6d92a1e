//! Products with one token and with many.

use skimstone_kernels::cuda::{self, Grid, Launch, Product, Products, Ptr};
use skimstone_kernels::{Activations, BLOCK, Format};

use super::emulator::{Emulator, Int8, reach};
use super::support::{Packed, Rng, U, assert_close, roundings, scalar};

const QUANTIZED: [Format; 2] = [Format::Q8, Format::Q4];

/// Rows and columns around the sizes of panels, blocks and teams.
const RAGGED: [(usize, usize); 9] = [
    (1, 1),
    (15, 31),
    (16, 32),
    (17, 33),
    (33, 100),
    (64, 256),
    (5, 257),
    (100, 576),
    (48, 1025),
];

#[test]
fn gemv_agrees() {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    let reference = scalar();
    for format in QUANTIZED {
        for (i, (rows, cols)) in RAGGED.into_iter().enumerate() {
            let mut rng = Rng((rows * 1009 + cols) as u64);
            let sizes = [
                rows,
                rows.div_ceil(3),
                if i % 2 == 0 { 0 } else { 2 * rows },
            ];
            let x = rng.values(cols);
            let rounded = gpu.rounded(&x, cols);
            for (team, blocks, seed) in [(1, 1, 0), (2, 3, 1), (4, 2, 2)] {
                gpu.seed = seed;
                let mut of = Products::default();
                let mut expected = Vec::new();
                for (n, rows) in sizes.into_iter().enumerate().filter(|(_, rows)| *rows > 0) {
                    let w = Packed::new(format, rows, cols, &rng.values(rows * cols));
                    let bias = rng.values(rows);
                    let (bias, add) = match n {
                        0 => (None, true),
                        _ => (Some(&bias[..]), false),
                    };
                    let before = rng.values(rows);
                    let mut want = w.matmul(&reference, &x);
                    for (r, want) in want.iter_mut().enumerate() {
                        *want += bias.map_or(0.0, |b| b[r]) + if add { before[r] } else { 0.0 };
                    }
                    of.of[n] = Product {
                        w: gpu.matrix(&w, bias),
                        y: gpu.variables(&before),
                        add: add.into(),
                        reserved: 0,
                    };
                    let mut reach = reach(&w.unpacked(), &x, cols);
                    for (reach, before) in reach.iter_mut().zip(&before) {
                        *reach += before.abs() + 3.0;
                    }
                    expected.push((n, want, reach));
                }
                gpu.launch(&cuda::skim_gemv(
                    Grid::new(blocks, 32 * 4),
                    of,
                    rounded.codes,
                    rounded.scales,
                    team,
                    Ptr::NULL,
                ));
                for (n, want, reach) in expected {
                    let got = gpu.floats(of.of[n].y, want.len());
                    let what = format!("gemv {format} [{}, {cols}] team {team}", want.len());
                    assert_close(&what, &got, &want, |i| reach[i] * U * roundings(cols));
                }
            }
        }
    }
}

#[test]
fn the_largest_output_of_gemv_is_found() {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    let mut rng = Rng(5);
    let (rows, cols) = (300, 64);
    let w = Packed::new(Format::Q4, rows, cols, &rng.values(rows * cols));
    let x = rng.values(cols);
    let rounded = gpu.rounded(&x, cols);
    let mut of = Products::default();
    of.of[0].w = gpu.matrix(&w, None);
    of.of[0].y = gpu.room(rows);
    let best = gpu.variables(&[0u64]);
    let grid = Grid::new(3, 128);
    gpu.launch(&cuda::skim_gemv(
        grid,
        of,
        rounded.codes,
        rounded.scales,
        1,
        best,
    ));
    let y = gpu.floats(of.of[0].y, rows);
    let rank = u64::from_le_bytes(gpu.read_bytes(best, 1).try_into().unwrap());
    let largest = (0..rows)
        .rev()
        .max_by(|a, b| y[*a].total_cmp(&y[*b]))
        .unwrap();
    assert_eq!(cuda::index_of_rank(rank) as usize, largest);
}

#[test]
fn gated_products_agree() {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    let reference = scalar();
    for format in QUANTIZED {
        for (rows, cols) in [(1, 1), (16, 32), (31, 33), (33, 100), (100, 257), (80, 576)] {
            let mut rng = Rng((rows * 1013 + cols) as u64);
            let factor = 2.0 / cols as f32;
            let mut values =
                || -> Vec<f32> { rng.values(rows * cols).iter().map(|v| v * factor).collect() };
            let (gate, up) = (
                Packed::new(format, rows, cols, &values()),
                Packed::new(format, rows, cols, &values()),
            );
            let x = rng.values(cols);
            let mut acts = Activations::new(1, cols);
            reference.load(&mut acts, &x, cols, true).unwrap();
            let mut up_y = vec![0.0; rows];
            let mut gated = Activations::new(1, rows);
            let matrices = [&gate.matrix().into(), &up.matrix().into()];
            reference
                .load_silu_mul(matrices, &acts, &mut up_y, &mut gated, true)
                .unwrap();
            let want = gated.values();

            let rounded = gpu.rounded(&x, cols);
            let out = gpu.int8_room(1, rows);
            let (g, u) = (gpu.matrix(&gate, None), gpu.matrix(&up, None));
            for (threads, blocks) in [(128, 1), (256, 3)] {
                gpu.launch(&cuda::skim_gemv_gated(
                    Grid::new(blocks, threads),
                    g,
                    u,
                    rounded.codes,
                    rounded.scales,
                    out.codes,
                    out.scales,
                ));
                let got = gpu.unrounded(out, 1, rows);
                assert_rounded(&format!("gated {format} [{rows}, {cols}]"), &got, want);
            }
        }
    }
}

/// Rounding moves a value by half a step; a thousandth of the largest is for what came before it.
pub(crate) fn assert_rounded(what: &str, got: &[f32], want: &[f32]) {
    let steps: Vec<f32> = want
        .chunks(BLOCK)
        .map(|b| b.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 254.0)
        .collect();
    assert_close(what, got, want, |i| steps[i / BLOCK] * 1.01 + 1e-30);
}

/// Checks a kernel for several tokens.
fn check_gemm(
    name: &str,
    tile_tokens: usize,
    kernel: impl Fn(Grid, Product, Ptr<i8>, Ptr<cuda::Scale>, u32) -> Launch,
) {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    let reference = scalar();
    for format in QUANTIZED {
        for (rows, cols, tokens) in [
            (1, 1, 1),
            (16, 32, 2),
            (17, 33, 5),
            (64, 64, 32),
            (65, 100, 33),
            (130, 257, 67),
            (48, 576, 8),
        ] {
            let mut rng = Rng((rows * 1009 + cols + tokens) as u64);
            let w = Packed::new(format, rows, cols, &rng.values(rows * cols));
            let (x, bias) = (rng.values(tokens * cols), rng.values(rows));
            let before = rng.values(tokens * rows);
            let rounded: Int8 = gpu.rounded(&x, cols);
            let add = tokens % 2 == 1;
            let product = Product {
                w: gpu.matrix(&w, Some(&bias)),
                y: gpu.variables(&before),
                add: add.into(),
                reserved: 0,
            };
            gpu.seed = tokens as u64 % 3;
            let grid = Grid::of(
                [
                    rows.div_ceil(cuda::TILE_ROWS),
                    tokens.div_ceil(tile_tokens),
                    1,
                ],
                128,
            );
            gpu.launch(&kernel(
                grid,
                product,
                rounded.codes,
                rounded.scales,
                tokens as u32,
            ));
            let mut want = w.matmul(&reference, &x);
            for (i, want) in want.iter_mut().enumerate() {
                *want += bias[i % rows] + if add { before[i] } else { 0.0 };
            }
            let got = gpu.floats(product.y, tokens * rows);
            let reach = reach(&w.unpacked(), &x, cols);
            let what = format!("{name} {format} [{rows}, {cols}] T={tokens}");
            assert_close(&what, &got, &want, |i| {
                (reach[i] + bias[i % rows].abs() + before[i].abs()) * U * roundings(cols)
            });
        }
    }
}

#[test]
fn gemm_agrees() {
    check_gemm("gemm", cuda::GEMM_TOKENS, cuda::skim_gemm);
}

#[test]
fn gemm_of_the_tensor_cores_agrees() {
    check_gemm("gemm_mma", cuda::MMA_TOKENS, cuda::skim_gemm_mma);
}

#[test]
fn products_with_float_weights_agree() {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    let reference = scalar();
    for format in [Format::F32, Format::F16] {
        for (rows, cols, tokens) in [(1, 1, 1), (5, 33, 2), (20, 100, 3)] {
            let mut rng = Rng((rows + cols) as u64);
            let w = Packed::new(format, rows, cols, &rng.values(rows * cols));
            let x = rng.values(tokens * cols);
            let product = Product {
                w: gpu.matrix(&w, None),
                y: gpu.room(tokens * rows),
                add: 0,
                reserved: 0,
            };
            let xs = gpu.values(&x);
            let grid = Grid::of([rows.div_ceil(4), tokens, 1], 128);
            gpu.launch(&cuda::skim_gemv_float(grid, product, xs));
            let got = gpu.floats(product.y, tokens * rows);
            let reach = reach(&w.unpacked(), &x, cols);
            let what = format!("gemv_float {format} [{rows}, {cols}]");
            assert_close(&what, &got, &w.matmul(&reference, &x), |i| {
                reach[i] * U * roundings(cols)
            });
        }
    }
}
