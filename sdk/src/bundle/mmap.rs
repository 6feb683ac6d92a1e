//! Read-only memory that starts on a page: a mapped file, or a copy of bytes. The only `unsafe` of the crate.

#![allow(unsafe_code, reason = "mapping a file and reading its floats in place")]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::{Mmap, MmapMut};

#[cfg(target_endian = "big")]
compile_error!(
    "bundles are little-endian and read in place; a big-endian target would need a decoding copy"
);

/// Immutable bytes whose first byte lies on a page boundary.
#[derive(Debug)]
pub(crate) struct Storage {
    map: Mmap,
    /// Whether the pages are memory of this process instead of the file's.
    is_copy: bool,
}

impl Storage {
    /// Maps the file at `path`.
    ///
    /// While it is mapped the file must not be changed in place; replacing it by a rename, as every writer of this crate does,
    /// is fine: the map keeps the old file.
    pub(crate) fn open(path: &Path) -> io::Result<Storage> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        // SAFETY: the map is private to this value and only ever read. Rust cannot rule out that another process writes to or
        // truncates the file; like every program that maps its model, we require (see above, and `Bundle::open`) that nobody
        // does. No reference into the map outlives it: `deref` ties them to `self`.
        let map = unsafe { Mmap::map(&file)? };
        // A few file systems have huge pages for files; the others refuse, which changes nothing.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Storage {
            map,
            is_copy: false,
        })
    }

    /// Copies `bytes` to page-aligned memory, in huge pages where the system has them.
    pub(crate) fn copy(bytes: &[u8]) -> io::Result<Storage> {
        let mut map = MmapMut::map_anon(bytes.len())?;
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        map.copy_from_slice(bytes);
        Ok(Storage {
            map: map.make_read_only()?,
            is_copy: true,
        })
    }

    pub(crate) fn is_copy(&self) -> bool {
        self.is_copy
    }
}

impl Deref for Storage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// Reads `bytes` in place as little-endian floats; `None` if they are misaligned or not a whole number of floats.
pub(crate) fn as_f32s(bytes: &[u8]) -> Option<&[f32]> {
    // SAFETY: every bit pattern of four bytes is an `f32`, the target is little-endian (checked above), and `align_to` itself
    // only puts aligned, whole floats into the middle part.
    let (head, floats, tail) = unsafe { bytes.align_to::<f32>() };
    (head.is_empty() && tail.is_empty()).then_some(floats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_aligned_and_equal() {
        let bytes: Vec<u8> = (0..=255).collect();
        let storage = Storage::copy(&bytes).unwrap();
        assert_eq!(&storage[..], &bytes);
        assert!(storage.as_ptr().addr().is_multiple_of(64));
        assert_eq!(Storage::copy(&[]).unwrap().len(), 0);
    }

    #[test]
    fn floats_need_whole_aligned_bytes() {
        let storage = Storage::copy(&[0, 0, 128, 63, 0, 0, 0, 64]).unwrap();
        assert_eq!(as_f32s(&storage), Some(&[1.0, 2.0][..]));
        assert_eq!(as_f32s(&storage[..6]), None);
        assert_eq!(as_f32s(&storage[1..5]), None);
    }
}
