//! Q8_0 and Q4_0 rows → q8 and q4 rows without rounding: the same scales, the same integers.
//!
//! [`QuantizedRow`] is what both sides agree on. Where its values stand in a row of ours is known to [`QuantizedRow::store`] alone.

use half::f16;
use skimstone_kernels::quant::{Q4_BYTES, Q8_BYTES};
use skimstone_kernels::{BLOCK, Format};

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

    /// Writes the row in `format`, q8 or q4, into `out`, which is `format.row_bytes` of it: the one place of this module that
    /// knows how [`Format`] lays out a row.
    pub(super) fn store(&self, format: Format, out: &mut [u8]) {
        let block_bytes = match format {
            Format::Q8 => Q8_BYTES,
            _ => Q4_BYTES,
        };
        let blocks = self.scales.iter().zip(self.values.chunks_exact(BLOCK));
        for (out, (scale, values)) in out.chunks_exact_mut(block_bytes).zip(blocks) {
            let (head, out) = out.split_at_mut(2);
            head.copy_from_slice(&scale.to_le_bytes());
            for (i, out) in out.iter_mut().enumerate() {
                *out = match format {
                    Format::Q8 => values[i] as u8,
                    _ => (values[i] + 8) as u8 | (((values[i + BLOCK / 2] + 8) as u8) << 4),
                };
            }
        }
    }
}
