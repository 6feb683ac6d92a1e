//! Q8_0 and Q4_0 rows → q8 and q4 rows without rounding: the same scales, the same integers.
//!
//! [`QuantizedRow`] is what both sides agree on.

use half::f16;
use skimstone_kernels::{BLOCK, Format, quant};

use super::ggml::GgmlType;
use crate::error::{Error, ErrorKind, Result};

/// A row as a scale per [`BLOCK`] and an integer per value; value = scale · integer.
#[derive(Debug, Default)]
pub(super) struct QuantizedRow {
    scales: Vec<f16>,
    /// −8..=7 for four bits, −128..=127 for eight; a whole number of blocks.
    values: Vec<i8>,
}

impl QuantizedRow {
    /// Reads a row of `kind`, Q8_0 or Q4_0.
    ///
    /// # Errors
    /// [`ErrorKind::NonFinite`] for a scale that is none.
    pub(super) fn read(&mut self, kind: GgmlType, row: &[u8]) -> Result<()> {
        self.scales.clear();
        self.values.clear();
        for block in row.chunks_exact(kind.row_bytes(BLOCK)) {
            let scale = f16::from_le_bytes([block[0], block[1]]);
            if !scale.is_finite() {
                let message = format!("the scale of block {} is {scale}", self.scales.len());
                return Err(Error::new(ErrorKind::NonFinite, message));
            }
            self.scales.push(scale);
            let q = &block[2..];
            match kind {
                GgmlType::Q8_0 => self.values.extend(q.iter().map(|&byte| byte as i8)),
                _ => {
                    let low = q.iter().map(|byte| (byte & 15) as i8 - 8);
                    let high = q.iter().map(|byte| (byte >> 4) as i8 - 8);
                    self.values.extend(low.chain(high));
                }
            }
        }
        Ok(())
    }

    /// Writes the row of `cols` values as row `lane` of a panel in `format`, q8 or q4.
    pub(super) fn store(
        &self,
        format: Format,
        cols: usize,
        lane: usize,
        panel: &mut [u8],
    ) -> Result<()> {
        let (scales, codes) = (&self.scales, &self.values);
        Ok(quant::pack_codes(format, cols, lane, scales, codes, panel)?)
    }
}
