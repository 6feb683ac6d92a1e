//! Budgets, and what they leave for thinking once the answer has its share.
//!
//! Three things can be limited: generated tokens, time, layer passes. The context is a fourth limit that is always there. Of each,
//! enough is kept for the answer: the route's close tokens and the specification's `answer_reserve`. Thinking goes on only
//! while one more thinking step *and* that reserve fit; then the engine forces the close, and the answer follows. If a budget is
//! smaller than close and reserve together, the reserve shrinks, down to one token; below that the engine refuses to start.
//!
//! A probe spends of the same budgets: it is made only if close and reserve fit after it, too.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Limits on one answer; `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Budget {
    /// Generated tokens: thinking, close and answer with its stop token, and what probes generate. Never exceeded.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The cap on memory, for a probe.
    Memory,
    /// The device's heat: [`ThermalLevel`](crate::reason::ThermalLevel).
    Heat,
}

/// Where an engine reads the time: the system's clock, or another that a test or a replay turns by hand.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Instant + Send + Sync>);

impl Clock {
    /// A clock that shows what `now` returns.
    pub fn new(now: impl Fn() -> Instant + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    pub(crate) fn now(&self) -> Instant {
        (self.0)()
    }

    pub(crate) fn since(&self, start: Instant) -> Duration {
        self.now().saturating_duration_since(start)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new(Instant::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// What was spent since the prompt was read, with what is sampled or forced but not fed yet.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) generated: usize,
    pub(crate) thinking: usize,
    /// Positions that are left for what is not sampled yet; negative if what is sampled cannot be fed any more.
    pub(crate) left: isize,
    pub(crate) layer_passes: usize,
    /// An answer lies ready, so that no time needs to be kept for one.
    pub(crate) answer_ready: bool,
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
    pub(crate) clock: Clock,
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

    /// Steps that fit into `time`, with the margin; infinite before the first.
    pub(crate) fn steps_in(self, time: Duration) -> f64 {
        match self.0 > 0.0 {
            true => time.as_secs_f64() * 1e3 / (self.0 * PACE_MARGIN),
            false => f64::INFINITY,
        }
    }

    pub(crate) fn of(self, steps: usize) -> Duration {
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
        if let Some(limit) = self.overdrawn(spent, tokens, 1) {
            return Some(limit);
        }
        // The answer's last token is sampled, never fed.
        let reserve = self.reserve.min(self.room - self.close + 1);
        if spent.left < (self.close + reserve) as isize {
            return Some(Limit::Context);
        }
        let kept = if spent.answer_ready {
            0
        } else {
            self.close + self.reserve
        };
        self.out_of_time(1 + kept, pace)
            .then_some(Limit::Milliseconds)
    }

    /// How many tokens a probe may sample, at most `wanted`, if it feeds `close` tokens first and close and reserve must fit after it;
    /// if none, what ran out.
    pub(crate) fn probe_tokens(
        &self,
        close: usize,
        wanted: usize,
        spent: &Spent,
        pace: Pace,
    ) -> Result<usize, Limit> {
        let fits = |n: usize| {
            let fed = close + n - 1;
            // What a probe feeds is forgotten again: it needs room only for itself.
            if spent.left < fed as isize {
                return Err(Limit::Context);
            }
            if let Some(limit) = self.overdrawn(spent, close + n, fed) {
                return Err(limit);
            }
            let kept = if spent.answer_ready {
                0
            } else {
                self.close + self.reserve
            };
            match self.out_of_time(close + n + kept, pace) {
                true => Err(Limit::Milliseconds),
                false => Ok(n),
            }
        };
        // What fits is a beginning of the counts; as many as there are positions is the most that could.
        let positions = spent.left + 1 - close as isize;
        let (mut most, mut beyond) = (fits(1)?, wanted.min(positions.max(1) as usize) + 1);
        while most + 1 < beyond {
            let middle = most + (beyond - most) / 2;
            match fits(middle) {
                Ok(_) => most = middle,
                Err(_) => beyond = middle,
            }
        }
        Ok(most)
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
        if spent.left < 0 {
            return Some(Limit::Context);
        }
        if self
            .budget
            .layer_passes
            .is_some_and(|budget| spent.layer_passes > budget)
        {
            return Some(Limit::LayerPasses);
        }
        self.out_of_time(1, pace).then_some(Limit::Milliseconds)
    }

    /// Which budget would not hold close and reserve any more after `tokens` more tokens and `fed` more positions.
    fn overdrawn(&self, spent: &Spent, tokens: usize, fed: usize) -> Option<Limit> {
        if let Some(budget) = self.budget.tokens {
            let reserve = self.reserve.min(budget - self.close);
            if spent.generated + tokens + self.close + reserve > budget {
                return Some(Limit::Tokens);
            }
        }
        if let Some(budget) = self.budget.layer_passes {
            let reserve = self.reserve.min(budget / self.layers - self.close + 1);
            if spent.layer_passes + (fed + self.close + reserve - 1) * self.layers > budget {
                return Some(Limit::LayerPasses);
            }
        }
        None
    }

    /// Whether `steps` more steps end after the deadline.
    pub(crate) fn out_of_time(&self, steps: usize, pace: Pace) -> bool {
        self.deadline
            .is_some_and(|deadline| self.clock.now() + pace.of(steps) > deadline)
    }
}
