//! What several test files need. Each uses a part of it.
#![allow(
    dead_code,
    reason = "every test file compiles its own copy and uses a part"
)]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use skimstone::{Generate, GenerateOptions, Model, Session, SessionOptions, TokenId};

/// A file or folder of the real data; prints a line and returns `None` where it is absent.
pub(crate) fn data(path: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("SKIMSTONE_DATA") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
    };
    let path = root.join(path);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is absent; set SKIMSTONE_DATA", path.display());
    None
}

/// The prompt and what greedy generation adds to it, `len` ids in all.
pub(crate) fn generate_greedily(model: &Model, prompt: &[TokenId], len: usize) -> Vec<TokenId> {
    let mut session = Session::new(model, SessionOptions::new()).unwrap();
    let options = GenerateOptions {
        max_tokens: Some(len - prompt.len()),
        stop_ids: Some(Vec::new()),
        ..GenerateOptions::default()
    };
    let piece = Generate::new(&mut session, prompt, options)
        .unwrap()
        .collect_all()
        .unwrap();
    [prompt, &piece.ids].concat()
}

/// The `config.json` of a tiny model. Odd sizes on purpose: heads wider than `E / H`, rows that end inside a block.
pub(crate) fn config_json(model_type: &str) -> Value {
    json!({
        "architectures": ["TestForCausalLM"], "model_type": model_type, "hidden_act": "silu",
        "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 10, "vocab_size": 60, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": model_type != "llama",
        "bos_token_id": 1, "eos_token_id": 2,
    })
}

/// Repeatable values between -1 and 1.
pub(crate) fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}
