//! A GGUF file of llama.cpp → a bundle.
//!
//! ```text
//! general.architecture, llama.* | qwen2.* | qwen3.*   → config       refused if it names what this runtime does not do
//! tensors (rows of q and k of llama put back)         → weights
//! tokenizer.ggml.*                                    → tokenizer, special and end tokens
//! tokenizer.chat_template                             → chat template
//! ```
//!
//! Without an explicit format each matrix keeps its class of precision; vectors are f32 always:
//!
//! | in the file | in the bundle | |
//! |---|---|---|
//! | F32 | f32 | the same numbers |
//! | F16 | f16 | the same numbers |
//! | BF16 | f16 | the same numbers within the range of f16; larger ones are refused, below 2⁻¹⁴ bits are lost |
//! | Q8_0 | q8 | the same scales and integers |
//! | Q4_0 | q4 | the same scales and integers |
//! | Q4_1, Q4_K | q4 | computed as f32 and rounded again: costs accuracy, as q4 has no minimum and one scale for 32 values |
//! | Q5_0, Q5_1, Q5_K, Q6_K | q8 | computed as f32 and rounded again, to steps finer than they had |
//!
//! With an explicit format every matrix is computed as f32 and rounded to it, unless it already is exactly that.
//!
//! The file is mapped and hostile until checked: `reader.rs` checks the grammar, `config.rs` and [`Plan`] that everything is there
//! and fits. Only then the first byte is written.

mod config;
mod dequant;
mod exact;
mod ggml;
mod names;
mod reader;
mod tokenizer;
mod value;
mod vocabulary;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::json;
use skimstone_kernels::{Format, quant};

use super::{ImportOptions, Progress, reasoning};
use crate::bundle::Storage;
use crate::bundle::{BundleSpec, BundleWriter, PendingFile, TensorDecl};
use crate::error::{Error, ErrorKind, Result};
use crate::tokenizer::Tokenizer;
use exact::QuantizedRow;
use names::RowOrder;
use reader::{Gguf, MAGIC, Tensor, shorten};
use value::Metadata;
use vocabulary::Vocabulary;

/// Whether `path` is a file that begins as GGUF does. What cannot be read is not; the error will be told by who opens it.
pub(super) fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; MAGIC.len()];
    let read = |mut file: File| file.read_exact(&mut magic);
    path.is_file() && File::open(path).and_then(read).is_ok() && magic == MAGIC
}

/// Imports the GGUF file `source` into a bundle at `out`.
pub(super) fn import(
    source: &Path,
    out: &Path,
    options: &ImportOptions,
    progress: Progress<'_>,
) -> Result<()> {
    let storage = Storage::open(source).map_err(|error| Error::io(source, error))?;
    let at = |error: Error| error.at(source.display());
    let file = Gguf::parse(&storage).map_err(at)?;
    let spec = read_spec(&file, source, options).map_err(at)?;
    let plan = Plan::new(&file, &spec, options).map_err(at)?;
    plan.write(BundleWriter::create(out, spec, &plan.decls)?, progress)
}

/// Everything but the weights.
fn read_spec(file: &Gguf<'_>, source: &Path, options: &ImportOptions) -> Result<BundleSpec> {
    let metadata = &file.metadata;
    let mut spec = BundleSpec::new(config::model_config(file)?);
    let mut tokenizer = None;
    if options.tokenizer {
        tokenizer = Some(read_tokenizer(metadata, &mut spec)?);
    }
    spec.reasoning = reasoning::routes(&spec, tokenizer.as_ref())?;
    spec.provenance = json!({
        "source": "gguf",
        "file": source.file_name().map(|name| name.to_string_lossy()),
        "gguf_version": file.version,
        "architecture": spec.config.model_type.name(),
        // A name that is no text is no reason to refuse the model.
        "name": metadata.string("general.name").unwrap_or_default(),
        "license": metadata.string("general.license").unwrap_or_default(),
        "format": options.format.map_or("as in the file", Format::name),
        "tool": concat!("skimstone ", env!("CARGO_PKG_VERSION")),
    });
    Ok(spec)
}

/// Makes and checks the tokenizer, and what comes with it: special tokens, end tokens and the chat template.
fn read_tokenizer(metadata: &Metadata<'_>, spec: &mut BundleSpec) -> Result<Tokenizer> {
    if !metadata.contains("tokenizer.ggml.model") {
        return Err(
            Error::new(ErrorKind::Tokenizer, "the file has no tokenizer")
                .with_hint("import with --no-tokenizer a model that is used by token ids only"),
        );
    }
    let vocabulary = Vocabulary::read(metadata)?;
    let json = tokenizer::tokenizer_json(metadata, &vocabulary)?
        .to_string()
        .into_bytes();
    let tokenizer = Tokenizer::from_bytes(&json, spec.config.vocab_size)?;
    spec.tokenizer_json = Some(json);
    spec.special_tokens = vocabulary.special_tokens(metadata)?;
    spec.generation.eos_token_id = vocabulary.end_tokens(metadata)?;
    let vocab_size = spec.config.vocab_size;
    if let Some(id) = spec
        .generation
        .eos_token_id
        .iter()
        .find(|&&id| id as usize >= vocab_size)
    {
        let message = format!("end token {id} is outside the vocabulary of {vocab_size}");
        return Err(Error::new(ErrorKind::Tokenizer, message));
    }
    spec.chat_template = metadata
        .string("tokenizer.chat_template")?
        .map(str::to_owned);
    Ok(tokenizer)
}

/// How a tensor of ours is made from one of the file.
struct Source<'a> {
    tensor: Tensor<'a>,
    order: RowOrder,
}

/// All tensors of the bundle and where they come from.
struct Plan<'a> {
    decls: Vec<TensorDecl>,
    sources: Vec<Source<'a>>,
}

impl<'a> Plan<'a> {
    /// Checks that the file has every tensor that the configuration requires, with its shape, and none that would be left
    /// unused in silence.
    fn new(file: &Gguf<'a>, spec: &BundleSpec, options: &ImportOptions) -> Result<Plan<'a>> {
        let mut plan = Plan {
            decls: Vec::new(),
            sources: Vec::new(),
        };
        let mut unused: BTreeSet<&str> = file.tensors.keys().copied().collect();
        unused.remove(config::ROPE_FREQS);
        for required in spec.config.tensors() {
            let name = names::gguf_name(&required.name)?;
            let tensor = file.tensors.get(name.as_str()).ok_or_else(|| {
                let message = format!("tensor `{name}` is missing");
                Error::new(ErrorKind::MissingTensor, message)
            })?;
            if tensor.shape != required.shape {
                let message = format!(
                    "expected {:?} by the metadata, file has {:?}",
                    required.shape, tensor.shape
                );
                return Err(
                    Error::new(ErrorKind::Shape, message).at(format_args!("tensor `{name}`"))
                );
            }
            unused.remove(name.as_str());
            plan.decls.push(TensorDecl {
                format: match required.is_matrix() {
                    true => options.format.unwrap_or(tensor.kind.format()),
                    false => Format::F32,
                },
                name: required.name.clone(),
                shape: required.shape,
            });
            plan.sources.push(Source {
                tensor: tensor.clone(),
                order: RowOrder::of(&spec.config, &required.name),
            });
        }
        match unused.first() {
            None => Ok(plan),
            Some(name) => {
                let message = format!(
                    "tensor `{}` has no place in a {} of this shape",
                    shorten(name),
                    spec.config.model_type
                );
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }

    fn write(&self, mut writer: BundleWriter<PendingFile>, progress: Progress<'_>) -> Result<()> {
        let total = self
            .sources
            .iter()
            .map(|s| s.tensor.bytes.len() as u64)
            .sum();
        let mut done = 0;
        let mut reported = 0;
        for (decl, source) in self.decls.iter().zip(&self.sources) {
            let name = decl.name.as_str();
            let mut read = |bytes: usize| {
                done += bytes as u64;
                // A report per row would cost more than small rows do.
                if done - reported >= 1 << 20 {
                    reported = done;
                    progress(done, total, name);
                }
            };
            source.write(&mut writer, decl, &mut read)?;
            progress(done, total, name);
        }
        writer.commit()
    }
}

impl Source<'_> {
    /// Writes the tensor row by row; `read` is told the bytes of each.
    fn write(
        &self,
        writer: &mut BundleWriter<PendingFile>,
        decl: &TensorDecl,
        read: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let Tensor { kind, bytes, .. } = self.tensor;
        let cols = decl.shape.last().copied().unwrap_or_default();
        let row_bytes = kind.row_bytes(cols);
        let source_row = |row: usize| &bytes[row * row_bytes..][..row_bytes];
        if decl.shape.len() == 1 {
            // The order of rows is that of a bias's values.
            let mut values = vec![0.0; decl.shape[0]];
            kind.unpack_row(bytes, &mut values);
            return writer.write_rows(&decl.name, |_, out| {
                for (at, out) in out.iter_mut().enumerate() {
                    *out = values[self.order.source(at)];
                }
                read(row_bytes);
                Ok(())
            });
        }
        if kind.is_same_as(decl.format) {
            let mut exact = QuantizedRow::default();
            return writer.write_panels(&decl.name, |rows, panel| {
                quant::clear_panel(decl.format, panel);
                for (lane, row) in rows.enumerate() {
                    exact
                        .read(kind, source_row(self.order.source(row)))
                        .and_then(|()| exact.store(decl.format, cols, lane, panel))
                        .map_err(|error| error.at(format_args!("row {row}")))?;
                    read(row_bytes);
                }
                Ok(())
            });
        }
        writer.write_rows(&decl.name, |row, out| {
            kind.unpack_row(source_row(self.order.source(row)), out);
            read(row_bytes);
            Ok(())
        })
    }
}
