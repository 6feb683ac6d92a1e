//! ggml's tensor types: how large they are, what they become, and a row of them as f32.

use half::{bf16, f16};
use skimstone_kernels::{BLOCK, Format};

use super::dequant;
use crate::error::{Error, ErrorKind, Result};

/// The tensor types that an import reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GgmlType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Number in the file, name, values and bytes of a block, and the format that keeps a tensor's class of precision.
struct Row(GgmlType, u32, &'static str, usize, usize, Format);

const TABLE: [Row; 11] = [
    Row(GgmlType::F32, 0, "F32", 1, 4, Format::F32),
    Row(GgmlType::F16, 1, "F16", 1, 2, Format::F16),
    Row(GgmlType::Bf16, 30, "BF16", 1, 2, Format::F16),
    Row(GgmlType::Q4_0, 2, "Q4_0", BLOCK, 18, Format::Q4),
    Row(GgmlType::Q4_1, 3, "Q4_1", BLOCK, 20, Format::Q4),
    Row(GgmlType::Q5_0, 6, "Q5_0", BLOCK, 22, Format::Q8),
    Row(GgmlType::Q5_1, 7, "Q5_1", BLOCK, 24, Format::Q8),
    Row(GgmlType::Q8_0, 8, "Q8_0", BLOCK, 34, Format::Q8),
    Row(
        GgmlType::Q4K,
        12,
        "Q4_K",
        dequant::SUPER_BLOCK,
        144,
        Format::Q4,
    ),
    Row(
        GgmlType::Q5K,
        13,
        "Q5_K",
        dequant::SUPER_BLOCK,
        176,
        Format::Q8,
    ),
    Row(
        GgmlType::Q6K,
        14,
        "Q6_K",
        dequant::SUPER_BLOCK,
        210,
        Format::Q8,
    ),
];

/// Types that exist but are not read, so that a message can name them.
const OTHERS: [(u32, &str); 19] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (39, "MXFP4"),
];

impl GgmlType {
    /// The type of that number.
    pub(super) fn of(number: u32) -> Result<GgmlType> {
        if let Some(row) = TABLE.iter().find(|row| row.1 == number) {
            return Ok(row.0);
        }
        let name = OTHERS.iter().find(|(other, _)| *other == number);
        let name = name.map_or("unknown", |(_, name)| name);
        let known: Vec<&str> = TABLE.iter().map(|row| row.2).collect();
        let message = format!(
            "type {number} ({name}) is not supported; supported: {}",
            known.join(", ")
        );
        Err(Error::new(ErrorKind::Dtype, message)
            .with_hint("quantize the model to Q8_0, Q4_0, Q4_K_M or Q6_K with llama-quantize"))
    }

    fn row(self) -> &'static Row {
        TABLE
            .iter()
            .find(|row| row.0 == self)
            .expect("every type has its row")
    }

    /// The smallest of our formats that loses least: the same class where there is one, q4 for the other types of four bits, q8
    /// for those of five and six.
    pub(super) fn format(self) -> Format {
        self.row().5
    }

    /// Whether blocks in `format` hold exactly what blocks of this type do.
    pub(super) fn is_same_as(self, format: Format) -> bool {
        matches!(
            (self, format),
            (GgmlType::Q8_0, Format::Q8) | (GgmlType::Q4_0, Format::Q4)
        )
    }

    /// Bytes of a row of `cols` values, a multiple of the block.
    pub(super) fn row_bytes(self, cols: usize) -> usize {
        let Row(_, _, _, values, bytes, _) = *self.row();
        cols / values * bytes
    }

    /// Bytes of a tensor.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] if rows are not whole blocks, or the product overflows.
    pub(super) fn bytes(self, shape: &[usize]) -> Result<u64> {
        let Row(_, _, name, values, bytes, _) = *self.row();
        let cols = shape.last().copied().unwrap_or_default();
        if !cols.is_multiple_of(values) {
            let message = format!("rows of {cols} values are not whole {name} blocks of {values}");
            return Err(Error::new(ErrorKind::Shape, message));
        }
        let rows = &shape[..shape.len().saturating_sub(1)];
        let row_bytes = ((cols / values) as u64).checked_mul(bytes as u64);
        rows.iter()
            .try_fold(row_bytes, |size, &dim| Some(size?.checked_mul(dim as u64)))
            .flatten()
            .ok_or_else(|| {
                let message = format!("{name} {shape:?} overflows the address space");
                Error::new(ErrorKind::Shape, message)
            })
    }

    /// Writes a row as f32; `bytes` is [`row_bytes`](Self::row_bytes) of `out`.
    pub(super) fn unpack_row(self, bytes: &[u8], out: &mut [f32]) {
        let Row(_, _, _, values, block_bytes, _) = *self.row();
        let decode: fn(&[u8], &mut [f32]) = match self {
            GgmlType::F32 => return floats(bytes, out, f32::from_le_bytes),
            GgmlType::F16 => return floats(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            GgmlType::Bf16 => return floats(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            GgmlType::Q4_0 => dequant::q4_0,
            GgmlType::Q4_1 => dequant::q4_1,
            GgmlType::Q5_0 => dequant::q5_0,
            GgmlType::Q5_1 => dequant::q5_1,
            GgmlType::Q8_0 => dequant::q8_0,
            GgmlType::Q4K => dequant::q4_k,
            GgmlType::Q5K => dequant::q5_k,
            GgmlType::Q6K => dequant::q6_k,
        };
        let blocks = bytes.chunks_exact(block_bytes);
        for (block, out) in blocks.zip(out.chunks_exact_mut(values)) {
            decode(block, out);
        }
    }
}

/// The map need not be aligned to floats, so values are put together from bytes.
fn floats<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (out, le) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *out = value(*le);
    }
}
