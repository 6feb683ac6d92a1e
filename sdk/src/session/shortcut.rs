//! Latent steps with shortcuts: layers that routers leave out, and steps that begin where the one before halted.
//!
//! ```text
//! step 1   input ─layers 0..3─▶ router of 3: w > λ ─▶ adapter ─▶ halts              keys and values in layers 0..3 only
//! step 2                                              └─layers 4..L─▶ state         keys and values in layers 4..L only
//! ```
//!
//! Together the two ran the stack about once. Source: System-1.5 Reasoning, arXiv 2505.18962.

use super::{Session, StepInput, copy_row};
use crate::error::Result;
use crate::forward::{OneCache, Turn};
use crate::spec::{DepthPolicy, LatentMap, ShortcutSpec};

/// Which layers a latent step ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentStep {
    /// The layer at which it began; more than 0 if it resumed.
    pub begin: usize,
    /// Layers that ran.
    pub layers: usize,
    /// The layer in whose place its adapter ran last, if the step halted there.
    pub halted: Option<usize>,
}

impl Session {
    /// One latent step as `shortcut` says, without the head. `is_last`: of its chain, so that it does not halt. Does not allocate. At a
    /// threshold of 1 and more it is [`Session::step_hidden`], bit for bit. Taps are not filled.
    ///
    /// # Errors
    /// As [`Session::step_input`]; [`ErrorKind::Argument`](crate::ErrorKind::Argument) if the bundle has no routers.
    pub fn step_shortcut(
        &mut self,
        map: &LatentMap,
        shortcut: &ShortcutSpec,
        is_last: bool,
    ) -> Result<LatentStep> {
        self.step_routed(map, shortcut, is_last, |_, gate| shortcut.leaves_out(gate))
    }

    /// [`Session::step_shortcut`] with a decision of the caller's own in place of the threshold: `leaves_out` is told the number of a layer
    /// and what its router says. For controls, and to look at routers.
    ///
    /// # Errors
    /// As [`Session::step_shortcut`].
    pub fn step_routed(
        &mut self,
        map: &LatentMap,
        shortcut: &ShortcutSpec,
        is_last: bool,
        mut leaves_out: impl FnMut(usize, f32) -> bool,
    ) -> Result<LatentStep> {
        self.check_room(1)?;
        let begin = self.resume;
        if begin == 0 {
            self.load(StepInput::Hidden(map))?;
        } else {
            let width = self.hidden.len();
            copy_row(&self.hidden, &mut self.scratch.hidden[..width])?;
        }
        self.begin(1);
        let mut bypassed = false;
        let mut decide = |layer: usize, gate: f32| match (leaves_out(layer, gate), shortcut.policy)
        {
            (true, DepthPolicy::Bypass) => {
                bypassed = true;
                Turn::Bypass
            }
            (true, DepthPolicy::Halt) if !is_last => Turn::Halt,
            _ => Turn::Run,
        };
        let Session {
            model,
            kv,
            room,
            scratch,
            cancel,
            ..
        } = self;
        let mut cache = OneCache { kv, room, rows: 1 };
        let ran = model
            .forward()
            .run_routed(begin, scratch, &mut cache, cancel, &mut decide);
        let (layers, halted) = match ran {
            Ok(ran) => ran,
            Err(error) => {
                self.kv.rewind();
                self.resume = begin;
                return Err(error);
            }
        };
        self.finish(1)?;
        let last = self.model.config().num_hidden_layers - 1;
        // In the place of the last layer an adapter ends the stack as the layer would.
        let next = halted.filter(|&layer| shortcut.resume && layer < last);
        self.resume = next.map_or(0, |layer| layer + 1);
        self.usage.latent_steps += 1;
        self.usage.layer_passes += layers;
        self.usage.exits += usize::from(bypassed || halted.is_some());
        Ok(LatentStep {
            begin,
            layers,
            halted,
        })
    }
}
