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
//!
//! A latent token reads what the token before it computed, so its row is cut into waves ([`Batch::waves`]): forward one wave after the other over the
//! keys and values of the earlier ones, backward in reverse, with gradients through the fed-back states and through keys and values.

mod backward;
mod forward;
mod plan;
mod shortcut;
#[cfg(test)]
mod tests;

use std::ops::Range;

use candle_core::bail;
use skimstone::{ModelConfig, SideModules};

use self::plan::Plan;
use self::shortcut::{ShortcutWeights, Shortcuts};
use crate::error::Result;
use crate::ops::attention::Scratch;
use crate::ops::latent_map::LatentMap;
use crate::ops::projection::{Projection, Stacked};
use crate::ops::rope::Heads;
use crate::ops::simd::multiversion;
use crate::pack::{Batch, Segment};
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
    /// From a state to the input of a latent token; none: the state itself.
    latent_map: Option<LatentMap>,
    shortcuts: Option<Shortcuts>,
    kept: Vec<Kept>,
    work: Work,
    taps: Taps,
    /// Exits of the present batch, with the gradient of what the layer after each reads at the sources, `[M, E]`.
    exits: Vec<(usize, Vec<f32>)>,
}

/// Where else a pass has heads, and what it leaves out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Depth<'a> {
    /// Numbers of layers after which there is a head, ascending.
    pub exits: &'a [usize],
    /// Whether routers and adapters take part in latent tokens.
    pub routed: bool,
    /// For each layer and token whether the layer is left out, `[L][N]`; empty: none is. All tokens of a row must agree, as a row's tokens attend to
    /// each other.
    pub left_out: &'a [Vec<bool>],
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

/// What a layer keeps for its way back, rows in the order of the waves but for those of attention. `n` is `N`, in the last layer the `O` rows that
/// somebody reads.
#[derive(Debug, Default)]
struct Kept {
    /// `[N, E]`
    x: Vec<f32>,
    /// `[N, E]`, normalized.
    h: Vec<f32>,
    /// `[N, (H+2G)·D]` before QK-norm, empty without.
    raw: Vec<f32>,
    /// `[N, (H+2G)·D]`, rotated, in the order of the stream.
    qkv: Vec<f32>,
    /// `[N, H·D]`, in the order of the stream.
    heads: Vec<f32>,
    /// `[N, H]`, in the order of the stream.
    lse: Vec<f32>,
    /// `[n, E]`
    mid: Vec<f32>,
    /// `[n, E]`, normalized.
    mid_h: Vec<f32>,
    /// `[n, 2F]`
    gate_up: Vec<f32>,
}

/// Buffers that live for one layer of one wave of `r` rows, and those around all layers.
#[derive(Debug, Default)]
struct Work {
    scratch: Scratch,
    /// Rows on their way between the two orders.
    moved: Vec<f32>,
    /// The last layer's heads at the outputs, `[O, H·D]`.
    output_heads: Vec<f32>,
    /// `[r, F]`
    activated: Vec<f32>,
    /// What the last layer wrote, `[O, E]`.
    x: Vec<f32>,
    /// The same, normalized, `[O, E]`.
    h: Vec<f32>,
    /// Its rows at the sources, `[M, E]`; unused if all outputs are sources.
    source_h: Vec<f32>,
    /// `[M, V]`
    logits: Vec<f32>,
    /// Gradient of `h`, `[O, E]`.
    dfinal: Vec<f32>,
    /// Gradient of the residual stream, `[r, E]`.
    dx: Vec<f32>,
    /// Of what a product read, `[r, E]`.
    dh: Vec<f32>,
    /// `[r, F]`
    dactivated: Vec<f32>,
    /// `[N, H·D]`, in the order of the stream.
    dheads: Vec<f32>,
    /// `[N, (H+2G)·D]`, in the order of the stream: one for each layer if several waves add to it, else one.
    dqkv: Vec<Vec<f32>>,
    /// A gradient that is being spread from the outputs to all rows.
    spread: Vec<f32>,
    /// Gradients of rows that a layer is left out for, `[r, E]`.
    passed: Vec<f32>,
}

/// Hidden states of a batch's tapped tokens, and what an objective wants changed about them.
#[derive(Debug, Default)]
pub struct Taps {
    /// `T`
    pub count: usize,
    /// For each layer what it reads, and last what the final norm writes: `[L + 1][T, E]`.
    pub states: Vec<Vec<f32>>,
    /// Their gradients, of the same shape; zero until the objective adds to them.
    pub gradients: Vec<Vec<f32>>,
    /// What the last layer wrote, `[T, E]`; takes no gradient.
    pub written: Vec<f32>,
    /// For each layer but the first what its router says of a tapped latent token, `[L - 1][T]`, 0 of others; empty if routers take no part.
    pub gates: Vec<Vec<f32>>,
    /// Their gradients, of the same shape; zero until the objective adds to them.
    pub dgates: Vec<Vec<f32>>,
}

impl Pass {
    /// A pass over weights that lie one after the other in the order of [`ModelConfig::tensors`], then those of the side
    /// modules.
    pub fn new(config: &ModelConfig, side: SideModules) -> Pass {
        let mut places = std::collections::HashMap::new();
        let mut start = 0;
        for tensor in config.tensors().into_iter().chain(side.tensors(config)) {
            let len: usize = tensor.shape.iter().product();
            places.insert(tensor.name, (start..start + len, tensor.shape[0]));
            start += len;
        }
        let at = |name: &str| places[name].0.clone();
        let projection = |name: &str| -> Projection {
            let (weight, outputs) = places[&format!("{name}.weight")].clone();
            let bias = places.get(&format!("{name}.bias")).map(|p| p.0.clone());
            Projection {
                weight,
                bias,
                outputs,
            }
        };
        let stack = |layer: usize, names: &[&str]| -> Stacked {
            let names = names.iter();
            Stacked::new(names.map(|name| projection(&format!("model.layers.{layer}.{name}"))))
        };
        let latent_map = side.latent_map_size.map(|inner| {
            let own = |name: &str| Stacked::new([projection(&format!("latent_map.{name}"))]);
            let norm = (at("latent_map.norm.weight"), at("latent_map.norm.bias"));
            LatentMap::new(own("up_proj"), own("down_proj"), norm, inner)
        });
        let shortcuts = side.shortcut.map(|size| {
            let layers = (1..config.num_hidden_layers).map(|layer| {
                let name = |part: &str| format!("shortcut.layers.{layer}.{part}");
                let own = |part: &str| Stacked::new([projection(&name(part))]);
                ShortcutWeights {
                    router_up: own("router.up_proj"),
                    router_gate: at(&name("router.gate.weight")),
                    router_bias: at(&name("router.gate.bias")),
                    adapter_down: own("adapter.down_proj"),
                    adapter_up: own("adapter.up_proj"),
                }
            });
            let layers: Vec<ShortcutWeights> = layers.collect();
            Shortcuts {
                router: size.router,
                adapter: size.adapter,
                kept: layers.iter().map(|_| Vec::new()).collect(),
                wanted: layers.iter().map(|_| Vec::new()).collect(),
                layers,
            }
        });
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
            latent_map,
            shortcuts,
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
            taps: Taps::default(),
            exits: Vec::new(),
        }
    }

    /// `L`
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// `V`
    pub fn vocabulary(&self) -> usize {
        self.shape.vocabulary
    }

    /// Runs the batch forward, lets `objective` turn the logits `[M, V]` of its sources into their gradient, runs it backward and
    /// adds the gradients of all weights to `gradient`. Returns what the objective returned.
    ///
    /// The objective also sees the hidden states of the batch's taps and may add to their gradients.
    ///
    /// # Errors
    /// If a token is outside the vocabulary, or a source, tap, segment or latent token outside the stream; whatever the objective reports.
    pub fn run<R>(
        &mut self,
        weights: &[f32],
        batch: &Batch,
        gradient: &mut [f32],
        objective: impl FnOnce(&mut [f32], &mut Taps) -> candle_core::Result<R>,
    ) -> Result<R> {
        let (mut objective, mut result) = (Some(objective), None);
        self.run_with(
            weights,
            batch,
            Depth::default(),
            gradient,
            |_, logits, taps| {
                if let Some(objective) = objective.take() {
                    result = Some(objective(logits, taps)?);
                }
                Ok(())
            },
        )?;
        Ok(result.expect("the objective is called once without exits"))
    }

    /// [`Pass::run`] with heads at intermediate layers and layers left out: `objective` is called for each exit of `depth` in order and last for the
    /// whole depth, with the number of layers that were run. Only the last call has taps.
    ///
    /// # Errors
    /// As [`Pass::run`]; if an exit is not before a layer, or `depth` does not fit the batch.
    pub fn run_with(
        &mut self,
        weights: &[f32],
        batch: &Batch,
        depth: Depth<'_>,
        gradient: &mut [f32],
        mut objective: impl FnMut(usize, &mut [f32], &mut Taps) -> candle_core::Result<()>,
    ) -> Result<()> {
        self.check(batch)?;
        let layers = self.layers.len();
        if let Some(exit) = depth.exits.iter().find(|exit| !(1..layers).contains(exit)) {
            bail_with(format!("an exit after {exit} of {layers} layers"))?;
        }
        let plan = Plan::new(batch, &self.inverse_frequencies);
        let is_plain = plan.source_outputs.is_none();
        let is_long = |left_out: &Vec<bool>| left_out.len() == batch.len();
        let fits = is_plain && depth.left_out.len() == layers && depth.left_out.iter().all(is_long);
        if !fits && !depth.left_out.is_empty() {
            bail_with("layers can be left out of batches without latent tokens and taps".into())?;
        }
        self.forward(weights, &plan, depth);
        self.exits.clear();
        for exit in depth.exits {
            self.exit(weights, &plan, *exit, gradient, &mut objective)?;
        }
        objective(layers, &mut self.work.logits, &mut self.taps)?;
        self.backward(weights, &plan, depth, gradient);
        Ok(())
    }

    /// What the last layer writes for the batch's taps, `[T, E]`, with no layer left out and no router asked.
    ///
    /// # Errors
    /// As [`Pass::run`].
    pub fn written(&mut self, weights: &[f32], batch: &Batch) -> Result<Vec<f32>> {
        self.check(batch)?;
        let plan = Plan::new(batch, &self.inverse_frequencies);
        self.forward(weights, &plan, Depth::default());
        Ok(std::mem::take(&mut self.taps.written))
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
        if let Some((at, from)) = batch.fed.iter().find(|(_, from)| *from as usize >= tokens) {
            bail!("latent token {at} reads token {from} outside the {tokens} tokens");
        }
        if let Some(tap) = batch.taps.iter().find(|t| **t as usize >= tokens) {
            bail!("tap {tap} outside the {tokens} tokens");
        }
        if let Some(segment) = batch.segments.iter().find(|s| !s.is_inside(tokens)) {
            bail!("attention: {segment:?} leaves the {tokens} tokens");
        }
        for run in &batch.latents {
            let is_inside = |s: &&Segment| {
                s.prefix.is_none() && run.start > s.start && run.start + run.len <= s.start + s.len
            };
            if run.len == 0 || !batch.segments.iter().any(|s| is_inside(&s)) {
                bail!("{run:?} does not lie inside a segment of its own");
            }
        }
        Ok(())
    }
}

fn bail_with(message: String) -> candle_core::Result<()> {
    bail!("{message}")
}

/// Gives `buffer` the length `len`; what it holds is overwritten by whoever asked.
fn resize(buffer: &mut Vec<f32>, len: usize) {
    buffer.resize(len, 0.0);
}

/// The values of some rows.
fn part<'a>(buffer: &'a [f32], rows: &Range<usize>, width: usize) -> &'a [f32] {
    &buffer[rows.start * width..rows.end * width]
}

/// The values of some rows, to be written.
fn part_mut<'a>(buffer: &'a mut [f32], rows: &Range<usize>, width: usize) -> &'a mut [f32] {
    &mut buffer[rows.start * width..rows.end * width]
}

/// Row `i` of `out` is row `indices[i]` of `table`.
fn take_rows(table: &[f32], width: usize, indices: &[u32], out: &mut [f32]) {
    for (index, out) in indices.iter().zip(out.chunks_exact_mut(width)) {
        out.copy_from_slice(&table[*index as usize * width..][..width]);
    }
}

/// Row `indices[i]` of `table` becomes row `i` of `rows`.
fn put_rows(rows: &[f32], width: usize, indices: &[u32], table: &mut [f32]) {
    for (index, row) in indices.iter().zip(rows.chunks_exact(width)) {
        table[*index as usize * width..][..width].copy_from_slice(row);
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
