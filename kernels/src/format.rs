//! Weight formats and the checked view of a weight matrix.

use crate::{KernelError, Result, quant};

/// Values per block of the quantized formats.
///
/// 32 is one 256-bit vector of bytes, two NEON vectors, and the block of the GGUF formats that weights come from.
pub const BLOCK: usize = 32;

/// Rows of a quantized matrix that are stored interleaved.
///
/// 16 rows × 4 bytes are one 512-bit vector, two of AVX2, four of NEON: one load feeds the dot-product unit of each.
pub const PANEL: usize = 16;

/// How the values of a weight matrix are stored.
///
/// Float formats lie row by row. The quantized formats lie in panels of [`PANEL`] rows, the last one filled up with zero rows. A
/// panel is cut along the columns into blocks of [`BLOCK`], the last one filled up with zeros; a block holds an f16 scale for
/// each row, then the codes, four columns of every row side by side:
///
/// ```text
/// block:  scale[16] f16 │ r0: c0 c1 c2 c3 │ r1: c0 c1 c2 c3 │ … │ r15: c0 c1 c2 c3 │ r0: c4 c5 c6 c7 │ …
/// ```
///
/// So a panel is one stream of memory, a vector register holds one partial sum per row and no sum ever crosses lanes. It serves
/// the 4-byte dot products of x86 (`vpdpbusd`, `vpmaddubsw`) and of aarch64 (`sdot`) as it stands, and `smmla` after one `zip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// 32-bit floats, little endian.
    F32,
    /// 16-bit floats, little endian.
    F16,
    /// 8.5 bits per weight: bytes; value = scale · (byte − 128).
    Q8,
    /// 4.5 bits per weight: a byte holds column `c` in its low and column `c + 4` in its high four bits, for `c % 8 < 4`;
    /// value = scale · (bits − 8).
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

    /// Rows that are stored together: [`PANEL`] for the quantized formats, 1 for floats.
    pub const fn panel_rows(self) -> usize {
        if self.is_quantized() { PANEL } else { 1 }
    }

    /// Bytes of one panel of `cols` columns.
    ///
    /// Saturates instead of overflowing, so that an absurd size from a file fails the length check that follows.
    pub const fn panel_bytes(self, cols: usize) -> usize {
        match self {
            Self::F32 => cols.saturating_mul(4),
            Self::F16 => cols.saturating_mul(2),
            Self::Q8 => cols.div_ceil(BLOCK).saturating_mul(quant::Q8_BYTES),
            Self::Q4 => cols.div_ceil(BLOCK).saturating_mul(quant::Q4_BYTES),
        }
    }

    /// Number of panels of a matrix of `rows` rows.
    pub const fn panels(self, rows: usize) -> usize {
        rows.div_ceil(self.panel_rows())
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
    panel_bytes: usize,
    data: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// Views `data`, `format.panels(rows)` panels of `format.panel_bytes(cols)` bytes, as `rows` rows of `cols` values.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if `data` has another length, [`KernelError::Misaligned`] if it starts at an odd place.
    pub fn new(format: Format, rows: usize, cols: usize, data: &'a [u8]) -> Result<Self> {
        let panel_bytes = format.panel_bytes(cols);
        let expected = panel_bytes.saturating_mul(format.panels(rows));
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
            panel_bytes,
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
        let lanes = self.format.panel_rows();
        quant::unpack_row(
            self.format,
            self.cols,
            self.panel(row / lanes),
            row % lanes,
            out,
        )
    }

    /// The bytes of panel `panel`; of a float matrix, row `panel`.
    #[inline(always)]
    pub(crate) fn panel(&self, panel: usize) -> &'a [u8] {
        &self.data[panel * self.panel_bytes..(panel + 1) * self.panel_bytes]
    }
}

/// A weight matrix `[rows, cols]` and what is added to its product.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// `[rows, cols]`
    pub weight: Matrix<'a>,
    /// `[rows]`
    pub bias: Option<&'a [f32]>,
}

impl<'a> From<Matrix<'a>> for Linear<'a> {
    fn from(weight: Matrix<'a>) -> Self {
        Linear { weight, bias: None }
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
    fn panels_are_filled_up() {
        let cases = [
            (Format::F32, 17, 33, (17, 132)),
            (Format::F16, 17, 33, (17, 66)),
            (Format::Q8, 17, 33, (2, 16 * 68)),
            (Format::Q4, 16, 32, (1, 16 * 18)),
        ];
        for (format, rows, cols, expected) in cases {
            let found = (format.panels(rows), format.panel_bytes(cols));
            assert_eq!(found, expected, "{format} [{rows}, {cols}]");
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
