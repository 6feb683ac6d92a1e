//! Routers and adapters: what decides in a latent step whether a layer runs, and what stands in for it if not.
//!
//! ```text
//! state [E] ─input_layernorm of the layer─▶ x ─┬─router.up_proj─▶ [R] ─silu─▶ · router.gate + bias ─sigmoid─▶ w, from 0 to 1
//!                                              └─adapter.down_proj─▶ [A] ─silu─▶ ─adapter.up_proj─▶ + state        in the layer's place
//! ```
//!
//! Both read what the layer's attention reads, so that a router whose layer then runs costs one product of `R` rows and no norm.
//! The first layer has none: a step that ran nothing has nothing to say.
//!
//! Source: System-1.5 Reasoning, arXiv 2505.18962: one router and one light adapter per layer; their inner form is ours, as no code is published.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use skimstone_kernels::Linear;

use crate::config::TensorShape;

/// Sizes of every router and adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShortcutSize {
    /// Width of a router's hidden layer, `R`; from 1 to the model's `intermediate_size`.
    pub router: usize,
    /// Width of an adapter's hidden layer, `A`; from 1 to the model's `intermediate_size`.
    pub adapter: usize,
}

/// The layers that have a router and an adapter, of `count`.
pub(crate) fn layers(count: usize) -> Range<usize> {
    1.min(count)..count
}

/// The full name of a tensor of layer `layer`.
pub(crate) fn name(layer: usize, name: &str) -> String {
    format!("shortcut.layers.{layer}.{name}")
}

impl ShortcutSize {
    /// The tensors of one layer, by name and shape.
    pub(crate) fn tensors(self, hidden_size: usize, layer: usize) -> [TensorShape; 8] {
        let tensor = |part: &str, shape: &[usize]| TensorShape {
            name: name(layer, part),
            shape: shape.to_vec(),
        };
        let (e, r, a) = (hidden_size, self.router, self.adapter);
        [
            tensor("router.up_proj.weight", &[r, e]),
            tensor("router.up_proj.bias", &[r]),
            tensor("router.gate.weight", &[r]),
            tensor("router.gate.bias", &[1]),
            tensor("adapter.down_proj.weight", &[a, e]),
            tensor("adapter.down_proj.bias", &[a]),
            tensor("adapter.up_proj.weight", &[e, a]),
            tensor("adapter.up_proj.bias", &[e]),
        ]
    }
}

/// The router and the adapter of a layer.
#[derive(Clone, Copy, Debug)]
pub struct ShortcutWeights<'a> {
    /// `[R, E]`
    pub router_up: Linear<'a>,
    /// `[R]`
    pub router_gate: &'a [f32],
    /// `[1]`
    pub router_bias: &'a [f32],
    /// `[A, E]`
    pub adapter_down: Linear<'a>,
    /// `[E, A]`
    pub adapter_up: Linear<'a>,
}

impl ShortcutWeights<'_> {
    /// What the router says, from what its first product wrote. Shapes: `inner` is `[R]`.
    pub(crate) fn gate(&self, inner: &mut [f32]) -> f32 {
        silu(inner);
        let products = inner.iter().zip(self.router_gate);
        let sum: f32 = products.map(|(x, weight)| x * weight).sum();
        let bias: f32 = self.router_bias.iter().sum();
        1.0 / (1.0 + (-(sum + bias)).exp())
    }
}

/// `x · σ(x)` for each value. A few values per layer, so the standard exponential will do.
pub(crate) fn silu(x: &mut [f32]) {
    for x in x {
        *x /= 1.0 + (-*x).exp();
    }
}
