//! A small GGUF writer, and files made with it.

use half::{bf16, f16};
use serde_json::Value;
use skimstone::{ModelConfig, TensorShape};

use crate::common::values;

/// A value of the metadata.
#[derive(Clone, Debug)]
pub(crate) enum Meta {
    U8(u8),
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    Bool(bool),
    Str(String),
    Strs(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

impl Meta {
    pub(crate) fn str(text: &str) -> Meta {
        Meta::Str(text.to_owned())
    }

    fn kind(&self) -> u32 {
        match self {
            Meta::U8(_) => 0,
            Meta::U32(_) => 4,
            Meta::I32(_) => 5,
            Meta::F32(_) => 6,
            Meta::Bool(_) => 7,
            Meta::Str(_) => 8,
            Meta::Strs(_) | Meta::I32s(_) | Meta::F32s(_) => 9,
            Meta::U64(_) => 10,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let array = |out: &mut Vec<u8>, kind: u32, len: usize| {
            out.extend(kind.to_le_bytes());
            out.extend((len as u64).to_le_bytes());
        };
        match self {
            Meta::U8(value) => out.push(*value),
            Meta::U32(value) => out.extend(value.to_le_bytes()),
            Meta::I32(value) => out.extend(value.to_le_bytes()),
            Meta::U64(value) => out.extend(value.to_le_bytes()),
            Meta::F32(value) => out.extend(value.to_le_bytes()),
            Meta::Bool(value) => out.push(u8::from(*value)),
            Meta::Str(text) => string(out, text),
            Meta::Strs(texts) => {
                array(out, 8, texts.len());
                texts.iter().for_each(|text| string(out, text));
            }
            Meta::I32s(values) => {
                array(out, 5, values.len());
                values.iter().for_each(|v| out.extend(v.to_le_bytes()));
            }
            Meta::F32s(values) => {
                array(out, 6, values.len());
                values.iter().for_each(|v| out.extend(v.to_le_bytes()));
            }
        }
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A tensor: name, shape slowest first, ggml's type number, bytes.
#[derive(Clone, Debug)]
pub(crate) struct Tensor(
    pub(crate) String,
    pub(crate) Vec<usize>,
    pub(crate) u32,
    pub(crate) Vec<u8>,
);

/// What a file is made of.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) version: u32,
    pub(crate) keys: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) alignment: usize,
}

impl File {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            string(&mut out, key);
            out.extend(value.kind().to_le_bytes());
            value.write(&mut out);
        }
        let mut data: Vec<u8> = Vec::new();
        for Tensor(name, shape, kind, bytes) in &self.tensors {
            string(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            for dim in shape.iter().rev() {
                out.extend((*dim as u64).to_le_bytes());
            }
            out.extend(kind.to_le_bytes());
            data.resize(data.len().next_multiple_of(self.alignment), 0);
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(data);
        out
    }

    /// Replaces or adds a key.
    pub(crate) fn set(&mut self, key: &str, value: Meta) {
        self.remove(key);
        self.keys.push((key.to_owned(), value));
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.keys.retain(|(name, _)| name != key);
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        let found = self.tensors.iter_mut().find(|tensor| tensor.0 == name);
        found.unwrap()
    }
}

/// The keys of a configuration under GGUF's names.
pub(crate) fn keys(config: &ModelConfig) -> Vec<(String, Meta)> {
    let family = config.model_type.name();
    let count = |name: &str, value: usize| (format!("{family}.{name}"), Meta::U32(value as u32));
    let mut keys = vec![
        ("general.architecture".to_owned(), Meta::str(family)),
        ("general.name".to_owned(), Meta::str("test")),
        ("general.quantization_version".to_owned(), Meta::U8(2)),
        count("context_length", config.max_position_embeddings),
        count("embedding_length", config.hidden_size),
        count("block_count", config.num_hidden_layers),
        count("feed_forward_length", config.intermediate_size),
        count("attention.head_count", config.num_attention_heads),
        count("attention.head_count_kv", config.num_key_value_heads),
        count("attention.key_length", config.head_dim),
        count("attention.value_length", config.head_dim),
        (
            format!("{family}.attention.layer_norm_rms_epsilon"),
            Meta::F32(config.rms_norm_eps),
        ),
        (
            format!("{family}.rope.freq_base"),
            Meta::F32(config.rope_theta as f32),
        ),
    ];
    if let Some(id) = config.bos_token_id {
        keys.push(("tokenizer.ggml.bos_token_id".to_owned(), Meta::U32(id)));
    }
    if let Some(&id) = config.eos_token_id.first() {
        keys.push(("tokenizer.ggml.eos_token_id".to_owned(), Meta::U32(id)));
    }
    keys
}

/// GGUF's name of a tensor, spelled out by the parts that differ.
pub(crate) fn gguf_name(name: &str) -> String {
    [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ]
    .iter()
    .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// What llama.cpp's converter does to q and k of the llama architecture: of a head's values, `first[0], second[0], first[1], …`,
/// where `first` and `second` are its halves. `width` is the length of a row.
pub(crate) fn permuted(values: &[f32], head_dim: usize, width: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for head in values.chunks(head_dim * width) {
        let (first, second) = head.split_at(head.len() / 2);
        for (first, second) in first.chunks(width).zip(second.chunks(width)) {
            out.extend(first);
            out.extend(second);
        }
    }
    out
}

/// Numbers of the float types.
pub(crate) const F32: u32 = 0;
pub(crate) const F16: u32 = 1;
pub(crate) const BF16: u32 = 30;

pub(crate) fn encode(kind: u32, values: &[f32]) -> Vec<u8> {
    let values = values.iter();
    match kind {
        F16 => values
            .flat_map(|&v| f16::from_f32(v).to_le_bytes())
            .collect(),
        BF16 => values
            .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
            .collect(),
        _ => values.flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// The values of tensor `index` of a model.
pub(crate) fn tensor_values(index: usize, tensor: &TensorShape) -> Vec<f32> {
    values(index as u64 + 1, tensor.shape.iter().product())
}

/// A file without tokenizer, matrices in a float type and vectors in f32, as llama.cpp's converter would write it.
pub(crate) fn file(config: &Value, kind: u32) -> File {
    let config = ModelConfig::from_json(&config.to_string()).unwrap();
    let tensors = config
        .tensors()
        .into_iter()
        .enumerate()
        .map(|(index, tensor)| {
            let mut values = tensor_values(index, &tensor);
            let turned = tensor.name.contains("q_proj") || tensor.name.contains("k_proj");
            if config.model_type.name() == "llama" && turned {
                let width = if tensor.is_matrix() {
                    tensor.shape[1]
                } else {
                    1
                };
                values = permuted(&values, config.head_dim, width);
            }
            let kind = if tensor.is_matrix() { kind } else { F32 };
            let bytes = encode(kind, &values);
            Tensor(gguf_name(&tensor.name), tensor.shape, kind, bytes)
        });
    File {
        version: 3,
        keys: keys(&config),
        tensors: tensors.collect(),
        alignment: 32,
    }
}
