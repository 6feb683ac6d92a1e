//! GGUF's hyperparameters → [`ModelConfig`] under Hugging Face's names.
//!
//! | key, after the architecture's name | field |
//! |---|---|
//! | `block_count`, `embedding_length`, `feed_forward_length` | `num_hidden_layers`, `hidden_size`, `intermediate_size` |
//! | `attention.head_count`, `attention.head_count_kv` | `num_attention_heads`, `num_key_value_heads` |
//! | `attention.key_length`, or embedding / heads | `head_dim` |
//! | `attention.layer_norm_rms_epsilon`, `rope.freq_base`, `context_length` | `rms_norm_eps`, `rope_theta`, `max_position_embeddings` |
//! | tensor `rope_freqs.weight` | `rope_scaling` of type llama3 |
//! | rows of `token_embd.weight`; whether `output.weight` is there | `vocab_size`; `tie_word_embeddings` |
//!
//! What would change the forward pass and is not implemented is refused by name: nothing is ignored in silence.

use super::reader::{Gguf, Tensor, shorten};
use super::value::{Metadata, required};
use crate::config::{ModelConfig, ModelType, RopeScaling, TokenId};
use crate::error::{Error, ErrorKind, Result};
use crate::rope;

/// Frequency factors of llama3 scaling, one per rotated pair.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// Two frequency factors are the same if they differ by less than this: they were computed and stored as f32, from frequencies
/// that were f32, too (2⁻²⁴ each, and a few operations).
const FACTOR_TOLERANCE: f64 = 1e-4;

/// The keys of one architecture.
struct Keys<'a> {
    metadata: &'a Metadata<'a>,
    architecture: ModelType,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn count(&self, name: &str) -> Result<Option<usize>> {
        self.metadata.count(&self.key(name))
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        self.metadata.number(&self.key(name))
    }

    fn needed(&self, name: &str) -> Result<usize> {
        required(&self.key(name), self.count(name)?)
    }

    fn refuse(&self, name: &str, found: String, supported: &str) -> Error {
        let message = format!("{found} is not supported; supported: {supported}");
        Error::new(ErrorKind::Unsupported, message).at(format_args!("key `{}`", self.key(name)))
    }
}

/// The configuration that the metadata and the tensors of `file` describe, validated.
pub(super) fn model_config(file: &Gguf<'_>) -> Result<ModelConfig> {
    let metadata = &file.metadata;
    let architecture = architecture(metadata)?;
    let keys = Keys {
        metadata,
        architecture,
    };
    refuse_unsupported(&keys)?;

    let heads = keys.needed("attention.head_count")?;
    let hidden = keys.needed("embedding_length")?;
    let head_dim = match keys.count("attention.key_length")? {
        Some(head_dim) => head_dim,
        None => hidden.checked_div(heads).unwrap_or_default(),
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if let Some(found) = keys.count(name)?
            && found != head_dim
        {
            return Err(keys.refuse(
                name,
                found.to_string(),
                &format!("the head size {head_dim}"),
            ));
        }
    }
    let has = |name: &str| file.tensors.contains_key(name);
    let epsilon = "attention.layer_norm_rms_epsilon";
    let mut config = ModelConfig {
        model_type: architecture,
        hidden_size: hidden,
        intermediate_size: keys.needed("feed_forward_length")?,
        num_hidden_layers: keys.needed("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: keys.count("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        vocab_size: vocab_size(file)?,
        max_position_embeddings: keys.needed("context_length")?,
        rms_norm_eps: required(&keys.key(epsilon), keys.number(epsilon)?)? as f32,
        // ggml's default where the key is absent.
        rope_theta: keys.number("rope.freq_base")?.unwrap_or(10_000.0),
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: !has("output.weight"),
        attention_bias: architecture == ModelType::Qwen2 || has("blk.0.attn_q.bias"),
        mlp_bias: has("blk.0.ffn_gate.bias"),
        bos_token_id: token(metadata, "tokenizer.ggml.bos_token_id")?,
        eos_token_id: token(metadata, "tokenizer.ggml.eos_token_id")?
            .into_iter()
            .collect(),
    };
    config.validate()?;
    if let Some(factors) = file.tensors.get(ROPE_FREQS) {
        config.rope_scaling = llama3(factors, &config)
            .map_err(|error| error.at(format_args!("tensor `{ROPE_FREQS}`")))?;
    }
    Ok(config)
}

/// The id of a token that a key names.
pub(super) fn token(metadata: &Metadata<'_>, key: &str) -> Result<Option<TokenId>> {
    let id = metadata.count(key)?.map(TokenId::try_from).transpose();
    id.map_err(|error| {
        Error::new(ErrorKind::Format, "the token id is out of range")
            .at(format_args!("key `{key}`"))
            .with_source(error)
    })
}

fn architecture(metadata: &Metadata<'_>) -> Result<ModelType> {
    const KEY: &str = "general.architecture";
    let name = required(KEY, metadata.string(KEY)?)?;
    let known = ModelType::ALL
        .into_iter()
        .find(|family| family.name() == name);
    known.ok_or_else(|| {
        let message = format!(
            "architecture `{}` is not supported; supported: {}",
            shorten(name),
            ModelType::ALL.map(ModelType::name).join(", ")
        );
        Error::new(ErrorKind::Unsupported, message).at(format_args!("key `{KEY}`"))
    })
}

fn vocab_size(file: &Gguf<'_>) -> Result<usize> {
    let name = "token_embd.weight";
    match file.tensors.get(name) {
        Some(tensor) if tensor.shape.len() == 2 => Ok(tensor.shape[0]),
        Some(tensor) => {
            let message = format!("expected [vocabulary, hidden], file has {:?}", tensor.shape);
            Err(Error::new(ErrorKind::Shape, message).at(format_args!("tensor `{name}`")))
        }
        None => Err(Error::new(
            ErrorKind::MissingTensor,
            format!("tensor `{name}` is missing"),
        )),
    }
}

/// Options that would give wrong logits if they were ignored.
fn refuse_unsupported(keys: &Keys<'_>) -> Result<()> {
    let parts = "split.count";
    if let Some(count) = keys.metadata.count(parts)?
        && count > 1
    {
        let message = format!("the model is in {count} files");
        return Err(Error::new(ErrorKind::Unsupported, message)
            .at(format_args!("key `{parts}`"))
            .with_hint("join them with `llama-gguf-split --merge`"));
    }
    if let Some(experts) = keys.count("expert_count")?.filter(|&count| count > 0) {
        let found = format!("a mixture of {experts} experts");
        return Err(keys.refuse("expert_count", found, "dense models"));
    }
    let window = "attention.sliding_window";
    let context = keys.count("context_length")?.unwrap_or(usize::MAX);
    if let Some(size) = keys.count(window)?
        && (1..context).contains(&size)
    {
        let found = format!("a sliding window of {size}");
        return Err(keys.refuse(window, found, "full attention"));
    }
    let scaling = "rope.scaling.type";
    let kind = keys.metadata.string(&keys.key(scaling))?;
    let factors = ["rope.scaling.factor", "rope.scale_linear"];
    for name in factors {
        // 0 means 1, as in llama.cpp.
        if let Some(factor) = keys.number(name)?
            && kind != Some("none")
            && ![0.0, 1.0].contains(&factor)
        {
            let found = format!("rope scaling `{}` by {factor}", kind.unwrap_or("linear"));
            return Err(keys.refuse(name, found, "none, llama3"));
        }
    }
    if let Some(other) = kind.filter(|kind| !["none", "linear"].contains(kind)) {
        let found = format!("rope scaling `{}`", shorten(other));
        return Err(keys.refuse(scaling, found, "none, llama3"));
    }
    for name in ["embedding_scale", "residual_scale", "logit_scale"] {
        if let Some(scale) = keys.number(name)?
            && ![0.0, 1.0].contains(&scale)
        {
            return Err(keys.refuse(name, scale.to_string(), "1"));
        }
    }
    Ok(())
}

/// Finds the llama3 scaling whose frequency factors are those of the tensor.
///
/// The converter divides by `factor` what llama3 scales fully, so the largest value is the factor; the two bands and the original
/// context are those of every published Llama (1 and 4; 8192 in 3.1 to 3.3, powers of two around it are tried, too). The outcome
/// is checked at every frequency, so that a scaling of another kind is refused instead of bent into this one.
fn llama3(tensor: &Tensor<'_>, config: &ModelConfig) -> Result<RopeScaling> {
    let half = config.head_dim / 2;
    if tensor.shape != [half] {
        let message = format!("expected [{half}], file has {:?}", tensor.shape);
        return Err(Error::new(ErrorKind::Shape, message));
    }
    let mut factors = vec![0.0; half];
    tensor.kind.unpack_row(tensor.bytes, &mut factors);
    let factors: Vec<f64> = factors.into_iter().map(f64::from).collect();
    let largest = factors.iter().fold(1.0f64, |max, &factor| max.max(factor));
    let candidates = (10..=17).map(|bits| RopeScaling::Llama3 {
        factor: largest,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 1 << bits,
    });
    let gives_factors = |scaling: &RopeScaling| {
        factors.iter().enumerate().all(|(i, &found)| {
            let frequency = rope::frequency(config, i);
            let expected = frequency / rope::scale(frequency, scaling);
            (found / expected - 1.0).abs() < FACTOR_TOLERANCE
        })
    };
    [RopeScaling::Default]
        .into_iter()
        .chain(candidates)
        .find(gives_factors)
        .ok_or_else(|| {
            let message = format!(
                "frequency factors up to {largest} are not those of llama3 scaling; supported: none, llama3 with bands 1 and 4"
            );
            Error::new(ErrorKind::Unsupported, message)
        })
}
