//! Reading a Hugging Face `config.json`: defaults, old and new spellings, and what is refused because it would change the
//! forward pass.

use serde::Deserialize;
use serde_json::Value;

use super::{ModelConfig, ModelType, RopeScaling, TokenId, invalid};
use crate::error::{Error, ErrorKind, Result};

/// `eos_token_id` is a number or a list of numbers.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(TokenId),
    Many(Vec<TokenId>),
}

impl From<OneOrMany> for Vec<TokenId> {
    fn from(ids: OneOrMany) -> Self {
        match ids {
            OneOrMany::One(id) => vec![id],
            OneOrMany::Many(ids) => ids,
        }
    }
}

/// The fields that matter, as they stand in the file. Unknown fields are of no concern to the forward pass.
#[derive(Deserialize)]
struct Raw {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: Option<f32>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    /// The spelling of transformers 5: `rope_theta` and `rope_scaling` in one object.
    rope_parameters: Option<Value>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    bos_token_id: Option<TokenId>,
    eos_token_id: Option<OneOrMany>,
    hidden_act: Option<String>,
    partial_rotary_factor: Option<f64>,
    use_sliding_window: Option<bool>,
    quantization_config: Option<Value>,
}

impl ModelConfig {
    /// Reads a Hugging Face `config.json` (or the same JSON from a bundle) and validates it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for another architecture, activation or rope scaling, naming it and what is supported;
    /// [`ErrorKind::Config`] for everything that is malformed or absurd.
    pub fn from_json(json: &str) -> Result<ModelConfig> {
        let malformed = |error: serde_json::Error| {
            Error::new(ErrorKind::Config, error.to_string())
                .at("config")
                .with_source(error)
        };
        let value: Value = serde_json::from_str(json).map_err(malformed)?;
        let model_type = model_type(&value)?;
        let raw = Raw::deserialize(&value).map_err(malformed)?;
        raw.refuse_unsupported()?;

        if raw.num_attention_heads == 0 {
            return Err(invalid(
                "num_attention_heads",
                "0 is not between 1 and the hidden size".to_owned(),
            ));
        }
        let rope = raw.rope_parameters.as_ref();
        let rope_scaling = match rope.or(raw.rope_scaling.as_ref()) {
            None | Some(Value::Null) => RopeScaling::Default,
            Some(scaling) => rope_scaling(scaling)?,
        };
        let rope_theta = rope
            .and_then(|rope| rope.get("rope_theta"))
            .and_then(Value::as_f64)
            .or(raw.rope_theta);
        // transformers' `Qwen3Config` has a default of its own; the other families derive it.
        let head_dim = raw.head_dim.unwrap_or(match model_type {
            ModelType::Qwen3 => 128,
            _ => raw.hidden_size / raw.num_attention_heads,
        });
        let config = ModelConfig {
            model_type,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: raw.num_attention_heads,
            num_key_value_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
            head_dim,
            vocab_size: raw.vocab_size,
            max_position_embeddings: raw.max_position_embeddings,
            rms_norm_eps: raw.rms_norm_eps.unwrap_or(1e-6),
            rope_theta: rope_theta.unwrap_or(10_000.0),
            rope_scaling,
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
            // Qwen2 has the bias by construction and does not say so.
            attention_bias: model_type == ModelType::Qwen2 || raw.attention_bias.unwrap_or(false),
            mlp_bias: raw.mlp_bias.unwrap_or(false),
            bos_token_id: raw.bos_token_id,
            eos_token_id: raw.eos_token_id.map(Vec::from).unwrap_or_default(),
        };
        config.validate()?;
        Ok(config)
    }

    /// The JSON that stands in a bundle: every field, under Hugging Face's names.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a configuration has string keys and finite numbers")
    }
}

impl Raw {
    /// Options that would silently give wrong logits if they were ignored.
    fn refuse_unsupported(&self) -> Result<()> {
        let refuse = |field: &str, found: String, supported: &str| {
            let message = format!("{found} is not supported; supported: {supported}");
            Err(Error::new(ErrorKind::Unsupported, message).at(format_args!("config `{field}`")))
        };
        match self.hidden_act.as_deref() {
            None | Some("silu" | "swish") => {}
            Some(other) => return refuse("hidden_act", format!("activation `{other}`"), "silu"),
        }
        if let Some(factor) = self.partial_rotary_factor
            && factor != 1.0
        {
            return refuse("partial_rotary_factor", factor.to_string(), "1");
        }
        if self.use_sliding_window == Some(true) {
            return refuse(
                "use_sliding_window",
                "a sliding window".to_owned(),
                "full attention",
            );
        }
        match &self.quantization_config {
            None | Some(Value::Null) => Ok(()),
            Some(quantization) => {
                let method = quantization
                    .get("quant_method")
                    .and_then(Value::as_str)
                    .unwrap_or("unnamed");
                refuse(
                    "quantization_config",
                    format!("a checkpoint quantized by `{method}`"),
                    "f32, f16 and bf16 checkpoints",
                )
            }
        }
    }
}

fn model_type(config: &Value) -> Result<ModelType> {
    let Some(name) = config.get("model_type").and_then(Value::as_str) else {
        return Err(Error::new(ErrorKind::Config, "there is no `model_type`").at("config"));
    };
    ModelType::ALL
        .into_iter()
        .find(|family| family.name() == name)
        .ok_or_else(|| {
            let known = ModelType::ALL.map(ModelType::name).join(", ");
            let architecture = config.pointer("/architectures/0").and_then(Value::as_str);
            let named =
                architecture.map_or_else(String::new, |architecture| format!(" ({architecture})"));
            let message =
                format!("architecture `{name}`{named} is not supported; supported: {known}");
            Error::new(ErrorKind::Unsupported, message).at("config `model_type`")
        })
}

fn rope_scaling(scaling: &Value) -> Result<RopeScaling> {
    // `type` is the spelling of transformers before 4.43.
    let name = scaling
        .get("rope_type")
        .or_else(|| scaling.get("type"))
        .and_then(Value::as_str);
    match name {
        None | Some("default") => Ok(RopeScaling::Default),
        Some("llama3") => {
            let number = |field: &str| {
                let value = scaling.get(field).and_then(Value::as_f64);
                value
                    .ok_or_else(|| invalid("rope_scaling", format!("there is no number `{field}`")))
            };
            Ok(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: number("original_max_position_embeddings")?
                    as usize,
            })
        }
        Some(other) => {
            let message =
                format!("rope scaling `{other}` is not supported; supported: default, llama3");
            Err(Error::new(ErrorKind::Unsupported, message).at("config `rope_scaling`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA: &str = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,"intermediate_size":96,
        "num_hidden_layers":2,"num_attention_heads":4,"vocab_size":100,"max_position_embeddings":128,"rms_norm_eps":1e-5,
        "bos_token_id":1,"eos_token_id":2,"extra":{"of":"no concern"}"#;

    fn llama(more: &str) -> Result<ModelConfig> {
        ModelConfig::from_json(&format!("{LLAMA}{more}}}"))
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let config = llama("").unwrap();
        assert_eq!((config.num_key_value_heads, config.head_dim), (4, 16));
        assert_eq!(
            (config.rope_theta, config.rope_scaling),
            (10_000.0, RopeScaling::Default)
        );
        assert_eq!(
            (config.bos_token_id, config.eos_token_id.as_slice()),
            (Some(1), &[2][..])
        );
        assert!(!config.tie_word_embeddings && !config.attention_bias);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let scaling = r#","rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
            "original_max_position_embeddings":64},"rope_theta":500000.0,"head_dim":8,"mlp_bias":true"#;
        for config in [llama("").unwrap(), llama(scaling).unwrap()] {
            assert_eq!(ModelConfig::from_json(&config.to_json()).unwrap(), config);
        }
    }

    #[test]
    fn both_spellings_of_rope() {
        let new = r#","rope_parameters":{"rope_type":"default","rope_theta":5000.0}"#;
        assert_eq!(llama(new).unwrap().rope_theta, 5000.0);
        let old = r#","rope_scaling":{"type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,
            "original_max_position_embeddings":64}"#;
        assert!(matches!(
            llama(old).unwrap().rope_scaling,
            RopeScaling::Llama3 { .. }
        ));
    }

    #[test]
    fn what_would_change_the_forward_pass_is_refused() {
        struct Case(&'static str, &'static str);
        let cases = [
            Case(
                r#","rope_scaling":{"rope_type":"yarn","factor":4.0}"#,
                "rope scaling `yarn` is not supported",
            ),
            Case(r#","hidden_act":"gelu""#, "activation `gelu`"),
            Case(r#","use_sliding_window":true"#, "a sliding window"),
            Case(
                r#","quantization_config":{"quant_method":"awq"}"#,
                "quantized by `awq`",
            ),
            Case(r#","partial_rotary_factor":0.5"#, "0.5 is not supported"),
        ];
        for Case(more, message) in cases {
            let error = llama(more).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains(message), "{error}");
        }
        let error = ModelConfig::from_json(
            r#"{"model_type":"mamba","architectures":["MambaForCausalLM"]}"#,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "config `model_type`: architecture `mamba` (MambaForCausalLM) is not supported; supported: llama, qwen2, qwen3"
        );
    }
}
