//! The forward pass, at the level of layer ranges.
//!
//! ```text
//! embed ─▶ hidden [T, E] ─▶ run(layers) ─▶ hidden [T, E] ─▶ head ─▶ logits [V]
//!
//! layer:  hidden += o_proj · attention(rope(norm(q_proj · x)), rope(norm(k_proj · x)), v_proj · x)    x = rms_norm(hidden)
//!         hidden += down_proj · (silu(gate_proj · x) ⊙ up_proj · x)                                   x = rms_norm(hidden)
//! ```
//!
//! The three families differ by data only: `qwen2` has biases on q, k, v; `qwen3` norms each head of q and k; `head_dim` is
//! free in all of them. A pass may start at any layer and end at any layer; a layer that does not run leaves no entry in its
//! KV cache, unless it is made from the state that passes it by ([`Forward::propagate`]). The `T` rows of one pass may belong to several sessions: products serve all rows at once, only attention goes
//! session by session ([`KvRows`]).

use std::ops::Range;

use skimstone_kernels::{Activations, AttentionShape, Cpu, Linear, RmsNorm};

use crate::cancel::CancelHandle;
use crate::config::ModelConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::kv_cache::{BLOCK_POSITIONS, KvCache};
use crate::memory;
use crate::rope::Rope;
use crate::side::ShortcutWeights;
use crate::side::latent_map::{gelu, layer_norm};
use crate::side::shortcut::silu;
use crate::weights::{LayerWeights, Weights};

/// Working memory of one pass over up to `rows` positions.
#[derive(Debug)]
pub(crate) struct Scratch {
    rows: usize,
    /// The residual stream. `[T, E]`
    pub(crate) hidden: Vec<f32>,
    /// What a block adds to the residual stream. `[T, E]`
    added: Vec<f32>,
    /// `[T, H·D]`
    q: Vec<f32>,
    /// `[T, G·D]`
    k: Vec<f32>,
    /// `[T, G·D]`
    v: Vec<f32>,
    /// `[T, H·D]`
    attention: Vec<f32>,
    /// `[T, F]`
    up: Vec<f32>,
    /// `[T, D/2]`
    cos: Vec<f32>,
    /// `[T, D/2]`
    sin: Vec<f32>,
    /// `[T]`
    pub(crate) positions: Vec<u32>,
    /// Input of a block, and of its second half.
    inputs: Activations,
    /// `[T, F]`
    gated: Activations,
}

impl Scratch {
    pub(crate) fn new(config: &ModelConfig, rows: usize) -> Result<Self> {
        let floats = |width: usize| memory::zeros(rows * width);
        let activations = |width: usize| {
            let bytes = Activations::bytes_for(rows, width);
            Activations::try_new(rows, width).ok_or_else(|| memory::refused(bytes))
        };
        Ok(Scratch {
            rows,
            hidden: floats(config.hidden_size)?,
            added: floats(config.hidden_size)?,
            q: floats(config.q_size())?,
            k: floats(config.kv_size())?,
            v: floats(config.kv_size())?,
            attention: floats(config.q_size())?,
            up: floats(config.intermediate_size)?,
            cos: floats(config.head_dim / 2)?,
            sin: floats(config.head_dim / 2)?,
            positions: memory::zeros(rows)?,
            inputs: activations(widest_input(config))?,
            gated: activations(config.intermediate_size)?,
        })
    }

    /// Bytes of `Scratch::new(config, rows)`.
    pub(crate) fn bytes(config: &ModelConfig, rows: usize) -> u64 {
        let per_row = 2 * config.hidden_size
            + 2 * config.q_size()
            + 2 * config.kv_size()
            + config.intermediate_size
            + 2 * (config.head_dim / 2)
            + 1;
        let activations = Activations::bytes_for(rows, widest_input(config))
            + Activations::bytes_for(rows, config.intermediate_size);
        (rows * per_row * size_of::<f32>() + activations) as u64
    }

    /// The first row of the residual stream, and one to work in.
    pub(crate) fn two_rows(&mut self, hidden_size: usize) -> (&mut [f32], &mut [f32]) {
        (
            &mut self.hidden[..hidden_size],
            &mut self.added[..hidden_size],
        )
    }

    /// Most positions of one pass.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }
}

/// The widest input of a product other than that of `down_proj`.
fn widest_input(config: &ModelConfig) -> usize {
    config.hidden_size.max(config.q_size())
}

/// The sizes of attention in this model.
pub(crate) fn attention_shape(config: &ModelConfig) -> AttentionShape {
    AttentionShape {
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        scale: (config.head_dim as f32).sqrt().recip(),
    }
}

/// Floats in which threads share the positions of a `context`, see [`Cpu::attention`].
pub(crate) fn attention_room(config: &ModelConfig, context: usize) -> usize {
    attention_shape(config).room(context.div_ceil(BLOCK_POSITIONS))
}

/// Whose KV cache each row of a pass belongs to.
pub(crate) trait KvRows {
    /// Number of caches.
    fn caches(&self) -> usize;
    /// Cache `i`, the room to attend to it, and its rows.
    fn cache(&mut self, i: usize) -> (&mut KvCache, &mut [f32], Range<usize>);
}

/// What becomes of a layer whose router was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It runs.
    Run,
    /// Its adapter runs instead, and the layers after it are asked.
    Bypass,
    /// Its adapter runs instead, and the pass ends.
    Halt,
}

/// All rows belong to one cache.
pub(crate) struct OneCache<'a> {
    pub(crate) kv: &'a mut KvCache,
    pub(crate) room: &'a mut [f32],
    pub(crate) rows: usize,
}

impl KvRows for OneCache<'_> {
    fn caches(&self) -> usize {
        1
    }

    fn cache(&mut self, _: usize) -> (&mut KvCache, &mut [f32], Range<usize>) {
        (self.kv, self.room, 0..self.rows)
    }
}

/// A model's weights with what it takes to run them.
#[derive(Clone, Copy)]
pub(crate) struct Forward<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) weights: Weights<'a>,
    pub(crate) cpu: &'a Cpu,
    pub(crate) rope: &'a Rope,
}

impl Forward<'_> {
    /// Runs `layers` over the first `rows` rows of `scratch.hidden` at `scratch.positions`, and appends to the caches.
    ///
    /// `tap` sees the hidden states after every layer.
    ///
    /// # Errors
    /// Cancelled (looked at before every layer), or a full cache. The caller then rewinds the caches.
    pub(crate) fn run(
        &self,
        layers: Range<usize>,
        rows: usize,
        scratch: &mut Scratch,
        caches: &mut dyn KvRows,
        cancel: &CancelHandle,
        tap: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.angles(rows, scratch);
        for layer in layers {
            cancel.check()?;
            let weights = self.weights.layer(layer);
            let quantize = quantized(&[weights.q_proj, weights.k_proj, weights.v_proj]);
            self.load_attention(&weights, rows, scratch, quantize)?;
            self.attention_block(layer, &weights, rows, scratch, caches)?;
            self.mlp_block(&weights, rows, scratch)?;
            tap(layer, &scratch.hidden[..rows * self.config.hidden_size]);
        }
        Ok(())
    }

    /// Runs the layers from `first` on over the first row of `scratch.hidden`, but for those that `decide` leaves out: it is told the number of a
    /// layer and what its router says. Returns the layers that ran, and the layer in whose place the pass ended, if one did.
    ///
    /// # Errors
    /// As [`Forward::run`], and [`ErrorKind::Argument`] if the bundle has no routers.
    pub(crate) fn run_routed(
        &self,
        first: usize,
        scratch: &mut Scratch,
        caches: &mut dyn KvRows,
        cancel: &CancelHandle,
        decide: &mut dyn FnMut(usize, f32) -> Turn,
    ) -> Result<(usize, Option<usize>)> {
        self.angles(1, scratch);
        let mut ran = 0;
        for layer in first..self.config.num_hidden_layers {
            cancel.check()?;
            let weights = self.weights.layer(layer);
            let shortcut = self.weights.shortcut(layer);
            let side = shortcut.iter().flat_map(|w| [w.router_up, w.adapter_down]);
            let products = [weights.q_proj, weights.k_proj, weights.v_proj];
            let quantize = quantized(&products) || side.into_iter().any(|w| quantized(&[w]));
            self.load_attention(&weights, 1, scratch, quantize)?;
            if layer > 0 {
                let shortcut = shortcut.ok_or_else(no_routers)?;
                let turn = decide(layer, self.router(&shortcut, scratch)?);
                if turn != Turn::Run {
                    self.adapter(&shortcut, scratch)?;
                }
                match turn {
                    Turn::Run => {}
                    Turn::Bypass => continue,
                    Turn::Halt => return Ok((ran, Some(layer))),
                }
            }
            self.attention_block(layer, &weights, 1, scratch, caches)?;
            self.mlp_block(&weights, 1, scratch)?;
            ran += 1;
        }
        Ok((ran, None))
    }

    /// What a router says of the first row, whose norm is loaded.
    fn router(&self, w: &ShortcutWeights<'_>, scratch: &mut Scratch) -> Result<f32> {
        // Checked when the bundle was opened: R is at most F.
        let inner = &mut scratch.up[..w.router_gate.len()];
        self.cpu.linear(&w.router_up, &scratch.inputs, inner)?;
        Ok(w.gate(inner))
    }

    /// Adds to the first row what an adapter makes of it; its norm is loaded.
    fn adapter(&self, w: &ShortcutWeights<'_>, scratch: &mut Scratch) -> Result<()> {
        let (cpu, e) = (self.cpu, self.config.hidden_size);
        let Scratch {
            hidden,
            added,
            up,
            inputs,
            gated,
            ..
        } = scratch;
        // Checked when the bundle was opened: A is at most F.
        let inner = &mut up[..w.adapter_down.weight.rows()];
        cpu.linear(&w.adapter_down, inputs, inner)?;
        silu(inner);
        cpu.load(gated, inner, inner.len(), quantized(&[w.adapter_up]))?;
        Ok(cpu.linear_add(&w.adapter_up, gated, &mut added[..e], &mut hidden[..e])?)
    }

    /// Appends to the caches what `layers` hold of states that do not run through them: keys and values of the first `rows` rows of
    /// `scratch.hidden`, which stay as they are.
    ///
    /// # Errors
    /// As [`Forward::run`].
    pub(crate) fn propagate(
        &self,
        layers: Range<usize>,
        rows: usize,
        scratch: &mut Scratch,
        caches: &mut dyn KvRows,
        cancel: &CancelHandle,
    ) -> Result<()> {
        let (config, cpu) = (self.config, self.cpu);
        let (kv_size, heads) = (config.kv_size(), config.num_key_value_heads);
        self.angles(rows, scratch);
        let Scratch {
            hidden,
            k,
            v,
            cos,
            sin,
            positions,
            inputs,
            ..
        } = scratch;
        let hidden = &hidden[..rows * config.hidden_size];
        let (k, v) = (&mut k[..rows * kv_size], &mut v[..rows * kv_size]);
        let half = rows * config.head_dim / 2;
        for layer in layers {
            cancel.check()?;
            let w = self.weights.layer(layer);
            let quantize = quantized(&[w.k_proj, w.v_proj]);
            cpu.load_norm(inputs, hidden, self.rms_norm(w.input_layernorm), quantize)?;
            cpu.linears([&w.k_proj, &w.v_proj], inputs, [&mut *k, &mut *v])?;
            if let Some(norm) = w.k_norm {
                cpu.rms_norm_in_place(k, norm, config.rms_norm_eps)?;
            }
            cpu.rope(k, heads, config.head_dim, &cos[..half], &sin[..half])?;
            for i in 0..caches.caches() {
                let (kv, _, own) = caches.cache(i);
                let rows = own.start * kv_size..own.end * kv_size;
                kv.append(layer, &k[rows.clone()], &v[rows], &positions[own])?;
            }
        }
        Ok(())
    }

    /// The angles of the first `rows` positions.
    fn angles(&self, rows: usize, scratch: &mut Scratch) {
        let half = rows * self.config.head_dim / 2;
        self.rope.angles(
            &scratch.positions[..rows],
            &mut scratch.cos[..half],
            &mut scratch.sin[..half],
        );
    }

    /// Norms the residual stream for the first products of a layer.
    fn load_attention(
        &self,
        w: &LayerWeights<'_>,
        rows: usize,
        scratch: &mut Scratch,
        quantize: bool,
    ) -> Result<()> {
        let Scratch { hidden, inputs, .. } = scratch;
        let hidden = &hidden[..rows * self.config.hidden_size];
        let norm = self.rms_norm(w.input_layernorm);
        Ok(self.cpu.load_norm(inputs, hidden, norm, quantize)?)
    }

    /// The rest of the first half of a layer, after [`Forward::load_attention`].
    fn attention_block(
        &self,
        layer: usize,
        w: &LayerWeights<'_>,
        rows: usize,
        scratch: &mut Scratch,
        caches: &mut dyn KvRows,
    ) -> Result<()> {
        let (config, cpu) = (self.config, self.cpu);
        let (e, d) = (config.hidden_size, config.head_dim);
        let (q_size, kv_size) = (config.q_size(), config.kv_size());
        let Scratch {
            hidden,
            added,
            q,
            k,
            v,
            attention,
            cos,
            sin,
            positions,
            inputs,
            ..
        } = scratch;
        let (hidden, added) = (&mut hidden[..rows * e], &mut added[..rows * e]);
        let (q, attention) = (&mut q[..rows * q_size], &mut attention[..rows * q_size]);
        let (k, v) = (&mut k[..rows * kv_size], &mut v[..rows * kv_size]);
        let (cos, sin) = (&cos[..rows * d / 2], &sin[..rows * d / 2]);

        cpu.linears(
            [&w.q_proj, &w.k_proj, &w.v_proj],
            inputs,
            [&mut *q, &mut *k, &mut *v],
        )?;
        for (x, norm) in [(&mut *q, w.q_norm), (&mut *k, w.k_norm)] {
            if let Some(norm) = norm {
                cpu.rms_norm_in_place(x, norm, config.rms_norm_eps)?;
            }
        }
        cpu.rope(q, config.num_attention_heads, d, cos, sin)?;
        cpu.rope(k, config.num_key_value_heads, d, cos, sin)?;

        let shape = attention_shape(config);
        for i in 0..caches.caches() {
            let (kv, room, own) = caches.cache(i);
            let (kv_rows, q_rows) = (
                own.start * kv_size..own.end * kv_size,
                own.start * q_size..own.end * q_size,
            );
            kv.append(
                layer,
                &k[kv_rows.clone()],
                &v[kv_rows],
                &positions[own.clone()],
            )?;
            cpu.attention(
                &q[q_rows.clone()],
                &positions[own],
                shape,
                &kv.view(layer),
                room,
                &mut attention[q_rows],
            )?;
        }

        cpu.load(inputs, attention, q_size, quantized(&[w.o_proj]))?;
        Ok(cpu.linear_add(&w.o_proj, inputs, added, hidden)?)
    }

    fn mlp_block(&self, w: &LayerWeights<'_>, rows: usize, scratch: &mut Scratch) -> Result<()> {
        let (config, cpu) = (self.config, self.cpu);
        let (e, f) = (config.hidden_size, config.intermediate_size);
        let Scratch {
            hidden,
            added,
            up,
            inputs,
            gated,
            ..
        } = scratch;
        let (hidden, added) = (&mut hidden[..rows * e], &mut added[..rows * e]);
        let up = &mut up[..rows * f];

        let norm = self.rms_norm(w.post_attention_layernorm);
        cpu.load_norm(inputs, hidden, norm, quantized(&[w.gate_proj, w.up_proj]))?;
        let (gate_up, quantize) = ([&w.gate_proj, &w.up_proj], quantized(&[w.down_proj]));
        cpu.load_silu_mul(gate_up, inputs, up, gated, quantize)?;
        Ok(cpu.linear_add(&w.down_proj, gated, added, hidden)?)
    }

    fn rms_norm<'w>(&self, weight: &'w [f32]) -> RmsNorm<'w> {
        RmsNorm {
            weight,
            eps: self.config.rms_norm_eps,
        }
    }

    /// The final norm. Shapes: `hidden` and `normed` are `[T, E]`.
    pub(crate) fn norm(&self, hidden: &[f32], normed: &mut [f32]) -> Result<()> {
        Ok(self.cpu.rms_norm(
            hidden,
            self.weights.norm(),
            self.config.rms_norm_eps,
            normed,
        )?)
    }

    /// The next input of a latent step from a state after the final norm: the first row of the residual stream. Shapes: `normed` is `[E]`.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] if the bundle has no latent map with weights.
    pub(crate) fn latent_input(&self, normed: &[f32], scratch: &mut Scratch) -> Result<()> {
        let Some(map) = self.weights.latent_map() else {
            let message = "this bundle has no latent map with weights";
            return Err(Error::new(ErrorKind::Argument, message));
        };
        let cpu = self.cpu;
        let e = self.config.hidden_size;
        let Scratch {
            hidden,
            up,
            inputs,
            gated,
            ..
        } = scratch;
        // Checked when the bundle was opened: I is at most F.
        let inner = &mut up[..map.up_proj.weight.rows()];
        cpu.load(inputs, normed, e, quantized(&[map.up_proj]))?;
        cpu.linear(&map.up_proj, inputs, inner)?;
        gelu(inner);
        cpu.load(gated, inner, inner.len(), quantized(&[map.down_proj]))?;
        let input = &mut hidden[..e];
        cpu.linear(&map.down_proj, gated, input)?;
        layer_norm(input, map.norm, map.norm_bias);
        Ok(())
    }

    /// Logits of states after the final norm. Shapes: `normed` is `[T, E]`, `logits` is `[T, V]`.
    ///
    /// All are written, even where the most likely token is all that is asked for: its probability needs their sum, and to look through
    /// them once more takes a fraction of a per cent of the time in which the head's weights are read.
    pub(crate) fn head(
        &self,
        normed: &[f32],
        scratch: &mut Scratch,
        logits: &mut [f32],
    ) -> Result<()> {
        let head = self.weights.lm_head().into();
        self.cpu.load(
            &mut scratch.inputs,
            normed,
            self.config.hidden_size,
            quantized(&[head]),
        )?;
        Ok(self.cpu.linear(&head, &scratch.inputs, logits)?)
    }
}

fn no_routers() -> Error {
    Error::new(ErrorKind::Argument, "this bundle has no routers")
        .with_hint("take a student that was trained for shortcuts, or full depth")
}

/// Whether a product with one of them needs rounded activations.
fn quantized(weights: &[Linear<'_>]) -> bool {
    weights.iter().any(|w| w.weight.format().is_quantized())
}
