//! What a question may ask for.

use std::time::Duration;

use super::budget::{Budget, Clock};
use super::event::Decision;
use crate::sampler::SamplerOptions;
use crate::spec::{Depth, RouteSpec};

/// How to make an engine.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Positions to reserve; `None`: the model's context.
    pub context: Option<usize>,
    /// Keep what consecutive prompts have in common in the KV cache instead of reading it again. Answers are the same; the costs
    /// of the later one are lower, so leave it off to compare costs.
    pub reuse_prefix: bool,
    /// Entries of the KV cache to reserve; `None`: one per position of the context. For questions that
    /// [drop chunks](Ask::drop_chunks): the memory is bounded by this, while the thinking may be as long as the context.
    pub kv_entries: Option<usize>,
    /// Where the time is read.
    pub clock: Clock,
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

    /// Sets the number of KV cache entries to reserve.
    #[must_use]
    pub fn with_kv_entries(mut self, kv_entries: usize) -> Self {
        self.kv_entries = Some(kv_entries);
        self
    }

    /// Sets where the time is read.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
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
    /// An answer is wanted by then, the best that there is: see [`Ask::with_answer_by`].
    pub answer_by: Option<Duration>,
    /// Most tokens of the answer that a probe decodes; `None`: the specification's `answer_reserve`, 16 where it reserves
    /// nothing. What is longer goes on only once
    /// it is the answer.
    pub max_probe_tokens: Option<usize>,
    /// Of every finished chunk keep only the keys and values of the last so many tokens, its separator counted; `None`: keep all.
    /// The KV cache then never holds more entries than prompt + this × finished chunks + the longest chunk + close + answer.
    pub drop_chunks: Option<usize>,
    /// How deep generated tokens run, instead of the route's own depth; see [`Ask::with_depth`].
    pub depth: Option<Depth>,
    /// The log to follow: see [`Ask::with_replay`].
    pub replay: Option<Vec<Decision>>,
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

    /// Wants an answer by `time` after the question, the best that there is.
    ///
    /// Before the thinking and at the end of every chunk the student answers on the side, and the latest of these answers is
    /// kept. When time is up it is the answer, in one piece, at most one step later; whole, unless it is longer than the
    /// specification's `answer_reserve`. The prompt must be read and the first answer decoded first, however long that takes.
    /// An answer is shown only when it is certain that it stays. Costs a probe per chunk.
    #[must_use]
    pub fn with_answer_by(mut self, time: Duration) -> Self {
        self.answer_by = Some(time);
        self
    }

    /// Sets the most tokens of the answer that a probe decodes.
    #[must_use]
    pub fn with_max_probe_tokens(mut self, tokens: usize) -> Self {
        self.max_probe_tokens = Some(tokens);
        self
    }

    /// Drops the keys and values of finished chunks but for their last `keep` tokens.
    #[must_use]
    pub fn with_drop_chunks(mut self, keep: usize) -> Self {
        self.drop_chunks = Some(keep);
        self
    }

    /// Sets how deep generated tokens run, those of probes included. The prompt runs all layers, and so do latent steps and all but the last
    /// token of a close that is forced. Guesses are made only where what is left of the budget of time allows a whole round of them, and
    /// never under a budget of layer passes: they cost more of those than they save.
    #[must_use]
    pub fn with_depth(mut self, depth: Depth) -> Self {
        self.depth = Some(depth);
        self
    }

    /// Follows the log of an [`Answer`](super::Answer) to the same prompt, with otherwise the same `ask`: the route, and every limit of
    /// time, heat or memory holds where it held then, whatever the time is now. The same tokens follow; if anything is decided otherwise,
    /// as with another bundle, seed or prompt, that is an error that names both decisions. For answers that ended by themselves or by a
    /// limit; those that were cancelled or suspended have no end to come to.
    #[must_use]
    pub fn with_replay(mut self, log: Vec<Decision>) -> Self {
        self.replay = Some(log);
        self
    }
}
