//! What a question may ask for.

use super::budget::Budget;
use crate::sampler::SamplerOptions;
use crate::spec::RouteSpec;

/// How to make an engine.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Positions to reserve; `None`: the model's context.
    pub context: Option<usize>,
    /// Keep what consecutive prompts have in common in the KV cache instead of reading it again. Answers are the same; the costs
    /// of the later one are lower, so leave it off to compare costs.
    pub reuse_prefix: bool,
}

impl EngineOptions {
    /// Sets the number of positions to reserve.
    #[must_use]
    pub fn with_context(mut self, context: usize) -> Self {
        self.context = Some(context);
        self
    }

    /// Sets whether consecutive prompts share what they have in common.
    #[must_use]
    pub fn with_reuse_prefix(mut self, reuse_prefix: bool) -> Self {
        self.reuse_prefix = reuse_prefix;
        self
    }
}

/// How to answer one question.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Ask {
    /// The route's name; `None`: the bundle's default.
    pub route: Option<String>,
    /// A route that is not in the bundle, by itself; `route` is then its name in events.
    pub custom_route: Option<RouteSpec>,
    /// Latent steps instead of the route's own.
    pub latent_steps: Option<usize>,
    /// Limits.
    pub budget: Budget,
    /// Most tokens of the answer, its stop token included.
    pub max_answer_tokens: Option<usize>,
    /// How to sample, in thinking and answer; greedy by default.
    pub sampler: SamplerOptions,
    /// Strings that end the answer.
    pub stop_strings: Vec<String>,
}

impl Ask {
    /// The bundle's default route, without limits, greedy.
    pub fn new() -> Self {
        Ask::default()
    }

    /// Takes the route called `name`.
    #[must_use]
    pub fn with_route(mut self, name: impl Into<String>) -> Self {
        self.route = Some(name.into());
        self
    }

    /// Takes a route that the bundle need not know; `name` stands for it in events.
    #[must_use]
    pub fn with_custom_route(mut self, name: impl Into<String>, route: RouteSpec) -> Self {
        self.route = Some(name.into());
        self.custom_route = Some(route);
        self
    }

    /// Takes this many latent steps instead of the route's own number.
    #[must_use]
    pub fn with_latent_steps(mut self, steps: usize) -> Self {
        self.latent_steps = Some(steps);
        self
    }

    /// Sets the limits.
    #[must_use]
    pub fn with_budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Sets the most tokens of the answer.
    #[must_use]
    pub fn with_max_answer_tokens(mut self, tokens: usize) -> Self {
        self.max_answer_tokens = Some(tokens);
        self
    }

    /// Sets how to sample.
    #[must_use]
    pub fn with_sampler(mut self, sampler: SamplerOptions) -> Self {
        self.sampler = sampler;
        self
    }

    /// Sets the strings that end the answer.
    #[must_use]
    pub fn with_stop_strings(mut self, stop_strings: Vec<String>) -> Self {
        self.stop_strings = stop_strings;
        self
    }
}
