//! What a student was trained to do: its reasoning routes and the tokens that mark them.
//!
//! A route is a pair of token strings around the thinking: `open` follows the question and starts it, `close` ends it and starts
//! the answer. `direct` has no thinking, so its `close` is empty. The specification stands in the bundle as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::{ModelConfig, TokenId};
use crate::error::{Error, ErrorKind, Result};

/// How the thinking of a route is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RouteKind {
    /// No thinking: the answer follows the question.
    #[default]
    Direct,
    /// A full chain of thought in tokens.
    Cot,
    /// A chain of thought from which the student leaves out what does not matter.
    Skip,
    /// Steps in the space of hidden states, without tokens.
    Latent,
}

/// How a hidden state becomes the next input of a latent step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
#[non_exhaustive]
pub enum LatentMap {
    /// The hidden state itself, before (`normed: false`) or after the final norm.
    Identity {
        /// Whether the final norm is applied first.
        normed: bool,
    },
    /// What a network with one hidden layer and a layer norm make of the state after the final norm: the bundle's tensors `latent_map.*`
    /// ([`latent_map_tensors`](crate::latent_map_tensors)).
    Mlp {
        /// Width of the hidden layer, `I`; at most the model's `intermediate_size`.
        inner_size: usize,
    },
}

impl Default for LatentMap {
    fn default() -> Self {
        LatentMap::Identity { normed: true }
    }
}

/// One way from a question to an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteSpec {
    /// How the thinking is done.
    pub kind: RouteKind,
    /// Appended to the prompt; starts the thinking (or, for `direct`, the answer).
    pub open: Vec<TokenId>,
    /// Ends the thinking and starts the answer; forced by the engine when the budget ends. Empty for `direct`.
    pub close: Vec<TokenId>,
    /// Latent steps between `open` and `close`.
    pub latent_steps: usize,
    /// How a hidden state becomes the next input.
    pub latent_map: LatentMap,
    /// The most thinking tokens this route was calibrated for; `None`: as the budget says.
    pub max_thinking_tokens: Option<usize>,
}

/// The reasoning section of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReasoningSpec {
    /// Version of this section; [`ReasoningSpec::VERSION`].
    pub version: u32,
    /// Every route that the student knows, by name.
    pub routes: BTreeMap<String, RouteSpec>,
    /// The route that is taken when none is asked for.
    pub default_route: String,
    /// Tokens that the engine keeps free for the answer, whatever the thinking costs.
    #[serde(default)]
    pub answer_reserve: usize,
    /// Tokens that end the answer.
    #[serde(default)]
    pub stop: Vec<TokenId>,
    /// The token between two chunks of a rationale, if the student was trained with one.
    #[serde(default)]
    pub chunk: Option<TokenId>,
}

impl Default for ReasoningSpec {
    /// A model about which nothing is known: only `direct`.
    fn default() -> Self {
        ReasoningSpec {
            version: ReasoningSpec::VERSION,
            routes: BTreeMap::from([("direct".to_owned(), RouteSpec::default())]),
            default_route: "direct".to_owned(),
            answer_reserve: 0,
            stop: Vec::new(),
            chunk: None,
        }
    }
}

impl ReasoningSpec {
    /// The version that this crate reads and writes.
    pub const VERSION: u32 = 1;

    /// Most tokens in an `open`, `close` or `stop` list: these are marks, not texts.
    const MAX_MARK_TOKENS: usize = 1024;

    /// Reads the JSON of a bundle's `reasoning` section. Follow with [`validate`](Self::validate).
    ///
    /// # Errors
    /// [`ErrorKind::Reasoning`] if it is not the JSON of a specification.
    pub fn from_json(json: &str) -> Result<ReasoningSpec> {
        serde_json::from_str(json).map_err(|error| {
            Error::new(ErrorKind::Reasoning, error.to_string())
                .at("reasoning")
                .with_source(error)
        })
    }

    /// The JSON that stands in a bundle.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a specification has string keys and finite numbers")
    }

    /// The route called `name`.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownRoute`], listing the known ones.
    pub fn route(&self, name: &str) -> Result<&RouteSpec> {
        self.routes.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.routes.keys().map(String::as_str).collect();
            Error::new(
                ErrorKind::UnknownRoute,
                format!(
                    "unknown route `{name}`; this model knows: {}",
                    known.join(", ")
                ),
            )
        })
    }

    /// Width of the hidden layer of the latent map that routes share, if one has a map with weights.
    pub fn latent_map_size(&self) -> Option<usize> {
        self.routes
            .values()
            .find_map(|route| match route.latent_map {
                LatentMap::Mlp { inner_size } => Some(inner_size),
                LatentMap::Identity { .. } => None,
            })
    }

    /// Checks the specification against itself and against the model that it is for.
    ///
    /// # Errors
    /// [`ErrorKind::Reasoning`], naming the field.
    pub fn validate(&self, config: &ModelConfig) -> Result<()> {
        let fail = |place: &str, message: String| {
            Err(Error::new(ErrorKind::Reasoning, message)
                .at(place)
                .at("reasoning"))
        };
        if self.version != Self::VERSION {
            let message = format!(
                "unknown version {}; this runtime reads version {}",
                self.version,
                Self::VERSION
            );
            return fail("version", message);
        }
        if !self.routes.contains_key(&self.default_route) {
            return fail(
                "default_route",
                format!("`{}` is not among the routes", self.default_route),
            );
        }
        if self.answer_reserve >= config.max_position_embeddings {
            let (reserve, context) = (self.answer_reserve, config.max_position_embeddings);
            return fail(
                "answer_reserve",
                format!("{reserve} tokens do not fit a context of {context}"),
            );
        }
        let check = |place: String, ids: &[TokenId]| {
            if ids.len() > Self::MAX_MARK_TOKENS {
                return fail(
                    &place,
                    format!(
                        "{} tokens; at most {} are allowed",
                        ids.len(),
                        Self::MAX_MARK_TOKENS
                    ),
                );
            }
            match ids.iter().find(|&&id| id as usize >= config.vocab_size) {
                Some(id) => fail(
                    &place,
                    format!(
                        "token {id} is outside the vocabulary of {}",
                        config.vocab_size
                    ),
                ),
                None => Ok(()),
            }
        };
        for (name, route) in &self.routes {
            check(format!("routes.{name}.open"), &route.open)?;
            check(format!("routes.{name}.close"), &route.close)?;
            if route.latent_steps > config.max_position_embeddings {
                let message = format!(
                    "{} exceeds the context of {}",
                    route.latent_steps, config.max_position_embeddings
                );
                return fail(&format!("routes.{name}.latent_steps"), message);
            }
            if let LatentMap::Mlp { inner_size } = route.latent_map {
                let place = format!("routes.{name}.latent_map.inner_size");
                // The working memory of a pass has room for this.
                let most = config.intermediate_size;
                if !(1..=most).contains(&inner_size) {
                    return fail(&place, format!("{inner_size} is not within 1 to {most}"));
                }
                if let Some(other) = self.latent_map_size().filter(|other| *other != inner_size) {
                    let message =
                        format!("{inner_size}, another route has {other}; a bundle holds one map");
                    return fail(&place, message);
                }
            }
        }
        check("stop".to_owned(), &self.stop)?;
        check("chunk".to_owned(), self.chunk.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_round_trip_and_defaults() {
        let spec = ReasoningSpec {
            routes: BTreeMap::from([(
                "skip".to_owned(),
                RouteSpec {
                    kind: RouteKind::Skip,
                    open: vec![3],
                    close: vec![4],
                    ..RouteSpec::default()
                },
            )]),
            default_route: "skip".to_owned(),
            answer_reserve: 8,
            stop: vec![5],
            chunk: Some(6),
            ..ReasoningSpec::default()
        };
        assert_eq!(ReasoningSpec::from_json(&spec.to_json()).unwrap(), spec);

        let short = r#"{"version":1,"routes":{"latent":{"kind":"latent","latent_steps":2}},"default_route":"latent"}"#;
        let route = &ReasoningSpec::from_json(short).unwrap().routes["latent"];
        assert_eq!(
            (route.latent_steps, route.latent_map),
            (2, LatentMap::Identity { normed: true })
        );
    }

    #[test]
    fn an_unknown_route_lists_the_known_ones() {
        let error = ReasoningSpec::default().route("fast").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown route `fast`; this model knows: direct"
        );
    }
}
