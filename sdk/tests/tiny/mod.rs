//! Tiny random models of all three families, and an independent forward pass in f64 to compare with.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by test files, each of which uses its own part"
)]

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;

use skimstone::kernels::Format;
use skimstone::{
    Bundle, BundleSpec, BundleWriter, Model, ModelConfig, ModelOptions, ModelType, ReasoningSpec,
    RopeScaling, RouteKind, RouteSpec, TensorDecl, TensorShape, TokenId,
};

/// Vocabulary of the tiny models.
pub const VOCAB: usize = 96;
/// Context of the tiny models.
pub const CONTEXT: usize = 160;

/// Token marks of the reasoning specification.
pub mod mark {
    pub const DIRECT: u32 = 90;
    pub const COT: u32 = 91;
    pub const SKIP: u32 = 92;
    pub const CLOSE: [u32; 2] = [93, 94];
    pub const CHUNK: u32 = 95;
    pub const STOP: u32 = 89;
}

/// A small generator for weights and prompts, the same on every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// In (-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn ids(&mut self, n: usize) -> Vec<TokenId> {
        // Below the marks.
        (0..n).map(|_| (self.next() % 80) as TokenId).collect()
    }
}

/// A tiny configuration: grouped heads, and a head_dim that is not hidden / heads.
pub fn config(family: ModelType) -> ModelConfig {
    let llama = family == ModelType::Llama;
    ModelConfig {
        model_type: family,
        hidden_size: 48,
        intermediate_size: 80,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        vocab_size: VOCAB,
        max_position_embeddings: CONTEXT,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: match llama {
            true => RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 64,
            },
            false => RopeScaling::Default,
        },
        tie_word_embeddings: family == ModelType::Qwen3,
        attention_bias: family == ModelType::Qwen2,
        mlp_bias: llama,
        bos_token_id: None,
        eos_token_id: vec![mark::STOP],
    }
}

/// Random weights, large enough that every part of the model matters to the logits.
pub fn weights(config: &ModelConfig, seed: u64) -> HashMap<String, Vec<f32>> {
    weights_of(&config.tensors(), seed)
}

/// [`weights`] of these tensors.
pub fn weights_of(tensors: &[TensorShape], seed: u64) -> HashMap<String, Vec<f32>> {
    let mut random = Random::new(seed);
    let fill = |tensor: &TensorShape| {
        let count: usize = tensor.shape.iter().product();
        let norm = tensor.name.ends_with("norm.weight");
        let scale = match tensor.shape.as_slice() {
            [_, _] if tensor.name.contains("embed") => 1.0,
            [_, cols] => 2.0 / (*cols as f32).sqrt(),
            _ => 0.3,
        };
        let base = if norm { 1.0 } else { 0.0 };
        (
            tensor.name.clone(),
            (0..count).map(|_| base + scale * random.unit()).collect(),
        )
    };
    tensors.iter().map(fill).collect()
}

/// A bundle of `weights` in `format`.
pub fn bundle(
    config: &ModelConfig,
    weights: &HashMap<String, Vec<f32>>,
    format: Format,
    reasoning: ReasoningSpec,
    tokenizer_json: Option<Vec<u8>>,
) -> Bundle {
    let mut tensors = TensorDecl::for_model(config, format);
    let side = reasoning.side_modules().tensors(config).into_iter();
    tensors.extend(side.map(|tensor| TensorDecl::new(tensor, format)));
    let spec = BundleSpec {
        reasoning,
        tokenizer_json,
        ..BundleSpec::new(config.clone())
    };
    let mut writer = BundleWriter::new(Cursor::new(Vec::new()), spec, &tensors).unwrap();
    for tensor in &tensors {
        writer
            .write_f32(&tensor.name, &weights[&tensor.name])
            .unwrap();
    }
    Bundle::from_bytes(writer.finish().unwrap().into_inner()).unwrap()
}

/// Every route, with a close of two tokens.
pub fn reasoning() -> ReasoningSpec {
    let route = |kind, open: u32, close: &[u32]| RouteSpec {
        kind,
        open: vec![open],
        close: close.to_vec(),
        latent_steps: if kind == RouteKind::Latent { 3 } else { 0 },
        ..RouteSpec::default()
    };
    ReasoningSpec {
        routes: BTreeMap::from([
            (
                "direct".to_owned(),
                route(RouteKind::Direct, mark::DIRECT, &[]),
            ),
            (
                "cot".to_owned(),
                route(RouteKind::Cot, mark::COT, &mark::CLOSE),
            ),
            (
                "skip".to_owned(),
                route(RouteKind::Skip, mark::SKIP, &mark::CLOSE),
            ),
            (
                "latent".to_owned(),
                route(RouteKind::Latent, mark::COT, &mark::CLOSE),
            ),
        ]),
        default_route: "direct".to_owned(),
        answer_reserve: 6,
        stop: vec![mark::STOP],
        chunk: Some(mark::CHUNK),
        ..ReasoningSpec::default()
    }
}

/// A random model that knows every route.
pub fn model(family: ModelType, format: Format) -> Model {
    model_with(family, format, ModelOptions::default().with_threads(2))
}

/// [`model`] with options.
pub fn model_with(family: ModelType, format: Format, options: ModelOptions) -> Model {
    let config = config(family);
    let bundle = bundle(&config, &weights(&config, 1), format, reasoning(), None);
    Model::from_bundle(bundle, options).unwrap()
}

/// A tokenizer of single bytes: token `i` is byte `32 + i` of ASCII for `i < 80`, then the UTF-8 bytes of `é` and `🌙`, then the
/// marks as special tokens.
pub fn byte_tokenizer() -> Vec<u8> {
    let mut vocab = serde_json::Map::new();
    for id in 0..80u32 {
        vocab.insert(byte_char(32 + id as u8).to_string(), id.into());
    }
    for (i, byte) in [0xc3, 0xa9, 0xf0, 0x9f, 0x8c, 0x99].into_iter().enumerate() {
        vocab.insert(byte_char(byte).to_string(), (80 + i as u32).into());
    }
    let names = [
        ("<|end|>", mark::STOP),
        ("<|direct|>", mark::DIRECT),
        ("<|cot|>", mark::COT),
        ("<|skip|>", mark::SKIP),
        ("<|close|>", mark::CLOSE[0]),
        ("<|answer|>", mark::CLOSE[1]),
        ("<|sep|>", mark::CHUNK),
    ];
    let added: Vec<_> = names
        .iter()
        .map(|(content, id)| {
            serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    for (content, id) in names {
        vocab.insert(content.to_owned(), id.into());
    }
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}
    })
    .to_string()
    .into_bytes()
}

/// How byte-level BPE spells a byte.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| (33..=126).contains(&b) || (161..=172).contains(&b) || b >= 174;
    if printable(byte) {
        return char::from(byte);
    }
    let hidden = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(256 + hidden).unwrap()
}

/// What a layer does with a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Run,
    /// It keeps keys and values of the state, which goes on unchanged.
    KeepKv,
    /// The state goes on unchanged.
    Nothing,
}

/// Logits after every token, computed naively in f64 straight from the definition of the families.
pub fn naive_logits(
    config: &ModelConfig,
    weights: &HashMap<String, Vec<f32>>,
    ids: &[TokenId],
) -> Vec<Vec<f64>> {
    naive_logits_with(config, weights, ids, |_, _| Pass::Run)
}

/// [`naive_logits`] where `passes` says what each layer does with each position.
pub fn naive_logits_with(
    config: &ModelConfig,
    weights: &HashMap<String, Vec<f32>>,
    ids: &[TokenId],
    passes: impl Fn(usize, usize) -> Pass,
) -> Vec<Vec<f64>> {
    let w = |name: &str| {
        weights[name]
            .iter()
            .map(|&x| f64::from(x))
            .collect::<Vec<f64>>()
    };
    let optional = |name: &str| {
        weights
            .get(name)
            .map(|x| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>())
    };
    let linear = |name: &str, x: &[f64]| -> Vec<f64> {
        let weight = w(&format!("{name}.weight"));
        let mut y: Vec<f64> = weight.chunks(x.len()).map(|row| dot(row, x)).collect();
        if let Some(bias) = optional(&format!("{name}.bias")) {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        y
    };
    let norm = |name: &str, x: &[f64]| -> Vec<f64> {
        let root = (dot(x, x) / x.len() as f64 + f64::from(config.rms_norm_eps)).sqrt();
        x.iter()
            .zip(w(&format!("{name}.weight")))
            .map(|(x, w)| x / root * w)
            .collect()
    };
    let (d, heads, groups) = (
        config.head_dim,
        config.num_attention_heads,
        config.num_key_value_heads,
    );
    let turned = |head: &[f64], position: usize| -> Vec<f64> {
        (0..d)
            .map(|i| {
                let angle = position as f64 * frequency(config, i % (d / 2));
                let (other, sign) = if i < d / 2 {
                    (head[i + d / 2], -1.0)
                } else {
                    (head[i - d / 2], 1.0)
                };
                head[i] * angle.cos() + sign * other * angle.sin()
            })
            .collect()
    };
    let embed = w("model.embed_tokens.weight");
    let e = config.hidden_size;
    let mut hidden: Vec<Vec<f64>> = ids
        .iter()
        .map(|&id| embed[id as usize * e..][..e].to_vec())
        .collect();
    for l in 0..config.num_hidden_layers {
        let layer = |name: &str| format!("model.layers.{l}.{name}");
        let heads_of = |name: &str, norm_name: &str, x: &[f64], position: usize| -> Vec<Vec<f64>> {
            let y = linear(&layer(name), x);
            let one = |head: &[f64]| match config.model_type {
                ModelType::Qwen3 if !norm_name.is_empty() => norm(&layer(norm_name), head),
                _ => head.to_vec(),
            };
            let heads = y.chunks(d).map(one);
            heads
                .map(|head| {
                    if norm_name.is_empty() {
                        head
                    } else {
                        turned(&head, position)
                    }
                })
                .collect()
        };
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (position, x) in hidden.iter_mut().enumerate() {
            let pass = passes(l, position);
            if pass == Pass::Nothing {
                continue;
            }
            let normed = norm(&layer("input_layernorm"), x);
            let q = heads_of("self_attn.q_proj", "self_attn.q_norm", &normed, position);
            keys.push(heads_of(
                "self_attn.k_proj",
                "self_attn.k_norm",
                &normed,
                position,
            ));
            values.push(heads_of("self_attn.v_proj", "", &normed, position));
            if pass == Pass::KeepKv {
                continue;
            }
            let mut attended = Vec::new();
            for (h, q) in q.iter().enumerate() {
                let g = h / (heads / groups);
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|k| (dot(q, &k[g]) / (d as f64).sqrt()).exp())
                    .collect();
                let total: f64 = scores.iter().sum();
                attended.extend((0..d).map(|i| {
                    scores
                        .iter()
                        .zip(&values)
                        .map(|(s, v)| s / total * v[g][i])
                        .sum::<f64>()
                }));
            }
            add(x, &linear(&layer("self_attn.o_proj"), &attended));
            let normed = norm(&layer("post_attention_layernorm"), x);
            let gate = linear(&layer("mlp.gate_proj"), &normed);
            let up = linear(&layer("mlp.up_proj"), &normed);
            let mixed: Vec<f64> = gate
                .iter()
                .zip(up)
                .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                .collect();
            add(x, &linear(&layer("mlp.down_proj"), &mixed));
        }
    }
    let head = if config.tie_word_embeddings {
        "model.embed_tokens"
    } else {
        "lm_head"
    };
    hidden
        .iter()
        .map(|x| linear(head, &norm("model.norm", x)))
        .collect()
}

/// The `i`-th rotary frequency; `llama3` written as three cases, as its authors do.
fn frequency(config: &ModelConfig, i: usize) -> f64 {
    let plain = config
        .rope_theta
        .powf(-2.0 * i as f64 / config.head_dim as f64);
    let RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings,
    } = config.rope_scaling
    else {
        return plain;
    };
    let original = original_max_position_embeddings as f64;
    let wavelength = 2.0 * std::f64::consts::PI / plain;
    if wavelength < original / high_freq_factor {
        plain
    } else if wavelength > original / low_freq_factor {
        plain / factor
    } else {
        let smooth =
            (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
        (1.0 - smooth) * plain / factor + smooth * plain
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// A model that says what it is told: after token `chain[i]` comes `chain[i + 1]`, for every chain. Its layers add nothing, its
/// embedding is the identity, and its head is the table of successors. Text is made of [`byte_tokenizer`]'s bytes.
pub fn chain_model(chains: &[&[TokenId]], reasoning: ReasoningSpec) -> Model {
    let config = ModelConfig {
        hidden_size: VOCAB,
        tie_word_embeddings: false,
        ..config(ModelType::Qwen3)
    };
    let mut weights: HashMap<String, Vec<f32>> = config
        .tensors()
        .into_iter()
        .map(|tensor| {
            let value = if tensor.name.ends_with("norm.weight") {
                1.0
            } else {
                0.0
            };
            (tensor.name, vec![value; tensor.shape.iter().product()])
        })
        .collect();
    let mut set = |name: &str, row: TokenId, col: TokenId| {
        weights.get_mut(name).unwrap()[row as usize * VOCAB + col as usize] = 1.0;
    };
    for id in 0..VOCAB as TokenId {
        set("model.embed_tokens.weight", id, id);
    }
    for pair in chains.iter().flat_map(|chain| chain.windows(2)) {
        set("lm_head.weight", pair[1], pair[0]);
    }
    let bundle = bundle(
        &config,
        &weights,
        Format::F32,
        reasoning,
        Some(byte_tokenizer()),
    );
    Model::from_bundle(bundle, ModelOptions::default().with_threads(1)).unwrap()
}

/// Tokens of ASCII text under [`byte_tokenizer`].
pub fn bytes(text: &str) -> Vec<TokenId> {
    text.bytes().map(|byte| TokenId::from(byte - 32)).collect()
}
