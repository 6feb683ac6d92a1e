//! `ModelConfig`: the shape of a model under Hugging Face's names, checked once against itself.
//!
//! [`ModelConfig::tensors`] is the one place that knows which tensors a family has and how they are shaped: the bundle validates
//! against it, import and training write by it.

use std::fmt;

use serde::{Deserialize, Serialize};

use skimstone_kernels::MAX_HEAD_DIM;

use crate::error::{Error, ErrorKind, Result};

mod generation;
mod json;

pub use generation::GenerationConfig;

/// The id of a token in the vocabulary.
pub type TokenId = u32;

/// A model family, by its Hugging Face `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ModelType {
    /// Llama 2, 3 and what is built like them.
    Llama,
    /// Qwen2 and Qwen2.5: bias on q, k and v.
    Qwen2,
    /// Qwen3: RMS norm on each head of q and k.
    Qwen3,
}

impl ModelType {
    /// Every family that this runtime implements.
    pub const ALL: [ModelType; 3] = [ModelType::Llama, ModelType::Qwen2, ModelType::Qwen3];

    /// The `model_type` of the family's `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            ModelType::Llama => "llama",
            ModelType::Qwen2 => "qwen2",
            ModelType::Qwen3 => "qwen3",
        }
    }
}

impl fmt::Display for ModelType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How rotary frequencies are stretched beyond the trained context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "rope_type")]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    Default,
    /// Llama 3: low frequencies are divided by `factor`, high ones kept, those between blended.
    Llama3 {
        /// What low frequencies are divided by.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are fully scaled.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context that the model was first trained with.
        original_max_position_embeddings: usize,
    },
}

/// The shape of a model. Field names are those of Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelConfig {
    /// Which family's forward pass to run.
    pub model_type: ModelType,
    /// Width of the residual stream, `E`.
    pub hidden_size: usize,
    /// Width of the feed-forward layer, `F`.
    pub intermediate_size: usize,
    /// Layers, `L`.
    pub num_hidden_layers: usize,
    /// Query heads, `H`.
    pub num_attention_heads: usize,
    /// Key and value heads, `G`; divides `H`.
    pub num_key_value_heads: usize,
    /// Width of one head, `D`; need not be `E / H`.
    pub head_dim: usize,
    /// Rows of the embedding, `V`.
    pub vocab_size: usize,
    /// The longest context, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v (and, except in `qwen2`, o) have a bias.
    pub attention_bias: bool,
    /// Whether gate, up and down have a bias (`llama` only).
    pub mlp_bias: bool,
    /// The token that begins a text, if the model has one.
    pub bos_token_id: Option<TokenId>,
    /// The tokens that end a text.
    pub eos_token_id: Vec<TokenId>,
}

/// The name and logical shape of a tensor that a model must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorShape {
    /// Hugging Face's name, e.g. `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// `[n]` for norms and biases, `[rows, cols]` for matrices.
    pub shape: Vec<usize>,
}

impl TensorShape {
    /// Matrices may be stored in any weight format; norms and biases are always f32.
    pub fn is_matrix(&self) -> bool {
        self.shape.len() == 2
    }
}

/// Largest value of each dimension. Far above any model that runs on a device, and small enough that no product of two of them,
/// times the bytes of a value, overflows 64 bits.
const MAX_DIM: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 10;
const MAX_POSITIONS: usize = 1 << 28;

impl ModelConfig {
    /// Whether q and k are normalized per head.
    pub fn qk_norm(&self) -> bool {
        self.model_type == ModelType::Qwen3
    }

    /// Whether `o_proj` has a bias where q, k and v have one.
    pub fn o_bias(&self) -> bool {
        self.attention_bias && self.model_type != ModelType::Qwen2
    }

    /// Width of all query heads, `H·D`.
    pub fn q_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads, `G·D`.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Checks that every dimension is sensible and that they agree with each other.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], naming the field and its value.
    pub fn validate(&self) -> Result<()> {
        let dims = [
            ("hidden_size", self.hidden_size, MAX_DIM),
            ("intermediate_size", self.intermediate_size, MAX_DIM),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_DIM),
            ("num_key_value_heads", self.num_key_value_heads, MAX_DIM),
            ("head_dim", self.head_dim, MAX_HEAD_DIM),
            ("vocab_size", self.vocab_size, MAX_DIM),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                MAX_POSITIONS,
            ),
            (
                "num_attention_heads * head_dim",
                self.num_attention_heads.saturating_mul(self.head_dim),
                MAX_DIM,
            ),
        ];
        for (field, value, max) in dims {
            if value == 0 || value > max {
                return Err(invalid(
                    field,
                    format!("{value} is not between 1 and {max}"),
                ));
            }
        }
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            let (heads, kv) = (self.num_attention_heads, self.num_key_value_heads);
            return Err(invalid(
                "num_key_value_heads",
                format!("{kv} does not divide num_attention_heads {heads}"),
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(invalid(
                "head_dim",
                format!("{} is odd; rotary embedding turns pairs", self.head_dim),
            ));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(invalid(
                "rms_norm_eps",
                format!("{} is not between 0 and 1", self.rms_norm_eps),
            ));
        }
        if !(self.rope_theta >= 1.0 && self.rope_theta.is_finite()) {
            return Err(invalid(
                "rope_theta",
                format!("{} is not a finite number of at least 1", self.rope_theta),
            ));
        }
        self.validate_rope_scaling()?;
        for id in self.bos_token_id.iter().chain(&self.eos_token_id) {
            if *id as usize >= self.vocab_size {
                let message = format!(
                    "token {id} is outside the vocabulary of {}",
                    self.vocab_size
                );
                return Err(invalid("bos_token_id, eos_token_id", message));
            }
        }
        if self.mlp_bias && self.model_type != ModelType::Llama {
            return Err(invalid(
                "mlp_bias",
                format!("{} has no feed-forward bias", self.model_type),
            ));
        }
        Ok(())
    }

    fn validate_rope_scaling(&self) -> Result<()> {
        let RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } = self.rope_scaling
        else {
            return Ok(());
        };
        let finite =
            factor.is_finite() && low_freq_factor.is_finite() && high_freq_factor.is_finite();
        // `high == low` would divide by zero where the two bands are blended.
        if !finite || factor < 1.0 || low_freq_factor <= 0.0 || high_freq_factor <= low_freq_factor
        {
            let message = format!(
                "factors {factor}, {low_freq_factor}, {high_freq_factor} are not 1 ≤ factor, 0 < low < high"
            );
            return Err(invalid("rope_scaling", message));
        }
        if original_max_position_embeddings == 0 || original_max_position_embeddings > MAX_POSITIONS
        {
            let message = format!(
                "original_max_position_embeddings {original_max_position_embeddings} is out of range"
            );
            return Err(invalid("rope_scaling", message));
        }
        Ok(())
    }

    /// The tensors that a model of this shape has, in the order in which a forward pass reads them.
    ///
    /// Call on a validated configuration.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let (e, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.q_size(), self.kv_size());
        let mut out = Vec::new();
        let mut push = |name: String, shape: &[usize]| {
            out.push(TensorShape {
                name,
                shape: shape.to_vec(),
            })
        };

        push(names::EMBED_TOKENS.to_owned(), &[self.vocab_size, e]);
        for l in 0..self.num_hidden_layers {
            let mut layer = |name: &str, shape: &[usize]| push(names::layer(l, name), shape);
            layer("input_layernorm.weight", &[e]);
            for (proj, rows, cols, bias) in [
                ("q_proj", q, e, self.attention_bias),
                ("k_proj", kv, e, self.attention_bias),
                ("v_proj", kv, e, self.attention_bias),
                ("o_proj", e, q, self.o_bias()),
            ] {
                layer(&format!("self_attn.{proj}.weight"), &[rows, cols]);
                if bias {
                    layer(&format!("self_attn.{proj}.bias"), &[rows]);
                }
            }
            if self.qk_norm() {
                layer("self_attn.q_norm.weight", &[self.head_dim]);
                layer("self_attn.k_norm.weight", &[self.head_dim]);
            }
            layer("post_attention_layernorm.weight", &[e]);
            for (proj, rows, cols) in [("gate_proj", f, e), ("up_proj", f, e), ("down_proj", e, f)]
            {
                layer(&format!("mlp.{proj}.weight"), &[rows, cols]);
                if self.mlp_bias {
                    layer(&format!("mlp.{proj}.bias"), &[rows]);
                }
            }
        }
        push(names::NORM.to_owned(), &[e]);
        if !self.tie_word_embeddings {
            push(names::LM_HEAD.to_owned(), &[self.vocab_size, e]);
        }
        out
    }

    /// Number of parameters, the embedding counted once when it is tied.
    pub fn num_parameters(&self) -> u64 {
        self.tensors()
            .iter()
            .map(|t| t.shape.iter().map(|&d| d as u64).product::<u64>())
            .sum()
    }
}

/// Hugging Face's tensor names.
pub(crate) mod names {
    pub(crate) const EMBED_TOKENS: &str = "model.embed_tokens.weight";
    pub(crate) const NORM: &str = "model.norm.weight";
    pub(crate) const LM_HEAD: &str = "lm_head.weight";

    /// The full name of a tensor of layer `l`.
    pub(crate) fn layer(l: usize, name: &str) -> String {
        format!("model.layers.{l}.{name}")
    }
}

fn invalid(field: &str, message: String) -> Error {
    Error::new(ErrorKind::Config, message).at(format_args!("config `{field}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QWEN3: &str = r#"{"model_type":"qwen3","hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,
        "num_attention_heads":4,"num_key_value_heads":2,"head_dim":32,"vocab_size":100,"max_position_embeddings":128,
        "rms_norm_eps":1e-6,"rope_theta":1000000,"tie_word_embeddings":true,"bos_token_id":null,"eos_token_id":[1,2]}"#;

    #[test]
    fn a_family_has_its_tensors() {
        let qwen3 = ModelConfig::from_json(QWEN3).unwrap();
        let names: Vec<String> = qwen3.tensors().into_iter().map(|t| t.name).collect();
        assert!(names.contains(&"model.layers.1.self_attn.q_norm.weight".to_owned()));
        assert!(
            !names
                .iter()
                .any(|n| n == "lm_head.weight" || n.ends_with(".bias"))
        );
        assert_eq!(names.len(), 1 + 2 * 11 + 1);

        let qwen2 =
            ModelConfig::from_json(&QWEN3.replace("qwen3", "qwen2").replace("true", "false"))
                .unwrap();
        let names: Vec<String> = qwen2.tensors().into_iter().map(|t| t.name).collect();
        assert!(names.contains(&"model.layers.0.self_attn.k_proj.bias".to_owned()));
        assert!(!names.contains(&"model.layers.0.self_attn.o_proj.bias".to_owned()));
        assert_eq!(names.last().unwrap(), "lm_head.weight");
    }

    #[test]
    fn absurd_shapes_are_named() {
        struct Case(&'static str, &'static str, &'static str);
        let cases = [
            Case(
                r#""hidden_size":64"#,
                r#""hidden_size":0"#,
                "`hidden_size`: 0 is not between",
            ),
            Case(
                r#""head_dim":32"#,
                r#""head_dim":33"#,
                "`head_dim`: 33 is odd",
            ),
            Case(
                r#""num_attention_heads":4"#,
                r#""num_attention_heads":16777212"#,
                "`num_attention_heads * head_dim`: 536870784",
            ),
            Case(r#""head_dim":32"#, r#""head_dim":258"#, "`head_dim`: 258"),
            Case(
                r#""num_key_value_heads":2"#,
                r#""num_key_value_heads":3"#,
                "3 does not divide num_attention_heads 4",
            ),
            Case(
                r#""vocab_size":100"#,
                r#""vocab_size":18446744073709551615"#,
                "`vocab_size`: 18446744073709551615",
            ),
            Case(r#""vocab_size":100"#, r#""vocab_size":-1"#, "invalid value"),
            Case("1e-6", "0", "`rms_norm_eps`"),
            Case(
                "[1,2]",
                "[1,200]",
                "token 200 is outside the vocabulary of 100",
            ),
        ];
        for Case(from, to, message) in cases {
            let error = ModelConfig::from_json(&QWEN3.replace(from, to)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
