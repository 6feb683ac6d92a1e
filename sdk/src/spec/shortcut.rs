//! Shortcuts of latent steps: layers and steps that a router leaves out.

use serde::{Deserialize, Serialize};

use super::depth::DepthPolicy;
use crate::config::ModelConfig;
use crate::side::ShortcutSize;

/// Shortcuts of latent steps. Before each layer but the first its router looks at the state; above the threshold the layer's adapter runs
/// in the layer's place, and with [`DepthPolicy::Halt`] the step ends there. Layers that a step leaves out hold nothing of it in the KV cache:
/// later positions do not see it there, and positions stay absolute.
///
/// Source: System-1.5 Reasoning, arXiv 2505.18962, eq. 3, its depth shortcut in both readings and its step shortcut.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShortcutSpec {
    /// Sizes of routers and adapters, whose tensors the bundle has.
    pub size: ShortcutSize,
    /// What a router must say for its layer to be left out, λ: more than this. From 1 on no layer is.
    pub threshold: f32,
    /// What is left out.
    #[serde(default)]
    pub policy: DepthPolicy,
    /// The step shortcut: a step that halted hands its state to the next step, which begins at the layer after and runs no layer before it.
    /// Without it the next step reads the state as any latent step does. The last step of a chain never halts. Only for
    /// [`DepthPolicy::Halt`].
    #[serde(default)]
    pub resume: bool,
}

impl ShortcutSpec {
    /// Shortcuts from `threshold` on: halt and resume.
    pub fn new(size: ShortcutSize, threshold: f32) -> ShortcutSpec {
        ShortcutSpec {
            size,
            threshold,
            policy: DepthPolicy::Halt,
            resume: true,
        }
    }

    /// The first field that makes no sense for a model, and why.
    pub(crate) fn fault(&self, config: &ModelConfig) -> Option<(String, String)> {
        // The working memory of a pass has room for this.
        let most = config.intermediate_size;
        let sizes = [
            ("size.router", self.size.router),
            ("size.adapter", self.size.adapter),
        ];
        for (place, size) in sizes {
            if !(1..=most).contains(&size) {
                return Some((place.to_owned(), format!("{size} is not from 1 to {most}")));
            }
        }
        if config.num_hidden_layers < 2 {
            let message = "a model of one layer has nothing to leave out".to_owned();
            return Some(("size".to_owned(), message));
        }
        if !(self.threshold.is_finite() && self.threshold >= 0.0) {
            let message = format!("{} is not 0 or more", self.threshold);
            return Some(("threshold".to_owned(), message));
        }
        if self.resume && self.policy != DepthPolicy::Halt {
            let message = format!("a step never halts under `{}`", self.policy.name());
            return Some(("resume".to_owned(), message));
        }
        None
    }

    /// Whether a router's value leaves its layer out.
    pub(crate) fn leaves_out(&self, gate: f32) -> bool {
        self.threshold < 1.0 && gate > self.threshold
    }
}
