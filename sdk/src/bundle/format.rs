//! What a bundle adds to safetensors: metadata keys, layouts, checksums and alignment. Reading and writing agree through this file.
//!
//! ```text
//! length   u64 LE
//! {"__metadata__":{"crc":"xxxxxxxx",     crc32 of length and header with these eight digits taken as zeros
//!    "format":"skimstone", "version":"2",
//!    "config", "reasoning", "provenance", "generation", "special_tokens":   JSON in a string
//!    "layouts":    {"<tensor>":{"layout":"q8","shape":[rows,cols]}}   logical shape of packed blocks
//!    "checksums":  {"<tensor>":"xxxxxxxx"}                             crc32 of each tensor's bytes
//!  }, "<tensor>":{"dtype","shape","data_offsets"}, …}     padded with spaces to a multiple of 64
//! data     each tensor starts on a multiple of 64
//! ```
//!
//! safetensors demands that tensors cover the data without holes, so the bytes that round a tensor up to 64 are tensors of their
//! own, `_pad.N`, U8, zeros. Packed blocks are U8 tensors of shape `[rows, bytes per row]`; any safetensors reader can list them.

use serde::{Deserialize, Serialize};
use skimstone_kernels::Format;

use super::header::Dtype;

/// Every tensor starts on a multiple of this: a cache line, and the widest vector register.
pub(crate) const ALIGNMENT: usize = 64;

/// The version that this crate writes, and the only one that it reads.
pub(crate) const VERSION: &str = "2";

/// The value of `format` in the metadata.
pub(crate) const FORMAT_NAME: &str = "skimstone";

/// Largest header of a bundle. A model of a hundred layers needs about 300 kB; a tokenizer is a tensor, not metadata.
pub(crate) const MAX_HEADER_BYTES: usize = 16 << 20;

/// How every bundle's header begins; the checksum's eight digits follow.
pub(crate) const HEADER_PREFIX: &[u8] = br#"{"__metadata__":{"crc":""#;

/// Digits of a checksum.
pub(crate) const CRC_DIGITS: usize = 8;

/// Metadata keys.
pub(crate) mod key {
    pub(crate) const CRC: &str = "crc";
    pub(crate) const FORMAT: &str = "format";
    pub(crate) const VERSION: &str = "version";
    pub(crate) const CONFIG: &str = "config";
    pub(crate) const REASONING: &str = "reasoning";
    pub(crate) const PROVENANCE: &str = "provenance";
    pub(crate) const GENERATION: &str = "generation";
    pub(crate) const SPECIAL_TOKENS: &str = "special_tokens";
    pub(crate) const LAYOUTS: &str = "layouts";
    pub(crate) const CHECKSUMS: &str = "checksums";
}

/// The tensor that holds `tokenizer.json`.
pub(crate) const TOKENIZER: &str = "tokenizer.json";
/// The tensor that holds the vocabulary of `tokenizer.json` packed, if it is a byte-pair model: derived from it, and not needed.
pub(crate) const TOKENIZER_TABLE: &str = "tokenizer.bpe";
/// The tensor that holds the chat template.
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// Names of filler tensors begin with this.
pub(crate) const PAD: &str = "_pad.";

/// How the bytes of a U8 tensor are to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    pub(crate) layout: String,
    pub(crate) shape: Vec<usize>,
}

/// The data type under which safetensors knows a weight format.
pub(crate) fn dtype_of(format: Format) -> Dtype {
    match format {
        Format::F32 => Dtype::F32,
        Format::F16 => Dtype::F16,
        _ => Dtype::U8,
    }
}

/// The weight format of a data type that needs no layout.
pub(crate) fn plain_format(dtype: Dtype) -> Option<Format> {
    match dtype {
        Dtype::F32 => Some(Format::F32),
        Dtype::F16 => Some(Format::F16),
        _ => None,
    }
}

/// A checksum as it stands in a header.
pub(crate) fn crc_digits(crc: u32) -> String {
    format!("{crc:08x}")
}

/// The checksum of a header whose own eight digits count as zeros. `None` if it does not begin as a bundle's header does.
pub(crate) fn header_crc(length_and_header: &[u8]) -> Option<u32> {
    let (length, header) = length_and_header.split_at_checked(super::header::LENGTH_BYTES)?;
    let rest = header.strip_prefix(HEADER_PREFIX)?.get(CRC_DIGITS..)?;
    let mut hasher = crc32fast::Hasher::new();
    for part in [length, HEADER_PREFIX, &[b'0'; CRC_DIGITS], rest] {
        hasher.update(part);
    }
    Some(hasher.finalize())
}
