//! What a student was trained to do: its reasoning routes and the tokens that mark them.
//!
//! A route is a pair of token strings around the thinking: `open` follows the question and starts it, `close` ends it and starts
//! the answer. `direct` has no thinking, so its `close` is empty. The route `auto` is a section of its own: a ladder of routes
//! ([`LadderSpec`]), or one route and when its thinking may stop ([`AutoSpec`]). The specification stands in the bundle as JSON.

mod auto;
mod depth;
mod ladder;
mod shortcut;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::{ModelConfig, TokenId};
use crate::error::{Error, ErrorKind, Result};
use crate::side::SideModules;

pub use auto::{AutoSpec, Calibration, CalibrationPoint, GateKind};
pub use depth::{
    Depth, DepthPolicy, DraftSpec, ExitCalibration, ExitDecay, ExitMeasure, ExitPoint, ExitSpec,
    MissingKv, RouteDepth,
};
#[cfg(test)]
pub(crate) use ladder::tests::rung;
pub use ladder::{LadderCalibration, LadderSpec, Limited, Rung, Sorted};
pub use shortcut::ShortcutSpec;

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

impl RouteKind {
    /// Whether there is thinking that is made of tokens.
    pub(crate) fn thinks_in_tokens(self) -> bool {
        matches!(self, RouteKind::Cot | RouteKind::Skip)
    }
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
    /// ([`SideModules::tensors`](crate::SideModules::tensors)).
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
    /// How deep generated tokens run.
    #[serde(skip_serializing_if = "RouteDepth::is_full")]
    pub depth: RouteDepth,
    /// Equally spaced quantiles of the thinking tokens (close included) of questions that the route was measured on, ascending.
    /// From them the engine estimates what it saves by stopping early. Empty if it was not measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub thinking_quantiles: Vec<usize>,
}

impl RouteSpec {
    /// Thinking tokens that are still to be expected after `spent`: the mean of what is left of those measured lengths that are
    /// longer. `None` if the route was not measured.
    pub(crate) fn expected_rest(&self, spent: usize) -> Option<usize> {
        let longer = || self.thinking_quantiles.iter().filter(|&&q| q > spent);
        let rest: usize = longer().map(|q| q - spent).sum();
        let mean = (rest as f64 / longer().count().max(1) as f64).round();
        (!self.thinking_quantiles.is_empty()).then_some(mean as usize)
    }
}

/// The reasoning section of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// For students without such a token: a chunk ends behind each of these, e.g. those of a line break or a full stop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunk_ends: Vec<TokenId>,
    /// The route `auto` along one route, if the student is calibrated for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto: Option<AutoSpec>,
    /// The route `auto` along several; takes the place of `auto`, whose gate then holds for the rung along that route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ladder: Option<LadderSpec>,
    /// Where tokens may leave the stack early, if the student was trained for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exits: Option<ExitSpec>,
    /// How the first layers guess tokens that the others verify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drafts: Option<DraftSpec>,
    /// Which layers latent steps leave out, if the student was trained for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortcut: Option<ShortcutSpec>,
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
            chunk_ends: Vec::new(),
            auto: None,
            ladder: None,
            exits: None,
            drafts: None,
            shortcut: None,
        }
    }
}

impl ReasoningSpec {
    /// The version that this crate reads and writes.
    pub const VERSION: u32 = 1;

    /// Most tokens in an `open`, `close` or `stop` list: these are marks, not texts.
    const MAX_MARK_TOKENS: usize = 1024;

    /// Most quantiles of a route: a summary, not a log.
    const MAX_QUANTILES: usize = 256;

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

    /// The route called `name`; for `auto` the one that it thinks along, which is that of the ladder's last rung if there is one.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownRoute`], listing the known ones.
    pub fn route(&self, name: &str) -> Result<&RouteSpec> {
        let last = self.ladder(name).and_then(|ladder| ladder.rungs.last());
        let along = match (last, self.gate(name)) {
            (Some(rung), _) => &rung.route,
            (None, Some(auto)) => &auto.route,
            (None, None) => name,
        };
        self.routes.get(along).ok_or_else(|| {
            let auto = self.has_auto().then_some(AutoSpec::NAME);
            let known: Vec<&str> = self.routes.keys().map(String::as_str).chain(auto).collect();
            Error::new(
                ErrorKind::UnknownRoute,
                format!(
                    "unknown route `{name}`; this model knows: {}",
                    known.join(", ")
                ),
            )
        })
    }

    /// Whether there is a route `auto`.
    pub fn has_auto(&self) -> bool {
        self.auto.is_some() || self.ladder.is_some()
    }

    /// The ladder of the route called `name`: `auto` may have one.
    pub(crate) fn ladder(&self, name: &str) -> Option<&LadderSpec> {
        self.ladder.as_ref().filter(|_| name == AutoSpec::NAME)
    }

    /// The gate of the route called `name`: `auto` has one.
    pub(crate) fn gate(&self, name: &str) -> Option<&AutoSpec> {
        self.auto.as_ref().filter(|_| name == AutoSpec::NAME)
    }

    /// What `depth` means for this student.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] if the specification has no such section.
    pub fn depth(&self, depth: RouteDepth) -> Result<Depth> {
        let found = match depth {
            RouteDepth::Full => Some(Depth::Full),
            RouteDepth::Exits => self.exits.clone().map(Depth::Exits),
            RouteDepth::Drafts => self.drafts.map(Depth::Drafts),
            RouteDepth::Shortcut => self.shortcut.map(Depth::Shortcut),
        };
        found.ok_or_else(|| {
            let message = format!("this model's specification has no `{}`", depth.name());
            Error::new(ErrorKind::Argument, message)
                .with_hint("calibrate the bundle for it, or give layers and thresholds yourself")
        })
    }

    /// The side modules that the bundle must have.
    pub fn side_modules(&self) -> SideModules {
        SideModules {
            latent_map_size: self.latent_map_size(),
            shortcut: self.shortcut.map(|shortcut| shortcut.size),
        }
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
        let known = |name: &String| {
            self.routes.contains_key(name) || (name == AutoSpec::NAME && self.has_auto())
        };
        if !known(&self.default_route) {
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
            if self.depth(route.depth).is_err() {
                let message = format!("there is no section `{0}`", route.depth.name());
                return fail(&format!("routes.{name}.depth"), message);
            }
            let quantiles = &route.thinking_quantiles;
            if quantiles.len() > Self::MAX_QUANTILES
                || !quantiles.is_sorted()
                || quantiles.last() > Some(&config.max_position_embeddings)
            {
                let message = format!(
                    "not at most {} ascending numbers up to the context of {}",
                    Self::MAX_QUANTILES,
                    config.max_position_embeddings
                );
                return fail(&format!("routes.{name}.thinking_quantiles"), message);
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
        check("chunk".to_owned(), self.chunk.as_slice())?;
        check("chunk_ends".to_owned(), &self.chunk_ends)?;
        if self.chunk.is_some() && !self.chunk_ends.is_empty() {
            let message = "`chunk` already says where chunks end".to_owned();
            return fail("chunk_ends", message);
        }
        let layers = config.num_hidden_layers;
        let exits = self.exits.as_ref().and_then(|exits| exits.fault(layers));
        let drafts = self.drafts.and_then(|drafts| drafts.fault(layers));
        let shortcut = self.shortcut.and_then(|shortcut| shortcut.fault(config));
        for (section, fault) in [
            ("exits", exits),
            ("drafts", drafts),
            ("shortcut", shortcut),
            ("auto", self.auto_fault()),
            ("ladder", self.ladder_fault()),
        ] {
            if let Some((place, message)) = fault {
                return fail(&format!("{section}.{place}"), message);
            }
        }
        Ok(())
    }

    /// The first field of `auto` that makes no sense, and why.
    fn auto_fault(&self) -> Option<(String, String)> {
        let auto = self.auto.as_ref()?;
        let route = |message: String| Some(("route".to_owned(), message));
        if self.routes.contains_key(AutoSpec::NAME) {
            return route("a route of its own is called `auto`, too".to_owned());
        }
        if auto.route == AutoSpec::NAME {
            return route("`auto` cannot think along itself".to_owned());
        }
        let Some(along) = self.routes.get(&auto.route) else {
            return route(format!("`{}` is not among the routes", auto.route));
        };
        if !along.kind.thinks_in_tokens() || along.close.is_empty() {
            return route(format!(
                "`{}` has no thinking in tokens that could be closed",
                auto.route
            ));
        }
        auto.fault()
    }

    /// The first field of `ladder` that makes no sense, and why.
    fn ladder_fault(&self) -> Option<(String, String)> {
        let ladder = self.ladder.as_ref()?;
        if let Some(fault) = ladder.fault() {
            return Some(fault);
        }
        if self.routes.contains_key(AutoSpec::NAME) {
            let message = "a route of its own is called `auto`, too".to_owned();
            return Some(("rungs".to_owned(), message));
        }
        let unknown = |rung: &Rung| !self.routes.contains_key(&rung.route);
        let i = ladder.rungs.iter().position(unknown)?;
        let message = format!("`{}` is not among the routes", ladder.rungs[i].route);
        Some((format!("rungs[{i}].route"), message))
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

    fn gated(threshold: f32) -> ReasoningSpec {
        let cot = RouteSpec {
            kind: RouteKind::Cot,
            close: vec![4],
            ..RouteSpec::default()
        };
        let mut spec = ReasoningSpec::default();
        spec.routes.insert("cot".to_owned(), cot);
        spec.auto = Some(AutoSpec {
            route: "cot".to_owned(),
            gate: GateKind::Answer,
            threshold,
            calibration: Some(Calibration {
                data_sha256: "0f".repeat(32),
                n: 10,
                accuracy: 0.9,
                tokens: 30.0,
                max_loss: 0.01,
                auroc: 0.8,
                auroc_interval: [0.7, 0.9],
                points: vec![CalibrationPoint {
                    threshold,
                    accuracy: 0.9,
                    tokens: 20.0,
                }],
            }),
        });
        spec
    }

    #[test]
    fn auto_is_read_and_nonsense_in_it_is_refused_by_field() {
        let config = ModelConfig::from_json(
            r#"{"model_type":"qwen3","hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,
            "num_key_value_heads":2,"head_dim":32,"vocab_size":8,"max_position_embeddings":128,"rms_norm_eps":1e-6,
            "rope_theta":1000000,"tie_word_embeddings":true,"bos_token_id":null,"eos_token_id":[1,2]}"#,
        )
        .unwrap();
        let good = gated(0.5);
        good.validate(&config).unwrap();
        assert_eq!(ReasoningSpec::from_json(&good.to_json()).unwrap(), good);
        assert_eq!(good.route("auto").unwrap().close, [4]);
        let error = good.route("fast").unwrap_err().to_string();
        assert!(error.ends_with("knows: cot, direct, auto"), "{error}");

        type Spoil = fn(&mut ReasoningSpec);
        fn auto(spec: &mut ReasoningSpec) -> &mut AutoSpec {
            spec.auto.as_mut().unwrap()
        }
        fn table(spec: &mut ReasoningSpec) -> &mut Calibration {
            auto(spec).calibration.as_mut().unwrap()
        }
        let cases: [(Spoil, &str); 14] = [
            (|s| auto(s).threshold = f32::NAN, "auto.threshold: NaN"),
            (|s| auto(s).threshold = 1.5, "auto.threshold: 1.5 is not"),
            (
                |s| {
                    auto(s).threshold = -0.1;
                    auto(s).calibration = None;
                },
                "auto.threshold: -0.1",
            ),
            (|s| auto(s).route = "fast".to_owned(), "auto.route: `fast`"),
            (
                |s| auto(s).route = "auto".to_owned(),
                "auto.route: `auto` cannot think along itself",
            ),
            (|s| auto(s).route = "direct".to_owned(), "auto.route"),
            (
                |s| {
                    s.routes.insert("auto".to_owned(), RouteSpec::default());
                },
                "auto.route",
            ),
            (
                |s| table(s).data_sha256 = "12".to_owned(),
                "auto.calibration.data_sha256",
            ),
            (
                |s| table(s).auroc_interval = [0.1, f32::INFINITY],
                "auto.calibration.auroc_interval: inf",
            ),
            (
                |s| table(s).points[0].tokens = f32::NAN,
                "auto.calibration.points[0].tokens",
            ),
            (
                |s| table(s).points = vec![table(s).points[0]; 257],
                "auto.calibration.points: 257",
            ),
            (|s| s.chunk_ends = vec![8], "chunk_ends: token 8"),
            (
                |s| {
                    s.chunk = Some(1);
                    s.chunk_ends = vec![2];
                },
                "chunk_ends: `chunk`",
            ),
            (
                |s| {
                    let cot = s.routes.get_mut("cot").unwrap();
                    cot.thinking_quantiles = vec![9, 7];
                },
                "routes.cot.thinking_quantiles",
            ),
        ];
        for (spoil, place) in cases {
            let mut spec = gated(0.5);
            spoil(&mut spec);
            let error = spec.validate(&config).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Reasoning);
            let message = error.to_string();
            assert!(
                message.starts_with(&format!("reasoning: {place}")),
                "{message}"
            );
        }
    }

    #[test]
    fn a_ladder_is_auto_and_is_checked_against_the_routes() {
        let config = ModelConfig::from_json(
            r#"{"model_type":"qwen3","hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,
            "num_key_value_heads":2,"head_dim":32,"vocab_size":8,"max_position_embeddings":128,"rms_norm_eps":1e-6,
            "rope_theta":1000000,"tie_word_embeddings":true,"bos_token_id":null,"eos_token_id":[1,2]}"#,
        )
        .unwrap();
        // A bundle from before there were ladders says the same as ever, and is written as ever.
        let old = gated(0.5);
        assert!(!old.to_json().contains("ladder"));
        for gate in [None, old.auto.clone()] {
            let mut spec = old.clone();
            spec.auto = gate;
            spec.default_route = "auto".to_owned();
            spec.ladder = Some(LadderSpec {
                rungs: vec![rung("direct", 0.2, 10.0), rung("cot", 0.9, 100.0)],
                calibration: None,
            });
            spec.validate(&config).unwrap();
            assert_eq!(ReasoningSpec::from_json(&spec.to_json()).unwrap(), spec);
            assert_eq!(spec.route("auto").unwrap().close, [4]);
            let error = spec.route("fast").unwrap_err().to_string();
            assert!(error.ends_with("knows: cot, direct, auto"), "{error}");

            let fault = |spec: &ReasoningSpec| spec.validate(&config).unwrap_err().to_string();
            let mut unknown = spec.clone();
            unknown.ladder.as_mut().unwrap().rungs[1].route = "auto".to_owned();
            let error = fault(&unknown);
            let want = "reasoning: ladder.rungs[1].route: `auto` is not among the routes";
            assert_eq!(error, want);
            let mut twice = spec.clone();
            twice.routes.insert("auto".to_owned(), RouteSpec::default());
            assert!(fault(&twice).contains("called `auto`, too"));
            spec.ladder.as_mut().unwrap().rungs[0].threshold = Some(7.0);
            assert!(fault(&spec).contains("ladder.rungs[0].threshold: 7 is not from 0 to 1"));
        }
        let json = old.to_json().replace(
            "\"default_route\"",
            "\"ladder\":{\"rungs\":[],\"height\":3},\"default_route\"",
        );
        let error = ReasoningSpec::from_json(&json).unwrap_err().to_string();
        assert!(error.contains("unknown field `height`"), "{error}");
    }

    #[test]
    fn what_is_left_is_the_mean_of_what_was_longer() {
        let route = RouteSpec {
            thinking_quantiles: vec![10, 20, 30, 60],
            ..RouteSpec::default()
        };
        assert_eq!(route.expected_rest(0), Some(30));
        assert_eq!(route.expected_rest(20), Some(25));
        assert_eq!(route.expected_rest(60), Some(0));
        assert_eq!(RouteSpec::default().expected_rest(3), None);
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
