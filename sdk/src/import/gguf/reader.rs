//! The GGUF file: header, metadata and tensor table, checked once; views into the map after that.
//!
//! ```text
//! "GGUF"  version u32  tensors u64  keys u64
//! key:    string, type u32, value            string: length u64, bytes      array: type u32, count u64, values
//! tensor: string, dims u32, dims × u64 (fastest first), type u32, offset u64
//! padding to `general.alignment` (32 where absent)
//! tensor data, each at its offset from here
//! ```
//!
//! Everything is little endian. Nothing is allocated by a count that the file claims: tables grow as entries are really read.
//!
//! Source: the GGUF specification (ggml, `docs/gguf.md`), versions 2 and 3.

use std::collections::BTreeMap;

use super::ggml::GgmlType;
use super::value::{Metadata, Value};
use crate::error::{Error, ErrorKind, Result};

/// The first four bytes of a GGUF file.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";

/// Far above what any model has (a published 400-layer model has some 4,000 tensors and under 100 keys), and small enough to
/// walk in no time.
const MAX_ENTRIES: u64 = 1 << 16;

/// ggml's own limit.
const MAX_DIMS: u32 = 4;

const DEFAULT_ALIGNMENT: usize = 32;

/// Far above any page size.
const MAX_ALIGNMENT: usize = 1 << 20;

/// Reads little-endian values one after the other.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// What was read since `start`, a former [`position`](Self::position).
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    pub(super) fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8]> {
        let end = usize::try_from(len)
            .ok()
            .and_then(|len| self.at.checked_add(len));
        let taken = end.and_then(|end| Some((end, self.bytes.get(self.at..end)?)));
        let (end, taken) = taken.ok_or_else(|| {
            let message = format!(
                "{what} needs {len} bytes at offset {}, there are {} left",
                self.at,
                self.bytes.len() - self.at
            );
            Error::new(ErrorKind::Truncated, message).with_hint("was the download interrupted?")
        })?;
        self.at = end;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let bytes = self.take(N as u64, what)?;
        Ok(*bytes.first_chunk().expect("`take` gives as many as asked"))
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// The bytes of a string.
    pub(super) fn string(&mut self, what: &str) -> Result<&'a [u8]> {
        let len = self.u64(what)?;
        self.take(len, what)
    }

    fn name(&mut self, what: &str) -> Result<&'a str> {
        let at = self.at;
        std::str::from_utf8(self.string(what)?).map_err(|error| {
            let message = format!("{what} at offset {at} is not UTF-8");
            Error::new(ErrorKind::Format, message).with_source(error)
        })
    }
}

/// One tensor: its type, its shape as the rest of this crate has it, and its bytes.
#[derive(Clone, Debug)]
pub(super) struct Tensor<'a> {
    pub(super) kind: GgmlType,
    /// `[n]` or `[rows, cols]`, slowest first.
    pub(super) shape: Vec<usize>,
    pub(super) bytes: &'a [u8],
}

/// A parsed file.
#[derive(Debug)]
pub(super) struct Gguf<'a> {
    pub(super) version: u32,
    pub(super) metadata: Metadata<'a>,
    pub(super) tensors: BTreeMap<&'a str, Tensor<'a>>,
}

/// An entry of the tensor table before its place is known.
struct Entry<'a> {
    name: &'a str,
    kind: GgmlType,
    shape: Vec<usize>,
    bytes: u64,
    offset: u64,
}

impl<'a> Gguf<'a> {
    /// Parses and checks the header of `file`, and that all tensors lie inside of it.
    ///
    /// # Errors
    /// [`ErrorKind::Format`], [`ErrorKind::Version`], [`ErrorKind::Truncated`], [`ErrorKind::Dtype`], [`ErrorKind::Shape`] and
    /// [`ErrorKind::Offsets`], each naming the place and both values.
    pub(super) fn parse(file: &'a [u8]) -> Result<Gguf<'a>> {
        let mut reader = Reader::new(file);
        let magic: [u8; 4] = reader.array("the magic number")?;
        if magic != MAGIC {
            let message = format!("expected the magic number `GGUF`, found {magic:02x?}");
            return Err(Error::new(ErrorKind::Format, message));
        }
        let version = reader.u32("the version")?;
        check_version(version)?;
        let tensors = reader.u64("the number of tensors")?;
        let keys = reader.u64("the number of keys")?;
        for (what, count) in [("tensors", tensors), ("keys", keys)] {
            if count > MAX_ENTRIES {
                let message = format!("{count} {what}, at most {MAX_ENTRIES} are allowed");
                return Err(Error::new(ErrorKind::Format, message));
            }
        }

        let mut metadata = Metadata::default();
        for index in 0..keys {
            let key = reader
                .name("a key")
                .map_err(|error| error.at(format_args!("key {index} of {keys}")))?;
            let at = |error: Error| error.at(format_args!("key `{}`", shorten(key)));
            let value = Value::read(&mut reader).map_err(at)?;
            if !metadata.insert(key, value) {
                return Err(at(Error::new(ErrorKind::Format, "the key is there twice")));
            }
        }
        let alignment = alignment(&metadata)?;

        let mut entries = Vec::new();
        for index in 0..tensors {
            entries.push(
                entry(&mut reader, alignment)
                    .map_err(|error| error.at(format_args!("tensor {index} of {tensors}")))?,
            );
        }
        // A file without tensors may end before the padding.
        let start = reader.position().next_multiple_of(alignment);
        let data = file.get(start..).unwrap_or_default();
        Ok(Gguf {
            version,
            metadata,
            tensors: place(entries, data)?,
        })
    }
}

fn check_version(version: u32) -> Result<()> {
    if (2..=3).contains(&version) {
        return Ok(());
    }
    let swapped = version.swap_bytes();
    let (message, hint) = if (2..=3).contains(&swapped) {
        (
            format!("the file is big endian (version {version:#010x})"),
            "convert it with llama.cpp's gguf_convert_endian.py",
        )
    } else {
        (
            format!("version {version} is not supported; supported: 2, 3"),
            "convert the model again with a present llama.cpp",
        )
    };
    Err(Error::new(ErrorKind::Version, message).with_hint(hint))
}

fn alignment(metadata: &Metadata<'_>) -> Result<usize> {
    const KEY: &str = "general.alignment";
    let alignment = metadata.count(KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
    if alignment.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&alignment) {
        return Ok(alignment);
    }
    let message = format!("{alignment} is not a power of two between 8 and {MAX_ALIGNMENT}");
    Err(Error::new(ErrorKind::Format, message).at(format_args!("key `{KEY}`")))
}

/// Reads one entry of the tensor table and checks everything that does not need the data.
fn entry<'a>(reader: &mut Reader<'a>, alignment: usize) -> Result<Entry<'a>> {
    let name = reader.name("a tensor name")?;
    let mut rest = || {
        let dims = reader.u32("the number of dimensions")?;
        if dims == 0 || dims > MAX_DIMS {
            let message = format!("{dims} dimensions, 1 to {MAX_DIMS} are allowed");
            return Err(Error::new(ErrorKind::Shape, message));
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            let dim = reader.u64("a dimension")?;
            let sensible = usize::try_from(dim).ok().filter(|&dim| dim > 0);
            shape.push(sensible.ok_or_else(|| {
                Error::new(ErrorKind::Shape, format!("dimension {dim} is out of range"))
            })?);
        }
        shape.reverse();
        let kind = GgmlType::of(reader.u32("a tensor type")?)?;
        let bytes = kind.bytes(&shape)?;
        let offset = reader.u64("an offset")?;
        if !offset.is_multiple_of(alignment as u64) {
            let message = format!("offset {offset} is not a multiple of the alignment {alignment}");
            return Err(Error::new(ErrorKind::Offsets, message));
        }
        Ok(Entry {
            name,
            kind,
            shape,
            bytes,
            offset,
        })
    };
    rest().map_err(|error| error.at(format_args!("`{}`", shorten(name))))
}

/// Cuts the data into tensors: each inside, none over another, no name twice.
fn place<'a>(mut entries: Vec<Entry<'a>>, data: &'a [u8]) -> Result<BTreeMap<&'a str, Tensor<'a>>> {
    entries.sort_by_key(|entry| entry.offset);
    let mut tensors = BTreeMap::new();
    let mut end_before = 0;
    for entry in entries {
        let at = |error: Error| error.at(format_args!("tensor `{}`", shorten(entry.name)));
        if entry.offset < end_before {
            let message = format!(
                "starts at {} of the data, the tensor before it ends at {end_before}",
                entry.offset
            );
            return Err(at(Error::new(ErrorKind::Offsets, message)));
        }
        let end = entry.offset.saturating_add(entry.bytes);
        let range = usize::try_from(entry.offset)
            .ok()
            .zip(usize::try_from(end).ok());
        let bytes = range.and_then(|(start, end)| data.get(start..end));
        let bytes =
            bytes.ok_or_else(|| {
                let message = format!("ends at {end} of the data, the file has {}", data.len());
                at(Error::new(ErrorKind::Truncated, message)
                    .with_hint("was the download interrupted?"))
            })?;
        end_before = end;
        let tensor = Tensor {
            kind: entry.kind,
            shape: entry.shape.clone(),
            bytes,
        };
        if tensors.insert(entry.name, tensor).is_some() {
            return Err(at(Error::new(ErrorKind::Format, "the name is there twice")));
        }
    }
    Ok(tensors)
}

/// A name from outside, short enough for a message.
pub(super) fn shorten(name: &str) -> String {
    const LIMIT: usize = 80;
    match name.char_indices().nth(LIMIT) {
        None => name.to_owned(),
        Some((at, _)) => format!("{}…", &name[..at]),
    }
}
