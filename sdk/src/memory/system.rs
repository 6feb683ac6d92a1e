//! Memory as the system gives it and takes it back: allocations that may be refused, and free pages that are returned.
//!
//! Rust's collections end the process when memory is refused. So whatever is large or grows with what comes from outside is asked for
//! here, where a refusal is an [`ErrorKind::Memory`]. What is left are small allocations all over the code and its libraries. An
//! application can serve those out of a reserve of its own: its global allocator then calls [`note_refusal`], and the work that is
//! going on ends with the same error at its next step ([`check_refusal`]), long before the reserve is used up. `libskimstone` does so.

#![allow(
    unsafe_code,
    reason = "zeroed pages that the system may refuse, and the C library's call that returns free ones"
)]

use std::alloc::{Layout, alloc_zeroed};
use std::collections::TryReserveError;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// The system refused an allocation that was served otherwise.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// Says that the system refused memory and that a reserve was used instead: whatever works on a model or session next, in any thread,
/// ends with [`ErrorKind::Memory`], once. For a global allocator; neither allocates nor locks.
pub fn note_refusal() {
    REFUSED.store(true, Ordering::Relaxed);
}

/// Ends what is going on if the system [refused](note_refusal) memory since the last time that this said so.
///
/// # Errors
/// [`ErrorKind::Memory`], once for any number of refusals.
pub fn check_refusal() -> Result<()> {
    // The first look costs nothing; only a refusal writes.
    if REFUSED.load(Ordering::Relaxed) && REFUSED.swap(false, Ordering::Relaxed) {
        return Err(Error::new(
            ErrorKind::Memory,
            "the system refused memory, a reserve was used",
        )
        .with_hint("free sessions or models, or end the question"));
    }
    Ok(())
}

/// The error of `bytes` that the system refused.
pub(crate) fn refused(bytes: usize) -> Error {
    let message = format!("the system refused {bytes} bytes of memory");
    Error::new(ErrorKind::Memory, message).with_hint("use a smaller context or fewer sessions")
}

/// Room for `additional` more elements in `list`, exactly.
pub(crate) fn reserve<T>(list: &mut Vec<T>, additional: usize) -> Result<()> {
    let bytes = additional.saturating_mul(size_of::<T>());
    list.try_reserve_exact(additional)
        .map_err(|_: TryReserveError| refused(bytes))?;
    check_refusal()
}

/// Whether `bytes` can be had now: asked before work that takes about as much in many small pieces.
pub(crate) fn probe(bytes: usize) -> Result<()> {
    reserve(&mut Vec::<u8>::new(), bytes)
}

/// A copy of `values`.
pub(crate) fn copy<T: Copy>(values: &[T]) -> Result<Vec<T>> {
    let mut list = Vec::new();
    reserve(&mut list, values.len())?;
    list.extend_from_slice(values);
    Ok(list)
}

/// The bytes of the file at `path`.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let io = |error| Error::io(path, error);
    let mut file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    let mut bytes = Vec::new();
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    // One more, so that the end is found without growing.
    reserve(&mut bytes, len.saturating_add(1)).map_err(|error| error.at(path.display()))?;
    file.read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// A number of which all zero bits are 0.
///
/// # Safety
/// Zeroed memory must be a valid value.
pub(crate) unsafe trait Zero: Copy {}
// SAFETY: 0.0.
unsafe impl Zero for f32 {}
// SAFETY: 0.
unsafe impl Zero for u32 {}
// SAFETY: 0.
unsafe impl Zero for u8 {}
// SAFETY: false.
unsafe impl Zero for bool {}

/// `len` zeros. Like `vec![0; len]` it does not touch the pages, so that what is reserved takes no memory until it is used.
pub(crate) fn zeros<T: Zero>(len: usize) -> Result<Vec<T>> {
    let bytes = len.saturating_mul(size_of::<T>());
    let layout = Layout::array::<T>(len).map_err(|_| refused(bytes))?;
    if layout.size() == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the layout has a size.
    let start = unsafe { alloc_zeroed(layout) }.cast::<T>();
    if start.is_null() {
        return Err(refused(bytes));
    }
    // SAFETY: allocated by the global allocator with the layout of `len` elements, all of them valid: see [`Zero`].
    let list = unsafe { Vec::from_raw_parts(start, len, len) };
    check_refusal()?;
    Ok(list)
}

/// Returns the pages that the C library keeps of freed memory to the system, where it has a call for that: on Linux with glibc, on
/// Android and on Apple's systems. Elsewhere they stay with the process until they are used again.
pub(crate) fn return_free_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: may be called at any time, from any thread.
        unsafe { malloc_trim(0) };
    }
    #[cfg(target_os = "android")]
    {
        /// `M_PURGE` of Bionic's malloc.h; versions that do not know it (before API level 28) do nothing and say so.
        const M_PURGE: i32 = -101;
        unsafe extern "C" {
            fn mallopt(option: i32, value: i32) -> i32;
        }
        // SAFETY: may be called at any time, from any thread.
        unsafe { mallopt(M_PURGE, 0) };
    }
    #[cfg(target_vendor = "apple")]
    {
        unsafe extern "C" {
            fn malloc_zone_pressure_relief(zone: *mut std::ffi::c_void, goal: usize) -> usize;
        }
        // SAFETY: null stands for all zones, 0 for as much as possible; may be called from any thread.
        unsafe { malloc_zone_pressure_relief(std::ptr::null_mut(), 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_zeros_and_too_many_are_an_error() {
        assert_eq!(zeros::<f32>(1000).unwrap(), vec![0.0; 1000]);
        assert!(zeros::<u8>(0).unwrap().is_empty());
        for len in [usize::MAX, isize::MAX as usize / 4, 1 << 50] {
            let error = zeros::<f32>(len).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Memory);
        }
        let error = reserve(&mut Vec::<u64>::new(), 1 << 50).unwrap_err();
        assert!(
            error.to_string().contains("9007199254740992 bytes"),
            "{error}"
        );
    }
}
