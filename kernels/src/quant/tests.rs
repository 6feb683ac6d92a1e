use super::*;

/// Packs `rows` as one panel and reads every row back.
fn round_trip(format: Format, cols: usize, x: &[f32]) -> Vec<f32> {
    let mut panel = vec![0xaa; format.panel_bytes(cols)];
    pack_panel(format, cols, x, &mut panel).unwrap();
    let mut out = vec![f32::NAN; x.len()];
    for (lane, out) in out.chunks_exact_mut(cols).enumerate() {
        unpack_row(format, cols, &panel, lane, out).unwrap();
    }
    out
}

fn some_values(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013)
        .collect()
}

#[test]
fn round_trips_stay_within_half_a_step() {
    for (rows, cols) in [(1, 1), (2, 31), (16, 32), (5, 33), (15, 64), (16, 100)] {
        let x = some_values(rows * cols);
        let y = round_trip(Format::F32, cols, &x[..cols]);
        assert_eq!(y, x[..cols]);
        for (a, b) in x[..cols]
            .iter()
            .zip(round_trip(Format::F16, cols, &x[..cols]))
        {
            assert!((a - b).abs() <= a.abs() * 0.5f32.powi(11), "f16 {a} {b}");
        }
        let y = round_trip(Format::Q8, cols, &x);
        for (x, y) in x.chunks(cols).zip(y.chunks(cols)) {
            for (x, y) in x.chunks(BLOCK).zip(y.chunks(BLOCK)) {
                let max = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                for (a, b) in x.iter().zip(y) {
                    // Half a step of max/127, and 2^-11 relative from the f16 scale.
                    let step = max * (0.5 / 127.0 + 0.5f32.powi(11));
                    assert!((a - b).abs() <= step, "q8 {a} {b}");
                }
            }
        }
    }
}

#[test]
fn q4_is_never_worse_than_rounding_to_the_plain_scale() {
    let squares = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    let (mut ours, mut plain) = (0.0, 0.0);
    for x in some_values(4096).chunks(BLOCK) {
        let extreme = x
            .iter()
            .fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
        let scale = f16::from_f32(extreme / -8.0).to_f32();
        let rounded: Vec<f32> = x
            .iter()
            .map(|v| scale * (v / scale).round_ties_even().clamp(-8.0, 7.0))
            .collect();
        let found = squares(x, &round_trip(Format::Q4, BLOCK, x));
        let bound = squares(x, &rounded);
        assert!(found <= bound * (1.0 + 1e-5), "{found} {bound}");
        (ours, plain) = (ours + found, plain + bound);
    }
    assert!(
        ours < 0.97 * plain,
        "the search finds better scales: {ours} of {plain}"
    );
}

#[test]
fn codes_come_back_as_given() {
    for (format, low, count) in [(Format::Q8, -128i16, 256), (Format::Q4, -8, 16)] {
        let cols = 40;
        let mut panel = vec![0; format.panel_bytes(cols)];
        clear_panel(format, &mut panel);
        let codes: Vec<i8> = (0..64).map(|i| (low + i * 29 % count) as i8).collect();
        let scales = [f16::from_f32(0.5), f16::from_f32(-2.0)];
        pack_codes(format, cols, 3, &scales, &codes, &mut panel).unwrap();
        for b in 0..2 {
            assert_eq!(
                block_of(format, &panel, b, 3),
                (scales[b], codes[b * BLOCK..][..BLOCK].try_into().unwrap())
            );
            assert_eq!(block_of(format, &panel, b, 4), (f16::ZERO, [0; BLOCK]));
        }
    }
    let mut panel = vec![0; Format::Q4.panel_bytes(32)];
    let mut pack =
        |lane, code| pack_codes(Format::Q4, 32, lane, &[f16::ONE], &[code; 32], &mut panel);
    assert!(matches!(
        pack(0, 8),
        Err(KernelError::Value { index: 0, .. })
    ));
    assert!(matches!(
        pack(16, 7),
        Err(KernelError::Limit { limit: 15, .. })
    ));
}

#[test]
fn zeros_and_tiny_values_become_zeros() {
    for format in [Format::Q8, Format::Q4] {
        assert_eq!(round_trip(format, 3, &[0.0, -0.0, 0.0]), [0.0; 3]);
        assert_eq!(round_trip(format, 3, &[1e-30, -1e-40, 0.0]), [0.0; 3]);
    }
}

#[test]
fn the_extreme_value_survives_q4() {
    for x in [[0.0, -8.0, 1.0, 7.0], [0.0, 8.0, 1.0, -7.0]] {
        assert_eq!(round_trip(Format::Q4, 4, &x), x);
    }
}

#[test]
fn values_without_a_place_are_refused() {
    for (format, bad) in [
        (Format::F32, f32::NAN),
        (Format::F32, f32::INFINITY),
        (Format::F16, 65520.0),
        (Format::Q8, 127.1 * 65504.0),
        (Format::Q4, -8.1 * 65504.0),
    ] {
        let mut out = vec![0; format.panel_bytes(3)];
        let result = pack_panel(format, 3, &[0.0, bad, 1.0], &mut out);
        let refused = matches!(result, Err(KernelError::Value { index: 1, .. }));
        assert!(refused, "{format} {bad}");
    }
}

#[test]
fn wrong_lengths_are_refused() {
    for format in Format::ALL {
        assert!(pack_panel(format, 3, &[0.0; 3], &mut []).is_err());
        assert!(unpack_row(format, 3, &[], 0, &mut [0.0; 3]).is_err());
        let mut panel = vec![0; format.panel_bytes(3)];
        let too_many = vec![0.0; 3 * (format.panel_rows() + 1)];
        assert!(pack_panel(format, 3, &too_many, &mut panel).is_err());
        assert!(unpack_row(format, 3, &panel, 0, &mut [0.0; 4]).is_err());
        assert!(unpack_row(format, 3, &panel, format.panel_rows(), &mut [0.0; 3]).is_err());
    }
}

#[test]
fn a_bad_scale_is_found() {
    for format in [Format::Q8, Format::Q4] {
        let mut panels = vec![0; 2 * format.panel_bytes(64)];
        assert_eq!(first_bad_scale(format, 64, &panels), None);
        let at = format.panel_bytes(64) + format.panel_bytes(32) + 2 * 7;
        panels[at..at + 2].copy_from_slice(&f16::NAN.to_le_bytes());
        assert_eq!(first_bad_scale(format, 64, &panels), Some((1, 1, 7)));
    }
}
