//! Quantized tensors: what each block type means, which of them pass through unchanged, and what the others become.

use half::f16;
use serde_json::json;
use skimstone::import::ImportOptions;
use skimstone::kernels::Format;
use skimstone::{Bundle, ErrorKind};

use crate::common::{config_json, values};
use crate::run;
use crate::writer::{F32, File, Tensor, file, permuted};

/// The integer in bits `from .. from + len` of `bytes`, lowest bit first.
fn bits(bytes: &[u8], from: usize, len: usize) -> f64 {
    let bit = |at: usize| u32::from((bytes[at / 8] >> (at % 8)) & 1);
    f64::from((0..len).map(|i| bit(from + i) << i).sum::<u32>())
}

fn half_at(bytes: &[u8], at: usize) -> f64 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f64()
}

/// Where the low four bits of value `i` of a simple block stand, counted from the first nibble.
fn nibble(i: usize) -> usize {
    if i < 16 { 8 * i } else { 8 * (i - 16) + 4 }
}

/// Scale and minimum of group `g` of a Q4_K or Q5_K block.
fn group(block: &[u8], g: usize) -> (f64, f64) {
    let field = &block[4..16];
    if g < 4 {
        return (bits(field, 8 * g, 6), bits(field, 8 * (g + 4), 6));
    }
    let low = 8 * (g + 4);
    let scale = bits(field, low, 4) + 16.0 * bits(field, 8 * (g - 4) + 6, 2);
    let min = bits(field, low + 4, 4) + 16.0 * bits(field, 8 * g + 6, 2);
    (scale, min)
}

/// A block type: number, values and bytes of a block, places of its f16 fields, the meaning of value `i`, and what it becomes.
struct Kind {
    name: &'static str,
    number: u32,
    values: usize,
    bytes: usize,
    halves: &'static [usize],
    value: fn(&[u8], usize) -> f64,
    format: Format,
}

const KINDS: [Kind; 8] = [
    Kind {
        name: "Q4_0",
        number: 2,
        values: 32,
        bytes: 18,
        halves: &[0],
        value: |b, i| half_at(b, 0) * (bits(&b[2..], nibble(i), 4) - 8.0),
        format: Format::Q4,
    },
    Kind {
        name: "Q4_1",
        number: 3,
        values: 32,
        bytes: 20,
        halves: &[0, 2],
        value: |b, i| half_at(b, 0) * bits(&b[4..], nibble(i), 4) + half_at(b, 2),
        format: Format::Q4,
    },
    Kind {
        name: "Q5_0",
        number: 6,
        values: 32,
        bytes: 22,
        halves: &[0],
        value: |b, i| {
            let q = bits(&b[6..], nibble(i), 4) + 16.0 * bits(&b[2..], i, 1);
            half_at(b, 0) * (q - 16.0)
        },
        format: Format::Q8,
    },
    Kind {
        name: "Q5_1",
        number: 7,
        values: 32,
        bytes: 24,
        halves: &[0, 2],
        value: |b, i| {
            let q = bits(&b[8..], nibble(i), 4) + 16.0 * bits(&b[4..], i, 1);
            half_at(b, 0) * q + half_at(b, 2)
        },
        format: Format::Q8,
    },
    Kind {
        name: "Q8_0",
        number: 8,
        values: 32,
        bytes: 34,
        halves: &[0],
        value: |b, i| half_at(b, 0) * f64::from(b[2 + i] as i8),
        format: Format::Q8,
    },
    Kind {
        name: "Q4_K",
        number: 12,
        values: 256,
        bytes: 144,
        halves: &[0, 2],
        value: |b, i| {
            let (scale, min) = group(b, i / 32);
            let q = bits(&b[16 + i / 64 * 32..], 8 * (i % 32) + i / 32 % 2 * 4, 4);
            half_at(b, 0) * scale * q - half_at(b, 2) * min
        },
        format: Format::Q4,
    },
    Kind {
        name: "Q5_K",
        number: 13,
        values: 256,
        bytes: 176,
        halves: &[0, 2],
        value: |b, i| {
            let (scale, min) = group(b, i / 32);
            let low = bits(&b[48 + i / 64 * 32..], 8 * (i % 32) + i / 32 % 2 * 4, 4);
            let q = low + 16.0 * bits(&b[16..48], 8 * (i % 32) + i / 32, 1);
            half_at(b, 0) * scale * q - half_at(b, 2) * min
        },
        format: Format::Q8,
    },
    Kind {
        name: "Q6_K",
        number: 14,
        values: 256,
        bytes: 210,
        halves: &[208],
        value: |b, i| {
            let (half, run, at) = (i / 128, i / 32 % 4, i % 32);
            let low = bits(&b[64 * half + run % 2 * 32..], 8 * at + run / 2 * 4, 4);
            let high = bits(&b[128 + 32 * half..], 8 * at + 2 * run, 2);
            let scale = f64::from(b[192 + i / 16] as i8);
            half_at(b, 208) * scale * (low + 16.0 * high - 32.0)
        },
        format: Format::Q8,
    },
];

/// Random blocks for a tensor of `len` values.
fn blocks(kind: &Kind, seed: u64, len: usize) -> Vec<u8> {
    let count = len / kind.values * kind.bytes;
    let random = values(seed, count);
    let mut bytes: Vec<u8> = random.iter().map(|v| ((v + 1.0) * 128.0) as u8).collect();
    for (block, random) in bytes.chunks_mut(kind.bytes).zip(&random) {
        for &at in kind.halves {
            // Some are negative, as ggml's Q4_0 scales are half of the time.
            let half = f16::from_f32(0.01 * (random + 0.3));
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
    }
    bytes
}

/// Rows whole blocks wide.
fn wide_file() -> File {
    let mut config = config_json("llama");
    config["hidden_size"] = json!(256);
    config["intermediate_size"] = json!(512);
    config["head_dim"] = json!(64);
    file(&config, F32)
}

const DOWN: &str = "model.layers.1.mlp.down_proj.weight";

/// Imports a file whose `ffn_down` of layer 1 holds `bytes`.
fn with_down(kind: &Kind, bytes: &[u8], options: ImportOptions) -> skimstone::Result<Bundle> {
    let mut file = wide_file();
    let tensor = file.tensor("blk.1.ffn_down.weight");
    (tensor.2, tensor.3) = (kind.number, bytes.to_vec());
    run(&file.bytes(), &options.tokenizer(false))
}

fn rows(bundle: &Bundle, name: &str) -> Vec<f32> {
    let matrix = bundle.matrix(name).unwrap();
    let mut out = vec![0.0; matrix.rows() * matrix.cols()];
    for (row, out) in out.chunks_mut(matrix.cols()).enumerate() {
        matrix.row_into(row, out).unwrap();
    }
    out
}

#[test]
fn blocks_mean_what_they_say() {
    for kind in &KINDS {
        let bytes = blocks(kind, 5, 256 * 512);
        let bundle = with_down(kind, &bytes, ImportOptions::new(Format::F32)).unwrap();
        let expected = bytes
            .chunks(kind.bytes)
            .flat_map(|block| (0..kind.values).map(|i| (kind.value)(block, i)));
        for (at, (found, expected)) in rows(&bundle, DOWN).into_iter().zip(expected).enumerate() {
            // A scale times a group scale times an integer, less a minimum: a few roundings of f32 of numbers below 100.
            let tolerance = 1e-5 + expected.abs() * 1e-6;
            assert!(
                (f64::from(found) - expected).abs() <= tolerance,
                "{} value {at}: {found} {expected}",
                kind.name
            );
        }
    }
}

#[test]
fn each_keeps_its_class_of_precision() {
    for kind in &KINDS {
        let bytes = blocks(kind, 6, 256 * 512);
        let exact = with_down(kind, &bytes, ImportOptions::new(Format::F32)).unwrap();
        let bundle = with_down(kind, &bytes, ImportOptions::default()).unwrap();
        assert_eq!(bundle.provenance()["format"], "as in the file");
        let found = bundle.matrix(DOWN).unwrap();
        assert_eq!(found.format(), kind.format, "{}", kind.name);
        let other = bundle
            .matrix("model.layers.0.mlp.down_proj.weight")
            .unwrap();
        assert_eq!(other.format(), Format::F32);

        let (exact, kept) = (rows(&exact, DOWN), rows(&bundle, DOWN));
        for (exact, kept) in exact.chunks(32).zip(kept.chunks(32)) {
            let largest = exact.iter().fold(0.0f32, |max, v| max.max(v.abs()));
            // Half a step of q8, a whole one of q4, and the rounding of the scale to f16: 2⁻¹¹ of it, or 2⁻²⁵ where it is denormal.
            let (steps, integers) = match kind.format {
                Format::Q8 => (0.5, 127.0),
                _ => (1.0, 8.0),
            };
            let step = match kind.name {
                // Not rounded again: scale · integer is exact in f32, so equal values are equal scales and integers.
                "Q8_0" | "Q4_0" => 0.0,
                _ => largest * (steps / integers + 0.5f32.powi(11)) + integers * 0.5f32.powi(25),
            };
            // The scale of q4 is the one with the smallest sum of squares, which may cut a single value.
            let squares: f32 = exact.iter().zip(kept).map(|(a, b)| (a - b).powi(2)).sum();
            let bound = exact.len() as f32 * step * step;
            assert!(squares <= bound, "{}: {squares} {bound}", kind.name);
        }
    }
}

#[test]
fn only_another_format_is_rounded_to() {
    for kind in KINDS
        .iter()
        .filter(|kind| ["Q4_0", "Q8_0"].contains(&kind.name))
    {
        let bytes = blocks(kind, 7, 256 * 512);
        let kept = with_down(kind, &bytes, ImportOptions::default()).unwrap();
        let asked = with_down(kind, &bytes, ImportOptions::new(kind.format)).unwrap();
        assert!(kept.data(DOWN) == asked.data(DOWN));
        let up = "model.layers.1.mlp.up_proj.weight";
        assert_eq!(asked.matrix(up).unwrap().format(), kind.format);
        for format in Format::ALL {
            let bundle = with_down(kind, &bytes, ImportOptions::new(format)).unwrap();
            assert_eq!(bundle.matrix(DOWN).unwrap().format(), format);
        }
    }
}

#[test]
fn quantized_rows_are_put_back_whole() {
    // Row r holds r everywhere: scale r, all integers 1.
    let kind = &KINDS[4];
    let rows_of = |order: &[f32]| -> Vec<u8> {
        let block = |row: &f32| {
            let mut block = f16::from_f32(*row).to_le_bytes().to_vec();
            block.resize(34, 1);
            block.repeat(256 / 32)
        };
        order.iter().flat_map(block).collect()
    };
    let order: Vec<f32> = (0..256).map(|row| row as f32).collect();
    let mut file = wide_file();
    let query = file.tensor("blk.0.attn_q.weight");
    (query.2, query.3) = (kind.number, rows_of(&permuted(&order, 64, 1)));
    let bundle = run(&file.bytes(), &ImportOptions::default().tokenizer(false)).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(bundle.matrix(name).unwrap().format(), Format::Q8);
    let first: Vec<f32> = rows(&bundle, name).chunks(256).map(|row| row[0]).collect();
    assert_eq!(first, order);
}

#[test]
fn scales_that_are_no_numbers_are_refused() {
    for kind in &KINDS {
        let mut bytes = blocks(kind, 9, 256 * 512);
        let at = kind.bytes + kind.halves[0];
        bytes[at..at + 2].copy_from_slice(&f16::INFINITY.to_le_bytes());
        for options in [ImportOptions::default(), ImportOptions::new(Format::F16)] {
            let error = with_down(kind, &bytes, options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NonFinite, "{} {error}", kind.name);
            assert!(error.to_string().contains(DOWN), "{error}");
        }
    }
}

#[test]
fn rows_that_are_not_whole_blocks_are_refused() {
    let mut file = wide_file();
    file.tensors
        .push(Tensor("extra".to_owned(), vec![2, 33], 8, vec![0; 136]));
    let error = run(&file.bytes(), &ImportOptions::default().tokenizer(false)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shape);
    let message = "`extra`: rows of 33 values are not whole Q8_0 blocks of 32";
    assert!(error.to_string().contains(message), "{error}");
}
