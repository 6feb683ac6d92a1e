//! [`Bundle::verify`]: are the tensor data those that were written, and are they numbers?

use half::f16;
use skimstone_kernels::{BLOCK, Format};

use super::{Bundle, TensorInfo, as_f32s, format};
use crate::error::{Error, ErrorKind, Result};

impl Bundle {
    /// Reads every tensor once, compares it with its checksum, and refuses NaN and infinities in weights and block scales.
    ///
    /// Costs one pass over the file (gigabytes per second when it is in the page cache; otherwise the speed of the storage).
    /// [`Bundle::open`] does it unless [`OpenOptions::verify`](super::OpenOptions::verify) says no.
    ///
    /// # Errors
    /// [`ErrorKind::Checksum`] or [`ErrorKind::NonFinite`], naming the tensor.
    pub fn verify(&self) -> Result<()> {
        for info in &self.tensors {
            verify(info, &self.storage[info.range.clone()])
                .map_err(|error| error.at(format_args!("tensor `{}`", info.name)))?;
        }
        Ok(())
    }
}

fn verify(info: &TensorInfo, bytes: &[u8]) -> Result<()> {
    let crc = crc32fast::hash(bytes);
    if crc != info.crc {
        let (actual, recorded) = (format::crc_digits(crc), format::crc_digits(info.crc));
        return Err(Error::new(
            ErrorKind::Checksum,
            format!("checksum is {actual}, recorded is {recorded}"),
        )
        .with_hint("the file is damaged; copy or export it again"));
    }
    if let Some(format) = info.format
        && let Some(index) = first_non_finite(format, bytes)
    {
        let what = if format.is_quantized() {
            "block"
        } else {
            "value"
        };
        return Err(Error::new(
            ErrorKind::NonFinite,
            format!("{what} {index} is not a finite number"),
        ));
    }
    Ok(())
}

/// The index of the first value (or block scale) that is NaN or infinite.
fn first_non_finite(format: Format, bytes: &[u8]) -> Option<usize> {
    let is_finite = |le: &[u8; 2]| f16::from_le_bytes(*le).is_finite();
    match format {
        Format::F32 => as_f32s(bytes)?.iter().position(|value| !value.is_finite()),
        Format::F16 => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .position(|value| !is_finite(value)),
        // A block begins with its f16 scale.
        _ => bytes
            .chunks_exact(format.row_bytes(BLOCK))
            .position(|block| {
                block
                    .first_chunk::<2>()
                    .is_some_and(|scale| !is_finite(scale))
            }),
    }
}
