//! What a device asks of the app that it runs, and what an engine does about it.
//!
//! | the system says | call | effect |
//! | --- | --- | --- |
//! | memory is short | [`Lifecycle::memory_warning`], [`Engine::shed_memory`](super::Engine::shed_memory) | without a question: the reusable prefix goes, and every block of keys and values. During one: what it cannot need any more under its limits, and the session of probes. Free blocks go to the system. Answers do not change; the next question reserves again |
//! | the app leaves the screen | [`Lifecycle::enter_background`] | the chunk of thinking in progress is finished, the state written to a file, and the question ends with [`FinishReason::Suspended`](crate::FinishReason::Suspended). [`Engine::resume`](super::Engine::resume) goes on from the file, in this process or another |
//! | the device is hot | [`Model::set_thermal`](crate::Model::set_thermal) | less work for the same question, by the table of [`ThermalLevel`] |

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ask::Ask;
use super::budget::Clock;
use crate::spec::{ReasoningSpec, RouteKind, RouteSpec};

/// How hot the device is, and how much effort a question is worth then.
///
/// | level | route | thinking tokens at most | latent steps at most |
/// | --- | --- | --- | --- |
/// | `Nominal` | as asked | as asked | as asked |
/// | `Fair` | `cot` becomes `skip` | the length that 90 % of the questions keep to | 3/4 |
/// | `Serious` | `cot` becomes `skip` | that of 50 % | 1/2 |
/// | `Critical` | `direct` | that of 25 % | 1/4 |
///
/// A route is replaced by the first of the bundle of that kind, if there is one, when a question is asked; routes of the app's own
/// ([`Ask::with_custom_route`]) and policies of its own keep theirs. The lengths are the quantiles that the route was measured on
/// ([`RouteSpec::thinking_quantiles`]): at `Serious` half of the questions are cut short. Without them the shares 90, 50 and 25 % are
/// of the route's `max_thinking_tokens`, or of the room in the context. Limits of thinking hold from the next step on, also for the
/// question in progress, and are told as decisions. Answers get worse, and how much is up to the student: `skim eval --thermal LEVEL`
/// measures it.
///
/// The levels are those of Apple's `ProcessInfo.ThermalState`; of Android's thermal status take `Fair` for light, `Serious` for moderate
/// and severe, `Critical` beyond.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ThermalLevel {
    /// As asked.
    #[default]
    Nominal,
    /// Warm: what costs nothing worth mentioning is saved.
    Fair,
    /// Hot: half the effort.
    Serious,
    /// About to be stopped by the system: an answer, and no more.
    Critical,
}

impl ThermalLevel {
    /// Every level, coolest first.
    pub const ALL: [ThermalLevel; 4] = [
        ThermalLevel::Nominal,
        ThermalLevel::Fair,
        ThermalLevel::Serious,
        ThermalLevel::Critical,
    ];

    /// The name on command lines and in logs.
    pub fn name(self) -> &'static str {
        match self {
            ThermalLevel::Nominal => "nominal",
            ThermalLevel::Fair => "fair",
            ThermalLevel::Serious => "serious",
            ThermalLevel::Critical => "critical",
        }
    }

    /// The level of that name.
    pub fn from_name(name: &str) -> Option<ThermalLevel> {
        ThermalLevel::ALL
            .into_iter()
            .find(|level| level.name() == name)
    }

    /// Percent of the usual thinking.
    fn thinking_percent(self) -> Option<usize> {
        match self {
            ThermalLevel::Nominal => None,
            ThermalLevel::Fair => Some(90),
            ThermalLevel::Serious => Some(50),
            ThermalLevel::Critical => Some(25),
        }
    }

    /// The most thinking tokens of a question along `route`, in whose context `room` positions are left after the prompt.
    pub(crate) fn thinking_tokens(self, route: &RouteSpec, room: usize) -> Option<usize> {
        let percent = self.thinking_percent()?;
        let lengths = &route.thinking_quantiles;
        Some(match lengths.len() {
            0 => {
                route
                    .max_thinking_tokens
                    .unwrap_or(room)
                    .saturating_mul(percent)
                    / 100
            }
            count => lengths[((count - 1) * percent).div_ceil(100)],
        })
    }

    /// The most latent steps of a question along `route`.
    pub(crate) fn latent_steps(self, route: &RouteSpec) -> usize {
        let quarters = match self {
            ThermalLevel::Nominal => 4,
            ThermalLevel::Fair => 3,
            ThermalLevel::Serious => 2,
            ThermalLevel::Critical => 1,
        };
        (route.latent_steps * quarters).div_ceil(4)
    }

    /// The cheaper route that takes the place of what is asked for.
    pub(crate) fn route(self, spec: &ReasoningSpec, ask: &Ask) -> Option<String> {
        if ask.custom_route.is_some() {
            return None;
        }
        let name = ask.route.as_ref().unwrap_or(&spec.default_route);
        let kind = spec.route(name).ok()?.kind;
        let cheaper = match self {
            ThermalLevel::Fair | ThermalLevel::Serious if kind == RouteKind::Cot => RouteKind::Skip,
            ThermalLevel::Critical if kind != RouteKind::Direct => RouteKind::Direct,
            _ => return None,
        };
        let mut routes = spec.routes.iter();
        routes
            .find(|(_, route)| route.kind == cheaper)
            .map(|(name, _)| name.clone())
    }
}

/// A thermal level that threads share.
#[derive(Debug, Default)]
pub(crate) struct Thermometer(AtomicU8);

impl Thermometer {
    pub(crate) fn set(&self, level: ThermalLevel) {
        self.0.store(level as u8, Ordering::Relaxed);
    }

    pub(crate) fn level(&self) -> ThermalLevel {
        let stored = self.0.load(Ordering::Relaxed);
        let level = ThermalLevel::ALL.get(usize::from(stored));
        level.copied().unwrap_or_default()
    }
}

/// Tells an engine what the system asks of the app, from any thread. Clones reach the same engine; forks have their own.
#[derive(Debug, Clone)]
pub struct Lifecycle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    memory_warning: AtomicBool,
    /// Whether there is a request, so that steps need not lock.
    leaving: AtomicBool,
    background: Mutex<Option<Background>>,
    clock: Clock,
}

/// A request to leave for the background.
#[derive(Debug, Clone)]
pub(crate) struct Background {
    pub(crate) checkpoint: PathBuf,
    /// The chunk in progress may be finished until then; `None`: however long that takes.
    pub(crate) until: Option<Instant>,
}

impl Lifecycle {
    pub(crate) fn new(clock: Clock) -> Lifecycle {
        Lifecycle(Arc::new(Shared {
            memory_warning: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            background: Mutex::new(None),
            clock,
        }))
    }

    /// The system is short of memory: the engine sheds at its next step what it does not need. An engine that nobody works on has no
    /// next step: call [`Engine::shed_memory`](super::Engine::shed_memory).
    pub fn memory_warning(&self) {
        self.0.memory_warning.store(true, Ordering::Relaxed);
    }

    /// The app leaves the screen: the question in progress finishes its chunk of thinking, or its answer, if that takes no longer than
    /// `grace`, and else the step it is at; writes the state to `checkpoint`, which appears whole or not at all; and ends with
    /// [`FinishReason::Suspended`](crate::FinishReason::Suspended). A prompt stops after the part in progress. Taken back by the next
    /// question and by [`Lifecycle::enter_foreground`].
    pub fn enter_background(&self, checkpoint: impl AsRef<Path>, grace: Duration) {
        let until = self.0.clock.now().checked_add(grace);
        *self.lock() = Some(Background {
            checkpoint: checkpoint.as_ref().to_owned(),
            until,
        });
        self.0.leaving.store(true, Ordering::Release);
    }

    /// The app is back before the question was suspended: it goes on.
    pub fn enter_foreground(&self) {
        self.0.leaving.store(false, Ordering::Relaxed);
        *self.lock() = None;
    }

    /// Whether memory is to be shed; asked once per warning.
    pub(crate) fn take_memory_warning(&self) -> bool {
        self.0.memory_warning.load(Ordering::Relaxed)
            && self.0.memory_warning.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn background(&self) -> Option<Background> {
        if !self.0.leaving.load(Ordering::Acquire) {
            return None;
        }
        self.lock().clone()
    }

    /// The request is assigned as a whole, so a panic elsewhere does not spoil it.
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Background>> {
        self.0
            .background
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_asks_for_less() {
        let route = RouteSpec {
            latent_steps: 6,
            thinking_quantiles: (1..=11).map(|i| 10 * i).collect(),
            ..RouteSpec::default()
        };
        let tokens = ThermalLevel::ALL.map(|level| level.thinking_tokens(&route, 1000));
        assert_eq!(tokens, [None, Some(100), Some(60), Some(40)]);
        let steps = ThermalLevel::ALL.map(|level| level.latent_steps(&route));
        assert_eq!(steps, [6, 5, 3, 2]);
        let unmeasured = RouteSpec::default();
        let tokens = ThermalLevel::ALL.map(|level| level.thinking_tokens(&unmeasured, 1000));
        assert_eq!(tokens, [None, Some(900), Some(500), Some(250)]);
    }
}
