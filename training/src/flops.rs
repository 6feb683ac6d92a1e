//! Floating-point operations of a forward pass and of a training step, counted from shapes.
//!
//! A multiplication and an addition are two operations. Matrix products and attention are counted, norms, activations and the optimizer are not:
//! they are linear in what is counted with factors below one in a hundred. The last layer's output projection and feed-forward part and the LM
//! head run for the positions that predict something only, as in [`Student::logits`](crate::student::Student::logits).

use skimstone::ModelConfig;

use crate::pack::Batch;

/// Operations of a forward pass over a micro-batch of `N` tokens and `M` targets.
pub fn forward(config: &ModelConfig, batch: &Batch) -> u64 {
    let (tokens, targets) = (batch.len() as u64, batch.sources.len() as u64);
    // A latent token needs what the one before it computed, last layer included.
    let latents: u64 = batch.latents.iter().map(|run| run.len as u64).sum();
    let layers = config.num_hidden_layers as u64;
    let hidden = config.hidden_size as u64;
    let query = config.q_size() as u64;
    let read = hidden * (query + 2 * config.kv_size() as u64);
    let write = query * hidden + 3 * hidden * config.intermediate_size as u64;
    // Scores and weighted sums: each token with every token that it sees, itself included.
    let seen = |len: u64, prefix: u64| len * prefix + len * (len + 1) / 2;
    let pairs: u64 = batch
        .segments
        .iter()
        .map(|s| seen(s.len as u64, s.prefix.map_or(0, |(_, len)| len as u64)))
        .sum();
    let matrices =
        layers * read * tokens + write * ((layers.max(1) - 1) * tokens + targets + latents);
    let attention = layers * 2 * query * pairs;
    let head = hidden * config.vocab_size as u64 * targets;
    2 * (matrices + attention + head)
}

/// Operations of a training step: the backward pass is twice the forward pass.
pub fn training(config: &ModelConfig, batch: &Batch) -> u64 {
    3 * forward(config, batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Span, TokenizedRow};

    #[test]
    fn agrees_with_a_count_by_hand() {
        let json = r#"{"model_type":"qwen3","hidden_size":16,"intermediate_size":24,"num_hidden_layers":2,
            "num_attention_heads":2,"num_key_value_heads":1,"head_dim":8,"vocab_size":20,"max_position_embeddings":64,
            "rms_norm_eps":1e-6,"rope_theta":10000,"tie_word_embeddings":true,"eos_token_id":1}"#;
        let config = ModelConfig::from_json(json).unwrap();
        let mut batch = Batch::default();
        batch.push_row(&TokenizedRow {
            tokens: vec![3; 5],
            spans: vec![Span {
                range: 3..5,
                weight: 1.0,
            }],
            ..TokenizedRow::default()
        });
        // Per token: q, k, v 16·(16+8+8) = 512; o and feed-forward 16·16 + 3·16·24 = 1408.
        let matrices = 2 * 5 * 512 + 1408 * (5 + 2);
        // 15 pairs, two layers, scores and sums over 16 values each.
        let attention = 2 * 2 * 16 * 15;
        let head = 2 * 16 * 20;
        assert_eq!(forward(&config, &batch), 2 * (matrices + attention + head));
        assert_eq!(training(&config, &batch), 3 * forward(&config, &batch));
    }
}
