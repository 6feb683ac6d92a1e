//! The model that a plan is made for: a bundle, or only the shape of one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use skimstone::kernels::{Format, KvFormat};
use skimstone::memory::{self, MemoryEstimate};
use skimstone::{Bundle, Error, ErrorKind, ModelConfig, OpenOptions, ReasoningSpec, TensorShape};

use crate::failure::Result;
use crate::roofline::Work;

/// Weights of this name prefix belong to the layers.
const LAYERS: &str = "model.layers.";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Largest `config.json` and card that is read.
const MAX_JSON_BYTES: u64 = 16 << 20;

/// A model as far as a plan needs it.
pub(crate) struct Subject {
    pub(crate) config: ModelConfig,
    pub(crate) reasoning: ReasoningSpec,
    /// `None` for a `config.json`.
    pub(crate) bundle: Option<Bundle>,
    /// The format of most bytes of the layers.
    pub(crate) format: Format,
    /// What the embedding is stored in; keys and values follow it.
    embedding: Format,
    pub(crate) file_bytes: u64,
    /// Bytes of the tokenizer in the file, and in memory.
    tokenizer_bytes: [u64; 2],
    /// Every tensor of the model: name, rows times columns, bytes, format.
    tensors: Vec<Tensor>,
}

struct Tensor {
    shape: TensorShape,
    format: Format,
    bytes: u64,
}

/// Mean tokens of a route, from an evaluation card.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(crate) struct RouteMeans {
    #[serde(rename = "mean_generated_tokens")]
    pub(crate) generated_tokens: f64,
    #[serde(rename = "mean_latent_steps")]
    pub(crate) latent_steps: f64,
}

#[derive(Deserialize)]
struct Card {
    bundle: CardBundle,
    routes: BTreeMap<String, RouteMeans>,
}

#[derive(Deserialize)]
struct CardBundle {
    bytes: u64,
}

impl Subject {
    /// Opens a bundle, or reads a Hugging Face `config.json`, whose weights are then thought of as being in `quant`.
    ///
    /// The checksums of a bundle's data are not compared: a plan reads its header.
    pub(crate) fn open(path: &Path, quant: Option<Format>) -> Result<Subject> {
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let text = read(path)?;
            let config = ModelConfig::from_json(&text).map_err(|e| e.at(path.display()))?;
            return Ok(Subject::of_shape(config, quant.unwrap_or(Format::Q4)));
        }
        if quant.is_some() {
            let message = "a bundle has its format already; --quant is for a config.json";
            return Err(Error::new(ErrorKind::Argument, message).into());
        }
        let bundle = OpenOptions::new().verify(false).open(path)?;
        Ok(Subject::of_bundle(bundle))
    }

    fn of_bundle(bundle: Bundle) -> Subject {
        let config = bundle.config().clone();
        let needed = config.tensors();
        let stored: BTreeMap<&str, _> = bundle.tensors().map(|t| (t.name(), t)).collect();
        let tensors: Vec<Tensor> = needed
            .into_iter()
            .filter_map(|shape| {
                let info = stored.get(shape.name.as_str())?;
                let format = info.format()?;
                let bytes = info.bytes() as u64;
                Some(Tensor {
                    shape,
                    format,
                    bytes,
                })
            })
            .collect();
        Subject {
            reasoning: bundle.reasoning().clone(),
            format: main_format(&tensors),
            embedding: bundle.weights().embed_tokens().format(),
            file_bytes: bundle.file_bytes() as u64,
            tokenizer_bytes: [
                bundle.tokenizer_file_bytes(),
                memory::tokenizer_bytes(&bundle),
            ],
            tensors,
            config,
            bundle: Some(bundle),
        }
    }

    fn of_shape(config: ModelConfig, quant: Format) -> Subject {
        let tensors = tensors_in(&config, quant);
        Subject {
            reasoning: ReasoningSpec::default(),
            format: quant,
            embedding: quant,
            file_bytes: tensors.iter().map(|tensor| tensor.bytes).sum(),
            tokenizer_bytes: [0, 0],
            tensors,
            config,
            bundle: None,
        }
    }

    /// The same shape, tokenizer and routes with all matrices in `format`; without a file.
    pub(crate) fn in_format(&self, format: Format) -> Subject {
        Subject {
            reasoning: self.reasoning.clone(),
            file_bytes: self.tokenizer_bytes[0]
                + tensors_in(&self.config, format)
                    .iter()
                    .map(|tensor| tensor.bytes)
                    .sum::<u64>(),
            tokenizer_bytes: self.tokenizer_bytes,
            ..Subject::of_shape(self.config.clone(), format)
        }
    }

    /// The format of keys and values: the one that was asked for, or what the runtime takes.
    pub(crate) fn kv(&self, asked: Option<KvFormat>) -> KvFormat {
        asked.unwrap_or_else(|| memory::default_kv_format(self.embedding))
    }

    /// Memory of one session of `context` positions over the mapped file.
    pub(crate) fn memory(&self, context: usize, kv: KvFormat) -> MemoryEstimate {
        let (file, [_, tokenizer]) = (self.file_bytes, self.tokenizer_bytes);
        memory::estimate_shape(&self.config, file, tokenizer, context, 1, kv)
    }

    /// What a token costs.
    pub(crate) fn work(&self, kv: KvFormat) -> Work {
        let config = &self.config;
        let (mut weight_bytes, mut layer_bytes, mut layer_macs) = (0, 0, 0);
        let mut is_int8 = true;
        for tensor in &self.tensors {
            let is_head = tensor.shape.name != EMBEDDING || config.tie_word_embeddings;
            weight_bytes += if is_head { tensor.bytes } else { 0 };
            if tensor.shape.name.starts_with(LAYERS) {
                layer_bytes += tensor.bytes;
                if tensor.shape.is_matrix() {
                    layer_macs += elements(&tensor.shape);
                    is_int8 &= tensor.format.is_quantized();
                }
            }
        }
        let (layers, heads) = (config.num_hidden_layers, config.num_attention_heads);
        let kv_heads = 2 * layers * config.num_key_value_heads;
        Work {
            weight_bytes: weight_bytes as f64,
            layer_bytes: layer_bytes as f64,
            layer_macs: layer_macs as f64,
            head_macs: config.vocab_size as f64 * config.hidden_size as f64,
            kv_bytes: (kv_heads * kv.head_bytes(1, config.head_dim)) as f64,
            // Scores and the weighted sum of values.
            attention_macs: (2 * layers * heads) as f64 * config.head_dim as f64,
            is_int8,
        }
    }
}

/// Every tensor of the shape with its matrices in `format`.
fn tensors_in(config: &ModelConfig, format: Format) -> Vec<Tensor> {
    let tensors = config.tensors().into_iter().map(|shape| {
        let format = if shape.is_matrix() {
            format
        } else {
            Format::F32
        };
        let (rows, cols) = match *shape.shape.as_slice() {
            [rows, cols] => (rows, cols),
            _ => (1, shape.shape.iter().product()),
        };
        let bytes = (format.panels(rows) as u64).saturating_mul(format.panel_bytes(cols) as u64);
        Tensor {
            shape,
            format,
            bytes,
        }
    });
    tensors.collect()
}

fn elements(shape: &TensorShape) -> u64 {
    shape.shape.iter().map(|&dim| dim as u64).product()
}

/// The format of most bytes of the layers' matrices.
fn main_format(tensors: &[Tensor]) -> Format {
    let bytes = |format: Format| {
        let of_format = tensors.iter().filter(|tensor| {
            let shape = &tensor.shape;
            tensor.format == format && shape.is_matrix() && shape.name.starts_with(LAYERS)
        });
        of_format.map(|tensor| tensor.bytes).sum::<u64>()
    };
    Format::ALL
        .into_iter()
        .max_by_key(|&f| bytes(f))
        .unwrap_or(Format::F32)
}

/// Mean tokens by route from `card`, or from the card beside the bundle if there is one. Empty without a card.
///
/// # Errors
/// [`ErrorKind::Data`] if it is no card, or that of another bundle (told by its size).
pub(crate) fn card(
    card: Option<&PathBuf>,
    model: &Path,
    bundle: Option<&Bundle>,
) -> Result<BTreeMap<String, RouteMeans>> {
    let beside = model.with_extension("card.json");
    let path = match (card, bundle) {
        (Some(path), _) => path,
        (None, Some(_)) if beside.exists() => &beside,
        _ => return Ok(BTreeMap::new()),
    };
    let text = read(path)?;
    let card: Card = serde_json::from_str(&text).map_err(|error| {
        let message = format!("is no evaluation card: {error}");
        Error::new(ErrorKind::Data, message)
            .at(path.display())
            .with_source(error)
    })?;
    let means = card.routes.values();
    let sensible = |x: f64| x.is_finite() && (0.0..1e9).contains(&x);
    if !means
        .into_iter()
        .all(|m| sensible(m.generated_tokens) && sensible(m.latent_steps))
    {
        let message = "has a mean that is no count of tokens";
        return Err(Error::new(ErrorKind::Data, message)
            .at(path.display())
            .into());
    }
    let (said, is) = (
        card.bundle.bytes,
        bundle.map(|bundle| bundle.file_bytes() as u64),
    );
    if let Some(is) = is.filter(|&is| is != said) {
        let message = format!(
            "is of a bundle of {said} bytes; {} has {is}",
            model.display()
        );
        return Err(Error::new(ErrorKind::Data, message)
            .at(path.display())
            .with_hint("name the right card with --card")
            .into());
    }
    Ok(card.routes)
}

fn read(path: &Path) -> Result<String> {
    let fail = |error| Error::io(path, error);
    let bytes = fs::metadata(path).map_err(fail)?.len();
    if bytes > MAX_JSON_BYTES {
        let message = format!("{bytes} bytes are too many; at most {MAX_JSON_BYTES} are read");
        return Err(Error::new(ErrorKind::Data, message)
            .at(path.display())
            .into());
    }
    Ok(fs::read_to_string(path).map_err(fail)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(tied: bool) -> ModelConfig {
        let text = format!(
            r#"{{"model_type":"llama","hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,
            "num_attention_heads":2,"num_key_value_heads":1,"head_dim":32,"vocab_size":100,
            "max_position_embeddings":128,"rms_norm_eps":1e-6,"tie_word_embeddings":{tied}}}"#
        );
        ModelConfig::from_json(&text).unwrap()
    }

    #[test]
    fn work_by_hand() {
        let work = Subject::of_shape(shape(true), Format::F16).work(KvFormat::F16);
        // q 64x64, k and v 32x64, o 64x64; gate, up and down 96x64; two layers.
        let layer = (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 96 * 64) as f64;
        assert_eq!(work.layer_macs, 2.0 * layer);
        // Two norms of 64 f32 a layer.
        assert_eq!(work.layer_bytes, 2.0 * (2.0 * layer + 2.0 * 64.0 * 4.0));
        // The embedding is the head; one more norm.
        assert_eq!(
            work.weight_bytes,
            work.layer_bytes + (100 * 64 * 2 + 64 * 4) as f64
        );
        assert_eq!(work.head_macs, 6400.0);
        // Keys and values, 2 layers, 1 head of 32 f16; 2 heads score and sum.
        assert_eq!(work.kv_bytes, (2 * 2 * 32 * 2) as f64);
        assert_eq!(work.attention_macs, (2 * 2 * 2 * 32) as f64);
        assert!(!work.is_int8);
    }

    #[test]
    fn an_embedding_beside_a_head_is_not_read_per_token() {
        let tied = Subject::of_shape(shape(true), Format::F16);
        let apart = Subject::of_shape(shape(false), Format::F16);
        let kv = KvFormat::F16;
        assert_eq!(tied.work(kv).weight_bytes, apart.work(kv).weight_bytes);
        assert_eq!(apart.file_bytes - tied.file_bytes, 100 * 64 * 2);
    }

    #[test]
    fn blocks_are_counted_in_whole_panels() {
        let q8 = Subject::of_shape(shape(true), Format::Q8);
        assert!(q8.work(KvFormat::Q8).is_int8);
        let bytes = Format::Q8.panels(100) * Format::Q8.panel_bytes(64);
        let embedding = q8
            .tensors
            .iter()
            .find(|t| t.shape.name == EMBEDDING)
            .unwrap();
        assert_eq!(embedding.bytes, bytes as u64);
    }
}
