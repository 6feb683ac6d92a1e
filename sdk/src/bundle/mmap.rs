//! Read-only memory that starts where weights may be read in place: a mapped file, a copy of bytes, or bytes of the caller.
//! The only `unsafe` of the crate.

#![allow(unsafe_code, reason = "mapping a file and reading its floats in place")]

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::{Mmap, MmapMut, MmapOptions};

use super::format::ALIGNMENT;

/// Bytes that the caller keeps in place, and what gives them back when it is dropped.
pub(super) type SharedBytes = Box<dyn AsRef<[u8]> + Send + Sync>;

#[cfg(target_endian = "big")]
compile_error!(
    "bundles are little-endian and read in place; a big-endian target would need a decoding copy"
);

/// Immutable bytes whose first byte lies at a multiple of [`ALIGNMENT`].
pub(crate) enum Storage {
    /// Pages of a file.
    File(Mmap),
    /// Pages of this process.
    Copy(Mmap),
    /// Memory of the caller.
    Shared(SharedBytes),
}

impl Storage {
    /// Maps the file at `path`.
    ///
    /// While it is mapped the file must not be changed in place; replacing it by a rename, as every writer of this crate does,
    /// is fine: the map keeps the old file.
    pub(crate) fn open(path: &Path) -> io::Result<Storage> {
        Storage::open_file(&File::open(path)?, None)
    }

    /// Maps `range` of `file`, or all of it; the same holds for changing it. The map outlives the file handle.
    pub(super) fn open_file(file: &File, range: Option<Range<u64>>) -> io::Result<Storage> {
        let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(invalid("not a file".to_owned()));
        }
        let size = metadata.len();
        let range = range.unwrap_or(0..size);
        // A map beyond the end of the file would fault when it is read.
        if range.start > range.end || range.end > size {
            let (start, end) = (range.start, range.end);
            return Err(invalid(format!(
                "bytes {start} to {end} of a file of {size} bytes"
            )));
        }
        if !range.start.is_multiple_of(ALIGNMENT as u64) {
            return Err(invalid(format!(
                "begins at byte {} of the file, not a multiple of {ALIGNMENT}; align it in the archive or read it into memory",
                range.start
            )));
        }
        let len = usize::try_from(range.end - range.start).map_err(|_| {
            invalid(format!(
                "{} bytes cannot be mapped",
                range.end - range.start
            ))
        })?;
        // SAFETY: the map is private to this value and only ever read. Rust cannot rule out that another process writes to or
        // truncates the file; like every program that maps its model, we require (see above, and `Bundle::open`) that nobody
        // does. No reference into the map outlives it: `deref` ties them to `self`.
        let map = unsafe { MmapOptions::new().offset(range.start).len(len).map(file)? };
        // A few file systems have huge pages for files; the others refuse, which changes nothing.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Storage::File(map))
    }

    /// Copies `bytes` to page-aligned memory, in huge pages where the system has them.
    pub(crate) fn copy(bytes: &[u8]) -> io::Result<Storage> {
        let mut map = MmapMut::map_anon(bytes.len())?;
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        map.copy_from_slice(bytes);
        Ok(Storage::Copy(map.make_read_only()?))
    }

    /// Takes `bytes` as they are; they must begin at a multiple of [`ALIGNMENT`].
    pub(super) fn shared(bytes: SharedBytes) -> io::Result<Storage> {
        let misplaced = (*bytes).as_ref().as_ptr().addr() % ALIGNMENT;
        if misplaced != 0 {
            let message = format!(
                "the bytes begin {misplaced} bytes after a multiple of {ALIGNMENT}; align them or have them copied"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Storage::Shared(bytes))
    }

    pub(crate) fn is_copy(&self) -> bool {
        matches!(self, Storage::Copy(_))
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            Storage::File(_) => "File",
            Storage::Copy(_) => "Copy",
            Storage::Shared(_) => "Shared",
        };
        f.debug_tuple(name).field(&self.len()).finish()
    }
}

impl Deref for Storage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Storage::File(map) | Storage::Copy(map) => map,
            Storage::Shared(bytes) => (**bytes).as_ref(),
        }
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
    fn a_range_of_a_file_is_mapped_or_refused_with_both_numbers() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &[7; 300]).unwrap();
        let storage = Storage::open_file(&file, Some(64..300)).unwrap();
        assert_eq!((storage.len(), storage[235]), (236, 7));
        struct Case(Range<u64>, &'static str);
        let cases = [
            Case(64..301, "bytes 64 to 301 of a file of 300 bytes"),
            Case(
                63..200,
                "begins at byte 63 of the file, not a multiple of 64",
            ),
            #[expect(clippy::reversed_empty_ranges, reason = "refused, too")]
            Case(128..64, "bytes 128 to 64"),
        ];
        for Case(range, want) in cases {
            let error = Storage::open_file(&file, Some(range)).unwrap_err();
            assert!(error.to_string().contains(want), "{error}");
        }
    }

    #[test]
    fn floats_need_whole_aligned_bytes() {
        let storage = Storage::copy(&[0, 0, 128, 63, 0, 0, 0, 64]).unwrap();
        assert_eq!(as_f32s(&storage), Some(&[1.0, 2.0][..]));
        assert_eq!(as_f32s(&storage[..6]), None);
        assert_eq!(as_f32s(&storage[1..5]), None);
    }
}
