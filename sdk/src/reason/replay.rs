//! Following the log of an answer: the same decisions where time, heat and memory made them, and a refusal where they cannot be.

use super::budget::Limit;
use super::event::{Choice, Decision};
use crate::error::{Error, ErrorKind, Result};

/// Where a decision stands: tokens and latent steps before it.
pub(super) type Place = (usize, usize);

/// A log, and how far it was followed.
#[derive(Debug)]
pub(super) struct Replay {
    log: Vec<Decision>,
    next: usize,
    fault: Option<String>,
}

impl Replay {
    /// The log without what was decided by the state of the engine, and is no part of the answer.
    pub(super) fn new(log: &[Decision]) -> Replay {
        let told = |decision: &&Decision| {
            !matches!(
                decision.choice,
                Choice::PrefixReused(_) | Choice::Resumed(_)
            )
        };
        Replay {
            log: log.iter().filter(told).cloned().collect(),
            next: 0,
            fault: None,
        }
    }

    /// The route that the log begins with.
    pub(super) fn route(&self) -> Result<&str> {
        match self.log.first().map(|decision| &decision.choice) {
            Some(Choice::Route(name)) => Ok(name),
            _ => {
                let message = "the log does not begin with the choice of a route";
                Err(Error::new(ErrorKind::Argument, message))
            }
        }
    }

    /// What was decided next, if it was at `place`.
    pub(super) fn at(&self, place: Place) -> Option<&Choice> {
        let next = self.log.get(self.next)?;
        ((next.generated_tokens, next.latent_steps) == place).then_some(&next.choice)
    }

    /// The limit that ended the thinking at `place`.
    pub(super) fn thinking_cut(&self, place: Place) -> Option<Limit> {
        match self.at(place) {
            Some(Choice::ThinkingCut(limit)) => Some(*limit),
            _ => None,
        }
    }

    /// The limit that ended the answer at `place`.
    pub(super) fn answer_cut(&self, place: Place) -> Option<Limit> {
        match self.at(place) {
            Some(Choice::AnswerCut(limit)) => Some(*limit),
            _ => None,
        }
    }

    /// The rung that was taken next, if the next decision leads to one.
    pub(super) fn rung(&self) -> Option<usize> {
        let mut next = self.log.get(self.next..)?.iter();
        next.find_map(|decision| match decision.choice {
            Choice::Route(_) | Choice::RungEscalated { .. } | Choice::RungLeftOut { .. } => None,
            Choice::RungTaken { rung, .. } => Some(Some(rung)),
            _ => Some(None),
        })
        .flatten()
    }

    /// Whether an earlier answer was taken next.
    pub(super) fn recalls(&self, place: Place) -> bool {
        matches!(self.at(place), Some(Choice::RungRecalled { .. }))
    }

    /// Whether the next rung followed.
    pub(super) fn escalates(&self, place: Place) -> bool {
        matches!(self.at(place), Some(Choice::RungEscalated { .. }))
    }

    /// Whether the answer stood.
    pub(super) fn accepts(&self, place: Place) -> bool {
        matches!(self.at(place), Some(Choice::RungAccepted { .. }))
    }

    /// Compares what was decided now with the log.
    pub(super) fn follow(&mut self, now: &Decision) {
        if matches!(now.choice, Choice::PrefixReused(_)) || self.fault.is_some() {
            return;
        }
        let place = |decision: &Decision| (decision.generated_tokens, decision.latent_steps);
        match self.log.get(self.next) {
            Some(then) if place(then) == place(now) && then.choice.is_like(&now.choice) => {
                self.next += 1;
            }
            Some(then) => {
                self.fault = Some(format!(
                    "decision {} of the log is {:?} after {} tokens, now it is {:?} after {}",
                    self.next, then.choice, then.generated_tokens, now.choice, now.generated_tokens
                ));
            }
            None => {
                let count = self.log.len();
                self.fault = Some(format!(
                    "the log has {count} decisions, now there is {:?}",
                    now.choice
                ));
            }
        }
    }

    /// Refuses to go on once the log was left.
    pub(super) fn check(&self) -> Result<()> {
        let Some(fault) = &self.fault else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Argument, fault.clone())
            .at("replay")
            .with_hint("is it the same bundle, prompt, budget, sampler and seed?"))
    }

    /// Refuses an end before that of the log.
    pub(super) fn check_end(&self) -> Result<()> {
        self.check()?;
        let Some(then) = self.log.get(self.next) else {
            return Ok(());
        };
        let message = format!(
            "the answer ended, decision {} of the log would be {:?}",
            self.next, then.choice
        );
        Err(Error::new(ErrorKind::Argument, message).at("replay"))
    }
}
