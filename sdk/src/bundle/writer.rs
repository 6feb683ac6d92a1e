//! [`BundleWriter`]: declares all tensors, then takes their data one after the other, so that a model of any size is written with
//! the memory of one row.
//!
//! The header comes first in the file but holds the checksums of what follows; it is written twice, with the same length.
//! A bundle appears under its name only when it is whole: it is written beside it and renamed.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value, json};
use skimstone_kernels::{Format, KernelError, quant};

use super::format::{self, key};
use super::header::{Dtype, LENGTH_BYTES, METADATA};
use super::pending::PendingFile;
use crate::config::{GenerationConfig, ModelConfig, TensorShape};
use crate::error::{Error, ErrorKind, Result};
use crate::side::SideModules;
use crate::spec::ReasoningSpec;
use crate::tokenizer;

/// Everything in a bundle but its weights.
#[derive(Clone, Debug)]
pub struct BundleSpec {
    /// The shape of the model.
    pub config: ModelConfig,
    /// What the student was trained to do.
    pub reasoning: ReasoningSpec,
    /// Where the weights come from; any JSON.
    pub provenance: Value,
    /// How to sample.
    pub generation: GenerationConfig,
    /// The bytes of `tokenizer.json`; `None` makes an id-only bundle.
    pub tokenizer_json: Option<Vec<u8>>,
    /// The chat template, as Jinja source.
    pub chat_template: Option<String>,
    /// Named tokens that the chat template prints: `bos_token`, `eos_token`, ….
    pub special_tokens: BTreeMap<String, String>,
}

impl BundleSpec {
    /// A specification with nothing but a configuration.
    pub fn new(config: ModelConfig) -> BundleSpec {
        BundleSpec {
            config,
            reasoning: ReasoningSpec::default(),
            provenance: Value::Object(Map::new()),
            generation: GenerationConfig::default(),
            tokenizer_json: None,
            chat_template: None,
            special_tokens: BTreeMap::new(),
        }
    }
}

/// A tensor that will be written.
#[derive(Clone, Debug)]
pub struct TensorDecl {
    /// Hugging Face's name.
    pub name: String,
    /// How its values are stored.
    pub format: Format,
    /// Logical shape, `[n]` or `[rows, cols]`.
    pub shape: Vec<usize>,
}

impl TensorDecl {
    /// The tensors of a model: matrices in `format`, norms and biases in f32.
    pub fn for_model(config: &ModelConfig, format: Format) -> Vec<TensorDecl> {
        let tensors = config.tensors().into_iter();
        tensors
            .map(|tensor| TensorDecl::new(tensor, format))
            .collect()
    }

    /// One tensor: a matrix in `format`, a norm or bias in f32.
    pub fn new(tensor: TensorShape, format: Format) -> TensorDecl {
        TensorDecl {
            format: if tensor.is_matrix() {
                format
            } else {
                Format::F32
            },
            name: tensor.name,
            shape: tensor.shape,
        }
    }

    /// Rows and columns; a vector is one row.
    fn rows_cols(&self) -> Result<(usize, usize)> {
        match *self.shape.as_slice() {
            [cols] => Ok((1, cols)),
            [rows, cols] => Ok((rows, cols)),
            _ => {
                let message = format!("shape {:?} is neither [n] nor [rows, cols]", self.shape);
                Err(Error::new(ErrorKind::Shape, message)
                    .at(format_args!("tensor `{}`", self.name)))
            }
        }
    }
}

/// A tensor's place in the file.
struct Slot {
    name: String,
    dtype: Dtype,
    /// As safetensors sees it: bytes for packed blocks.
    shape: Vec<usize>,
    /// Set for declared weights.
    weight: Option<Weight>,
    start: usize,
    bytes: usize,
    crc: u32,
}

#[derive(Clone)]
struct Weight {
    format: Format,
    rows: usize,
    cols: usize,
    shape: Vec<usize>,
}

/// Writes a bundle tensor by tensor. [`BundleWriter::create`] writes a file, [`BundleWriter::new`] anything seekable.
pub struct BundleWriter<W: Write + Seek> {
    sink: W,
    spec: BundleSpec,
    /// Packed from the specification's `tokenizer.json`.
    tokenizer_table: Option<Vec<u8>>,
    slots: Vec<Slot>,
    /// The next slot to be written.
    next: usize,
    header_bytes: usize,
    row: Vec<f32>,
    packed: Vec<u8>,
}

impl BundleWriter<PendingFile> {
    /// Begins a bundle that will stand at `path` once it is [committed](Self::commit). Dropped before that, it leaves nothing.
    ///
    /// # Errors
    /// As [`BundleWriter::new`].
    pub fn create(
        path: impl AsRef<Path>,
        spec: BundleSpec,
        tensors: &[TensorDecl],
    ) -> Result<BundleWriter<PendingFile>> {
        // Before a file is made: a wrong specification must leave nothing behind.
        let (table, slots) = lay_out(&spec, tensors)?;
        BundleWriter::begin(
            PendingFile::create_large(path.as_ref())?,
            spec,
            table,
            slots,
        )
    }

    /// Completes the file and gives it its name, replacing what stood there.
    ///
    /// # Errors
    /// As [`BundleWriter::finish`].
    pub fn commit(self) -> Result<()> {
        self.finish()?.persist()
    }
}

impl<W: Write + Seek> BundleWriter<W> {
    /// Begins a bundle in `sink`, e.g. a `Cursor<Vec<u8>>`.
    ///
    /// # Errors
    /// If the specification does not validate, or a tensor that the configuration requires is not declared with its shape;
    /// [`ErrorKind::Io`] from the sink.
    pub fn new(sink: W, spec: BundleSpec, tensors: &[TensorDecl]) -> Result<BundleWriter<W>> {
        let (table, slots) = lay_out(&spec, tensors)?;
        BundleWriter::begin(sink, spec, table, slots)
    }

    fn begin(
        sink: W,
        spec: BundleSpec,
        tokenizer_table: Option<Vec<u8>>,
        slots: Vec<Slot>,
    ) -> Result<BundleWriter<W>> {
        let mut writer = BundleWriter {
            sink,
            spec,
            tokenizer_table,
            slots,
            next: 0,
            header_bytes: 0,
            row: Vec::new(),
            packed: Vec::new(),
        };
        let header = writer.header();
        writer.header_bytes = header.len();
        writer.put(&header)?;
        Ok(writer)
    }

    /// Writes the next tensor from its packed bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] if `name` is not the next declared tensor; [`ErrorKind::Shape`] if the length is wrong;
    /// [`ErrorKind::Io`].
    pub fn write(&mut self, name: &str, packed: &[u8]) -> Result<()> {
        self.expect_next(name)?;
        let slot = &mut self.slots[self.next];
        if slot.bytes != packed.len() {
            let message = format!(
                "{} {:?} needs {} bytes, got {}",
                slot.dtype.name(),
                slot.shape,
                slot.bytes,
                packed.len()
            );
            return Err(Error::new(ErrorKind::Shape, message).at(format_args!("tensor `{name}`")));
        }
        slot.crc = crc32fast::hash(packed);
        self.next += 1;
        self.put(packed)
    }

    /// Writes the next tensor from its values, row by row, in its declared format.
    ///
    /// # Errors
    /// As [`write`](Self::write), and [`ErrorKind::NonFinite`] if a value is not finite, or not finite in the declared format.
    pub fn write_f32(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let weight = self.expect_weight(name)?;
        if weight.rows.checked_mul(weight.cols) != Some(values.len()) {
            let message = format!(
                "{:?} needs {} values, got {}",
                weight.shape,
                weight.rows * weight.cols,
                values.len()
            );
            return Err(Error::new(ErrorKind::Shape, message).at(format_args!("tensor `{name}`")));
        }
        self.write_rows(name, |row, out| {
            out.copy_from_slice(&values[row * out.len()..][..out.len()]);
            Ok(())
        })
    }

    /// Writes the next tensor from rows that `fill` computes, in its declared format. One panel of it is in memory at a time.
    ///
    /// # Errors
    /// As [`write_f32`](Self::write_f32), and whatever `fill` returns.
    pub fn write_rows(
        &mut self,
        name: &str,
        mut fill: impl FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let Weight { format, cols, .. } = self.expect_weight(name)?;
        let mut values = std::mem::take(&mut self.row);
        values.resize(format.panel_rows() * cols, 0.0);
        let written = self.write_panels(name, |rows, panel| {
            let values = &mut values[..rows.len() * cols];
            for (row, values) in rows.clone().zip(values.chunks_exact_mut(cols)) {
                fill(row, values)
                    .and_then(|()| check_finite(values))
                    .map_err(|error| error.at(format_args!("row {row}")))?;
            }
            pack(format, cols, rows.start, values, panel)
        });
        self.row = values;
        written
    }

    /// Writes the next tensor from panels that `fill` packs itself, in its declared format: it gets the rows of the panel and
    /// its bytes, still those of the panel before. One panel is in memory at a time.
    pub(crate) fn write_panels(
        &mut self,
        name: &str,
        mut fill: impl FnMut(Range<usize>, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let Weight {
            format, rows, cols, ..
        } = self.expect_weight(name)?;
        let mut packed = std::mem::take(&mut self.packed);
        packed.resize(format.panel_bytes(cols), 0);
        let mut hasher = crc32fast::Hasher::new();
        for first in (0..rows).step_by(format.panel_rows()) {
            fill(first..rows.min(first + format.panel_rows()), &mut packed)
                .map_err(|error| error.at(format_args!("tensor `{name}`")))?;
            hasher.update(&packed);
            self.put(&packed)?;
        }
        self.packed = packed;
        self.slots[self.next].crc = hasher.finalize();
        self.next += 1;
        Ok(())
    }

    /// Writes what follows the weights (tokenizer, template, fillers) and the header with all checksums.
    ///
    /// # Errors
    /// [`ErrorKind::MissingTensor`] if a declared tensor was not written; [`ErrorKind::Io`].
    pub fn finish(mut self) -> Result<W> {
        self.write_own_slots()?;
        if let Some(slot) = self.slots.get(self.next) {
            return Err(Error::new(
                ErrorKind::MissingTensor,
                format!("tensor `{}` was declared, not written", slot.name),
            ));
        }
        let header = self.header();
        assert_eq!(
            header.len(),
            self.header_bytes,
            "checksums have a fixed width, so the header keeps its length"
        );
        let rewrite = |sink: &mut W| {
            sink.seek(SeekFrom::Start(0))?;
            sink.write_all(&header)?;
            sink.flush()
        };
        rewrite(&mut self.sink).map_err(sink_error)?;
        Ok(self.sink)
    }

    fn expect_next(&mut self, name: &str) -> Result<()> {
        self.write_own_slots()?;
        match self.slots.get(self.next) {
            Some(slot) if slot.name == name => Ok(()),
            Some(slot) => {
                let message = format!("tensor `{name}` is not the next one, `{}` is", slot.name);
                Err(Error::new(ErrorKind::Argument, message))
            }
            None => Err(Error::new(
                ErrorKind::Argument,
                format!("tensor `{name}` was not declared"),
            )),
        }
    }

    fn expect_weight(&mut self, name: &str) -> Result<Weight> {
        self.expect_next(name)?;
        Ok(self.slots[self.next]
            .weight
            .clone()
            .expect("`expect_next` stops at declared tensors"))
    }

    /// Fillers and the byte tensors of the specification are the writer's own business.
    fn write_own_slots(&mut self) -> Result<()> {
        while let Some(slot) = self.slots.get(self.next)
            && slot.weight.is_none()
        {
            let bytes = match slot.name.as_str() {
                format::TOKENIZER => self.spec.tokenizer_json.take().unwrap_or_default(),
                format::TOKENIZER_TABLE => self.tokenizer_table.take().unwrap_or_default(),
                format::CHAT_TEMPLATE => self
                    .spec
                    .chat_template
                    .take()
                    .unwrap_or_default()
                    .into_bytes(),
                _ => vec![0; slot.bytes],
            };
            self.slots[self.next].crc = crc32fast::hash(&bytes);
            self.next += 1;
            self.put(&bytes)?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.write_all(bytes).map_err(sink_error)
    }

    /// The length word and the padded JSON, with the checksums known so far.
    fn header(&self) -> Vec<u8> {
        let weights = self
            .slots
            .iter()
            .filter_map(|slot| Some((slot, slot.weight.as_ref()?)));
        let layouts: Map<String, Value> = weights
            .filter(|(_, weight)| weight.format.is_quantized())
            .map(|(slot, weight)| {
                (
                    slot.name.clone(),
                    json!({"layout": weight.format.name(), "shape": weight.shape}),
                )
            })
            .collect();
        let checksums: Map<String, Value> = self
            .slots
            .iter()
            .map(|slot| (slot.name.clone(), format::crc_digits(slot.crc).into()))
            .collect();
        let mut header = Map::new();
        // The order matters: the prefix of `format::HEADER_PREFIX` is what the checksum of the header is found by.
        header.insert(
            METADATA.to_owned(),
            json!({
                key::CRC: format::crc_digits(0),
                key::FORMAT: format::FORMAT_NAME,
                key::VERSION: format::VERSION,
                key::CONFIG: self.spec.config.to_json(),
                key::REASONING: self.spec.reasoning.to_json(),
                key::PROVENANCE: self.spec.provenance.to_string(),
                key::GENERATION: self.spec.generation.to_json(),
                key::SPECIAL_TOKENS: json!(self.spec.special_tokens).to_string(),
                key::LAYOUTS: Value::Object(layouts).to_string(),
                key::CHECKSUMS: Value::Object(checksums).to_string(),
            }),
        );
        for slot in &self.slots {
            let offsets = [slot.start, slot.start + slot.bytes];
            let entry =
                json!({"dtype": slot.dtype.name(), "shape": slot.shape, "data_offsets": offsets});
            header.insert(slot.name.clone(), entry);
        }
        let mut json = Value::Object(header).to_string().into_bytes();
        let padded = (LENGTH_BYTES + json.len()).next_multiple_of(format::ALIGNMENT) - LENGTH_BYTES;
        json.resize(padded, b' ');
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(&json);
        let crc = format::header_crc(&bytes)
            .expect("`crc` is the first key of `__metadata__`, which is the first of the header");
        let at = LENGTH_BYTES + format::HEADER_PREFIX.len();
        bytes[at..at + format::CRC_DIGITS].copy_from_slice(format::crc_digits(crc).as_bytes());
        bytes
    }
}

fn check_finite(row: &[f32]) -> Result<()> {
    match row.iter().position(|value| !value.is_finite()) {
        Some(col) => Err(Error::new(
            ErrorKind::NonFinite,
            format!("column {col} is {}", row[col]),
        )),
        None => Ok(()),
    }
}

/// Packs the rows of a panel, the first of which is row `first`, and refuses what would not come back as finite numbers.
fn pack(
    format: Format,
    cols: usize,
    first: usize,
    values: &[f32],
    packed: &mut [u8],
) -> Result<()> {
    quant::pack_panel(format, cols, values, packed).map_err(|error| match error {
        KernelError::Value {
            index,
            value,
            format,
        } => {
            let (row, index) = (first + index / cols, index % cols);
            let error = KernelError::Value {
                index,
                value,
                format,
            };
            Error::new(ErrorKind::NonFinite, format!("row {row}: {error}"))
                .with_hint("use f32")
                .with_source(error)
        }
        error => error.into(),
    })
}

/// Checks the specification, packs its tokenizer's vocabulary if it can be packed, and gives every tensor its place.
fn lay_out(spec: &BundleSpec, tensors: &[TensorDecl]) -> Result<(Option<Vec<u8>>, Vec<Slot>)> {
    spec.config.validate()?;
    spec.reasoning.validate(&spec.config)?;
    check_declared(&spec.config, spec.reasoning.side_modules(), tensors)?;

    let mut slots: Vec<Slot> = Vec::new();
    let mut end = 0usize;
    let mut push =
        |name: String, dtype: Dtype, shape: Vec<usize>, bytes: usize, weight: Option<Weight>| {
            let filler = end.next_multiple_of(format::ALIGNMENT) - end;
            if filler > 0 {
                let name = format!("{}{}", format::PAD, slots.len());
                slots.push(Slot {
                    name,
                    dtype: Dtype::U8,
                    shape: vec![filler],
                    weight: None,
                    start: end,
                    bytes: filler,
                    crc: 0,
                });
            }
            let start = end + filler;
            end = start + bytes;
            slots.push(Slot {
                name,
                dtype,
                shape,
                weight,
                start,
                bytes,
                crc: 0,
            });
        };
    for decl in tensors {
        let (rows, cols) = decl.rows_cols()?;
        let stored = [decl.format.panels(rows), decl.format.panel_bytes(cols)];
        let bytes = stored[0].checked_mul(stored[1]).ok_or_else(|| {
            let message = format!(
                "{} {:?} overflows the address space",
                decl.format.name(),
                decl.shape
            );
            Error::new(ErrorKind::Shape, message).at(format_args!("tensor `{}`", decl.name))
        })?;
        let shape = if decl.format.is_quantized() {
            stored.to_vec()
        } else {
            decl.shape.clone()
        };
        let weight = Weight {
            format: decl.format,
            rows,
            cols,
            shape: decl.shape.clone(),
        };
        push(
            decl.name.clone(),
            format::dtype_of(decl.format),
            shape,
            bytes,
            Some(weight),
        );
    }
    let table = spec.tokenizer_json.as_deref().and_then(tokenizer::pack);
    let texts = [
        (
            format::TOKENIZER,
            spec.tokenizer_json.as_ref().map(Vec::len),
        ),
        (format::TOKENIZER_TABLE, table.as_ref().map(Vec::len)),
        (
            format::CHAT_TEMPLATE,
            spec.chat_template.as_ref().map(String::len),
        ),
    ];
    for (name, len) in texts {
        if let Some(len) = len {
            push(name.to_owned(), Dtype::U8, vec![len], len, None);
        }
    }
    Ok((table, slots))
}

/// Every required tensor is declared with its shape, and no name twice or one of ours.
fn check_declared(
    config: &ModelConfig,
    modules: SideModules,
    tensors: &[TensorDecl],
) -> Result<()> {
    let mut by_name = HashMap::new();
    for decl in tensors {
        let own = [
            format::TOKENIZER,
            format::TOKENIZER_TABLE,
            format::CHAT_TEMPLATE,
            METADATA,
        ]
        .contains(&decl.name.as_str());
        if own
            || decl.name.starts_with(format::PAD)
            || by_name.insert(decl.name.as_str(), decl).is_some()
        {
            return Err(Error::new(
                ErrorKind::Argument,
                format!("tensor name `{}` is taken", decl.name),
            ));
        }
    }
    let side = modules.tensors(config);
    for required in config.tensors().into_iter().chain(side) {
        let name = &required.name;
        let decl = by_name.get(name.as_str()).ok_or_else(|| {
            Error::new(
                ErrorKind::MissingTensor,
                format!("tensor `{name}` is required by the config, not declared"),
            )
        })?;
        if decl.shape != required.shape {
            let message = format!(
                "expected {:?}, declared is {:?}",
                required.shape, decl.shape
            );
            return Err(Error::new(ErrorKind::Shape, message).at(format_args!("tensor `{name}`")));
        }
        if !required.is_matrix() && decl.format != Format::F32 {
            let message = format!(
                "norms and biases are f32, declared is {}",
                decl.format.name()
            );
            return Err(Error::new(ErrorKind::Dtype, message).at(format_args!("tensor `{name}`")));
        }
    }
    Ok(())
}

fn sink_error(error: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("writing the bundle failed: {error}")).with_source(error)
}
