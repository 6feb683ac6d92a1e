//! Policies: what to do next, step by step.
//!
//! A reasoning method is a policy that looks at what happened and names the next step. It decides nothing about budgets: the
//! engine asks it again after every step, and overrules it when what is left is needed for the answer. So every method is
//! comparable, and a deadline always ends in an answer.

use crate::config::TokenId;
use crate::spec::{GateKind, RouteKind, RouteSpec};

/// The next step of a route.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum NextStep {
    /// Sample a thinking token.
    Token,
    /// Feed the last hidden state back through the route's latent map; no token, no LM head.
    Latent,
    /// Look on the side how sure the student is of its answer; nothing of it stays. The next [`Observation`] has the confidence.
    /// At most once between two other steps.
    Probe {
        /// What to look at.
        gate: GateKind,
        /// A confidence below this is of no interest: the probe may end as soon as that is certain.
        at_least: f32,
    },
    /// Stop thinking: close, then answer. Right after a probe, what the probe computed is the answer, or its beginning.
    Answer,
}

/// What a policy sees before each step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Observation {
    /// Tokens of the prompt, the route's open included.
    pub prompt_tokens: usize,
    /// Thinking tokens so far.
    pub thinking_tokens: usize,
    /// Latent steps so far.
    pub latent_steps: usize,
    /// Chunks begun so far.
    pub chunks: usize,
    /// The last step ended a chunk; stays so during a probe.
    pub chunk_ended: bool,
    /// What the last step found, if it was a probe: from 0 to 1, larger when surer; 0 if no budget allowed it.
    pub confidence: Option<f32>,
    /// The last thinking token, if the last step made one.
    pub token: Option<TokenId>,
    /// Its log-probability.
    pub logprob: Option<f32>,
}

/// Chooses the next step, before every step of the thinking.
pub trait ReasoningPolicy: Send {
    /// The step to take after what was seen. Not asked again once it says [`NextStep::Answer`], or once the student closes
    /// its thinking by itself.
    fn next_step(&mut self, seen: &Observation) -> NextStep;
}

/// Answers at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Direct;

impl ReasoningPolicy for Direct {
    fn next_step(&mut self, _: &Observation) -> NextStep {
        NextStep::Answer
    }
}

/// Thinks in tokens until the student closes its thinking. Serves `cot` and `skip`, which differ in what the student was trained
/// to leave out, and in the token that opens them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Think;

impl ReasoningPolicy for Think {
    fn next_step(&mut self, _: &Observation) -> NextStep {
        NextStep::Token
    }
}

/// Takes a fixed number of latent steps. With 0 it is [`Direct`].
#[derive(Debug, Clone, Copy)]
pub struct Latent {
    /// Latent steps to take.
    pub steps: usize,
}

impl ReasoningPolicy for Latent {
    fn next_step(&mut self, seen: &Observation) -> NextStep {
        if seen.latent_steps < self.steps {
            NextStep::Latent
        } else {
            NextStep::Answer
        }
    }
}

/// The policy of a route of the bundle.
pub fn policy_of(route: &RouteSpec) -> Box<dyn ReasoningPolicy> {
    match route.kind {
        RouteKind::Direct => Box::new(Direct),
        RouteKind::Cot | RouteKind::Skip => Box::new(Think),
        RouteKind::Latent => Box::new(Latent {
            steps: route.latent_steps,
        }),
    }
}
