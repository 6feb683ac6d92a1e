//! Makes bundles from what others publish: a Hugging Face folder, a GGUF file, or only the shape of a model.
//!
//! Of a Hugging Face folder:
//!
//! ```text
//! config.json                                   → config      refused if it names what this runtime does not do
//! model.safetensors | model.safetensors.index.json + shards → weights in f32, f16, q8 or q4; norms and biases in f32
//! tokenizer.json, tokenizer_config.json         → tokenizer, special tokens
//! chat_template.jinja | tokenizer_config.json   → chat template
//! generation_config.json                        → generation
//! ```
//!
//! A GGUF file has all of this in one; its tensors may be quantized. Matrices keep their class of precision unless a format is
//! asked for: F32 → f32, F16 and BF16 → f16, Q8_0 → q8 and Q4_0 → q4 with the same scales and integers, Q4_1 and Q4_K → q4,
//! Q5_0, Q5_1, Q5_K and Q6_K → q8, the last two groups by way of f32.
//!
//! Everything is checked before the first byte is written, and the bundle gets its name when it is whole. Weights stream row by
//! row from the mapped source: besides the map, memory holds 16 rows and the write buffer, whatever the size of the model.

mod checkpoint;
mod gguf;
mod reasoning;
mod synth;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use skimstone_kernels::Format;

use crate::bundle::{BundleSpec, BundleWriter, TensorDecl};
use crate::config::{GenerationConfig, ModelConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::tokenizer::Tokenizer;
use checkpoint::Checkpoint;

pub use synth::synth;

/// The format of the matrices of a Hugging Face folder where none is asked for.
const DEFAULT_FORMAT: Format = Format::Q8;

/// How to import.
#[derive(Clone, Debug)]
#[must_use]
pub struct ImportOptions {
    /// `None`: see [`ImportOptions::default`].
    format: Option<Format>,
    tokenizer: bool,
}

impl Default for ImportOptions {
    /// Matrices of a GGUF file keep their class of precision, those of a Hugging Face folder become q8.
    fn default() -> ImportOptions {
        ImportOptions {
            format: None,
            tokenizer: true,
        }
    }
}

impl ImportOptions {
    /// Imports matrices (projections, embedding and output head) in `format`; norms and biases stay f32.
    pub fn new(format: Format) -> ImportOptions {
        ImportOptions {
            format: Some(format),
            ..ImportOptions::default()
        }
    }

    /// Whether the bundle shall have a tokenizer and a chat template. Without them it speaks token ids only.
    pub fn tokenizer(mut self, tokenizer: bool) -> ImportOptions {
        self.tokenizer = tokenizer;
        self
    }
}

/// Called as an import goes on: bytes read so far, bytes in all, the tensor in work.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64, &str);

/// Imports `source`, a Hugging Face folder or a GGUF file (known by its first bytes, whatever its name), into a bundle at `out`.
///
/// If the tokenizer has the tokens `<think>` and `</think>`, the bundle gets the routes `cot` and `direct` over them; otherwise
/// only `direct`.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for another architecture or option, naming it and what is supported;
/// [`ErrorKind::MissingTensor`], [`ErrorKind::Shape`] (both shapes named), [`ErrorKind::Dtype`] for a checkpoint that does not fit
/// its configuration; [`ErrorKind::Tokenizer`] if there is none and one was asked for; for a GGUF file also what its grammar breaks
/// ([`ErrorKind::Format`], [`ErrorKind::Version`], [`ErrorKind::Truncated`], [`ErrorKind::Offsets`]). Nothing is written then.
pub fn import(
    source: &Path,
    out: &Path,
    options: &ImportOptions,
    progress: Progress<'_>,
) -> Result<()> {
    if gguf::is_gguf(source) {
        return gguf::import(source, out, options, progress);
    }
    let format = options.format.unwrap_or(DEFAULT_FORMAT);
    let spec = read_spec(source, options, format)?;
    let checkpoint = Checkpoint::open(source)?;
    let total = checkpoint
        .check(&spec.config)
        .map_err(|error| error.at(source.display()))?;

    let decls = TensorDecl::for_model(&spec.config, format);
    let mut writer = BundleWriter::create(out, spec, &decls)?;
    let mut done = 0;
    for decl in &decls {
        let name = decl.name.as_str();
        let tensor = checkpoint.tensor(name)?;
        let mut reported = 0;
        writer.write_rows(name, |row, values| {
            done += tensor.read_row(row, values) as u64;
            // A report per row would cost more than small rows do.
            if done - reported >= 1 << 20 {
                reported = done;
                progress(done, total, name);
            }
            Ok(())
        })?;
        progress(done, total, name);
    }
    writer.commit()
}

/// Everything but the weights.
fn read_spec(source: &Path, options: &ImportOptions, format: Format) -> Result<BundleSpec> {
    if !source.is_dir() {
        let message =
            "is neither a folder with `config.json` and `model.safetensors` nor a GGUF file";
        return Err(Error::new(ErrorKind::Io, message).at(source.display()));
    }
    let at = |name: &str| source.join(name);
    let config_path = at("config.json");
    let config_json = read(&config_path)?.ok_or_else(|| {
        Error::new(ErrorKind::Config, "there is no `config.json`")
            .at(source.display())
            .with_hint("give the folder of a Hugging Face model")
    })?;
    let config =
        ModelConfig::from_json(&config_json).map_err(|error| error.at(config_path.display()))?;

    let mut spec = BundleSpec::new(config);
    let generation_path = at("generation_config.json");
    if let Some(json) = read(&generation_path)? {
        spec.generation = GenerationConfig::from_json(&json, spec.config.vocab_size)
            .map_err(|error| error.at(generation_path.display()))?;
    }
    let mut tokenizer = None;
    if options.tokenizer {
        tokenizer = Some(read_tokenizer(source, &mut spec)?);
    }
    spec.reasoning = reasoning::routes(&spec, tokenizer.as_ref())?;
    spec.provenance = json!({
        "source": "hugging face folder",
        "folder": source.file_name().map(|name| name.to_string_lossy()),
        "architecture": serde_json::from_str::<Value>(&config_json).ok().and_then(|c| c.pointer("/architectures/0").cloned()),
        "format": format.name(),
        "tool": concat!("skimstone ", env!("CARGO_PKG_VERSION")),
    });
    Ok(spec)
}

/// Reads and checks the tokenizer, and what comes with it: special tokens and the chat template.
fn read_tokenizer(source: &Path, spec: &mut BundleSpec) -> Result<Tokenizer> {
    let path = source.join("tokenizer.json");
    let json = read(&path)?.ok_or_else(|| {
        Error::new(ErrorKind::Tokenizer, "there is no `tokenizer.json`").at(source.display()).with_hint(
            "save one there with `AutoTokenizer.from_pretrained(…).save_pretrained(…)`, or import with --no-tokenizer \
             a model that is used by token ids only",
        )
    })?;
    let tokenizer = Tokenizer::from_bytes(json.as_bytes(), spec.config.vocab_size)
        .map_err(|error| error.at(source.display()))?;
    spec.tokenizer_json = Some(json.into_bytes());

    let config_path = source.join("tokenizer_config.json");
    let config: Value = match read(&config_path)? {
        None => Value::Null,
        Some(json) => serde_json::from_str(&json).map_err(|error| {
            Error::new(ErrorKind::Tokenizer, error.to_string())
                .at(config_path.display())
                .with_source(error)
        })?,
    };
    spec.special_tokens = special_tokens(&config);
    spec.chat_template = match read(&source.join("chat_template.jinja"))? {
        Some(template) => Some(template),
        None => template_of(&config).map(str::to_owned),
    };
    Ok(tokenizer)
}

/// The named tokens that chat templates print, `bos_token` and the like. Each is a string or an object with `content`.
fn special_tokens(tokenizer_config: &Value) -> BTreeMap<String, String> {
    let tokens = ["bos_token", "eos_token", "pad_token", "unk_token"]
        .into_iter()
        .filter_map(|name| {
            let token = tokenizer_config.get(name)?;
            let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
            Some((name.to_owned(), text.to_owned()))
        });
    tokens.collect()
}

/// `chat_template` is a string, or a list of named ones of which `default` is the one for chats.
fn template_of(tokenizer_config: &Value) -> Option<&str> {
    match tokenizer_config.get("chat_template")? {
        Value::Array(named) => named.iter().find(|t| t["name"] == "default")?["template"].as_str(),
        template => template.as_str(),
    }
}

/// The text of a file, `None` if there is none.
fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path, error)),
    }
}
