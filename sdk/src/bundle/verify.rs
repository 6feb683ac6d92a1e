//! [`Bundle::verify`]: are the tensor data those that were written, and are they numbers?

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use half::f16;
use skimstone_kernels::{Format, quant};

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
        let check = |info: &TensorInfo| {
            verify(info, &self.storage[info.range.clone()])
                .map_err(|error| error.at(format_args!("tensor `{}`", info.name)))
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        if threads == 1 || self.storage.len() < PARALLEL_BYTES {
            return self.tensors.iter().try_for_each(check);
        }
        // Each thread takes the next tensor; the first bad one in the order of the file is reported.
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(info) = self.tensors.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = check(info) {
                    return Some((info.range.start, error));
                }
            }
            None
        };
        let found = thread::scope(|scope| {
            let helpers: Vec<_> = (1..threads.min(MAX_THREADS))
                .filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
                .collect();
            let own = work();
            let theirs = helpers.into_iter().map(|helper| {
                helper
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            own.into_iter()
                .chain(theirs.flatten())
                .min_by_key(|(at, _)| *at)
        });
        found.map_or(Ok(()), |(_, error)| Err(error))
    }
}

/// Files under this are read faster than a thread is started.
const PARALLEL_BYTES: usize = 8 << 20;

/// More threads than this do not read faster.
const MAX_THREADS: usize = 4;

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
    if let Some(place) = first_non_finite(info, bytes) {
        let message = format!("{place} is not a finite number");
        return Err(Error::new(ErrorKind::NonFinite, message));
    }
    Ok(())
}

/// Where the first value (or block scale) is that is NaN or infinite.
fn first_non_finite(info: &TensorInfo, bytes: &[u8]) -> Option<String> {
    let format = info.format?;
    let value = |index: usize| format!("value {index}");
    match format {
        Format::F32 => as_f32s(bytes)?
            .iter()
            .position(|value| !value.is_finite())
            .map(value),
        Format::F16 => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .position(|bits| !f16::from_le_bytes(*bits).is_finite())
            .map(value),
        _ => {
            let cols = *info.shape.last()?;
            let (panel, block, lane) = quant::first_bad_scale(format, cols, bytes)?;
            let row = panel * format.panel_rows() + lane;
            Some(format!("the scale of block {block} in row {row}"))
        }
    }
}
