//! The safetensors header: 8 bytes of little-endian length, that many bytes of JSON, then the tensor data.
//!
//! Parsing believes nothing. The length is capped before it is used, every offset is compared with its neighbours and with the
//! size of the file, and sizes are multiplied with overflow checks. The data must be covered exactly: no overlap, no hole, no
//! rest. Each rule has its own error.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::error::{Error, ErrorKind, Result};
use crate::memory;

/// Bytes before the JSON: its length.
pub(crate) const LENGTH_BYTES: usize = 8;

/// The key of the string map in a safetensors header.
pub(crate) const METADATA: &str = "__metadata__";

/// The data types of safetensors that occur in bundles and in the checkpoints that are imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    Bool,
    U8,
    I8,
    U16,
    I16,
    F16,
    BF16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
}

impl Dtype {
    const ALL: [(Dtype, &'static str, usize); 13] = [
        (Dtype::Bool, "BOOL", 1),
        (Dtype::U8, "U8", 1),
        (Dtype::I8, "I8", 1),
        (Dtype::U16, "U16", 2),
        (Dtype::I16, "I16", 2),
        (Dtype::F16, "F16", 2),
        (Dtype::BF16, "BF16", 2),
        (Dtype::U32, "U32", 4),
        (Dtype::I32, "I32", 4),
        (Dtype::F32, "F32", 4),
        (Dtype::U64, "U64", 8),
        (Dtype::I64, "I64", 8),
        (Dtype::F64, "F64", 8),
    ];

    fn row(self) -> (Dtype, &'static str, usize) {
        Dtype::ALL[self as usize]
    }

    fn from_name(name: &str) -> Option<Dtype> {
        Dtype::ALL
            .into_iter()
            .find(|row| row.1 == name)
            .map(|row| row.0)
    }

    /// The name in a header.
    pub(crate) fn name(self) -> &'static str {
        self.row().1
    }

    /// Bytes of one value.
    pub(crate) fn bytes(self) -> usize {
        self.row().2
    }
}

/// One tensor of a file.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// Where its bytes stand in the file (not in the data section).
    pub(crate) range: Range<usize>,
}

/// A validated header: every range lies in the file, and together they cover the data exactly.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: BTreeMap<String, String>,
    /// In the order of their bytes.
    pub(crate) entries: Vec<Entry>,
    /// The length word and the JSON.
    pub(crate) header_bytes: usize,
}

/// Names, shapes and tables take a few times the JSON that they are read from.
const PARSED_FACTOR: usize = 4;

/// Parses and validates the header of `file`, refusing one of more than `max_header_bytes`.
pub(crate) fn parse(file: &[u8], max_header_bytes: usize) -> Result<Header> {
    let truncated = |needed: &dyn fmt::Display, what: &str| {
        Error::new(
            ErrorKind::Truncated,
            format!("{what} needs {needed} bytes, file has {}", file.len()),
        )
    };
    let (length, rest) = file
        .split_first_chunk::<LENGTH_BYTES>()
        .ok_or_else(|| truncated(&LENGTH_BYTES, "the length of the header"))?;
    let length = u64::from_le_bytes(*length);
    let header_len = usize::try_from(length)
        .ok()
        .filter(|&n| n <= max_header_bytes)
        .ok_or_else(|| {
            let message =
                format!("header claims {length} bytes, at most {max_header_bytes} are allowed");
            Error::new(ErrorKind::HeaderTooLarge, message)
                .with_hint("this is not a safetensors file, or it is damaged")
        })?;
    let header_bytes = LENGTH_BYTES + header_len;
    let json = rest
        .get(..header_len)
        .ok_or_else(|| truncated(&header_bytes, "the header"))?;
    let format = |message: String| Error::new(ErrorKind::Format, message).at("header");
    let json = std::str::from_utf8(json).map_err(|error| format(error.to_string()))?;
    if !json.starts_with('{') {
        return Err(format("does not start with `{`".to_owned()));
    }
    memory::probe(json.len().saturating_mul(PARSED_FACTOR))?;
    let raw: RawHeader =
        serde_json::from_str(json).map_err(|error| format(error.to_string()).with_source(error))?;

    let mut entries = Vec::with_capacity(raw.tensors.len());
    for (name, tensor) in raw.tensors {
        let entry = entry(&name, tensor, header_bytes);
        entries.push(entry.map_err(|error| error.at(format_args!("tensor `{name}`")))?);
        memory::check_refusal()?;
    }
    check_coverage(&mut entries, header_bytes, file.len())?;
    Ok(Header {
        metadata: raw.metadata,
        entries,
        header_bytes,
    })
}

/// Checks one tensor against itself: known type, size that does not overflow and equals its offsets.
fn entry(name: &str, raw: RawTensor, header_bytes: usize) -> Result<Entry> {
    let dtype = Dtype::from_name(&raw.dtype).ok_or_else(|| {
        Error::new(
            ErrorKind::Dtype,
            format!("data type `{}` is not supported", raw.dtype),
        )
    })?;
    let size = raw
        .shape
        .iter()
        .try_fold(dtype.bytes(), |size, &dim| size.checked_mul(dim));
    let size = size.ok_or_else(|| {
        Error::new(
            ErrorKind::Offsets,
            format!("{} {:?} overflows the address space", raw.dtype, raw.shape),
        )
    })?;
    let [start, end] = raw.data_offsets;
    if end.checked_sub(start) != Some(size) {
        let message = format!(
            "{} {:?} needs {size} bytes, its offsets are {start}..{end}",
            raw.dtype, raw.shape
        );
        return Err(Error::new(ErrorKind::Offsets, message));
    }
    let absolute = |offset: usize| {
        offset
            .checked_add(header_bytes)
            .ok_or_else(|| Error::new(ErrorKind::Offsets, format!("offset {offset} overflows")))
    };
    Ok(Entry {
        name: name.to_owned(),
        dtype,
        shape: raw.shape,
        range: absolute(start)?..absolute(end)?,
    })
}

/// Sorts the tensors by offset and checks that they cover the data section exactly.
fn check_coverage(entries: &mut [Entry], header_bytes: usize, file_bytes: usize) -> Result<()> {
    entries.sort_by_key(|entry| (entry.range.start, entry.range.end));
    let mut end = header_bytes;
    let mut previous = "the header";
    for entry in entries.iter() {
        let (start, offset) = (entry.range.start, entry.range.start - header_bytes);
        if start != end {
            let what = if start < end {
                "overlaps"
            } else {
                "leaves a hole after"
            };
            let message = format!(
                "starts at {offset}, {what} `{previous}`, which ends at {}",
                end - header_bytes
            );
            return Err(
                Error::new(ErrorKind::Offsets, message).at(format_args!("tensor `{}`", entry.name))
            );
        }
        end = entry.range.end;
        previous = &entry.name;
    }
    if end > file_bytes {
        let message = format!("the tensors need {end} bytes, file has {file_bytes}");
        return Err(Error::new(ErrorKind::Truncated, message)
            .with_hint("was the copy or download interrupted?"));
    }
    if end < file_bytes {
        let message = format!("the tensors end at byte {end}, file has {file_bytes}");
        return Err(Error::new(ErrorKind::TrailingBytes, message));
    }
    Ok(())
}

/// A tensor as the JSON has it.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// The header as the JSON has it, with names unique.
struct RawHeader {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, RawTensor)>,
}

impl<'de> Deserialize<'de> for RawHeader {
    /// By hand, because a derived map would let the last of two equal names win in silence.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensor names to tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader {
                    metadata: BTreeMap::new(),
                    tensors: Vec::new(),
                };
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("`{name}` occurs twice")));
                    }
                    if name == METADATA {
                        header.metadata = map.next_value()?;
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(json: &str, data: usize) -> Vec<u8> {
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(json.as_bytes());
        file.resize(file.len() + data, 0);
        file
    }

    #[test]
    fn dtype_table_is_in_order() {
        for (row, index) in Dtype::ALL.into_iter().zip(0..) {
            assert_eq!(row.0 as usize, index);
        }
    }

    #[test]
    fn every_rule_has_its_error() {
        struct Case(&'static str, usize, ErrorKind, &'static str);
        let a = r#""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
        let case = |b: &str| format!("{{{a},{b}}}").leak() as &'static str;
        let cases = [
            Case("", 0, ErrorKind::Format, "does not start with `{`"),
            Case("{", 0, ErrorKind::Format, "EOF"),
            Case("[]", 0, ErrorKind::Format, "does not start"),
            Case(case(a), 4, ErrorKind::Format, "`a` occurs twice"),
            Case(
                case(r#""b":{"dtype":"Q9","shape":[4],"data_offsets":[4,8]}"#),
                8,
                ErrorKind::Dtype,
                "`Q9`",
            ),
            Case(
                case(r#""b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}"#),
                7,
                ErrorKind::Offsets,
                "overlaps `a`",
            ),
            Case(
                case(r#""b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}"#),
                9,
                ErrorKind::Offsets,
                "a hole after `a`",
            ),
            Case(
                case(r#""b":{"dtype":"F32","shape":[4],"data_offsets":[4,8]}"#),
                8,
                ErrorKind::Offsets,
                "needs 16 bytes",
            ),
            Case(
                case(r#""b":{"dtype":"U8","shape":[4],"data_offsets":[8,4]}"#),
                8,
                ErrorKind::Offsets,
                "8..4",
            ),
            Case(
                case(r#""b":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[4,8]}"#),
                8,
                ErrorKind::Offsets,
                "overflows",
            ),
            Case(
                case(
                    r#""b":{"dtype":"U8","shape":[0],"data_offsets":[18446744073709551615,18446744073709551615]}"#,
                ),
                4,
                ErrorKind::Offsets,
                "overflows",
            ),
            Case(
                case(r#""b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#),
                7,
                ErrorKind::Truncated,
                "file has",
            ),
            Case(
                case(r#""b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#),
                9,
                ErrorKind::TrailingBytes,
                "file has",
            ),
        ];
        for Case(json, data, kind, message) in cases {
            let error = parse(&file(json, data), 1 << 10).unwrap_err();
            assert_eq!(error.kind(), kind, "{json}: {error}");
            assert!(error.to_string().contains(message), "{json}: {error}");
        }
        assert_eq!(
            parse(&file(&format!("{{{a}}}"), 4), 1 << 10)
                .unwrap()
                .entries
                .len(),
            1
        );
    }

    #[test]
    fn the_length_is_capped_before_it_is_used() {
        assert_eq!(
            parse(&[1, 2, 3], 64).unwrap_err().kind(),
            ErrorKind::Truncated
        );
        assert_eq!(
            parse(&u64::MAX.to_le_bytes(), 64).unwrap_err().kind(),
            ErrorKind::HeaderTooLarge
        );
        assert_eq!(
            parse(&65u64.to_le_bytes(), 64).unwrap_err().kind(),
            ErrorKind::HeaderTooLarge
        );
        assert_eq!(
            parse(&64u64.to_le_bytes(), 64).unwrap_err().kind(),
            ErrorKind::Truncated
        );
    }
}
