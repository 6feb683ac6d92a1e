//! Saving, suspending, going on; memory and heat. What is asked for is in [`lifecycle`](crate::reason::Lifecycle).

use std::path::Path;
use std::time::Instant;

use super::run::{Phase, Run};
use super::thought::{Thought, inconsistent};
use super::{Engine, Lifecycle};
use crate::bundle::PendingFile;
use crate::error::{Error, ErrorKind, Result};
use crate::generate::FinishReason;
use crate::reason::ask::Ask;
use crate::reason::budget::{Limit, StepKind};
use crate::reason::event::Event;
use crate::session::Saved;

impl Engine {
    /// Through which any thread tells this engine what the system asks of the app.
    pub fn lifecycle(&self) -> Lifecycle {
        self.lifecycle.clone()
    }

    /// Writes the state to a file that appears whole or not at all, and replaces what was there before; the question that is being
    /// answered, which goes on, is part of it. Once this returns, the file is on the storage, and neither a killed process nor a lost
    /// supply of power takes it back.
    ///
    /// # Errors
    /// As [`Session::save`](crate::Session::save).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let note = match &self.run {
            Some(run) => Thought::of(run, self).to_json()?,
            None => Vec::new(),
        };
        let mut file = PendingFile::create(path)?;
        self.session
            .save_with_note(&self.prompt, &note, &mut file)
            .map_err(|error| error.at(path.display()))?;
        file.persist()
    }

    /// Returns to a state that [`Engine::save`] wrote, in this process or another; with [`EngineOptions::reuse_prefix`] the next prompt
    /// goes on from there. A question that is being answered is dropped, and so is one in the file: see [`Engine::resume`].
    ///
    /// [`EngineOptions::reuse_prefix`]: crate::reason::EngineOptions::reuse_prefix
    ///
    /// # Errors
    /// As [`Session::restore_saved`](crate::Session::restore_saved), and [`ErrorKind::Io`]. The engine goes on as it was then.
    pub fn restore(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let saved = self.read(path.as_ref())?;
        self.regrow()?;
        self.session.restore(&saved.snapshot)?;
        self.prompt = saved.prompt;
        self.run = None;
        self.queue.clear();
        Ok(())
    }

    /// Goes on with the question in a file that [`Engine::save`] or a [suspension](Lifecycle::enter_background) wrote, in this process
    /// or another, as if it had not been interrupted: the same tokens follow. Its events are told from the start again, without being
    /// computed, so that what shows them needs no state of its own; [`Choice::Resumed`](crate::reason::Choice::Resumed) is the last of
    /// them. `ask` is as at the beginning; without a route it takes that of the file. Time limits begin anew. What probes found is
    /// not kept: a route that probes does it again.
    ///
    /// # Errors
    /// The engine goes on as it was then. [`ErrorKind::Argument`] if the file has no question, or one along another route, or of
    /// another shape than `ask` gives it; otherwise as [`Engine::restore`] and [`Engine::ask`].
    pub fn resume(&mut self, path: impl AsRef<Path>, ask: &Ask) -> Result<()> {
        let path = path.as_ref();
        self.regrow()?;
        let saved = self.read(path)?;
        self.resume_saved(saved, ask)
            .map_err(|error| error.at(path.display()))
    }

    fn resume_saved(&mut self, saved: Saved, ask: &Ask) -> Result<()> {
        if saved.note.is_empty() {
            return Err(
                Error::new(ErrorKind::Argument, "no question was in progress")
                    .with_hint("restore the session and ask"),
            );
        }
        let thought = Thought::from_json(&saved.note)?;
        let mut ask = ask.clone();
        let name = ask.route.get_or_insert_with(|| thought.route.clone());
        if *name != thought.route {
            let message = format!(
                "the question was asked along `{}`, and is to go on along `{name}`",
                thought.route
            );
            return Err(Error::new(ErrorKind::Argument, message));
        }
        let open = match (&thought.climb, self.ladder_of(&ask)) {
            (Some(note), Some(ladder)) => {
                let rung = ladder.rungs.get(note.rung as usize);
                let rung = rung.ok_or_else(|| inconsistent("its ladder has no such rung"))?;
                self.model().reasoning().route(&rung.route)?.open.clone()
            }
            (Some(_), None) => return Err(inconsistent("its route has no ladder")),
            (None, _) => self.route_of(&ask)?.open,
        };
        let Some(prompt) = thought.prompt.strip_suffix(open.as_slice()) else {
            let message = format!("the prompt does not end as route `{}` opens", thought.route);
            return Err(Error::new(ErrorKind::Format, message));
        };
        let mut run = match &thought.climb {
            Some(note) => self.resume_climb(prompt, &ask, note)?,
            None => self.new_run(prompt, &ask, self.policy(&ask)?)?,
        };
        run.probes |= self.gate_of(&ask).is_some();
        self.make_ready(&run)?;
        let started = Event::Started {
            route: run.answer.route.clone(),
            prompt_tokens: run.prompt.len(),
        };
        let mut queue = std::collections::VecDeque::from([started]);
        let position = saved.snapshot.position();
        run.take_in(&thought, &self.session, position, &saved.prompt, &mut queue)?;
        self.session.restore(&saved.snapshot)?;
        self.prompt = saved.prompt;
        run.before = self.usage();
        run.read = run.before;
        self.session.cancel_handle().reset();
        self.lifecycle.enter_foreground();
        self.queue = queue;
        self.run = Some(run);
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Saved> {
        let bytes = crate::memory::read_file(path)?;
        self.session
            .read_saved(&bytes)
            .map_err(|error| error.at(path.display()))
    }

    /// For a memory warning: gives back what is not needed, and returns how many bytes that are, by the model's books. Without a
    /// question that is everything but the working memory of one pass: the prompt is read anew then, and blocks are reserved by the
    /// next question. During one it is what its limits leave no use for. Free blocks of all sessions of the model go to the system.
    ///
    /// # Errors
    /// None that a caller could expect; keys and values that disagree with their books.
    pub fn shed_memory(&mut self) -> Result<u64> {
        let before = self.model().memory_used();
        match self.run.take() {
            None => {
                self.aside = None;
                self.prompt = Vec::new();
                self.session.release();
            }
            Some(mut run) => {
                // What another question left is not this one's use.
                if !run.prompt_begun {
                    run.prompt_begun = true;
                    self.keep_common_prefix(&mut run)?;
                }
                // A draft that was not decoded to its end goes on from there.
                if run.draft.as_ref().is_none_or(|draft| draft.complete) {
                    self.aside = None;
                }
                let unread = run.prompt.len() - self.prompt.len();
                let kept = match run.most_positions(&self.spent(&run)) {
                    Some(most) => (self.session.kv_used() + unread).saturating_add(most),
                    None => usize::MAX,
                };
                self.run = Some(run);
                let kept = kept.min(self.session.kv_entries());
                self.session.set_kv_entries(kept)?;
            }
        }
        self.model().trim_memory();
        Ok(before.saturating_sub(self.model().memory_used()))
    }

    /// Reserves again what a memory warning took.
    pub(super) fn regrow(&mut self) -> Result<()> {
        if self.session.kv_entries() < self.entries {
            self.session.set_kv_entries(self.entries)?;
        }
        Ok(())
    }

    /// Writes the question to `path` and ends it here. If that fails it is still there, and goes on at the next call.
    pub(super) fn suspend(&mut self, run: Run, path: &Path) -> Result<()> {
        self.run = Some(run);
        self.lifecycle.enter_foreground();
        self.save(path)?;
        if let Some(run) = self.run.take() {
            self.release_aside();
            self.finish(run, FinishReason::Suspended)?;
        }
        Ok(())
    }

    /// Whether the device is too hot for one more step of thinking.
    pub(super) fn heat_limit(&self, run: &Run, step: StepKind) -> Option<Limit> {
        let level = self.model().thermal();
        let usage = &run.answer.usage;
        let most = match step {
            StepKind::Token => level.thinking_tokens(&run.route, run.account.room)?,
            StepKind::Latent => level.latent_steps(&run.route),
        };
        let done = match step {
            StepKind::Token => usage.thinking_tokens,
            StepKind::Latent => usage.latent_steps,
        };
        // A policy of its own may take more latent steps than its route says.
        let asked = step == StepKind::Token || done < run.route.latent_steps;
        (asked && done >= most).then_some(Limit::Heat)
    }
}

impl Run {
    /// Whether a request to stop is to be met now; `until`: from when on at any step.
    pub(super) fn may_stop(&self, until: Option<Instant>) -> bool {
        // What is decoded already is only to be told.
        let told = self.phase == Phase::Answering && (self.from_best || !self.drafted.is_empty());
        let late = until.is_some_and(|until| self.clock.now() >= until);
        !told && (late || self.at_rest())
    }
}
