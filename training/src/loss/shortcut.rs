//! What latent steps are drawn to, and what routers and adapters learn.

use serde::{Deserialize, Serialize};

use crate::pass::Taps;

/// Weights of what routers and adapters learn, beside the cross-entropy of the answer.
///
/// With `h_d` the state of a latent token after `d` of `L` layers, `h_L` its state in the student as it was without routers, `w` what a router says:
///
/// ```text
/// loss = CE + exit · Σ_d e_d · |h_d − h_L|² / |h_L|² + router · BCE(w, not critical) + budget · mean(1 − w)
/// e_d = d / Σ d      for a step that is not critical: the later the closer
///       (L − d + 1) / Σ d      for a critical one
/// ```
///
/// The exit loss is over `1 < d < L`, its norms are means over the batch. Source: System-1.5 Reasoning, arXiv 2505.18962, eq. 10–13. Which state is the
/// target and the form of `e` are not told where we could read it; a target of the same layer would be met by routers that never ask. With `router` and
/// `budget` 0 this is its loss in our reading; both terms are ours.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShortcutWeights {
    /// Of the exit loss, the paper's β.
    pub exit: f32,
    /// Of the push of routers to what is known about the step.
    pub router: f32,
    /// Of the layers that run.
    pub budget: f32,
}

/// Adds the gradient of the latent tokens' last states, times `scale`, and returns the loss times `scale`: their mean squared distance to those of the
/// steps that they stand for. Taps are step and latent token in turn.
pub(super) fn alignment(taps: &mut Taps, scale: f64) -> f64 {
    let (Some(states), Some(gradients)) = (taps.states.last(), taps.gradients.last_mut()) else {
        return 0.0;
    };
    let width = states.len() / taps.count.max(1);
    let scale = scale / (states.len() / 2).max(1) as f64;
    let mut total = 0.0;
    let pairs = states.chunks_exact(2 * width);
    for (pair, gradient) in pairs.zip(gradients.chunks_exact_mut(2 * width)) {
        let (step, latent) = pair.split_at(width);
        for ((target, state), gradient) in step.iter().zip(latent).zip(&mut gradient[width..]) {
            let difference = f64::from(state - target);
            total += scale * difference * difference;
            *gradient += (2.0 * scale * difference) as f32;
        }
    }
    total
}

/// Adds the gradients of states and gates, times `scale`, and returns the loss times `scale`. Shapes: `targets` is `[T, E]`, `critical` is `[T]`.
pub(super) fn shortcut(
    weights: ShortcutWeights,
    taps: &mut Taps,
    targets: &[f32],
    critical: &[bool],
    scale: f64,
) -> f64 {
    let (layers, count) = (taps.states.len() - 1, taps.count.max(1));
    let width = targets.len() / count;
    let squares = targets.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let size = (squares / targets.len().max(1) as f64).max(1e-12);
    let sum = (layers * (layers + 1) / 2) as f64;
    let mut total = 0.0;
    // What layer `depth` reads is what `depth` layers have written.
    for depth in 2..layers {
        let states = taps.states[depth].chunks_exact(width);
        let gradients = taps.gradients[depth].chunks_exact_mut(width);
        let rows = states.zip(gradients).zip(targets.chunks_exact(width));
        for (((state, gradient), target), critical) in rows.zip(critical) {
            let rank = if *critical { layers - depth + 1 } else { depth };
            let e = rank as f64 / sum;
            let factor = scale * f64::from(weights.exit) * e / (count * width) as f64 / size;
            for ((x, target), gradient) in state.iter().zip(target).zip(gradient) {
                let difference = f64::from(x - target);
                total += factor * difference * difference;
                *gradient += (2.0 * factor * difference) as f32;
            }
        }
    }
    let gates = taps.gates.iter().map(Vec::len).sum::<usize>().max(1) as f64;
    for (gates_of, dgates) in taps.gates.iter().zip(&mut taps.dgates) {
        for ((gate, dgate), critical) in gates_of.iter().zip(dgates).zip(critical) {
            let gate = f64::from(*gate).clamp(1e-6, 1.0 - 1e-6);
            let push = scale * f64::from(weights.router) / gates;
            let budget = scale * f64::from(weights.budget) / gates;
            let right = if *critical { 1.0 - gate } else { gate };
            total += push * -right.ln() + budget * (1.0 - gate);
            let slope = if *critical { 1.0 } else { -1.0 };
            *dgate += (push * slope / right - budget) as f32;
        }
    }
    total
}
