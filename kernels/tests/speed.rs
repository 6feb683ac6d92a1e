//! A table of an instruction set is at least twice as fast as the generic one, on x86-64, where the generic one has no more than SSE2.
//!
//! Not a benchmark. What is written over `Isa` is compiled for the features of the CPU only if everything between is inlined; one call
//! that is not gives the right results some twenty times as slowly, which no other test would see.

#![cfg(target_arch = "x86_64")]

mod support;

use std::time::{Duration, Instant};

use skimstone_kernels::{Activations, AttentionShape, Cpu, Format, KvFormat};
use support::{Kv, Packed, Rng, cpus, quick};

/// The shortest of many runs: what the machine's other work adds is left out.
fn shortest(mut run: impl FnMut()) -> Duration {
    let times = (0..40).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed()
    });
    times.min().unwrap_or_default()
}

fn measure(cpu: &Cpu) -> Vec<(String, Duration)> {
    let mut rng = Rng(1);
    let (rows, cols) = (96, 512);
    let mut out = Vec::new();
    for format in Format::ALL {
        let w = Packed::new(format, rows, cols, &rng.values(rows * cols));
        for tokens in [1, 8] {
            let x = rng.values(tokens * cols);
            let mut acts = Activations::new(tokens, cols);
            let mut y = vec![0.0; tokens * rows];
            let time = shortest(|| {
                cpu.load(&mut acts, &x, cols, true).unwrap();
                cpu.linear(&w.matrix().into(), &acts, &mut y).unwrap();
            });
            out.push((format!("{format} T={tokens}"), time));
        }
    }
    let shape = AttentionShape {
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        scale: 0.125,
    };
    for format in KvFormat::ALL {
        let kv = Kv::new(&mut rng, format, 2, 64, 32, 256);
        let q = rng.values(14 * 64);
        let mut y = vec![0.0; q.len()];
        let time = shortest(|| {
            cpu.attention(&q, &[256], shape, &kv, &mut [], &mut y)
                .unwrap()
        });
        out.push((format!("attention {}", format.name()), time));
    }
    out
}

#[test]
fn every_table_is_faster_than_generic() {
    if quick() {
        // An emulator's times say nothing.
        return;
    }
    let cpus = cpus(1);
    let (generic, others) = cpus.split_last().unwrap();
    assert_eq!(generic.name(), "generic");
    let slowest = measure(generic);
    for cpu in others {
        for ((what, time), (_, limit)) in measure(cpu).iter().zip(&slowest) {
            println!("{} {what}: {time:?}, generic {limit:?}", cpu.name());
            assert!(
                2 * *time <= *limit,
                "{} {what}: {time:?}, the generic table takes {limit:?}",
                cpu.name()
            );
        }
    }
}
