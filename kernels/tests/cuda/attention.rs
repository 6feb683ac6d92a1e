//! Rotation, append and attention over ragged blocks.

use skimstone_kernels::cuda::{self, Argument, Grid, KvBlock, KvLayer, KvSlot, Launch, Ptr};
use skimstone_kernels::{AttentionShape, KvFormat};

use super::emulator::{Emulator, bytes_of};
use super::support::{Kv, Rng, U, assert_close, roundings, scalar};

/// The sizes as the kernels take them.
pub(crate) fn device_shape(shape: AttentionShape, format: KvFormat) -> cuda::AttentionShape {
    cuda::AttentionShape {
        heads: shape.heads as u32,
        kv_heads: shape.kv_heads as u32,
        head_dim: shape.head_dim as u32,
        kv_format: cuda::kv_format_number(format),
        scale: shape.scale,
        eps: 1e-6,
    }
}

/// Puts blocks on the device, with `spare` empty ones behind them.
pub(crate) fn upload(gpu: &mut Emulator, kv: &Kv, spare: usize) -> (Vec<KvBlock>, KvLayer) {
    let mut blocks = Vec::new();
    let bytes = kv.kv_heads * kv.format.head_bytes(kv.stride, kv.head_dim);
    for block in &kv.blocks {
        let mut positions = block.positions.clone();
        positions.resize(kv.stride, u32::MAX);
        blocks.push(KvBlock {
            k: gpu.buffer(&block.k),
            v: gpu.buffer(&block.v),
            positions: gpu.variables(&positions),
            visible: block.visible,
            len: block.positions.len() as u32,
            stride: kv.stride as u32,
        });
    }
    for _ in 0..spare {
        blocks.push(KvBlock {
            k: gpu.buffer(&vec![0xff; bytes]),
            v: gpu.buffer(&vec![0xff; bytes]),
            positions: gpu.room(kv.stride),
            visible: 0,
            len: 0,
            stride: kv.stride as u32,
        });
    }
    let list = gpu.variables(&blocks);
    let layer = KvLayer {
        blocks: list,
        count: kv.blocks.len() as u32,
        capacity: blocks.len() as u32,
    };
    (blocks, layer)
}

type Attention =
    fn(Grid, Ptr<f32>, Ptr<u32>, Ptr<KvLayer>, Ptr<f32>, cuda::AttentionShape) -> Launch;

#[test]
fn attention_agrees() {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    let reference = scalar();
    // Heads, key-value heads, head size, block size, entries, tokens, splits.
    let cases = [
        (1, 1, 2, 1usize, 1, 1, 1),
        (2, 1, 8, 16, 5, 2, 2),
        (9, 3, 64, 32, 130, 2, 3),
        (4, 4, 18, 33, 100, 2, 2),
        (12, 1, 34, 7, 20, 2, 4),
        (14, 2, 64, 32, 200, 1, 5),
        (12, 2, 128, 32, 100, 1, 2),
        (2, 1, 256, 64, 70, 1, 1),
        (3, 1, 16, 32, 0, 1, 2),
    ];
    for format in KvFormat::ALL {
        for (i, (heads, kv_heads, head_dim, stride, entries, tokens, splits)) in
            cases.into_iter().enumerate()
        {
            let mut rng = Rng((heads * 100 + entries) as u64);
            // The scales of q8 must stand at multiples of four bytes.
            let stride = match format {
                KvFormat::Q8 => stride.next_multiple_of(2),
                _ => stride,
            };
            let mut kv = Kv::new(&mut rng, format, kv_heads, head_dim, stride, entries);
            for (i, block) in kv.blocks.iter_mut().enumerate() {
                block.visible = if i == 1 {
                    0
                } else {
                    rng.bits() | rng.bits() | 1
                };
            }
            let q = rng.values(tokens * heads * head_dim);
            let first = entries - tokens.min(entries);
            let positions: Vec<u32> = (0..tokens).map(|t| (first + t) as u32).collect();
            let scale = 1.0 / (head_dim as f32).sqrt();
            let shape = AttentionShape {
                heads,
                kv_heads,
                head_dim,
                scale,
            };
            let mut want = vec![f32::NAN; q.len()];
            reference
                .attention(&q, &positions, shape, &kv, &mut [], &mut want)
                .unwrap();
            let largest = |part: fn(&super::support::Block) -> &Vec<u8>| {
                let all = kv.blocks.iter().map(|b| kv.largest(part(b)));
                all.fold(0.0, f32::max)
            };
            let (max_k, max_v) = (largest(|b| &b.k), largest(|b| &b.v));
            // As in `tests/attention.rs`; the exponential is that of C, good to an ulp or two of its argument.
            let bound = |i: usize| {
                let q = &q[i / head_dim * head_dim..][..head_dim];
                let magnitude: f32 = scale * q.iter().map(|q| q.abs() * max_k).sum::<f32>();
                let score_error = magnitude * U * (roundings(4 * head_dim) + 8.0);
                (2.0 * score_error + U * (roundings(4 * entries) + 4.0 * kv.blocks.len() as f32))
                    * max_v
            };

            let (_, layer) = upload(&mut gpu, &kv, 0);
            let (qs, at) = (gpu.values(&q), gpu.values(&positions));
            let layer = gpu.values(&[layer]);
            let device = device_shape(shape, format);
            let few = cuda::ATTENTION_FEW_HEADS;
            let kernels: &[(Attention, usize)] = match head_dim {
                ..=64 => &[
                    (cuda::skim_attention_64, 8),
                    (cuda::skim_attention_64_few, few),
                ],
                65..=128 => &[
                    (cuda::skim_attention_128, 8),
                    (cuda::skim_attention_128_few, few),
                ],
                _ => &[(cuda::skim_attention_256, 8)],
            };
            for (kernel, at_a_time) in kernels {
                gpu.seed = i as u64;
                let parts = gpu.room(tokens * splits * heads * (head_dim + 2));
                let grid = Grid::of([kv_heads, splits, tokens], 64 << (i % 2))
                    .with_shared_bytes(cuda::attention_shared_bytes(*at_a_time));
                gpu.launch(&kernel(grid, qs, at, layer, parts, device));
                let (out, int8) = (gpu.room(q.len()), gpu.int8_room(tokens, heads * head_dim));
                let grid = Grid::of([(heads * head_dim).div_ceil(32 * 2), tokens, 1], 64);
                gpu.launch(&cuda::skim_attention_merge(
                    grid,
                    parts,
                    splits as u32,
                    device,
                    out,
                    int8.codes,
                    int8.scales,
                ));
                let got = gpu.floats(out, q.len());
                let what = format!("{format:?} H={heads} G={kv_heads} D={head_dim} S={entries}");
                assert_close(&what, &got, &want, bound);
            }
        }
    }
}

#[test]
fn rotation_and_append_agree() {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    let reference = scalar();
    for format in KvFormat::ALL {
        for (heads, kv_heads, head_dim, normed) in [
            (1, 1, 2, false),
            (3, 1, 18, true),
            (4, 2, 64, true),
            (2, 1, 256, false),
        ] {
            let (stride, tokens) = (6, 3);
            let mut rng = Rng((heads * head_dim) as u64);
            let (q, k, v) = (
                rng.values(tokens * heads * head_dim),
                rng.values(tokens * kv_heads * head_dim),
                rng.values(tokens * kv_heads * head_dim),
            );
            let norms = [rng.values(head_dim), rng.values(head_dim)];
            // Some positions apart, as after dropped chunks, and slots in any order.
            let positions = [4u32, 7, 1];
            let slots = [3usize, 0, 4];
            let half = head_dim / 2;
            let angle = |p: u32, i: usize| {
                f64::from(p) * 10000f64.powf(-((2 * i) as f64) / head_dim as f64)
            };
            let table: Vec<[f32; 2]> = (0..8)
                .flat_map(|p| (0..half).map(move |i| angle(p, i)))
                .map(|a| [a.cos() as f32, a.sin() as f32])
                .collect();
            let rows = positions
                .map(|p| &table[p as usize * half..][..half])
                .concat();
            let (cos, sin): (Vec<f32>, Vec<f32>) = rows.iter().map(|a| (a[0], a[1])).unzip();

            let mut want = [q.clone(), k.clone()];
            for (x, (norm, heads)) in want.iter_mut().zip(norms.iter().zip([heads, kv_heads])) {
                if normed {
                    reference.rms_norm_in_place(x, norm, 1e-6).unwrap();
                }
                reference.rope(x, heads, head_dim, &cos, &sin).unwrap();
            }
            let bytes = kv_heads * format.head_bytes(stride, head_dim);
            let (mut keys, mut values) = (vec![0u8; bytes], vec![0u8; bytes]);
            let width = kv_heads * head_dim;
            for (t, slot) in slots.into_iter().enumerate() {
                let entry = [&want[1][t * width..][..width], &v[t * width..][..width]];
                format
                    .write_entry(slot, stride, head_dim, entry, [&mut keys, &mut values])
                    .unwrap();
            }

            let device_q = gpu.variables(&q);
            let (ks, vs) = (gpu.values(&k), gpu.values(&v));
            let [q_norm, k_norm] = norms.map(|n| if normed { gpu.values(&n) } else { Ptr::NULL });
            let (angles, at) = (gpu.values(&table), gpu.values(&positions));
            let (device_k, device_v) = (gpu.buffer(&vec![0; bytes]), gpu.buffer(&vec![0; bytes]));
            let list = slots.map(|slot| KvSlot {
                k: device_k,
                v: device_v,
                slot: slot as u32,
                stride: stride as u32,
            });
            let list = gpu.values(&list);
            let scale = 1.0;
            let shape = AttentionShape {
                heads,
                kv_heads,
                head_dim,
                scale,
            };
            let grid = Grid::of([(heads + kv_heads).div_ceil(2), tokens, 1], 64);
            gpu.launch(&cuda::skim_rope_append(
                grid,
                device_q,
                ks,
                vs,
                q_norm,
                k_norm,
                angles,
                at,
                list,
                device_shape(shape, format),
            ));
            let what = format!("{format:?} H={heads} D={head_dim}");
            let got = gpu.floats(device_q, q.len());
            // One rotation, and the norm before it.
            let largest = want.concat().iter().fold(0.0f32, |m, x| m.max(x.abs()));
            assert_close(&what, &got, &want[0], |_| largest * U * roundings(head_dim));
            let got = [
                gpu.read_bytes(device_k, bytes),
                gpu.read_bytes(device_v, bytes),
            ];
            let error = largest * U * roundings(head_dim);
            let pairs = numbers(format, head_dim, stride, error, &got[0])
                .into_iter()
                .zip(numbers(format, head_dim, stride, error, &keys));
            for (i, ((got, _), (want, tolerance))) in pairs.enumerate() {
                let close = (got - want).abs() <= tolerance;
                assert!(
                    close,
                    "{what}: key value {i} is {got}, expected {want} ± {tolerance}"
                );
            }
            // Values are not computed with: they are the same bytes.
            assert_eq!(got[1], values, "{what}");
        }
    }
}

/// All values in the keys of a block as stored, each with how far another one may be that was off by `error` before it was stored: that
/// much, and a step of the format.
fn numbers(
    format: KvFormat,
    head_dim: usize,
    stride: usize,
    error: f32,
    bytes: &[u8],
) -> Vec<(f32, f32)> {
    let floats = |bytes: &[u8]| -> Vec<f32> {
        let chunks = bytes.as_chunks::<4>().0.iter();
        chunks.map(|b| f32::from_le_bytes(*b)).collect()
    };
    match format {
        KvFormat::F32 => floats(bytes).into_iter().map(|x| (x, error)).collect(),
        KvFormat::F16 => {
            let chunks = bytes.as_chunks::<2>().0.iter();
            let values = chunks.map(|b| half::f16::from_le_bytes(*b).to_f32());
            values
                .map(|x| (x, error + x.abs() / 1024.0 + 1e-7))
                .collect()
        }
        // A code may be one up or down.
        _ => bytes
            .chunks(format.head_bytes(stride, head_dim))
            .flat_map(|head| {
                let (codes, scales) = head.split_at(stride * head_dim);
                let codes = codes.iter().map(|c| (f32::from(*c as i8), 1.0));
                let scales = floats(scales).into_iter().map(|s| (s, error / 127.0));
                codes.chain(scales).collect::<Vec<_>>()
            })
            .collect(),
    }
}

/// A struct of the device has as many bytes as its fields.
#[test]
fn structs_have_no_gaps() {
    let sizes = [
        (bytes_of(&[KvBlock::default()]).len(), 40),
        (bytes_of(&[KvLayer::default()]).len(), 16),
        (bytes_of(&[KvSlot::default()]).len(), 24),
    ];
    for (found, expected) in sizes {
        assert_eq!(found, expected);
    }
    let mut bytes = Vec::new();
    cuda::LayerWeights::default().write(&mut bytes);
    assert_eq!(bytes.len(), 7 * 32 + 5 * 8 + 8);
}
