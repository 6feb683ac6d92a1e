//! Policies: what to do next, step by step.
//!
//! A reasoning method is a policy that looks at what happened and names the next step. It decides nothing about budgets: the
//! engine asks it again after every step, and overrules it when what is left is needed for the answer. So every method is
//! comparable, and a deadline always ends in an answer.

use crate::config::TokenId;
use crate::spec::{RouteKind, RouteSpec};

/// The next step of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NextStep {
    /// Sample a thinking token.
    Token,
    /// Feed the last hidden state back through the route's latent map; no token, no LM head.
    Latent,
    /// Stop thinking: close, then answer.
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
    /// Chunks begun so far, where the student has a chunk separator.
    pub chunks: usize,
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
