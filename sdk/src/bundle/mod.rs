//! The bundle: one file with weights, configuration, tokenizer, chat template and what the student was trained to do.
//!
//! A bundle is a valid safetensors file ([`format`] has the picture), so every safetensors reader opens it; ours maps it, validates
//! everything once, and hands out views. Weights therefore count as file-backed memory that the system may drop and re-read, not
//! as memory of the app.
//!
//! What comes from outside is hostile until checked: [`Bundle::open`] never panics, and names the rule that a file breaks.

mod format;
mod header;
mod mmap;
mod pending;
mod rewrite;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use skimstone_kernels::{BLOCK, Format, Matrix};

use crate::chat::ChatTemplate;
use crate::config::{GenerationConfig, ModelConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use crate::spec::ReasoningSpec;
use crate::tokenizer::{self, TableBytes, Tokenizer};
use crate::weights::{WeightTable, Weights};
use format::{Layout, key};
use header::{Dtype, Entry, Header};

pub(crate) use mmap::as_f32s;
pub use pending::PendingFile;
pub use writer::{BundleSpec, BundleWriter, TensorDecl};

pub(crate) use mmap::Storage;

/// The parts of safetensors that import reads checkpoints with: the same mapping, the same rules.
pub(crate) mod safetensors {
    pub(crate) use super::header::{Dtype, Entry, parse};
}

/// One tensor of a bundle: its logical shape, and where its bytes stand.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) format: Option<Format>,
    pub(crate) range: Range<usize>,
    /// As written when the bundle was made; compared by [`Bundle::verify`].
    crc: u32,
}

impl TensorInfo {
    /// Hugging Face's name of the tensor.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Logical shape: that of the weights, not of their packed bytes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The weight format; `None` for plain bytes such as the tokenizer.
    pub fn format(&self) -> Option<Format> {
        self.format
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> usize {
        self.range.len()
    }
}

/// How to open a bundle.
#[derive(Clone, Debug)]
#[must_use]
pub struct OpenOptions {
    verify: bool,
    copy: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions {
            verify: true,
            copy: false,
        }
    }
}

impl OpenOptions {
    /// The defaults: the tensors' checksums are verified.
    pub fn new() -> OpenOptions {
        OpenOptions::default()
    }

    /// Whether to read all tensor data at open and compare it with its checksums ([`Bundle::verify`]).
    ///
    /// Without it opening touches only the header, whose own checksum is always compared.
    pub fn verify(mut self, verify: bool) -> OpenOptions {
        self.verify = verify;
        self
    }

    /// Whether to copy the file into memory of this process, in huge pages where the system has them, instead of mapping it.
    ///
    /// Reading weights through 4 KiB pages costs some bandwidth (3 % of decoding on one x86-64 thread). The copy is anonymous memory,
    /// which a system under pressure cannot drop, and takes its time at open.
    pub fn copy(mut self, copy: bool) -> OpenOptions {
        self.copy = copy;
        self
    }

    /// Opens the bundle at `path`; see [`Bundle::open`].
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Bundle> {
        let path = path.as_ref();
        let storage = Storage::open(path)
            .and_then(|file| match self.copy {
                true => Storage::copy(&file),
                false => Ok(file),
            })
            .map_err(|error| Error::io(path, error))?;
        self.load(storage).map_err(|error| error.at(path.display()))
    }

    /// Reads a bundle from memory; see [`Bundle::from_bytes`].
    ///
    /// # Errors
    /// As [`Bundle::from_bytes`].
    pub fn open_bytes(&self, bytes: impl AsRef<[u8]>) -> Result<Bundle> {
        let storage = Storage::copy(bytes.as_ref()).map_err(unreadable)?;
        self.load(storage)
    }

    /// Opens a bundle that is a part of `file`: an asset in an archive, for instance. `range` counts bytes from the start of the
    /// file and begins at a multiple of 64, without compression; `None` is the whole file. The file may be closed afterwards, but
    /// not be changed in place.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn open_file(&self, file: &File, range: Option<Range<u64>>) -> Result<Bundle> {
        let storage = Storage::open_file(file, range)
            .and_then(|file| match self.copy {
                true => Storage::copy(&file),
                false => Ok(file),
            })
            .map_err(unreadable)?;
        self.load(storage)
    }

    /// Reads a bundle from memory that stays where it is, without a copy; it is dropped with the bundle. It must begin at a
    /// multiple of 64, must always be the same bytes, and is not counted as memory of the model.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn open_shared(&self, bytes: Box<dyn AsRef<[u8]> + Send + Sync>) -> Result<Bundle> {
        self.load(Storage::shared(bytes).map_err(unreadable)?)
    }

    fn load(&self, storage: Storage) -> Result<Bundle> {
        let bundle = Bundle::load(storage)?;
        if self.verify {
            bundle.verify()?;
        }
        bundle.check_chat_template()?;
        Ok(bundle)
    }
}

/// An open bundle: validated, immutable, shareable between threads.
#[derive(Debug)]
pub struct Bundle {
    /// Shared with the tokenizer, which reads its vocabulary in place.
    storage: Arc<Storage>,
    /// In the order of their bytes, fillers included.
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    config: ModelConfig,
    reasoning: ReasoningSpec,
    provenance: Value,
    generation: GenerationConfig,
    special_tokens: BTreeMap<String, String>,
    weights: WeightTable,
}

impl Bundle {
    /// Maps the file at `path` and validates all of it, its data too: one pass over the file, which reads it from storage.
    /// [`OpenOptions::verify`] leaves that pass out.
    ///
    /// The file must not be changed in place while it is open; replacing it by a rename is fine.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if it cannot be read; otherwise the kind of the rule that it breaks.
    pub fn open(path: impl AsRef<Path>) -> Result<Bundle> {
        OpenOptions::new().open(path)
    }

    /// Reads a bundle from memory, e.g. from `include_bytes!`. The bytes are copied once, to an aligned place.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn from_bytes(bytes: impl AsRef<[u8]>) -> Result<Bundle> {
        OpenOptions::new().open_bytes(bytes)
    }

    fn load(storage: Storage) -> Result<Bundle> {
        let header = header::parse(&storage, format::MAX_HEADER_BYTES)?;
        check_identity(&header, &storage)?;
        let section = |key: &str| {
            let value = header.metadata.get(key).map(String::as_str);
            value.ok_or_else(|| Error::new(ErrorKind::Format, format!("metadata has no `{key}`")))
        };
        let config = ModelConfig::from_json(section(key::CONFIG)?)?;
        let reasoning = ReasoningSpec::from_json(section(key::REASONING)?)?;
        reasoning.validate(&config)?;
        let generation = GenerationConfig::from_json(section(key::GENERATION)?, config.vocab_size)?;
        let provenance = parse_section(key::PROVENANCE, section(key::PROVENANCE)?)?;

        let special_tokens = parse_section(key::SPECIAL_TOKENS, section(key::SPECIAL_TOKENS)?)?;

        let tensors = tensors(&header, section(key::LAYOUTS)?, section(key::CHECKSUMS)?)?;
        let by_name: HashMap<String, usize> = tensors
            .iter()
            .enumerate()
            .map(|(index, info)| (info.name.clone(), index))
            .collect();
        let weights = WeightTable::new(&config, reasoning.side_modules(), |name| {
            by_name.get(name).map(|&index| &tensors[index])
        })?;
        memory::check_refusal()?;
        Ok(Bundle {
            storage: Arc::new(storage),
            tensors,
            by_name,
            config,
            reasoning,
            provenance,
            generation,
            special_tokens,
            weights,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What the student was trained to do.
    pub fn reasoning(&self) -> &ReasoningSpec {
        &self.reasoning
    }

    /// Where the weights come from: recipe and data hashes, evaluation card, import source.
    pub fn provenance(&self) -> &Value {
        &self.provenance
    }

    /// How the authors sample.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// Builds the tokenizer; `None` in an id-only bundle, and without the feature `text`. Its vocabulary is read in place where the bundle has it packed, which takes a
    /// millisecond; otherwise large vocabularies take long. Keep the result.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] if it is malformed.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        let json = self.info(format::TOKENIZER);
        let Some(json) = json.filter(|_| tokenizer::BUILT_IN) else {
            return Ok(None);
        };
        let tokenizer = match self.info(format::TOKENIZER_TABLE) {
            Some(table) => {
                let table = TableBytes::Bundle(self.storage.clone(), table.range.clone());
                Tokenizer::from_table(table, json.crc, self.config.vocab_size)
            }
            None => Tokenizer::from_json(&self.storage[json.range.clone()], self.config.vocab_size),
        };
        tokenizer.map(Some)
    }

    /// Whether the tokenizer's vocabulary is read in place.
    pub(crate) fn has_packed_tokenizer(&self) -> bool {
        self.info(format::TOKENIZER_TABLE).is_some()
    }

    /// Bytes of the file that belong to the tokenizer.
    pub fn tokenizer_file_bytes(&self) -> u64 {
        let bytes = |name| self.data(name).map_or(0, |bytes| bytes.len() as u64);
        bytes(format::TOKENIZER) + bytes(format::TOKENIZER_TABLE)
    }

    /// The bytes of `tokenizer.json`.
    pub fn tokenizer_json(&self) -> Option<&[u8]> {
        self.data(format::TOKENIZER)
    }

    /// The chat template, as Jinja source.
    pub fn chat_template(&self) -> Option<&str> {
        self.data(format::CHAT_TEMPLATE)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// Compiles the chat template; `None` if the bundle has none. Keep the result.
    ///
    /// # Errors
    /// [`ErrorKind::Template`] if it is malformed.
    pub fn chat(&self) -> Result<Option<ChatTemplate>> {
        let template = self.chat_template();
        template
            .map(|source| ChatTemplate::new(source, self.special_tokens.clone()))
            .transpose()
    }

    /// Views of all weights that the configuration requires.
    pub fn weights(&self) -> Weights<'_> {
        Weights::new(&self.storage, &self.weights)
    }

    /// Every tensor in the file, fillers left out.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors
            .iter()
            .filter(|info| !info.name.starts_with(format::PAD))
    }

    /// A matrix by name: for tensors beyond those of the model's family, such as routers and latent maps.
    pub fn matrix(&self, name: &str) -> Option<Matrix<'_>> {
        let info = self.info(name)?;
        let (Some(format), &[rows, cols]) = (info.format, info.shape.as_slice()) else {
            return None;
        };
        Matrix::new(format, rows, cols, &self.storage[info.range.clone()]).ok()
    }

    /// The bytes of a tensor by name, as they stand in the file.
    pub fn data(&self, name: &str) -> Option<&[u8]> {
        Some(&self.storage[self.info(name)?.range.clone()])
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        Some(&self.tensors[*self.by_name.get(name)?])
    }

    /// Whether the bytes are memory of this process instead of pages of the file: [`OpenOptions::copy`], [`Bundle::from_bytes`].
    pub fn is_copy(&self) -> bool {
        self.storage.is_copy()
    }

    /// Size of the whole file.
    pub fn file_bytes(&self) -> usize {
        self.storage.len()
    }

    /// A number that differs where configuration or weights differ: the checksum of the header, which has those of all tensors, and
    /// the size of the file.
    pub fn fingerprint(&self) -> u64 {
        let length = self.storage.first_chunk().copied().map(u64::from_le_bytes);
        let end = length.and_then(|n| usize::try_from(n).ok()?.checked_add(size_of::<u64>()));
        let header = end.and_then(|end| self.storage.get(..end));
        // Opening compared the same bytes with their checksum, so they are there.
        let crc = header.and_then(format::header_crc).unwrap_or_default();
        u64::from(crc) << 32 | (self.file_bytes() as u64 & u64::from(u32::MAX))
    }

    /// Size of all tensors in a weight format: what a forward pass reads, apart from the embedding rows it skips.
    pub fn weight_bytes(&self) -> usize {
        self.tensors
            .iter()
            .filter(|info| info.format.is_some())
            .map(TensorInfo::bytes)
            .sum()
    }

    fn check_chat_template(&self) -> Result<()> {
        match self.data(format::CHAT_TEMPLATE).map(std::str::from_utf8) {
            Some(Err(error)) => {
                Err(Error::new(ErrorKind::Template, error.to_string()).at("chat template"))
            }
            _ => Ok(()),
        }
    }
}

fn unreadable(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, error.to_string()).with_source(error)
}

/// Checks that the file is a bundle of a known version whose header is as it was written.
fn check_identity(header: &Header, file: &[u8]) -> Result<()> {
    if header.metadata.get(key::FORMAT).map(String::as_str) != Some(format::FORMAT_NAME) {
        let message = "a safetensors file, but not a skimstone bundle";
        return Err(Error::new(ErrorKind::Format, message)
            .with_hint("import a Hugging Face folder with `skim import`"));
    }
    match header.metadata.get(key::VERSION).map(String::as_str) {
        Some(format::VERSION) => {}
        found => {
            let found = found.unwrap_or("none");
            let message = format!(
                "bundle has format version `{found}`, this runtime reads `{}`",
                format::VERSION
            );
            return Err(Error::new(ErrorKind::Version, message)
                .with_hint("update the runtime or export again"));
        }
    }
    let expected = header.metadata.get(key::CRC);
    let actual = format::header_crc(&file[..header.header_bytes]).map(format::crc_digits);
    if expected.is_none() || actual.as_ref() != expected {
        let (expected, actual) = (
            expected.map_or("none", String::as_str),
            actual.as_deref().unwrap_or("none"),
        );
        let message = format!("header checksum is {actual}, recorded is {expected}");
        return Err(Error::new(ErrorKind::Checksum, message).with_hint(
            "the file is damaged, or another program wrote it anew; copy or export it again",
        ));
    }
    Ok(())
}

fn parse_section<T: serde::de::DeserializeOwned>(key: &str, json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| {
        Error::new(ErrorKind::Format, error.to_string())
            .at(format_args!("metadata `{key}`"))
            .with_source(error)
    })
}

/// Joins the safetensors entries with their layouts and checksums.
fn tensors(header: &Header, layouts: &str, checksums: &str) -> Result<Vec<TensorInfo>> {
    let layouts: HashMap<String, Layout> = parse_section(key::LAYOUTS, layouts)?;
    let checksums: HashMap<String, String> = parse_section(key::CHECKSUMS, checksums)?;
    let names: HashSet<&str> = header
        .entries
        .iter()
        .map(|entry| entry.name.as_str())
        .collect();
    if let Some(name) = layouts.keys().find(|name| !names.contains(name.as_str())) {
        let message = format!("`layouts` names `{name}`, which is not in the file");
        return Err(Error::new(ErrorKind::MissingTensor, message));
    }
    let info = |entry: &Entry| {
        let crc = checksums
            .get(&entry.name)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let crc = crc.ok_or_else(|| Error::new(ErrorKind::Format, "has no checksum"))?;
        if !entry.range.start.is_multiple_of(format::ALIGNMENT)
            && !entry.name.starts_with(format::PAD)
        {
            let message = format!(
                "starts at byte {}, not a multiple of {}",
                entry.range.start,
                format::ALIGNMENT
            );
            return Err(Error::new(ErrorKind::Misaligned, message));
        }
        let (shape, format) = match layouts.get(&entry.name) {
            Some(layout) => (layout.shape.clone(), Some(packed_format(entry, layout)?)),
            None => (entry.shape.clone(), format::plain_format(entry.dtype)),
        };
        Ok(TensorInfo {
            name: entry.name.clone(),
            shape,
            format,
            range: entry.range.clone(),
            crc,
        })
    };
    let tensors = header
        .entries
        .iter()
        .map(|entry| info(entry).map_err(|e| e.at(format_args!("tensor `{}`", entry.name))));
    tensors.collect()
}

/// Checks a packed tensor against its layout.
fn packed_format(entry: &Entry, layout: &Layout) -> Result<Format> {
    let unknown = || {
        let message = format!("layout `{}` is not known to this runtime", layout.layout);
        Error::new(ErrorKind::Layout, message).with_hint("update the runtime or export again")
    };
    let format = Format::from_name(&layout.layout)
        .filter(|format| format.is_quantized())
        .ok_or_else(unknown)?;
    let [rows, cols] = *layout.shape.as_slice() else {
        return Err(Error::new(
            ErrorKind::Shape,
            format!(
                "{} needs [rows, cols], layout has {:?}",
                layout.layout, layout.shape
            ),
        ));
    };
    // `panel_bytes` multiplies; a column count that the file cannot hold is refused before it is asked.
    if cols > entry.range.len().saturating_mul(BLOCK) {
        let message = format!(
            "layout has {cols} columns, file has {} bytes",
            entry.range.len()
        );
        return Err(Error::new(ErrorKind::Shape, message));
    }
    let stored = [format.panels(rows), format.panel_bytes(cols)];
    if entry.dtype != Dtype::U8 || entry.shape != stored {
        let message = format!(
            "{} {:?} needs U8 {:?}, file has {} {:?}",
            layout.layout,
            layout.shape,
            stored,
            entry.dtype.name(),
            entry.shape
        );
        return Err(Error::new(ErrorKind::Shape, message));
    }
    Ok(format)
}
