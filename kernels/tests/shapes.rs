//! What the safe layer refuses, and what it accepts though there is nothing to do.

mod support;

use skimstone_kernels::{
    Activations, AttentionShape, Cpu, Format, KernelError, KvFormat, Linear, Matrix,
};
use support::{Kv, Packed, Rng, cpus, scalar};

#[test]
fn empty_calls_do_nothing() {
    for cpu in cpus(2).into_iter().chain([scalar()]) {
        let mut acts = Activations::new(2, 8);
        cpu.load(&mut acts, &[], 8, true).unwrap();
        for format in Format::ALL {
            let w = Packed::new(format, 3, 8, &[0.0; 24]);
            cpu.linear(&w.matrix().into(), &acts, &mut []).unwrap();
        }
        cpu.load(&mut acts, &[1.0; 8], 8, false).unwrap();
        let empty = Linear::from(Matrix::new(Format::F16, 0, 8, &[]).unwrap());
        cpu.linear(&empty, &acts, &mut []).unwrap();
        cpu.linear_add(&empty, &acts, &mut [], &mut []).unwrap();
        let mut out = Activations::new(1, 0);
        cpu.load_silu_mul([&empty, &empty], &acts, &mut [], &mut out, true)
            .unwrap();
        cpu.rms_norm(&[], &[1.0; 8], 1e-5, &mut []).unwrap();
        cpu.rope(&mut [], 2, 4, &[], &[]).unwrap();
    }
}

#[test]
fn wrong_shapes_are_refused() {
    use KernelError::{Limit, Multiple, NotQuantized, Shape};
    let cpu = Cpu::new(1).unwrap();
    let mut acts = Activations::new(2, 64);
    let mut load = |x: &[f32], cols: usize| cpu.load(&mut acts, x, cols, false);
    assert!(matches!(
        load(&[0.0; 65], 64),
        Err(Multiple {
            of: 64,
            actual: 65,
            ..
        })
    ));
    assert!(matches!(load(&[], 0), Err(Multiple { of: 0, .. })));
    assert!(matches!(
        load(&[0.0; 65], 65),
        Err(Limit {
            what: "cols",
            limit: 64,
            ..
        })
    ));
    assert!(matches!(
        load(&[0.0; 192], 64),
        Err(Limit {
            what: "tokens",
            limit: 2,
            actual: 3,
            ..
        })
    ));
    load(&[0.0; 64], 32).unwrap();

    let q8 = Packed::new(Format::Q8, 3, 32, &[0.0; 96]);
    let f32s = Packed::new(Format::F32, 3, 33, &[0.0; 99]);
    let mut y = [0.0; 6];
    assert!(matches!(
        cpu.linear(&q8.matrix().into(), &acts, &mut y),
        Err(NotQuantized { format: "q8" })
    ));
    assert!(matches!(
        cpu.linear(&q8.matrix().into(), &acts, &mut y[1..]),
        Err(Shape {
            expected: 6,
            actual: 5,
            ..
        })
    ));
    let result = cpu.linear(&f32s.matrix().into(), &acts, &mut y);
    assert!(matches!(
        result,
        Err(Shape {
            what: "x",
            expected: 33,
            actual: 32,
            ..
        })
    ));
    assert!(matches!(
        q8.matrix().row_into(3, &mut [0.0; 32]),
        Err(Limit {
            limit: 2,
            actual: 3,
            ..
        })
    ));
    assert!(matches!(
        q8.matrix().row_into(0, &mut [0.0; 31]),
        Err(Shape { .. })
    ));

    assert!(cpu.rms_norm(&[0.0; 4], &[], 0.0, &mut [0.0; 4]).is_err());
    assert!(
        cpu.rms_norm(&[0.0; 4], &[1.0; 2], 0.0, &mut [0.0; 3])
            .is_err()
    );
    assert!(
        cpu.rms_norm_in_place(&mut [0.0; 5], &[1.0; 2], 0.0)
            .is_err()
    );
    let (mut room, mut out) = ([0.0; 7], Activations::new(2, 4));
    let f32s = Packed::new(Format::F32, 3, 32, &[0.0; 96]);
    let (w, other) = (
        Linear::from(f32s.matrix()),
        Packed::new(Format::F32, 4, 32, &[0.0; 128]),
    );
    let biased = Linear {
        bias: Some(&[0.0; 2]),
        ..w
    };
    assert!(cpu.linear(&biased, &acts, &mut y).is_err());
    assert!(cpu.linear_add(&w, &acts, &mut room, &mut y).is_err());
    let pair = [&w, &Linear::from(other.matrix())];
    assert!(
        cpu.load_silu_mul(pair, &acts, &mut [0.0; 8], &mut out, true)
            .is_err()
    );
    assert!(
        cpu.load_silu_mul([&w, &w], &acts, &mut room, &mut out, true)
            .is_err()
    );
    let mut small = Activations::new(1, 3);
    assert!(matches!(
        cpu.load_silu_mul([&w, &w], &acts, &mut y, &mut small, true),
        Err(Limit { what: "tokens", .. })
    ));
    assert!(cpu.rope(&mut [0.0; 6], 2, 3, &[0.0; 1], &[0.0; 1]).is_err());
    assert!(cpu.rope(&mut [0.0; 8], 2, 4, &[0.0; 2], &[0.0; 1]).is_err());
    assert!(cpu.rope(&mut [0.0; 8], 1, 4, &[0.0; 2], &[0.0; 2]).is_err());
}

#[test]
fn wrong_attention_shapes_are_refused() {
    let cpu = Cpu::new(1).unwrap();
    let shape = AttentionShape {
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        scale: 0.5,
    };
    let mut out = [0.0; 8];
    let mut run = |shape: AttentionShape, kv: &Kv, q: &[f32]| {
        cpu.attention(q, &[1], shape, kv, &mut [], &mut out)
    };
    let kv = Kv::new(&mut Rng(1), KvFormat::F32, 1, 4, 8, 3);
    run(shape, &kv, &[0.0; 8]).unwrap();
    assert!(run(shape, &kv, &[0.0; 7]).is_err());
    assert!(
        run(
            AttentionShape {
                kv_heads: 0,
                ..shape
            },
            &kv,
            &[0.0; 8]
        )
        .is_err()
    );
    assert!(
        run(
            AttentionShape {
                heads: 3,
                kv_heads: 2,
                ..shape
            },
            &kv,
            &[0.0; 8]
        )
        .is_err()
    );
    assert!(
        run(
            AttentionShape {
                head_dim: 0,
                ..shape
            },
            &kv,
            &[]
        )
        .is_err()
    );
    // Keys of one head where two are read.
    assert!(
        run(
            AttentionShape {
                kv_heads: 2,
                ..shape
            },
            &kv,
            &[0.0; 8]
        )
        .is_err()
    );
    assert!(
        run(
            shape,
            &Kv {
                stride: 65,
                ..Kv::new(&mut Rng(1), KvFormat::F32, 1, 4, 65, 3)
            },
            &[0.0; 8]
        )
        .is_err()
    );
    assert!(
        run(
            shape,
            &Kv::new(&mut Rng(1), KvFormat::F32, 2, 4, 8, 3),
            &[0.0; 8]
        )
        .is_err()
    );
    // More than one span, and a float less than they need.
    let kv = Kv::new(&mut Rng(1), KvFormat::F32, 1, 4, 1, 17);
    let mut room = vec![0.0; shape.room(17) - 1];
    let mut run = |room: &mut [f32]| cpu.attention(&[0.0; 8], &[1], shape, &kv, room, &mut out);
    run(&mut []).unwrap();
    assert!(matches!(
        run(&mut room),
        Err(KernelError::Shape { what: "room", .. })
    ));
}
