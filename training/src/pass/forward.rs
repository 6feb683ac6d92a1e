//! The way forward.

use super::plan::{Plan, Step, Tap};
use super::shortcut::Row;
use super::{Depth, Pass, Shape, Taps, Work, part, part_mut, put_rows, resize, take_rows};
use crate::ops::matmul::{View, matmul};
use crate::ops::{attention, rms_norm, rope, swiglu};

impl Pass {
    /// Computes the logits of the sources and the states of the taps.
    pub(super) fn forward(&mut self, weights: &[f32], plan: &Plan, depth: Depth<'_>) {
        self.make_room(plan);
        if let Some(map) = &mut self.latent_map {
            map.clear();
        }
        self.clear_shortcuts(plan);
        for step in &plan.waves {
            self.read(weights, step);
            for layer in 0..self.layers.len() {
                self.layer_forward(weights, step, layer);
                if depth.routed {
                    self.mix(weights, step, layer);
                }
                if let Some(left_out) = depth.left_out.get(layer) {
                    self.leave_out(step, layer, left_out);
                }
            }
            let Work { x, h, .. } = &mut self.work;
            let hidden = self.shape.hidden;
            rms_norm::forward(
                part(x, &step.outputs, hidden),
                &weights[self.norm.clone()],
                self.shape.eps,
                part_mut(h, &step.outputs, hidden),
            );
        }
        self.head(weights, plan);
        self.tap(plan);
    }

    /// Gives every buffer that outlives a wave its size.
    fn make_room(&mut self, plan: &Plan) {
        let Shape {
            hidden,
            feed_forward,
            heads,
            ..
        } = self.shape;
        let tokens = plan.waves.last().map_or(0, |step| step.rows.end);
        let (width, out) = (heads.width(), heads.query * heads.dim);
        let last = self.layers.len() - 1;
        for (index, (layer, kept)) in self.layers.iter().zip(&mut self.kept).enumerate() {
            let rows = if index == last { plan.outputs } else { tokens };
            resize(&mut kept.x, tokens * hidden);
            resize(&mut kept.h, tokens * hidden);
            if layer.qk_norm.is_some() {
                resize(&mut kept.raw, tokens * width);
            }
            resize(&mut kept.qkv, tokens * width);
            resize(&mut kept.heads, tokens * out);
            resize(&mut kept.lse, tokens * heads.query);
            resize(&mut kept.mid, rows * hidden);
            resize(&mut kept.mid_h, rows * hidden);
            resize(&mut kept.gate_up, rows * 2 * feed_forward);
        }
        resize(&mut self.work.output_heads, plan.outputs * out);
        resize(&mut self.work.x, plan.outputs * hidden);
        resize(&mut self.work.h, plan.outputs * hidden);
    }

    /// What the first layer reads: embeddings, and what earlier waves computed for latent tokens.
    fn read(&mut self, weights: &[f32], step: &Step) {
        let hidden = self.shape.hidden;
        let x = part_mut(&mut self.kept[0].x, &step.rows, hidden);
        take_rows(&weights[self.embed_tokens.clone()], hidden, &step.tokens, x);
        for latent in &step.latents {
            let state = &self.work.h[latent.output * hidden..][..hidden];
            let input = &mut x[latent.row * hidden..][..hidden];
            match &mut self.latent_map {
                None => input.copy_from_slice(state),
                Some(map) => map.forward(weights, state, input),
            }
        }
    }

    fn layer_forward(&mut self, weights: &[f32], step: &Step, index: usize) {
        let Shape {
            hidden,
            feed_forward,
            heads,
            eps,
            ..
        } = self.shape;
        let (width, out) = (heads.width(), heads.query * heads.dim);
        let Work {
            scratch,
            moved,
            output_heads,
            activated,
            x: written,
            ..
        } = &mut self.work;
        let layer = &self.layers[index];
        let (kept, after) = self.kept[index..]
            .split_first_mut()
            .expect("every layer has its buffers");

        let x = part(&kept.x, &step.rows, hidden);
        let h = part_mut(&mut kept.h, &step.rows, hidden);
        let norm = &weights[layer.input_layernorm.clone()];
        rms_norm::forward(x, norm, eps, h);
        let qkv = match &step.stream {
            None => &mut kept.qkv,
            Some(stream) => {
                resize(moved, stream.len() * width);
                &mut *moved
            }
        };
        if let Some((q, k)) = &layer.qk_norm {
            let raw = part_mut(&mut kept.raw, &step.rows, width);
            layer.qkv.forward(weights, h, false, raw);
            let norms = (&weights[q.clone()], &weights[k.clone()]);
            rope::norm(raw, norms, heads, eps, qkv);
        } else {
            layer.qkv.forward(weights, h, false, qkv);
        }
        rope::rotate(qkv, heads, &step.angles, false);
        if let Some(stream) = &step.stream {
            put_rows(moved, width, stream, &mut kept.qkv);
        }
        attention::forward(
            heads,
            &step.segments,
            &kept.qkv,
            scratch,
            &mut kept.heads,
            &mut kept.lse,
        );

        // Nobody attends to what the last layer writes, so the rest of it runs for the outputs alone.
        let is_last = after.is_empty();
        let rows = if is_last { &step.outputs } else { &step.rows };
        let mid = part_mut(&mut kept.mid, rows, hidden);
        let heads_out: &[f32] = if is_last {
            let output_heads = part_mut(output_heads, rows, out);
            take_rows(&kept.heads, out, &step.output_stream, output_heads);
            take_rows(x, hidden, &step.output_rows, mid);
            output_heads
        } else {
            mid.copy_from_slice(x);
            match &step.stream {
                None => &kept.heads,
                Some(stream) => {
                    resize(moved, stream.len() * out);
                    take_rows(&kept.heads, out, stream, moved);
                    moved
                }
            }
        };
        layer.o_proj.forward(weights, heads_out, true, mid);
        let mid_h = part_mut(&mut kept.mid_h, rows, hidden);
        let norm = &weights[layer.post_attention_layernorm.clone()];
        rms_norm::forward(mid, norm, eps, mid_h);
        let gate_up = part_mut(&mut kept.gate_up, rows, 2 * feed_forward);
        layer.gate_up.forward(weights, mid_h, false, gate_up);
        resize(activated, rows.len() * feed_forward);
        swiglu::forward(gate_up, feed_forward, activated);
        let written = match after.first_mut() {
            Some(next) => &mut next.x,
            None => written,
        };
        let written = part_mut(written, rows, hidden);
        written.copy_from_slice(mid);
        layer.down_proj.forward(weights, activated, true, written);
    }

    /// Passes on what the layer read, for the tokens that it is left out for.
    fn leave_out(&mut self, step: &Step, index: usize, left_out: &[bool]) {
        let hidden = self.shape.hidden;
        let (kept, after) = self.kept[index..]
            .split_first_mut()
            .expect("every layer has its buffers");
        let (written, is_last) = match after.first_mut() {
            Some(next) => (&mut next.x, false),
            None => (&mut self.work.x, true),
        };
        for (row, written) in written.chunks_exact_mut(hidden).enumerate() {
            let token = if is_last {
                step.output_rows[row] as usize
            } else {
                row
            };
            if left_out[token] {
                written.copy_from_slice(&kept.x[token * hidden..][..hidden]);
            }
        }
    }

    /// Norm and head after `layers` layers, there and back: what is left for later is the gradient of what the next layer reads.
    pub(super) fn exit(
        &mut self,
        weights: &[f32],
        plan: &Plan,
        layers: usize,
        gradient: &mut [f32],
        objective: &mut impl FnMut(usize, &mut [f32], &mut Taps) -> candle_core::Result<()>,
    ) -> candle_core::Result<()> {
        let Shape {
            hidden,
            vocabulary,
            eps,
            ..
        } = self.shape;
        let sources = plan.source_rows.len();
        let mut x = vec![0f32; sources * hidden];
        take_rows(&self.kept[layers].x, hidden, &plan.source_rows, &mut x);
        let norm = &weights[self.norm.clone()];
        let mut h = vec![0f32; x.len()];
        rms_norm::forward(&x, norm, eps, &mut h);
        let head = View::new(&weights[self.lm_head.clone()], vocabulary, hidden, hidden);
        let mut logits = vec![0f32; sources * vocabulary];
        let read = View::new(&h, sources, hidden, hidden);
        matmul(&mut logits, vocabulary, read, head.t(), 1.0, false);
        objective(layers, &mut logits, &mut Taps::default())?;
        let dy = View::new(&logits, sources, vocabulary, vocabulary);
        matmul(
            &mut gradient[self.lm_head.clone()],
            hidden,
            dy.t(),
            read,
            1.0,
            true,
        );
        let mut dh = vec![0f32; h.len()];
        matmul(&mut dh, hidden, dy, head, 1.0, false);
        let mut dx = vec![0f32; x.len()];
        let dnorm = &mut gradient[self.norm.clone()];
        rms_norm::backward(&x, norm, &dh, eps, false, &mut dx, dnorm);
        self.exits.push((layers, dx));
        Ok(())
    }

    fn head(&mut self, weights: &[f32], plan: &Plan) {
        let (hidden, vocabulary) = (self.shape.hidden, self.shape.vocabulary);
        let Work {
            h,
            source_h,
            logits,
            ..
        } = &mut self.work;
        let read = match &plan.source_outputs {
            None => h,
            Some(outputs) => {
                resize(source_h, outputs.len() * hidden);
                take_rows(h, hidden, outputs, source_h);
                source_h
            }
        };
        let sources = read.len() / hidden;
        resize(logits, sources * vocabulary);
        matmul(
            logits,
            vocabulary,
            View::new(read, sources, hidden, hidden),
            View::new(&weights[self.lm_head.clone()], vocabulary, hidden, hidden).t(),
            1.0,
            false,
        );
    }

    fn tap(&mut self, plan: &Plan) {
        let (layers, hidden, count) = (self.layers.len(), self.shape.hidden, plan.taps.len());
        self.taps.count = count;
        for values in [&mut self.taps.states, &mut self.taps.gradients] {
            values.resize_with(layers + 1, Vec::new);
            for values in values {
                values.clear();
                values.resize(count * hidden, 0.0);
            }
        }
        self.taps.written = self.work.written(plan, hidden);
        for (tap, Tap { row, output, .. }) in plan.taps.iter().enumerate() {
            for (index, states) in self.taps.states.iter_mut().enumerate() {
                let (table, row) = match self.kept.get(index) {
                    Some(kept) => (&kept.x, row),
                    None => (&self.work.h, output),
                };
                states[tap * hidden..][..hidden].copy_from_slice(&table[row * hidden..][..hidden]);
            }
        }
        self.tap_gates(plan);
    }

    /// What routers said of the tapped latent tokens.
    fn tap_gates(&mut self, plan: &Plan) {
        let kept = self.shortcuts.iter().flat_map(|shortcuts| &shortcuts.kept);
        let rows = kept.filter(|rows| !rows.is_empty());
        let gate = |rows: &Vec<Row>, tap: &Tap| tap.latent.map_or(0.0, |at| rows[at].gate);
        self.taps.gates = rows
            .map(|rows| plan.taps.iter().map(|tap| gate(rows, tap)).collect())
            .collect();
        let zeros = self.taps.gates.iter().map(|gates| vec![0.0; gates.len()]);
        self.taps.dgates = zeros.collect();
    }
}
