//! Budgets, and what they leave for thinking once the answer has its share.
//!
//! Three things can be limited: generated tokens, time, layer passes. The context is a fourth limit that is always there. Of each,
//! enough is kept for the answer: the route's close tokens and the specification's `answer_reserve`. Thinking goes on only
//! while one more thinking step *and* that reserve fit; then the engine forces the close, and the answer follows. If a budget is
//! smaller than close and reserve together, the reserve shrinks, down to one token; below that the engine refuses to start.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};

/// Limits on one answer; `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Budget {
    /// Generated tokens: thinking, close and answer with its stop token. Never exceeded.
    pub tokens: Option<usize>,
    /// Time from [`Engine::ask`](crate::reason::Engine::ask). The prompt must be read and at least one token answered, however
    /// long that takes; apart from that the deadline is kept within about one step.
    pub milliseconds: Option<u64>,
    /// Layers run per position, after the prompt. Never exceeded.
    pub layer_passes: Option<usize>,
}

impl Budget {
    /// No limits.
    pub fn unlimited() -> Self {
        Budget::default()
    }

    /// Limits generated tokens.
    #[must_use]
    pub fn with_tokens(mut self, tokens: usize) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// Limits time.
    #[must_use]
    pub fn with_milliseconds(mut self, milliseconds: u64) -> Self {
        self.milliseconds = Some(milliseconds);
        self
    }

    /// Limits layer passes.
    #[must_use]
    pub fn with_layer_passes(mut self, layer_passes: usize) -> Self {
        self.layer_passes = Some(layer_passes);
        self
    }
}

/// What ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Limit {
    /// [`Budget::tokens`].
    Tokens,
    /// [`Budget::milliseconds`].
    Milliseconds,
    /// [`Budget::layer_passes`].
    LayerPasses,
    /// The session's context.
    Context,
    /// The route's own `max_thinking_tokens`.
    Route,
}

/// What was spent since the prompt was read, with what is sampled or forced but not fed yet.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) generated: usize,
    pub(crate) thinking: usize,
    pub(crate) positions: usize,
    pub(crate) layer_passes: usize,
}

/// A step of this kind: does it make a token?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepKind {
    Token,
    Latent,
}

/// A budget with everything needed to decide about one answer.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) budget: Budget,
    /// Tokens that close the thinking.
    pub(crate) close: usize,
    /// Tokens kept for the answer.
    pub(crate) reserve: usize,
    /// The route's own limit on thinking tokens.
    pub(crate) max_thinking: Option<usize>,
    /// Positions of the context after the prompt.
    pub(crate) room: usize,
    /// Layers of the model.
    pub(crate) layers: usize,
    pub(crate) deadline: Option<Instant>,
}

/// Steps vary; this much more than the mean is kept for each.
const PACE_MARGIN: f64 = 1.25;

/// Weight of the newest step in the running mean.
const PACE_NEWEST: f64 = 0.1;

/// A running mean of the time of one step, in milliseconds; 0 before the first.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace(f64);

impl Pace {
    pub(crate) fn observe(&mut self, time: Duration, steps: usize) {
        let ms = time.as_secs_f64() * 1e3 / steps.max(1) as f64;
        self.0 = if self.0 == 0.0 {
            ms
        } else {
            (1.0 - PACE_NEWEST) * self.0 + PACE_NEWEST * ms
        };
    }

    fn of(self, steps: usize) -> Duration {
        Duration::from_secs_f64(self.0 * PACE_MARGIN * steps as f64 / 1e3)
    }
}

impl Account {
    /// Refuses budgets in which not even the close and one token of answer fit.
    pub(crate) fn check(&self, route: &str, prompt: usize, context: usize) -> Result<()> {
        let too_small = |budget: usize, minimum: usize, unit: &str| {
            let message =
                format!("a budget of {budget} {unit}, route `{route}` needs at least {minimum}");
            Err(Error::new(ErrorKind::Argument, message))
        };
        // The last token of an answer is sampled, never fed.
        if self.close > self.room {
            let message = format!(
                "prompt and close of route `{route}` need {} positions, the context is {context}",
                prompt + self.close
            );
            return Err(Error::new(ErrorKind::ContextFull, message)
                .with_hint("shorten the prompt or open a larger context"));
        }
        match self.budget {
            Budget {
                tokens: Some(tokens),
                ..
            } if tokens < self.close + 1 => too_small(tokens, self.close + 1, "generated tokens"),
            Budget {
                layer_passes: Some(passes),
                ..
            } if passes < self.close * self.layers => {
                too_small(passes, self.close * self.layers, "layer passes")
            }
            _ => Ok(()),
        }
    }

    /// Whether one more thinking step fits beside close and reserve; if not, what ran out.
    pub(crate) fn thinking_limit(
        &self,
        step: StepKind,
        spent: &Spent,
        pace: Pace,
    ) -> Option<Limit> {
        let tokens = usize::from(step == StepKind::Token);
        if step == StepKind::Token && self.max_thinking.is_some_and(|max| spent.thinking >= max) {
            return Some(Limit::Route);
        }
        if let Some(budget) = self.budget.tokens {
            let reserve = self.reserve.min(budget - self.close);
            if spent.generated + tokens + self.close + reserve > budget {
                return Some(Limit::Tokens);
            }
        }
        let reserve = self.reserve.min(self.room - self.close + 1);
        if spent.positions + 1 + self.close + reserve - 1 > self.room {
            return Some(Limit::Context);
        }
        if let Some(budget) = self.budget.layer_passes {
            let affordable = budget / self.layers;
            let reserve = self.reserve.min(affordable - self.close + 1);
            if spent.layer_passes + (1 + self.close + reserve - 1) * self.layers > budget {
                return Some(Limit::LayerPasses);
            }
        }
        if let Some(deadline) = self.deadline
            && Instant::now() + pace.of(1 + self.close + self.reserve) > deadline
        {
            return Some(Limit::Milliseconds);
        }
        None
    }

    /// Whether the answer's last token may be fed to sample one more; if not, what ran out.
    pub(crate) fn answer_limit(&self, spent: &Spent, pace: Pace) -> Option<Limit> {
        if self
            .budget
            .tokens
            .is_some_and(|budget| spent.generated >= budget)
        {
            return Some(Limit::Tokens);
        }
        if spent.positions > self.room {
            return Some(Limit::Context);
        }
        if self
            .budget
            .layer_passes
            .is_some_and(|budget| spent.layer_passes > budget)
        {
            return Some(Limit::LayerPasses);
        }
        if self
            .deadline
            .is_some_and(|deadline| Instant::now() + pace.of(1) > deadline)
        {
            return Some(Limit::Milliseconds);
        }
        None
    }
}
