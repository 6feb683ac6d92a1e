//! Settings by name: what may be set, within which bounds, and what it does.
//!
//! A knob that is added is a row of [`KNOBS`], not a symbol or a field of a struct, so the ABI does not change with it.

use serde_json::{Value, json};
use skimstone::kernels::KvFormat;
use skimstone::reason::{Ask, EngineOptions};
use skimstone::{Model, ModelOptions, RouteDepth, TokenId};

use crate::status::{Failure, Outcome};

/// Everything that can be set. What is not set is the runtime's default.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    pub(crate) model: ModelOptions,
    pub(crate) engine: EngineOptions,
    pub(crate) ask: Ask,
    /// `None`: as the route says.
    pub(crate) depth: Option<RouteDepth>,
}

/// When a knob takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// When a bundle or a model is opened.
    Open,
    /// When a session is created; `context` counts at both.
    Session,
    /// With the next question.
    Ask,
}

impl When {
    const fn name(self) -> &'static str {
        match self {
            When::Open => "open",
            When::Session => "session",
            When::Ask => "ask",
        }
    }
}

/// What a value may be.
#[derive(Clone, Copy)]
enum Kind {
    /// A whole number.
    Integer(u64, u64),
    /// A number.
    Number(f64, f64),
    /// `true` or `false`.
    Bool,
    /// One of these.
    Word(&'static [&'static str]),
    /// The name of one of the model's routes.
    Route,
    /// A JSON list of strings.
    Strings,
    /// A JSON list of `[token, number]`; `null` for the number forbids the token.
    Biases,
}

/// A value that was read and is within its bounds.
enum Read<'a> {
    Integer(u64),
    Number(f64),
    Bool(bool),
    Text(&'a str),
    Json(Value),
}

struct Knob {
    key: &'static str,
    when: When,
    kind: Kind,
    unit: &'static str,
    about: &'static str,
    get: fn(&Settings) -> Value,
    /// `None`: back to the default.
    set: fn(&mut Settings, Option<Read<'_>>),
}

const COUNT: u64 = u32::MAX as u64;

/// A knob whose `Option` field says by `None` that nothing was asked for.
macro_rules! optional {
    ($key:literal, $when:ident, $kind:expr, $unit:literal, $about:literal, $read:ident => $($field:ident).+ : $into:expr) => {
        Knob {
            key: $key, when: When::$when, kind: $kind, unit: $unit, about: $about,
            get: |settings| json!(settings.$($field).+),
            set: |settings, value| settings.$($field).+ = match value {
                Some(Read::$read(value)) => Some($into(value)),
                _ => None,
            },
        }
    };
}

/// A knob that always has a value.
macro_rules! plain {
    ($key:literal, $when:ident, $kind:expr, $unit:literal, $about:literal, $read:ident => $($field:ident).+ : $into:expr) => {
        Knob {
            key: $key, when: When::$when, kind: $kind, unit: $unit, about: $about,
            get: |settings| json!(settings.$($field).+),
            set: |settings, value| settings.$($field).+ = match value {
                Some(Read::$read(value)) => $into(value),
                _ => Settings::default().$($field).+,
            },
        }
    };
}

fn count(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[rustfmt::skip]
const KNOBS: &[Knob] = &[
    plain!("threads", Open, Kind::Integer(0, 1024), "threads", "threads that compute; 0 takes what the system offers", Integer => model.threads: count),
    optional!("max_bytes", Open, Kind::Integer(0, u64::MAX), "bytes", "hard cap on anonymous memory, sessions included", Integer => model.max_bytes: |value| value),
    plain!("verify", Open, Kind::Bool, "", "read the whole file when it is opened and compare checksums", Bool => model.verify: |value| value),
    plain!("copy_weights", Open, Kind::Bool, "", "copy the weights into memory of the process instead of mapping them", Bool => model.copy_weights: |value| value),
    Knob {
        key: "kv_format", when: When::Open, kind: Kind::Word(&["f32", "f16", "q8"]), unit: "", about: "how keys and values are stored; by default what suits the weights",
        get: |settings| json!(settings.model.kv_format.map(KvFormat::name)),
        set: |settings, value| settings.model.kv_format = match value {
            Some(Read::Text(name)) => KvFormat::from_name(name),
            _ => None,
        },
    },
    Knob {
        key: "context", when: When::Session, kind: Kind::Integer(1, COUNT), unit: "tokens", about: "longest context of a model's sessions, and of a session",
        get: |settings| json!(settings.engine.context),
        set: |settings, value| {
            let context = match value {
                Some(Read::Integer(value)) => Some(count(value)),
                _ => None,
            };
            (settings.model.context, settings.engine.context) = (context, context);
        },
    },
    plain!("reuse_prefix", Session, Kind::Bool, "", "keep what consecutive prompts have in common instead of reading it again", Bool => engine.reuse_prefix: |value| value),
    optional!("route", Ask, Kind::Route, "", "how to reason; by default as the model says", Text => ask.route: str::to_owned),
    Knob {
        key: "depth", when: When::Ask, kind: Kind::Word(&["full", "exits", "drafts", "shortcut"]), unit: "", about: "how deep generated tokens and latent steps run: all layers, or as the model's exits, drafts or shortcut say; by default as the route says",
        get: |settings| json!(settings.depth.map(RouteDepth::name)),
        set: |settings, value| settings.depth = match value {
            Some(Read::Text(name)) => RouteDepth::from_name(name),
            _ => None,
        },
    },
    optional!("latent_steps", Ask, Kind::Integer(0, COUNT), "steps", "latent steps instead of the route's own", Integer => ask.latent_steps: count),
    optional!("budget_tokens", Ask, Kind::Integer(1, COUNT), "tokens", "most tokens of thinking and answer together", Integer => ask.budget.tokens: count),
    optional!("budget_ms", Ask, Kind::Integer(0, COUNT), "milliseconds", "time for the answer, from the question on", Integer => ask.budget.milliseconds: |value| value),
    optional!("budget_layer_passes", Ask, Kind::Integer(0, u64::MAX), "layer passes", "most layers run per position, after the prompt", Integer => ask.budget.layer_passes: count),
    optional!("max_answer_tokens", Ask, Kind::Integer(0, COUNT), "tokens", "most tokens of the answer, its stop token included", Integer => ask.max_answer_tokens: count),
    plain!("temperature", Ask, Kind::Number(0.0, 100.0), "", "spread of the distribution; 0 takes the most likely token", Number => ask.sampler.temperature: |value| value as f32),
    plain!("top_k", Ask, Kind::Integer(0, COUNT), "tokens", "keep this many most likely tokens; 0 keeps all", Integer => ask.sampler.top_k: count),
    plain!("top_p", Ask, Kind::Number(f64::MIN_POSITIVE, 1.0), "probability", "keep the smallest set of most likely tokens that reaches it", Number => ask.sampler.top_p: |value| value as f32),
    plain!("min_p", Ask, Kind::Number(0.0, 1.0), "probability", "keep tokens at least this many times as likely as the most likely one", Number => ask.sampler.min_p: |value| value as f32),
    plain!("repetition_penalty", Ask, Kind::Number(0.01, 100.0), "", "makes tokens that were seen less likely; 1 does nothing", Number => ask.sampler.repetition_penalty: |value| value as f32),
    plain!("seed", Ask, Kind::Integer(0, u64::MAX), "", "same seed, same tokens", Integer => ask.sampler.seed: |value| value),
    plain!("stop", Ask, Kind::Strings, "", "strings that end the answer, as a JSON list", Json => ask.stop_strings: strings),
    Knob {
        key: "logit_bias", when: When::Ask, kind: Kind::Biases, unit: "", about: "added to the logits of single tokens, as a JSON list of [token, number]; null forbids the token",
        get: |settings| {
            let pairs = settings.ask.sampler.logit_bias.iter();
            // JSON has no infinity: a token that is forbidden comes back as null.
            pairs.map(|&(id, bias)| json!([id, bias])).collect()
        },
        set: |settings, value| settings.ask.sampler.logit_bias = match value {
            Some(Read::Json(list)) => biases(&list).unwrap_or_default(),
            _ => Vec::new(),
        },
    },
];

fn strings(list: Value) -> Vec<String> {
    serde_json::from_value(list).unwrap_or_default()
}

fn biases(list: &Value) -> Option<Vec<(TokenId, f32)>> {
    let pair = |pair: &Value| {
        let (id, bias) = match pair.as_array()?.as_slice() {
            [id, Value::Null] => (id, f32::NEG_INFINITY),
            [id, bias] => (id, bias.as_f64()? as f32),
            _ => return None,
        };
        Some((TokenId::try_from(id.as_u64()?).ok()?, bias))
    };
    list.as_array()?.iter().map(pair).collect()
}

impl Settings {
    /// What is asked of `model`.
    pub(crate) fn ask_of(&self, model: &Model) -> Outcome<Ask> {
        let mut ask = self.ask.clone();
        let depth = self.depth.map(|depth| model.reasoning().depth(depth));
        ask.depth = depth.transpose()?;
        Ok(ask)
    }

    /// Sets `key`, which must take effect at one of `when`; `None` sets it back to its default.
    pub(crate) fn set(
        &mut self,
        key: &str,
        value: Option<&str>,
        when: &[When],
        model: Option<&Model>,
    ) -> Outcome<()> {
        let knob = find(key, when)?;
        let read = value.map(|value| knob.read(value, model)).transpose()?;
        (knob.set)(self, read);
        Ok(())
    }

    /// The value of `key` as JSON; `null` where nothing was set and the default is not a value.
    pub(crate) fn get(&self, key: &str, when: &[When]) -> Outcome<String> {
        let knob = find(key, when)?;
        Ok((knob.get)(self).to_string())
    }
}

/// The bounds of `key`, or of every knob, as JSON.
pub(crate) fn bounds(key: Option<&str>, when: &[When], model: Option<&Model>) -> Outcome<String> {
    let bounds = match key {
        Some(key) => find(key, when)?.bounds(model),
        None => {
            let knobs = KNOBS.iter().filter(|knob| when.contains(&knob.when));
            knobs.map(|knob| knob.bounds(model)).collect()
        }
    };
    Ok(bounds.to_string())
}

fn find(key: &str, when: &[When]) -> Outcome<&'static Knob> {
    let known = || KNOBS.iter().filter(|knob| when.contains(&knob.when));
    if let Some(knob) = known().find(|knob| knob.key == key) {
        return Ok(knob);
    }
    let names: Vec<&str> = known().map(|knob| knob.key).collect();
    let message = match KNOBS.iter().find(|knob| knob.key == key) {
        Some(knob) => format!(
            "`{key}` cannot be changed here, it takes effect at {}",
            knob.when.name()
        ),
        None => format!("there is no `{key}`; known are: {}", names.join(", ")),
    };
    Err(Failure::argument(message))
}

impl Knob {
    fn read<'a>(&self, value: &'a str, model: Option<&Model>) -> Outcome<Read<'a>> {
        let wrong = |expected: String| {
            Failure::argument(format!("`{}` is `{value}`, expected {expected}", self.key))
        };
        match self.kind {
            Kind::Integer(min, max) => {
                let number = value.parse().ok().filter(|n| (min..=max).contains(n));
                number
                    .map(Read::Integer)
                    .ok_or_else(|| wrong(format!("a whole number from {min} to {max}")))
            }
            Kind::Number(min, max) => {
                let number = value.parse().ok().filter(|n| (min..=max).contains(n));
                number
                    .map(Read::Number)
                    .ok_or_else(|| wrong(format!("a number from {min} to {max}")))
            }
            Kind::Bool => value
                .parse()
                .map(Read::Bool)
                .map_err(|_| wrong("true or false".to_owned())),
            Kind::Word(words) => match words.contains(&value) {
                true => Ok(Read::Text(value)),
                false => Err(wrong(words.join(", "))),
            },
            Kind::Route => {
                if let Some(model) = model {
                    model.reasoning().route(value)?;
                }
                Ok(Read::Text(value))
            }
            Kind::Strings => {
                let list: Option<Value> = serde_json::from_str(value).ok();
                let is_list = |list: &Value| {
                    let items = list.as_array();
                    items.is_some_and(|items| items.iter().all(Value::is_string))
                };
                list.filter(is_list)
                    .map(Read::Json)
                    .ok_or_else(|| wrong("a JSON list of strings".to_owned()))
            }
            Kind::Biases => {
                let list: Option<Value> = serde_json::from_str(value).ok();
                list.filter(|list| biases(list).is_some())
                    .map(Read::Json)
                    .ok_or_else(|| wrong("a JSON list of [token, number or null]".to_owned()))
            }
        }
    }

    fn bounds(&self, model: Option<&Model>) -> Value {
        let mut bounds = json!({
            "key": self.key,
            "when": self.when.name(),
            "type": match self.kind {
                Kind::Integer(..) => "integer",
                Kind::Number(..) => "number",
                Kind::Bool => "bool",
                Kind::Word(_) | Kind::Route => "word",
                Kind::Strings => "strings",
                Kind::Biases => "biases",
            },
            "unit": self.unit,
            "about": self.about,
            "default": (self.get)(&Settings::default()),
        });
        match (self.kind, model) {
            (Kind::Integer(min, max), _) => {
                (bounds["min"], bounds["max"]) = (json!(min), json!(max));
            }
            (Kind::Number(min, max), _) => {
                (bounds["min"], bounds["max"]) = (json!(min), json!(max));
            }
            (Kind::Word(words), _) => bounds["values"] = json!(words),
            (Kind::Route, Some(model)) => {
                let spec = model.reasoning();
                bounds["values"] = spec.routes.keys().map(String::as_str).collect();
                bounds["default"] = json!(spec.default_route);
            }
            _ => {}
        }
        bounds
    }
}
