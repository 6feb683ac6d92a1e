//! `generation_config.json`: how the authors of a model sample from it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::TokenId;
use super::json::OneOrMany;
use crate::error::{Error, ErrorKind, Result};

/// Sampling defaults that come with a model. A field is `None` where the authors said nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationConfig {
    /// `false`: greedy, whatever the other fields say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_sample: Option<bool>,
    /// Divides the logits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Keep this many of the likeliest tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Keep the likeliest tokens until their probabilities sum to this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Keep tokens at least this likely relative to the likeliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Makes tokens that occurred less likely.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// Tokens that end a text, in addition to those of the model's configuration.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub eos_token_id: Vec<TokenId>,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<TokenId>, D::Error> {
    Ok(Option::<OneOrMany>::deserialize(deserializer)?
        .map(Vec::from)
        .unwrap_or_default())
}

impl GenerationConfig {
    /// Reads a `generation_config.json`; fields that do not concern sampling are ignored.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if a field is malformed or outside its range.
    pub fn from_json(json: &str, vocab_size: usize) -> Result<GenerationConfig> {
        let fail = |message: String| Error::new(ErrorKind::Config, message).at("generation");
        let value: Value = serde_json::from_str(json)
            .map_err(|error| fail(error.to_string()).with_source(error))?;
        let config = GenerationConfig::deserialize(value)
            .map_err(|error| fail(error.to_string()).with_source(error))?;
        let in_range = |field: &str, value: Option<f32>, min: f32, max: f32| match value {
            Some(value) if !(value >= min && value <= max) => Err(fail(format!(
                "`{field}`: {value} is not between {min} and {max}"
            ))),
            _ => Ok(()),
        };
        in_range("temperature", config.temperature, 0.0, f32::MAX)?;
        in_range("top_p", config.top_p, 0.0, 1.0)?;
        in_range("min_p", config.min_p, 0.0, 1.0)?;
        in_range(
            "repetition_penalty",
            config.repetition_penalty,
            f32::MIN_POSITIVE,
            f32::MAX,
        )?;
        match config
            .eos_token_id
            .iter()
            .find(|&&id| id as usize >= vocab_size)
        {
            Some(id) => Err(fail(format!(
                "`eos_token_id` {id} is outside the vocabulary of {vocab_size}"
            ))),
            None => Ok(config),
        }
    }

    /// The JSON that stands in a bundle: the fields that are set.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self)
            .expect("a generation configuration has string keys and finite numbers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_hugging_face_writes() {
        let json = r#"{"bos_token_id":7,"do_sample":true,"eos_token_id":[5,3],"temperature":0.6,"top_k":20,"top_p":0.95,
            "transformers_version":"4.51.0"}"#;
        let config = GenerationConfig::from_json(json, 10).unwrap();
        assert_eq!(
            (
                config.temperature,
                config.top_k,
                config.eos_token_id.as_slice()
            ),
            (Some(0.6), Some(20), &[5, 3][..])
        );
        assert_eq!(
            GenerationConfig::from_json(&config.to_json(), 10).unwrap(),
            config
        );
        assert_eq!(
            GenerationConfig::from_json(r#"{"eos_token_id":null}"#, 10).unwrap(),
            GenerationConfig::default()
        );
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        for (json, message) in [
            (
                r#"{"top_p":1.5}"#,
                "generation: `top_p`: 1.5 is not between 0 and 1",
            ),
            (
                r#"{"eos_token_id":10}"#,
                "`eos_token_id` 10 is outside the vocabulary of 10",
            ),
            (r#"{"temperature":"hot"}"#, "invalid type"),
        ] {
            let error = GenerationConfig::from_json(json, 10).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
