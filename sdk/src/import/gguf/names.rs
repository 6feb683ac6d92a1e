//! Where a tensor of ours stands in a GGUF file: its name there, and the order of its rows.
//!
//! llama.cpp turns neighbouring values of a head in rotary embedding, Hugging Face and this crate values that are half a head
//! apart. Its converter therefore reorders the rows of q and k of the `llama` architecture; an import puts them back. The other
//! architectures keep their order. Rows move as a whole, so blocks of quantized rows stay what they are.

use crate::config::{ModelConfig, ModelType, names};
use crate::error::{Error, ErrorKind, Result};

/// The parts of layer names, Hugging Face's and GGUF's.
const LAYER: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// GGUF's name of the tensor that Hugging Face calls `name`.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a name that this table does not know, which would be an omission here.
pub(super) fn gguf_name(name: &str) -> Result<String> {
    match name {
        names::EMBED_TOKENS => return Ok("token_embd.weight".to_owned()),
        names::NORM => return Ok("output_norm.weight".to_owned()),
        names::LM_HEAD => return Ok("output.weight".to_owned()),
        _ => {}
    }
    let layer = || {
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (part, suffix) = rest.rsplit_once('.')?;
        let (_, part) = LAYER.iter().find(|(ours, _)| *ours == part)?;
        Some(format!("blk.{layer}.{part}.{suffix}"))
    };
    layer().ok_or_else(|| {
        let message = format!("tensor `{name}` has no name in GGUF");
        Error::new(ErrorKind::Unsupported, message)
    })
}

/// Which row of the file a row of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// The same.
    Same,
    /// Pairs stand side by side in heads of this many rows.
    Paired { head_dim: usize },
}

impl RowOrder {
    /// The order of the tensor that Hugging Face calls `name`, weight or bias.
    pub(super) fn of(config: &ModelConfig, name: &str) -> RowOrder {
        let turned = [".self_attn.q_proj.", ".self_attn.k_proj."];
        if config.model_type == ModelType::Llama && turned.iter().any(|part| name.contains(part)) {
            RowOrder::Paired {
                head_dim: config.head_dim,
            }
        } else {
            RowOrder::Same
        }
    }

    /// The file's row that holds our row `row`: our `half · D/2 + pair` of a head is its `2 · pair + half`.
    pub(super) fn source(self, row: usize) -> usize {
        match self {
            RowOrder::Same => row,
            RowOrder::Paired { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
                head * head_dim + 2 * pair + half
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_of_every_family_has_a_name() {
        for family in ModelType::ALL {
            let json = format!(
                r#"{{"model_type":"{family}","hidden_size":8,"intermediate_size":8,"num_hidden_layers":2,"num_attention_heads":2,
                "vocab_size":9,"max_position_embeddings":8,"attention_bias":true}}"#
            );
            for tensor in ModelConfig::from_json(&json).unwrap().tensors() {
                gguf_name(&tensor.name).unwrap();
            }
        }
        assert_eq!(
            gguf_name("model.layers.12.self_attn.q_norm.weight").unwrap(),
            "blk.12.attn_q_norm.weight"
        );
        assert!(gguf_name("model.layers.0.mlp.experts.weight").is_err());
    }

    #[test]
    fn pairs_become_halves() {
        let order = RowOrder::Paired { head_dim: 6 };
        let rows: Vec<usize> = (0..12).map(|row| order.source(row)).collect();
        assert_eq!(rows, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
