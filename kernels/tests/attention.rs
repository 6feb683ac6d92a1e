//! Attention of every kernel table of this CPU against the scalar specification, and against itself however the work is shared.

mod support;

use skimstone_kernels::{AttentionShape, Cpu, KvFormat};
use support::{Kv, Rng, U, assert_close, assert_same, cpus, fast_tables, quick, roundings, scalar};

#[test]
fn attention_agrees() {
    // Heads, key-value heads, head size, block size, entries, tokens.
    let cases = [
        (1, 1, 1, 1, 1, 1),
        (2, 1, 8, 16, 5, 2),
        (8, 4, 8, 64, 70, 3),
        (9, 3, 64, 64, 130, 4),
        (4, 4, 17, 33, 100, 5),
        (24, 1, 33, 7, 20, 2),
        (14, 2, 64, 32, 100, 2),
        (2, 2, 128, 64, 64, 1),
        // Spans are 16 blocks: one less than two of them, two, and a little more.
        (3, 1, 16, 1, 31, 2),
        (4, 2, 8, 3, 96, 2),
        (11, 1, 20, 5, 165, 3),
        (14, 2, 64, 32, 1030, 2),
    ];
    for format in KvFormat::ALL {
        check_attention(format, &cases);
    }
}

fn check_attention(format: KvFormat, cases: &[(usize, usize, usize, usize, usize, usize)]) {
    let reference = scalar();
    let cpus = cpus(1);
    for &(heads, kv_heads, head_dim, stride, entries, tokens) in cases {
        let mut rng = Rng((heads * 100 + entries) as u64);
        let mut kv = Kv::new(&mut rng, format, kv_heads, head_dim, stride, entries);
        for (i, block) in kv.blocks.iter_mut().enumerate() {
            // Some entries hidden, the whole second block too.
            block.visible = if i == 1 {
                0
            } else {
                rng.bits() | rng.bits() | 1
            };
        }
        let q = rng.values(tokens * heads * head_dim);
        let first = entries - tokens.min(entries);
        let q_positions: Vec<u32> = (0..tokens).map(|t| (first + t) as u32).collect();
        let shape = AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
        };
        let (mut got, mut want) = (vec![f32::NAN; q.len()], vec![f32::NAN; q.len()]);
        reference
            .attention(&q, &q_positions, shape, &kv, &mut [], &mut want)
            .unwrap();

        // A score is off by at most `score_error`; that scales a weight by e^±score_error, also in the total. The
        // weighted mean of the values then moves by twice that, and by the roundings of the sums over the entries.
        let max_k = kv
            .blocks
            .iter()
            .map(|b| kv.largest(&b.k))
            .fold(0.0, f32::max);
        let max_v = kv
            .blocks
            .iter()
            .map(|b| kv.largest(&b.v))
            .fold(0.0, f32::max);
        let bound = |i: usize| {
            let q = &q[i / head_dim * head_dim..][..head_dim];
            let magnitude: f32 = shape.scale * q.iter().map(|q| q.abs() * max_k).sum::<f32>();
            // One chain over the dimensions of the head.
            let score_error = magnitude * U * (roundings(4 * head_dim) + 2.0);
            (2.0 * score_error + U * (roundings(4 * entries) + 4.0 * kv.blocks.len() as f32))
                * max_v
        };
        for cpu in &cpus {
            let what = format!(
                "{} {format:?} H={heads} G={kv_heads} D={head_dim} S={entries}",
                cpu.name()
            );
            cpu.attention(&q, &q_positions, shape, &kv, &mut [], &mut got)
                .unwrap();
            assert_close(&what, &got, &want, bound);

            // Token by token, with the entries after it not stored yet: the same bits.
            let width = heads * head_dim;
            for t in 0..tokens {
                let mut then = Kv {
                    blocks: Vec::new(),
                    ..kv
                };
                for b in &kv.blocks {
                    let mut positions = b.positions.clone();
                    positions.retain(|p| *p <= q_positions[t]);
                    then.blocks.push(support::Block {
                        k: b.k.clone(),
                        v: b.v.clone(),
                        positions,
                        visible: b.visible,
                    });
                }
                let mut alone = vec![f32::NAN; width];
                let q = &q[t * width..][..width];
                cpu.attention(q, &q_positions[t..=t], shape, &then, &mut [], &mut alone)
                    .unwrap();
                assert_same(
                    &format!("{what}, token {t} alone"),
                    &got[t * width..][..width],
                    &alone,
                );
            }
        }
    }
}

#[test]
fn a_query_that_sees_nothing_gives_zeros() {
    let mut kv = Kv::new(&mut Rng(1), KvFormat::F16, 1, 4, 8, 3);
    let shape = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
        scale: 0.5,
    };
    kv.blocks[0].visible = 0;
    for cpu in cpus(1).into_iter().chain([scalar()]) {
        let mut out = [f32::NAN; 4];
        cpu.attention(&[1.0; 4], &[5], shape, &kv, &mut [], &mut out)
            .unwrap();
        assert_eq!(out, [0.0; 4], "{}", cpu.name());
        let empty = Kv {
            blocks: Vec::new(),
            ..kv
        };
        cpu.attention(&[1.0; 4], &[5], shape, &empty, &mut [], &mut out)
            .unwrap();
        assert_eq!(out, [0.0; 4], "{}", cpu.name());
    }
}

/// One token with several spans of blocks to read: threads share those, and no bit depends on how many they are.
#[test]
fn shared_spans_give_the_same_bits() {
    // Heads, key-value heads, head size, block size, entries.
    let cases = [
        (14, 2, 64, 32, 2 * 512),
        (14, 2, 64, 32, 2 * 512 + 1),
        (9, 3, 40, 32, 1500),
        (10, 1, 33, 7, 16 * 7 * 4 - 1),
    ];
    for (heads, kv_heads, head_dim, stride, entries) in cases {
        if quick() && entries > 1024 {
            continue;
        }
        for format in KvFormat::ALL {
            let mut rng = Rng(entries as u64);
            let mut kv = Kv::new(&mut rng, format, kv_heads, head_dim, stride, entries);
            // Some entries hidden, the whole second span too.
            for (i, block) in kv.blocks.iter_mut().enumerate() {
                block.visible = if i / 16 == 1 {
                    0
                } else {
                    rng.bits() | rng.bits()
                };
            }
            let q = rng.values(heads * head_dim);
            let shape = AttentionShape {
                heads,
                kv_heads,
                head_dim,
                scale: 1.0 / (head_dim as f32).sqrt(),
            };
            // All entries, half a span less (the last one then has nothing to see), and none.
            let last = entries as u32 - 1;
            for q_position in [last, last - 8 * stride as u32, last / 3] {
                for table in fast_tables() {
                    let run = |threads: usize, room: &mut [f32]| {
                        let cpu = Cpu::with_table(table, threads).unwrap();
                        let mut out = vec![f32::NAN; q.len()];
                        cpu.attention(&q, &[q_position], shape, &kv, room, &mut out)
                            .unwrap();
                        out
                    };
                    let one = run(1, &mut []);
                    for threads in 2..=8 {
                        // More room than needed, and nothing in it that could be taken for a result.
                        let mut room = vec![f32::NAN; shape.room(kv.blocks.len()) + 3];
                        let what = format!(
                            "{} {format:?} H={heads} S={entries} at {q_position}, {threads} threads",
                            table.name()
                        );
                        assert_same(&what, &run(threads, &mut room), &one);
                        assert_same(&what, &run(threads, &mut []), &one);
                    }
                }
            }
        }
    }
}

/// What is not a number in one span must not vanish among the others.
#[test]
fn nan_in_one_span_comes_through() {
    let shape = AttentionShape {
        heads: 8,
        kv_heads: 1,
        head_dim: 32,
        scale: 0.2,
    };
    let mut kv = Kv::new(&mut Rng(1), KvFormat::F32, 1, 32, 32, 1600);
    kv.blocks[17].k[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let mut room = vec![0.0; shape.room(kv.blocks.len())];
    for threads in [1, 3] {
        for cpu in cpus(threads) {
            let mut out = [0.0; 256];
            cpu.attention(&[1.0; 256], &[1600], shape, &kv, &mut room, &mut out)
                .unwrap();
            assert!(out.iter().all(|out| out.is_nan()), "{} {out:?}", cpu.name());
        }
    }
}
