//! The way back.

use super::plan::{Plan, Step, Tap};
use super::{Depth, Pass, Shape, Work, add_rows, part, part_mut, put_rows, resize, take_rows};
use crate::ops::matmul::{View, matmul};
use crate::ops::{attention, rms_norm, rope, swiglu};

impl Pass {
    /// Adds the gradients of all weights to `gradient`, given those of the logits and of the taps.
    pub(super) fn backward(
        &mut self,
        weights: &[f32],
        plan: &Plan,
        depth: Depth<'_>,
        gradient: &mut [f32],
    ) {
        let hidden = self.shape.hidden;
        self.head_back(weights, plan, gradient);
        self.want_gates(plan);
        let tokens = plan.waves.last().map_or(0, |step| step.rows.end);
        let buffers = if plan.waves.len() > 1 {
            self.layers.len()
        } else {
            1
        };
        self.work.dqkv.resize_with(buffers, Vec::new);
        for dqkv in &mut self.work.dqkv {
            dqkv.clear();
            dqkv.resize(tokens * self.shape.heads.width(), 0.0);
        }
        // Rows of the latent map were made in the order of the waves.
        let mut mapped = plan
            .waves
            .iter()
            .map(|step| step.latents.len())
            .sum::<usize>();
        for step in plan.waves.iter().rev() {
            mapped -= step.latents.len();
            let Work { x, dfinal, dx, .. } = &mut self.work;
            resize(dx, step.outputs.len() * hidden);
            let norm = self.norm.clone();
            rms_norm::backward(
                part(x, &step.outputs, hidden),
                &weights[norm.clone()],
                part(dfinal, &step.outputs, hidden),
                self.shape.eps,
                false,
                dx,
                &mut gradient[norm],
            );
            for layer in (0..self.layers.len()).rev() {
                let left_out = depth.left_out.get(layer);
                if let Some(left_out) = left_out {
                    self.set_aside(step, layer, left_out);
                }
                if depth.routed {
                    self.unmix(step, layer, mapped);
                }
                self.layer_back(weights, step, layer, gradient);
                if depth.routed {
                    self.shortcuts_back(weights, step, layer, mapped, gradient);
                }
                if left_out.is_some() {
                    let Work { dx, passed, .. } = &mut self.work;
                    dx.iter_mut().zip(&*passed).for_each(|(sum, dx)| *sum += dx);
                }
                self.add_exits(plan, step, layer);
                self.add_taps(plan, step, layer);
            }
            let Work { dfinal, dx, .. } = &mut self.work;
            for (index, latent) in step.latents.iter().enumerate() {
                let read = &mut dx[latent.row * hidden..][..hidden];
                let mut spare = vec![0.0; if latent.is_detached { hidden } else { 0 }];
                let state = match latent.is_detached {
                    true => &mut spare,
                    false => &mut dfinal[latent.output * hidden..][..hidden],
                };
                match &mut self.latent_map {
                    None => state
                        .iter_mut()
                        .zip(&*read)
                        .for_each(|(sum, dx)| *sum += dx),
                    Some(map) => map.backward(weights, mapped + index, read, state, gradient),
                }
                // No embedding was read.
                read.fill(0.0);
            }
            let dembedding = &mut gradient[self.embed_tokens.clone()];
            add_rows(dx, hidden, &step.tokens, dembedding);
        }
    }

    /// From the logits and the taps to the gradient of what the final norm wrote.
    fn head_back(&mut self, weights: &[f32], plan: &Plan, gradient: &mut [f32]) {
        let (hidden, vocabulary) = (self.shape.hidden, self.shape.vocabulary);
        let Work {
            h,
            source_h,
            logits: dlogits,
            dfinal,
            dh,
            ..
        } = &mut self.work;
        let sources = dlogits.len() / vocabulary;
        let dy = View::new(dlogits, sources, vocabulary, vocabulary);
        let head = View::new(&weights[self.lm_head.clone()], vocabulary, hidden, hidden);
        let read = if plan.source_outputs.is_some() {
            source_h
        } else {
            h
        };
        let dhead = &mut gradient[self.lm_head.clone()];
        let view = View::new(read, sources, hidden, hidden);
        matmul(dhead, hidden, dy.t(), view, 1.0, true);
        match &plan.source_outputs {
            None => {
                resize(dfinal, sources * hidden);
                matmul(dfinal, hidden, dy, head, 1.0, false);
            }
            Some(outputs) => {
                resize(dh, sources * hidden);
                matmul(dh, hidden, dy, head, 1.0, false);
                dfinal.clear();
                dfinal.resize(plan.outputs * hidden, 0.0);
                add_rows(dh, hidden, outputs, dfinal);
            }
        }
        let Some(last) = self.taps.gradients.last() else {
            return;
        };
        for (Tap { output, .. }, tap) in plan.taps.iter().zip(last.chunks_exact(hidden)) {
            let state = &mut dfinal[output * hidden..][..hidden];
            state.iter_mut().zip(tap).for_each(|(sum, dx)| *sum += dx);
        }
    }

    /// Hands on what the objective wants changed about what routers said.
    fn want_gates(&mut self, plan: &Plan) {
        let Some(shortcuts) = &mut self.shortcuts else {
            return;
        };
        for (wanted, dgates) in shortcuts.wanted.iter_mut().zip(&self.taps.dgates) {
            for (tap, dgate) in plan.taps.iter().zip(dgates) {
                if let Some(latent) = tap.latent {
                    wanted[latent] += dgate;
                }
            }
        }
    }

    /// Takes the rows that a layer is left out for out of `dx`; they go on as they are.
    fn set_aside(&mut self, step: &Step, layer: usize, left_out: &[bool]) {
        let hidden = self.shape.hidden;
        let is_last = layer + 1 == self.layers.len();
        let Work { dx, passed, .. } = &mut self.work;
        passed.clear();
        passed.resize(step.rows.len() * hidden, 0.0);
        for (row, dx) in dx.chunks_exact_mut(hidden).enumerate() {
            let token = if is_last {
                step.output_rows[row] as usize
            } else {
                row
            };
            if left_out[token] {
                // A token may be the source of several targets.
                let passed = &mut passed[token * hidden..][..hidden];
                passed.iter_mut().zip(&*dx).for_each(|(sum, dx)| *sum += dx);
                dx.fill(0.0);
            }
        }
    }

    /// Adds the gradients of the heads before a layer.
    fn add_exits(&mut self, plan: &Plan, step: &Step, layer: usize) {
        let hidden = self.shape.hidden;
        for (_, exit) in self.exits.iter().filter(|(layers, _)| *layers == layer) {
            for (row, exit) in plan.source_rows.iter().zip(exit.chunks_exact(hidden)) {
                let row = *row as usize;
                if step.rows.contains(&row) {
                    let dx = &mut self.work.dx[(row - step.rows.start) * hidden..][..hidden];
                    dx.iter_mut().zip(exit).for_each(|(sum, dx)| *sum += dx);
                }
            }
        }
    }

    /// Adds what the objective wants changed about what a layer read.
    fn add_taps(&mut self, plan: &Plan, step: &Step, layer: usize) {
        let hidden = self.shape.hidden;
        let taps = self.taps.gradients[layer].chunks_exact(hidden);
        for (Tap { row, .. }, tap) in plan.taps.iter().zip(taps) {
            if step.rows.contains(row) {
                let dx = &mut self.work.dx[(row - step.rows.start) * hidden..][..hidden];
                dx.iter_mut().zip(tap).for_each(|(sum, dx)| *sum += dx);
            }
        }
    }

    /// `dx` holds the gradient of what the layer wrote before, and of what it read after.
    fn layer_back(&mut self, weights: &[f32], step: &Step, index: usize, gradient: &mut [f32]) {
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
            dx,
            dh,
            dactivated,
            dheads,
            dqkv,
            spread,
            ..
        } = &mut self.work;
        let is_last = index + 1 == self.layers.len();
        let (layer, kept) = (&self.layers[index], &mut self.kept[index]);
        let rows = if is_last { &step.outputs } else { &step.rows };

        resize(dactivated, rows.len() * feed_forward);
        layer.down_proj.backward(weights, dx, dactivated);
        resize(activated, rows.len() * feed_forward);
        let dgate_up = part_mut(&mut kept.gate_up, rows, 2 * feed_forward);
        swiglu::backward(dgate_up, dactivated, feed_forward, activated);
        layer.down_proj.accumulate(dx, activated, gradient);
        resize(dh, rows.len() * hidden);
        layer.gate_up.backward(weights, dgate_up, dh);
        let mid_h = part(&kept.mid_h, rows, hidden);
        layer.gate_up.accumulate(dgate_up, mid_h, gradient);
        let norm = layer.post_attention_layernorm.clone();
        rms_norm::backward(
            part(&kept.mid, rows, hidden),
            &weights[norm.clone()],
            dh,
            eps,
            true,
            dx,
            &mut gradient[norm],
        );

        resize(dheads, kept.heads.len());
        if is_last {
            resize(moved, rows.len() * out);
            layer.o_proj.backward(weights, dx, moved);
            let heads_out = part(output_heads, rows, out);
            layer.o_proj.accumulate(dx, heads_out, gradient);
            for segment in &step.segments {
                let run = segment.start..segment.start + segment.len;
                part_mut(dheads, &run, out).fill(0.0);
            }
            add_rows(moved, out, &step.output_stream, dheads);
            spread.clear();
            spread.resize(step.rows.len() * hidden, 0.0);
            add_rows(dx, hidden, &step.output_rows, spread);
            std::mem::swap(dx, spread);
        } else if let Some(stream) = &step.stream {
            resize(moved, stream.len() * out);
            take_rows(&kept.heads, out, stream, moved);
            layer.o_proj.accumulate(dx, moved, gradient);
            layer.o_proj.backward(weights, dx, moved);
            put_rows(moved, out, stream, dheads);
        } else {
            layer.o_proj.backward(weights, dx, dheads);
            layer.o_proj.accumulate(dx, &kept.heads, gradient);
        }

        let dqkv = if step.stream.is_some() {
            &mut dqkv[index]
        } else {
            let dqkv = &mut dqkv[0];
            dqkv.fill(0.0);
            dqkv
        };
        let saved = (&*kept.heads, &**dheads, &*kept.lse);
        attention::backward(heads, &step.segments, &kept.qkv, saved, scratch, dqkv);
        // Later waves have added what they read of these keys and values; now they are complete.
        let dqkv = match &step.stream {
            None => dqkv,
            Some(stream) => {
                resize(moved, stream.len() * width);
                take_rows(dqkv, width, stream, moved);
                moved
            }
        };
        rope::rotate(dqkv, heads, &step.angles, true);
        if let Some((q, k)) = &layer.qk_norm {
            // `ModelConfig::tensors` puts one right after the other.
            let (dq, dk) = gradient[q.start..k.end].split_at_mut(q.len());
            let norms = (&weights[q.clone()], &weights[k.clone()]);
            let raw = part(&kept.raw, &step.rows, width);
            rope::norm_back(raw, norms, heads, eps, dqkv, (dq, dk));
        }
        resize(dh, step.rows.len() * hidden);
        layer.qkv.backward(weights, dqkv, dh);
        let h = part(&kept.h, &step.rows, hidden);
        layer.qkv.accumulate(dqkv, h, gradient);
        let norm = layer.input_layernorm.clone();
        rms_norm::backward(
            part(&kept.x, &step.rows, hidden),
            &weights[norm.clone()],
            dh,
            eps,
            true,
            dx,
            &mut gradient[norm],
        );
    }
}
