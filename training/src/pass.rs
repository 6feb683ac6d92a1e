//! One forward and backward over flat weights: the trainer's inner loop.
//!
//! candle's graph costs more than its arithmetic at a student's size: every gradient is a fresh tensor that is zeroed, written,
//! added to another fresh tensor and returned to the system. Here the same kernels run over buffers that are kept from one
//! micro-batch to the next; weights are read from the optimizer's flat buffer, and each product adds its weight gradient straight
//! into the flat gradient. [`Student::forward`](crate::student::Student::forward) with candle's backward is the slow twin: the
//! tests hold every gradient to it, for every family.
//!
//! ```text
//! layer   x ─norm─▶ h ─qkv─▶ turned ─attention─▶ heads ─o_proj─▶ + x = mid ─norm─▶ h ─gate_up─▶ ─swiglu─▶ ─down_proj─▶ + mid
//! kept    x         h        qkv                 heads, lse            mid         h  gate_up
//! ```
//!
//! Going back, `gate_up` and the logits are overwritten by their own gradients, and what swiglu gave is made again.

use std::ops::Range;

use candle_core::bail;
use skimstone::ModelConfig;

use crate::error::Result;
use crate::ops::attention::{self, Scratch};
use crate::ops::matmul::{View, matmul};
use crate::ops::projection::{Projection, Stacked};
use crate::ops::rope::{self, Angles, Heads};
use crate::ops::simd::multiversion;
use crate::ops::{rms_norm, swiglu};
use crate::pack::Batch;
use crate::student::inverse_frequencies;

/// The buffers of one worker and where each weight lies.
#[derive(Debug)]
pub struct Pass {
    shape: Shape,
    layers: Vec<LayerWeights>,
    embed_tokens: Range<usize>,
    norm: Range<usize>,
    /// The embedding itself when tied.
    lm_head: Range<usize>,
    inverse_frequencies: Vec<f64>,
    kept: Vec<Kept>,
    work: Work,
}

/// The sizes that every layer shares.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// `E`
    hidden: usize,
    /// `F`
    feed_forward: usize,
    vocabulary: usize,
    heads: Heads,
    eps: f32,
}

/// Where the weights of a layer lie in the flat buffer.
#[derive(Debug)]
struct LayerWeights {
    input_layernorm: Range<usize>,
    qkv: Stacked,
    qk_norm: Option<(Range<usize>, Range<usize>)>,
    o_proj: Stacked,
    post_attention_layernorm: Range<usize>,
    gate_up: Stacked,
    down_proj: Stacked,
}

/// What a layer keeps for its way back. `n` is `N`, in the last layer from `heads` on the `M` sources.
#[derive(Debug, Default)]
struct Kept {
    /// `[N, E]`
    x: Vec<f32>,
    /// `[N, E]`, normalized.
    h: Vec<f32>,
    /// `[N, (H+2G)·D]` before QK-norm, empty without.
    raw: Vec<f32>,
    /// `[N, (H+2G)·D]`, rotated.
    qkv: Vec<f32>,
    /// `[N, H·D]`
    heads: Vec<f32>,
    /// `[N, H]`
    lse: Vec<f32>,
    /// `[n, E]`
    mid: Vec<f32>,
    /// `[n, E]`, normalized.
    mid_h: Vec<f32>,
    /// `[n, 2F]`
    gate_up: Vec<f32>,
}

/// Buffers that live for one layer, and those around all layers.
#[derive(Debug, Default)]
struct Work {
    scratch: Scratch,
    /// The last layer's heads at the sources, `[M, H·D]`.
    source_heads: Vec<f32>,
    /// `[n, F]`
    activated: Vec<f32>,
    /// What the last layer wrote, `[M, E]`.
    x: Vec<f32>,
    /// The same, normalized, `[M, E]`.
    h: Vec<f32>,
    /// `[M, V]`
    logits: Vec<f32>,
    /// Gradient of the residual stream, `[n, E]`.
    dx: Vec<f32>,
    /// Of what a product read, `[n, E]`.
    dh: Vec<f32>,
    /// `[n, F]`
    dactivated: Vec<f32>,
    /// `[N, H·D]`
    dheads: Vec<f32>,
    /// `[N, (H+2G)·D]`
    dqkv: Vec<f32>,
    /// A gradient that is being spread from the sources to all tokens.
    spread: Vec<f32>,
}

impl Pass {
    /// A pass over weights that lie one after the other in the order of [`ModelConfig::tensors`].
    pub fn new(config: &ModelConfig) -> Pass {
        let mut places = std::collections::HashMap::new();
        let mut start = 0;
        for tensor in config.tensors() {
            let len: usize = tensor.shape.iter().product();
            places.insert(tensor.name, (start..start + len, tensor.shape[0]));
            start += len;
        }
        let at = |name: &str| places[name].0.clone();
        let stack = |layer: usize, names: &[&str]| -> Stacked {
            let parts = names.iter().map(|name| {
                let name = format!("model.layers.{layer}.{name}");
                let (weight, outputs) = places[&format!("{name}.weight")].clone();
                let bias = places.get(&format!("{name}.bias")).map(|p| p.0.clone());
                Projection {
                    weight,
                    bias,
                    outputs,
                }
            });
            Stacked::new(parts)
        };
        let layers = (0..config.num_hidden_layers)
            .map(|l| {
                let of = |name: &str| at(&format!("model.layers.{l}.{name}.weight"));
                LayerWeights {
                    input_layernorm: of("input_layernorm"),
                    qkv: stack(
                        l,
                        &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
                    ),
                    qk_norm: config
                        .qk_norm()
                        .then(|| (of("self_attn.q_norm"), of("self_attn.k_norm"))),
                    o_proj: stack(l, &["self_attn.o_proj"]),
                    post_attention_layernorm: of("post_attention_layernorm"),
                    gate_up: stack(l, &["mlp.gate_proj", "mlp.up_proj"]),
                    down_proj: stack(l, &["mlp.down_proj"]),
                }
            })
            .collect::<Vec<_>>();
        let embed_tokens = at("model.embed_tokens.weight");
        Pass {
            shape: Shape {
                hidden: config.hidden_size,
                feed_forward: config.intermediate_size,
                vocabulary: config.vocab_size,
                heads: Heads {
                    query: config.num_attention_heads,
                    kv: config.num_key_value_heads,
                    dim: config.head_dim,
                },
                eps: config.rms_norm_eps,
            },
            kept: layers.iter().map(|_| Kept::default()).collect(),
            layers,
            lm_head: match config.tie_word_embeddings {
                true => embed_tokens.clone(),
                false => at("lm_head.weight"),
            },
            embed_tokens,
            norm: at("model.norm.weight"),
            inverse_frequencies: inverse_frequencies(config),
            work: Work::default(),
        }
    }

    /// `V`
    pub fn vocabulary(&self) -> usize {
        self.shape.vocabulary
    }

    /// Runs the batch forward, lets `objective` turn the logits `[M, V]` of its sources into their gradient, runs it backward and
    /// adds the gradients of all weights to `gradient`. Returns what the objective returned.
    ///
    /// # Errors
    /// If a token is outside the vocabulary or a source or segment outside the stream; whatever the objective reports.
    pub fn run<R>(
        &mut self,
        weights: &[f32],
        batch: &Batch,
        gradient: &mut [f32],
        objective: impl FnOnce(&mut [f32]) -> candle_core::Result<R>,
    ) -> Result<R> {
        self.check(batch)?;
        let angles = Angles::new(&batch.positions, &self.inverse_frequencies);
        self.forward(weights, batch, &angles);
        let result = objective(&mut self.work.logits)?;
        self.backward(weights, batch, &angles, gradient);
        Ok(result)
    }

    fn check(&self, batch: &Batch) -> candle_core::Result<()> {
        let vocabulary = self.shape.vocabulary;
        if let Some(token) = batch.tokens.iter().find(|t| **t as usize >= vocabulary) {
            bail!("token {token} outside the vocabulary of {vocabulary}");
        }
        let tokens = batch.len();
        if let Some(source) = batch.sources.iter().find(|s| **s as usize >= tokens) {
            bail!("source {source} outside the {tokens} tokens");
        }
        if let Some(segment) = batch.segments.iter().find(|s| !s.is_inside(tokens)) {
            bail!("attention: {segment:?} leaves the {tokens} tokens");
        }
        Ok(())
    }

    fn forward(&mut self, weights: &[f32], batch: &Batch, angles: &Angles) {
        let Shape {
            hidden,
            feed_forward,
            vocabulary,
            heads,
            eps,
        } = self.shape;
        let (tokens, sources) = (batch.len(), batch.sources.len());
        let (width, out) = (heads.width(), heads.query * heads.dim);
        let Work {
            scratch,
            source_heads,
            activated,
            x: written,
            h: written_h,
            logits,
            ..
        } = &mut self.work;

        let embedding = &weights[self.embed_tokens.clone()];
        resize(written, tokens * hidden);
        take_rows(embedding, hidden, &batch.tokens, written);
        for (index, (layer, kept)) in self.layers.iter().zip(&mut self.kept).enumerate() {
            // What the layer before wrote is what this one reads.
            std::mem::swap(&mut kept.x, written);
            resize(&mut kept.h, tokens * hidden);
            let norm = &weights[layer.input_layernorm.clone()];
            rms_norm::forward(&kept.x, norm, eps, &mut kept.h);
            resize(&mut kept.qkv, tokens * width);
            if let Some((q, k)) = &layer.qk_norm {
                resize(&mut kept.raw, tokens * width);
                layer.qkv.forward(weights, &kept.h, false, &mut kept.raw);
                let norms = (&weights[q.clone()], &weights[k.clone()]);
                rope::norm(&kept.raw, norms, heads, eps, &mut kept.qkv);
            } else {
                layer.qkv.forward(weights, &kept.h, false, &mut kept.qkv);
            }
            rope::rotate(&mut kept.qkv, heads, angles, false);
            resize(&mut kept.heads, tokens * out);
            resize(&mut kept.lse, tokens * heads.query);
            attention::forward(
                heads,
                &batch.segments,
                &kept.qkv,
                scratch,
                &mut kept.heads,
                &mut kept.lse,
            );
            // Nobody attends to what the last layer writes, so the rest of it runs for the sources alone.
            let is_last = index + 1 == self.layers.len();
            let rows = if is_last { sources } else { tokens };
            resize(&mut kept.mid, rows * hidden);
            let heads_out: &[f32] = if is_last {
                resize(source_heads, rows * out);
                take_rows(&kept.heads, out, &batch.sources, source_heads);
                take_rows(&kept.x, hidden, &batch.sources, &mut kept.mid);
                source_heads
            } else {
                kept.mid.copy_from_slice(&kept.x);
                &kept.heads
            };
            layer
                .o_proj
                .forward(weights, heads_out, true, &mut kept.mid);
            resize(&mut kept.mid_h, rows * hidden);
            let norm = &weights[layer.post_attention_layernorm.clone()];
            rms_norm::forward(&kept.mid, norm, eps, &mut kept.mid_h);
            resize(&mut kept.gate_up, rows * 2 * feed_forward);
            let gate_up = &mut kept.gate_up;
            layer.gate_up.forward(weights, &kept.mid_h, false, gate_up);
            resize(activated, rows * feed_forward);
            swiglu::forward(gate_up, feed_forward, activated);
            resize(written, rows * hidden);
            written.copy_from_slice(&kept.mid);
            layer.down_proj.forward(weights, activated, true, written);
        }
        resize(written_h, sources * hidden);
        rms_norm::forward(written, &weights[self.norm.clone()], eps, written_h);
        resize(logits, sources * vocabulary);
        matmul(
            logits,
            vocabulary,
            View::new(written_h, sources, hidden, hidden),
            View::new(&weights[self.lm_head.clone()], vocabulary, hidden, hidden).t(),
            1.0,
            false,
        );
    }

    fn backward(&mut self, weights: &[f32], batch: &Batch, angles: &Angles, gradient: &mut [f32]) {
        let Shape {
            hidden,
            feed_forward,
            vocabulary,
            heads,
            eps,
        } = self.shape;
        let (tokens, sources) = (batch.len(), batch.sources.len());
        let (width, out) = (heads.width(), heads.query * heads.dim);
        let Work {
            scratch,
            source_heads,
            activated,
            x: written,
            h: written_h,
            logits: dlogits,
            dx,
            dh,
            dactivated,
            dheads,
            dqkv,
            spread,
        } = &mut self.work;

        let dy = View::new(dlogits, sources, vocabulary, vocabulary);
        let head = View::new(&weights[self.lm_head.clone()], vocabulary, hidden, hidden);
        resize(dh, sources * hidden);
        matmul(dh, hidden, dy, head, 1.0, false);
        let dhead = &mut gradient[self.lm_head.clone()];
        let read = View::new(written_h, sources, hidden, hidden);
        matmul(dhead, hidden, dy.t(), read, 1.0, true);
        resize(dx, sources * hidden);
        let norm = self.norm.clone();
        rms_norm::backward(
            written,
            &weights[norm.clone()],
            dh,
            eps,
            false,
            dx,
            &mut gradient[norm],
        );

        for (index, (layer, kept)) in self.layers.iter().zip(&mut self.kept).enumerate().rev() {
            let is_last = index + 1 == self.layers.len();
            let rows = if is_last { sources } else { tokens };
            resize(dactivated, rows * feed_forward);
            layer.down_proj.backward(weights, dx, dactivated);
            resize(activated, rows * feed_forward);
            let dgate_up = &mut kept.gate_up;
            swiglu::backward(dgate_up, dactivated, feed_forward, activated);
            layer.down_proj.accumulate(dx, activated, gradient);
            resize(dh, rows * hidden);
            layer.gate_up.backward(weights, dgate_up, dh);
            layer.gate_up.accumulate(dgate_up, &kept.mid_h, gradient);
            let norm = layer.post_attention_layernorm.clone();
            rms_norm::backward(
                &kept.mid,
                &weights[norm.clone()],
                dh,
                eps,
                true,
                dx,
                &mut gradient[norm],
            );

            resize(dheads, rows * out);
            layer.o_proj.backward(weights, dx, dheads);
            let heads_out = if is_last { &*source_heads } else { &kept.heads };
            layer.o_proj.accumulate(dx, heads_out, gradient);
            if is_last {
                spread_rows(dheads, out, &batch.sources, tokens, spread);
                spread_rows(dx, hidden, &batch.sources, tokens, spread);
            }
            resize(dqkv, tokens * width);
            dqkv.fill(0.0);
            let saved = (&*kept.heads, &**dheads, &*kept.lse);
            attention::backward(heads, &batch.segments, &kept.qkv, saved, scratch, dqkv);
            rope::rotate(dqkv, heads, angles, true);
            if let Some((q, k)) = &layer.qk_norm {
                // `ModelConfig::tensors` puts one right after the other.
                let (dq, dk) = gradient[q.start..k.end].split_at_mut(q.len());
                let norms = (&weights[q.clone()], &weights[k.clone()]);
                rope::norm_back(&kept.raw, norms, heads, eps, dqkv, (dq, dk));
            }
            resize(dh, tokens * hidden);
            layer.qkv.backward(weights, dqkv, dh);
            layer.qkv.accumulate(dqkv, &kept.h, gradient);
            let norm = layer.input_layernorm.clone();
            rms_norm::backward(
                &kept.x,
                &weights[norm.clone()],
                dh,
                eps,
                true,
                dx,
                &mut gradient[norm],
            );
        }
        let dembedding = &mut gradient[self.embed_tokens.clone()];
        add_rows(dx, hidden, &batch.tokens, dembedding);
    }
}

/// Gives `buffer` the length `len`; what it holds is overwritten by whoever asked.
fn resize(buffer: &mut Vec<f32>, len: usize) {
    buffer.resize(len, 0.0);
}

/// Row `i` of `out` is row `indices[i]` of `table`.
fn take_rows(table: &[f32], width: usize, indices: &[u32], out: &mut [f32]) {
    for (index, out) in indices.iter().zip(out.chunks_exact_mut(width)) {
        out.copy_from_slice(&table[*index as usize * width..][..width]);
    }
}

multiversion! {
    /// Row `i` of `rows` is added to row `indices[i]` of `table`.
    fn add_rows(rows: &[f32], width: usize, indices: &[u32], table: &mut [f32]) {
        for (index, row) in indices.iter().zip(rows.chunks_exact(width)) {
            let sums = &mut table[*index as usize * width..][..width];
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }
}

/// Turns the gradient of taken rows into that of all `count` rows, by way of `spare`.
fn spread_rows(
    rows: &mut Vec<f32>,
    width: usize,
    indices: &[u32],
    count: usize,
    spare: &mut Vec<f32>,
) {
    spare.clear();
    spare.resize(count * width, 0.0);
    add_rows(rows, width, indices, spare);
    std::mem::swap(rows, spare);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Span, TokenizedRow};
    use crate::loss::{supervised, supervised_gradient};
    use crate::student::Student;

    /// What sets the families apart: biases, QK-norm, tied and untied heads, `head_dim` ≠ E/H.
    const CONFIGS: [&str; 4] = [
        r#""model_type":"llama","num_key_value_heads":2,"tie_word_embeddings":false,"attention_bias":true,"mlp_bias":true"#,
        r#""model_type":"llama","num_key_value_heads":4,"tie_word_embeddings":true"#,
        r#""model_type":"qwen2","num_key_value_heads":1,"tie_word_embeddings":true"#,
        r#""model_type":"qwen3","num_key_value_heads":2,"tie_word_embeddings":false"#,
    ];

    fn config(family: &str) -> ModelConfig {
        let json = format!(
            r#"{{{family},"hidden_size":32,"intermediate_size":56,"num_hidden_layers":3,"num_attention_heads":4,"head_dim":12,
            "vocab_size":61,"max_position_embeddings":256,"rms_norm_eps":1e-5,"rope_theta":10000,"eos_token_id":1}}"#
        );
        ModelConfig::from_json(&json).unwrap()
    }

    fn row(seed: u32, len: u32) -> TokenizedRow {
        TokenizedRow {
            tokens: (0..len).map(|i| (i * i * 7 + i * seed + 3) % 61).collect(),
            spans: vec![
                Span {
                    range: 0..3,
                    weight: 0.0,
                },
                Span {
                    range: 3..len as usize,
                    weight: 0.5 + seed as f32,
                },
            ],
            ..TokenizedRow::default()
        }
    }

    /// A tree whose branches share a source, a long row and a short one.
    fn batch() -> Batch {
        let mut batch = Batch::default();
        let branch = |last: u32| {
            let mut row = row(1, 9);
            row.tokens.truncate(4);
            row.tokens.extend([last, 8, last, 9, 10]);
            row
        };
        batch.push_tree(&[&branch(11), &branch(12), &branch(13)]);
        batch.push_row(&row(2, 100));
        batch.push_row(&row(3, 4));
        batch
    }

    #[test]
    fn gradients_are_those_of_the_graph() {
        for family in CONFIGS {
            let config = config(family);
            let student = Student::random(&config, 7, 0.15).unwrap();
            // Biases and norms start at zero and one, where a mistake would not show.
            for (index, (_, variable)) in student.variables().iter().enumerate() {
                if variable.rank() == 1 {
                    let wave = (0..variable.elem_count())
                        .map(|i| 0.8 + ((i + index) as f32 * 0.7).sin() * 0.3)
                        .collect();
                    let wave: candle_core::Tensor =
                        candle_core::Tensor::from_vec(wave, variable.shape(), variable.device())
                            .unwrap();
                    variable.set(&wave).unwrap();
                }
            }
            let read = |tensor: &candle_core::Tensor| -> Vec<f32> {
                tensor.flatten_all().unwrap().to_vec1().unwrap()
            };
            let weights: Vec<f32> = student
                .variables()
                .iter()
                .flat_map(|(_, variable)| read(variable))
                .collect();
            let mut pass = Pass::new(&config);
            let mut gradient = vec![0f32; weights.len()];
            let mut short = Batch::default();
            short.push_row(&row(5, 30));
            // Twice, with another batch in between: buffers of other sizes must not leave traces, gradients add up.
            let (loss, correct) =
                supervised_gradient(&mut pass, &weights, &batch(), &mut gradient).unwrap();
            let mut other = vec![0f32; weights.len()];
            supervised_gradient(&mut pass, &weights, &short, &mut other).unwrap();
            supervised_gradient(&mut pass, &weights, &batch(), &mut gradient).unwrap();

            let graph = supervised(&student, &batch()).unwrap();
            let expected = f64::from(graph.sum.to_scalar::<f32>().unwrap());
            assert!(
                (loss - expected).abs() < 1e-5 * expected,
                "{family}: {loss} and {expected}"
            );
            assert_eq!(correct, graph.correct, "{family}");
            let grads = graph.sum.backward().unwrap();
            let mut start = 0;
            for (name, variable) in student.variables() {
                let theirs = read(grads.get(variable).unwrap());
                let ours = &gradient[start..start + theirs.len()];
                start += theirs.len();
                let norm = theirs.iter().map(|x| x * x).sum::<f32>().sqrt();
                // Both run the same kernels; only sums of a few terms are taken in another order.
                for (a, b) in ours.iter().zip(&theirs) {
                    assert!(
                        (a / 2.0 - b).abs() < 1e-5 * norm,
                        "{family} {name}: {a} / 2 and {b}"
                    );
                }
            }
        }
    }

    #[test]
    fn foreign_tokens_sources_and_segments_are_refused() {
        let config = config(CONFIGS[1]);
        let mut pass = Pass::new(&config);
        let weights = vec![0f32; config.num_parameters() as usize];
        type Spoil = fn(&mut Batch);
        let cases: [(Spoil, &str); 4] = [
            (|b| b.tokens[3] = 61, "token 61"),
            (|b| b.sources[0] = 999, "source 999"),
            (|b| b.segments[0].len = 999, "Segment"),
            (|b| b.targets[0] = 61, "target 61"),
        ];
        for (spoil, expected) in cases {
            let mut batch = batch();
            spoil(&mut batch);
            let mut gradient = vec![0f32; weights.len()];
            let error = supervised_gradient(&mut pass, &weights, &batch, &mut gradient)
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
