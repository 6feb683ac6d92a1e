//! Routers and adapters in training: a latent token takes a mix of what the layer and what its adapter write.
//!
//! ```text
//! w = σ(gate · silu(router_up · x))      g = h + adapter_up · silu(adapter_down · x)      x = the norm that the layer's attention reads
//! written = w · g + (1 − w) · f(h)       f: the layer
//! ```
//!
//! So gradients reach routers; the runtime takes `g` where `w` is above a threshold and `f` where not. Keys and values of latent tokens are there in
//! every layer in training, and only in layers that ran in the runtime: what that costs is measured, not assumed.
//!
//! Source: System-1.5 Reasoning, arXiv 2505.18962, eq. 1–2. The second term of its eq. 4–5 (the state of the step before at the same layer) is not
//! trained; at run time a step that resumes reads that state itself.

use std::ops::Range;

use super::plan::{Plan, Step};
use super::{Pass, Shape, Work};
use crate::ops::projection::Stacked;
use crate::ops::rms_norm;

/// Where the weights of a layer's router and adapter lie.
#[derive(Debug)]
pub(super) struct ShortcutWeights {
    pub(super) router_up: Stacked,
    pub(super) router_gate: Range<usize>,
    pub(super) router_bias: Range<usize>,
    pub(super) adapter_down: Stacked,
    pub(super) adapter_up: Stacked,
}

/// Routers and adapters of all layers but the first.
#[derive(Debug)]
pub(super) struct Shortcuts {
    pub(super) layers: Vec<ShortcutWeights>,
    /// `R`
    pub(super) router: usize,
    /// `A`
    pub(super) adapter: usize,
    /// For each of these layers what it keeps of every latent token, in the order of the waves.
    pub(super) kept: Vec<Vec<Row>>,
    /// Gradients of the routers' values that the objective asked for, of the same shape.
    pub(super) wanted: Vec<Vec<f32>>,
}

/// One latent token in one layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// Before the activation, `[R]` and `[A]`.
    router: Vec<f32>,
    adapter: Vec<f32>,
    /// What the router says.
    pub(super) gate: f32,
    /// What the adapter makes of the state, `[E]`.
    adapted: Vec<f32>,
    /// What the layer made of it, for each place where it was written.
    written: Vec<Vec<f32>>,
    /// Gradients on the way back.
    dgate: f32,
    dadapted: Vec<f32>,
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// The derivative of [`silu`].
fn silu_slope(x: f32) -> f32 {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    sigmoid * (1.0 + x * (1.0 - sigmoid))
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Rows of what a layer wrote in a wave that belong to a row of it: its own, or in the last layer those of its outputs.
fn places(step: &Step, is_last: bool, row: usize) -> Vec<usize> {
    if !is_last {
        return vec![step.rows.start + row];
    }
    let own = step.output_rows.iter().enumerate();
    let own = own.filter(|(_, other)| **other as usize == row);
    own.map(|(output, _)| step.outputs.start + output).collect()
}

impl Pass {
    /// Forgets the batch before.
    pub(super) fn clear_shortcuts(&mut self, plan: &Plan) {
        let latents = plan.waves.iter().map(|step| step.latents.len()).sum();
        if let Some(shortcuts) = &mut self.shortcuts {
            for (kept, wanted) in shortcuts.kept.iter_mut().zip(&mut shortcuts.wanted) {
                kept.clear();
                wanted.clear();
                wanted.resize(latents, 0.0);
            }
        }
    }

    /// Mixes what layer `index` wrote for the latent tokens of a wave with what its adapter makes of them.
    pub(super) fn mix(&mut self, weights: &[f32], step: &Step, index: usize) {
        let hidden = self.shape.hidden;
        let Some(shortcuts) = self.shortcuts.as_mut().filter(|_| index > 0) else {
            return;
        };
        let (kept, after) = self.kept[index..]
            .split_first_mut()
            .expect("every layer has its buffers");
        let is_last = after.is_empty();
        let table = match after.first_mut() {
            Some(next) => &mut next.x,
            None => &mut self.work.x,
        };
        let w = &shortcuts.layers[index - 1];
        for latent in &step.latents {
            let at = (step.rows.start + latent.row) * hidden;
            let (x, h) = (&kept.h[at..][..hidden], &kept.x[at..][..hidden]);
            let mut row = Row {
                router: vec![0.0; shortcuts.router],
                adapter: vec![0.0; shortcuts.adapter],
                adapted: h.to_vec(),
                dadapted: vec![0.0; hidden],
                ..Row::default()
            };
            w.router_up.forward(weights, x, false, &mut row.router);
            let activated: Vec<f32> = row.router.iter().map(|x| silu(*x)).collect();
            let sum = dot(&activated, &weights[w.router_gate.clone()]);
            row.gate = 1.0 / (1.0 + (-(sum + weights[w.router_bias.start])).exp());
            w.adapter_down.forward(weights, x, false, &mut row.adapter);
            let activated: Vec<f32> = row.adapter.iter().map(|x| silu(*x)).collect();
            w.adapter_up
                .forward(weights, &activated, true, &mut row.adapted);
            for place in places(step, is_last, latent.row) {
                let written = &mut table[place * hidden..][..hidden];
                row.written.push(written.to_vec());
                for (y, adapted) in written.iter_mut().zip(&row.adapted) {
                    *y = row.gate * adapted + (1.0 - row.gate) * *y;
                }
            }
            shortcuts.kept[index - 1].push(row);
        }
    }

    /// Before layer `index` goes back: splits the gradient of what a wave's latent tokens wrote; `dx` then holds the layer's share. `first`: how many
    /// latent tokens earlier waves have.
    pub(super) fn unmix(&mut self, step: &Step, index: usize, first: usize) {
        let hidden = self.shape.hidden;
        let Some(shortcuts) = self.shortcuts.as_mut().filter(|_| index > 0) else {
            return;
        };
        let is_last = index + 1 == self.layers.len();
        let begin = if is_last {
            step.outputs.start
        } else {
            step.rows.start
        };
        let wanted = &shortcuts.wanted[index - 1];
        for (offset, latent) in step.latents.iter().enumerate() {
            let row = &mut shortcuts.kept[index - 1][first + offset];
            row.dgate = wanted[first + offset];
            row.dadapted.fill(0.0);
            let places = places(step, is_last, latent.row);
            for (place, written) in places.into_iter().zip(&row.written) {
                let dx = &mut self.work.dx[(place - begin) * hidden..][..hidden];
                row.dgate += dot(dx, &row.adapted) - dot(dx, written);
                for (dx, dadapted) in dx.iter_mut().zip(&mut row.dadapted) {
                    *dadapted += row.gate * *dx;
                    *dx *= 1.0 - row.gate;
                }
            }
        }
    }

    /// After layer `index` went back: adds the gradients of routers and adapters, and of what they read to `dx`.
    pub(super) fn shortcuts_back(
        &mut self,
        weights: &[f32],
        step: &Step,
        index: usize,
        first: usize,
        gradient: &mut [f32],
    ) {
        let Shape { hidden, eps, .. } = self.shape;
        let Some(shortcuts) = self.shortcuts.as_mut().filter(|_| index > 0) else {
            return;
        };
        let w = &shortcuts.layers[index - 1];
        let kept = &self.kept[index];
        let norm = self.layers[index].input_layernorm.clone();
        for (offset, latent) in step.latents.iter().enumerate() {
            let row = &shortcuts.kept[index - 1][first + offset];
            let at = (step.rows.start + latent.row) * hidden;
            let (x, h) = (&kept.h[at..][..hidden], &kept.x[at..][..hidden]);
            let (mut dread, mut sum) = (vec![0.0; hidden], vec![0.0; hidden]);

            let activated: Vec<f32> = row.adapter.iter().map(|x| silu(*x)).collect();
            let mut dinner = vec![0.0; shortcuts.adapter];
            w.adapter_up.backward(weights, &row.dadapted, &mut dinner);
            w.adapter_up.accumulate(&row.dadapted, &activated, gradient);
            let slopes = row.adapter.iter().map(|x| silu_slope(*x));
            dinner.iter_mut().zip(slopes).for_each(|(d, s)| *d *= s);
            w.adapter_down.backward(weights, &dinner, &mut dread);
            w.adapter_down.accumulate(&dinner, x, gradient);
            sum.iter_mut().zip(&dread).for_each(|(sum, d)| *sum += d);

            let dlogit = row.dgate * row.gate * (1.0 - row.gate);
            gradient[w.router_bias.start] += dlogit;
            let gates = &weights[w.router_gate.clone()];
            let mut dinner = vec![0.0; shortcuts.router];
            for (i, before) in row.router.iter().enumerate() {
                gradient[w.router_gate.start + i] += dlogit * silu(*before);
                dinner[i] = dlogit * gates[i] * silu_slope(*before);
            }
            w.router_up.backward(weights, &dinner, &mut dread);
            w.router_up.accumulate(&dinner, x, gradient);
            sum.iter_mut().zip(&dread).for_each(|(sum, d)| *sum += d);

            let dx = &mut self.work.dx[latent.row * hidden..][..hidden];
            rms_norm::backward(
                h,
                &weights[norm.clone()],
                &sum,
                eps,
                true,
                dx,
                &mut gradient[norm.clone()],
            );
            dx.iter_mut()
                .zip(&row.dadapted)
                .for_each(|(dx, d)| *dx += d);
        }
    }
}

impl Work {
    /// What the last layer wrote for the taps, `[T, E]`.
    pub(super) fn written(&self, plan: &Plan, hidden: usize) -> Vec<f32> {
        let rows = plan.taps.iter();
        rows.flat_map(|tap| &self.x[tap.output * hidden..][..hidden])
            .copied()
            .collect()
    }
}
