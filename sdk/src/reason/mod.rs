//! Reasoning: a question goes in, events come out, and an answer is always the last of them.
//!
//! ```text
//! ask ─▶ route's open ─▶ prompt ─▶ thinking: policy ─▶ step ─▶ policy ─▶ … ─▶ close ─▶ answer ─▶ Finished
//!                                     budget: may one more step be taken, and the answer still fit?
//! ```
//!
//! A *route* ([`RouteSpec`](crate::RouteSpec)) says which tokens open and close the thinking and how it is done; a
//! [`ReasoningPolicy`] chooses each step; the [`Engine`] executes, enforces the [`Budget`], and logs what was decided.
//!
//! Routes of a bundle: `direct` answers at once; `cot` thinks in tokens; `skip` does so leaving out what does not matter;
//! `latent` takes steps in the space of hidden states. `auto` spends as much effort as the question needs. With a
//! [ladder](crate::LadderSpec) it answers along a cheap route first, and along a dearer one from the same prompt if the student was not
//! sure enough of its answer, as far as the budget allows. With a [gate](crate::AutoSpec) it stops thinking when the answer is settled:
//! at the end of a chunk a *probe* closes the thinking on the side, and decodes the answer to see how sure the student is of it.
//!
//! Whatever is decided on the way, by limits too, stands in a log ([`Decision`]), and an answer can be had again from it
//! ([`Ask::with_replay`]).

mod ask;
mod budget;
mod engine;
mod event;
mod gate;
mod ladder;
mod lifecycle;
mod policy;
mod replay;

pub use ask::{Ask, EngineOptions};
pub use budget::{Budget, Clock, Limit};
pub use engine::{Engine, Progress};
pub use event::{Answer, Choice, Decision, Event, Probe, SkipReason, Usage};
pub use gate::Gated;
pub(crate) use lifecycle::Thermometer;
pub use lifecycle::{Lifecycle, ThermalLevel};
pub use policy::{Direct, Latent, NextStep, Observation, ReasoningPolicy, Think, policy_of};
