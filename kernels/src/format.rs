//! Weight formats and the checked view of a weight matrix.

use crate::{KernelError, Result, quant};

/// Values per block of the quantized formats.
///
/// 32 is one 256-bit vector of bytes, two NEON vectors, and the block of the GGUF formats that weights come from.
pub const BLOCK: usize = 32;

/// How the values of a weight matrix are stored, row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// 32-bit floats, little endian.
    F32,
    /// 16-bit floats, little endian.
    F16,
    /// Blocks of 32 values in 34 bytes: an f16 scale, then 32 signed bytes; value = scale · byte.
    Q8,
    /// Blocks of 32 values in 18 bytes: an f16 scale, then 16 bytes that hold value `i` in the low and value `i + 16`
    /// in the high four bits; value = scale · (bits − 8).
    Q4,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Q8, Self::Q4];

    /// The name used in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    /// Bytes of one row of `cols` values. The last block of a quantized row is padded with zeros.
    ///
    /// Saturates instead of overflowing, so that an absurd size from a file fails the length check that follows.
    pub const fn row_bytes(self, cols: usize) -> usize {
        match self {
            Self::F32 => cols.saturating_mul(4),
            Self::F16 => cols.saturating_mul(2),
            Self::Q8 => cols.div_ceil(BLOCK).saturating_mul(quant::Q8_BYTES),
            Self::Q4 => cols.div_ceil(BLOCK).saturating_mul(quant::Q4_BYTES),
        }
    }

    /// Whether products with this format use int8 activations.
    pub const fn is_quantized(self) -> bool {
        matches!(self, Self::Q8 | Self::Q4)
    }

    /// Alignment that the first byte of a matrix needs: that of its widest field.
    pub const fn align(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Q8 | Self::Q4 => 2,
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A weight matrix `[rows, cols]` inside someone else's bytes, usually a memory-mapped file.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    data: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// Views `data` as `rows` rows of `cols` values.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if `data` has another length, [`KernelError::Misaligned`] if it starts at an odd place.
    pub fn new(format: Format, rows: usize, cols: usize, data: &'a [u8]) -> Result<Self> {
        let row_bytes = format.row_bytes(cols);
        let expected = row_bytes.saturating_mul(rows);
        if data.len() != expected {
            return Err(KernelError::Shape {
                op: "matrix",
                what: "data",
                expected,
                actual: data.len(),
            });
        }
        let aligned = (data.as_ptr() as usize).is_multiple_of(format.align());
        if !aligned && !data.is_empty() {
            return Err(KernelError::Misaligned {
                format: format.name(),
                align: format.align(),
            });
        }
        Ok(Self {
            format,
            rows,
            cols,
            row_bytes,
            data,
        })
    }

    /// Number of rows: outputs of the product.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns: inputs of the product.
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// How the values are stored.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The stored bytes, all rows.
    pub const fn bytes(&self) -> &'a [u8] {
        self.data
    }

    /// Writes row `row` as f32 into `out`: the embedding lookup.
    ///
    /// # Errors
    /// [`KernelError::Limit`] if there is no such row, [`KernelError::Shape`] if `out` is not `cols` long.
    pub fn row_into(&self, row: usize, out: &mut [f32]) -> Result<()> {
        if row >= self.rows {
            let limit = self.rows.saturating_sub(1);
            return Err(KernelError::Limit {
                op: "row_into",
                what: "row",
                limit,
                actual: row,
            });
        }
        quant::unpack_row(self.format, self.cols, self.row(row), out)
    }

    /// The bytes of row `row`.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.row_bytes..(row + 1) * self.row_bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for f in Format::ALL {
            assert_eq!(Format::from_name(f.name()), Some(f));
        }
        assert_eq!(Format::from_name("q5"), None);
    }

    #[test]
    fn row_bytes_pads_to_whole_blocks() {
        let cases = [
            (Format::F32, 33, 132),
            (Format::F16, 33, 66),
            (Format::Q8, 33, 68),
            (Format::Q4, 32, 18),
        ];
        for (format, cols, bytes) in cases {
            assert_eq!(format.row_bytes(cols), bytes, "{format} of {cols}");
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        for f in Format::ALL {
            assert!(matches!(
                Matrix::new(f, usize::MAX, usize::MAX, &[]),
                Err(KernelError::Shape { .. })
            ));
        }
    }

    #[test]
    fn odd_addresses_are_refused() {
        let bytes = [0u32; 3];
        let bytes: Vec<u8> = bytes.iter().flat_map(|v| v.to_le_bytes()).collect();
        let start = bytes.as_ptr().align_offset(4) + 1;
        let odd = &bytes[start..start + 4];
        assert!(matches!(
            Matrix::new(Format::F32, 1, 1, odd),
            Err(KernelError::Misaligned { align: 4, .. })
        ));
        assert!(matches!(
            Matrix::new(Format::F16, 1, 2, odd),
            Err(KernelError::Misaligned { align: 2, .. })
        ));
    }
}
