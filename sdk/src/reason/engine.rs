//! The engine: executes the steps that a policy names, within a budget, and tells what happens.
//!
//! A state machine that is pulled ([`Engine::next_event`]); iterators, callbacks and streams are thin wrappers over it. A token
//! is fed only when something is to be computed after it, so the last token of an answer costs no pass, and the close is fed
//! together with the last thinking token in one pass.

mod climb;
mod lifecycle;
mod probe;
mod run;
mod thought;

use std::collections::VecDeque;
use std::time::Instant;

use super::ask::{Ask, EngineOptions};
use super::budget::{Limit, Pace, Spent, StepKind};
use super::event::{Answer, Choice, Event, SkipReason, Usage};
use super::gate::{Anytime, Gated};
use super::lifecycle::Lifecycle;
use super::policy::{NextStep, ReasoningPolicy, policy_of};
use super::replay::Replay;
use crate::cancel::CancelHandle;
use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};
use crate::generate::FinishReason;
use crate::memory;
use crate::model::Model;
use crate::sampler::Sampled;
use crate::session::{PREFILL_CHUNK, Session, SessionOptions, SessionUsage};
use crate::spec::{AutoSpec, Depth, RouteSpec};
use run::{Phase, Run};

/// Answers questions on one session. See the [module](super).
pub struct Engine {
    session: Session,
    /// The session of probes, once there was one. It holds blocks during a probe only.
    aside: Option<Session>,
    options: EngineOptions,
    /// Of generated positions, and of those of prompts.
    pace: Pace,
    reading: Pace,
    /// The prompt whose entries stand at the start of the KV cache.
    prompt: Vec<TokenId>,
    run: Option<Run>,
    queue: VecDeque<Event>,
    lifecycle: Lifecycle,
    /// Entries of the KV cache that a question begins with.
    entries: usize,
}

/// What [`Engine::next_event_until`] came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// Something happened.
    Event(Event),
    /// The deadline passed before anything did; there is more to do.
    Unfinished,
    /// Nothing is left to do: after [`Event::Finished`], or when nothing was asked.
    Nothing,
}

impl Engine {
    /// An engine with a session of its own.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn new(model: &Model, options: EngineOptions) -> Result<Engine> {
        let mut session = SessionOptions::new();
        session.context = options.context;
        session.kv_entries = options.kv_entries;
        let session = Session::new(model, session)?;
        let (entries, lifecycle) = (session.kv_entries(), Lifecycle::new(options.clock.clone()));
        Ok(Engine {
            session,
            aside: None,
            options,
            pace: Pace::default(),
            reading: Pace::default(),
            prompt: Vec::new(),
            run: None,
            queue: VecDeque::new(),
            lifecycle,
            entries,
        })
    }

    /// A second engine in the same state, apart from the question that is being answered, which stays here. Both share the full
    /// KV blocks of what was read; with [`EngineOptions::reuse_prefix`] the next prompt of each goes on from there.
    ///
    /// # Errors
    /// As [`Session::fork`].
    pub fn fork(&self) -> Result<Engine> {
        Ok(Engine {
            session: self.session.fork()?,
            aside: None,
            options: self.options.clone(),
            pace: self.pace,
            reading: self.reading,
            prompt: self.prompt.clone(),
            run: None,
            queue: VecDeque::new(),
            lifecycle: Lifecycle::new(self.options.clock.clone()),
            entries: self.entries,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.session.model()
    }

    /// The session, to look at.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Stops the question that is being answered, from any thread; it then finishes with what it has and
    /// [`FinishReason::Cancelled`]. The next [`Engine::ask`] takes the request back.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.session.cancel_handle()
    }

    /// Begins to answer `prompt`, to which the route's open is appended. An unfinished question before it is dropped.
    ///
    /// # Errors
    /// Before anything is computed: [`ErrorKind::UnknownRoute`], listing the known ones; [`ErrorKind::ContextFull`] and
    /// [`ErrorKind::Argument`] if prompt or budget leave no room for an answer, naming both numbers; [`ErrorKind::Token`];
    /// [`ErrorKind::Memory`] if the session of probes, for `auto` and [`Ask::answer_by`], does not fit the cap.
    pub fn ask(&mut self, prompt: &[TokenId], ask: &Ask) -> Result<()> {
        let spec = self.model().reasoning();
        let other = match self.replay_of(ask)? {
            Some(replay) if ask.custom_route.is_none() => Some(replay.route()?.to_owned()),
            Some(_) => None,
            None => self.model().thermal().route(spec, ask),
        };
        let ask = match other {
            Some(route) => &ask.clone().with_route(route),
            None => ask,
        };
        if self.ladder_of(ask).is_none() {
            return self.ask_with_policy(prompt, ask, self.policy(ask)?);
        }
        self.clear()?;
        self.climb(prompt, ask)
    }

    /// The log that is to be followed.
    fn replay_of(&self, ask: &Ask) -> Result<Option<Replay>> {
        let replay = ask.replay.as_deref().map(Replay::new);
        if let Some(replay) = &replay {
            replay.route()?;
        }
        Ok(replay)
    }

    /// The policy of the route that is asked for.
    fn policy(&self, ask: &Ask) -> Result<Box<dyn ReasoningPolicy>> {
        Ok(match self.gate_of(ask) {
            Some(auto) => Box::new(Gated {
                gate: auto.gate,
                threshold: auto.threshold,
            }),
            None => policy_of(&self.route_of(ask)?),
        })
    }

    /// [`Engine::ask`] for a text, tokenized with the special tokens that the tokenizer puts around every text.
    ///
    /// # Errors
    /// As [`Engine::ask`], and [`ErrorKind::Tokenizer`] without a tokenizer.
    pub fn ask_text(&mut self, prompt: &str, ask: &Ask) -> Result<()> {
        let ids = self.model().require_tokenizer()?.encode(prompt, true)?;
        self.ask(&ids, ask)
    }

    /// [`Engine::ask`] with a policy of one's own; the route's `kind` is not looked at.
    ///
    /// # Errors
    /// As [`Engine::ask`].
    pub fn ask_with_policy(
        &mut self,
        prompt: &[TokenId],
        ask: &Ask,
        policy: Box<dyn ReasoningPolicy>,
    ) -> Result<()> {
        self.clear()?;
        let mut run = self.new_run(prompt, ask, policy)?;
        run.probes |= self.gate_of(ask).is_some();
        self.start(run)
    }

    /// Drops the question before, and reserves what it gave back.
    fn clear(&mut self) -> Result<()> {
        self.run = None;
        self.queue.clear();
        memory::check_refusal()?;
        self.regrow()
    }

    /// Makes the sessions ready for how `run` works.
    fn make_ready(&mut self, run: &Run) -> Result<()> {
        if run.probes {
            self.aside()?;
        }
        self.session.set_drafts(match run.depth {
            Depth::Drafts(drafts) => Some(drafts),
            Depth::Full | Depth::Exits(_) | Depth::Shortcut(_) => None,
        })
    }

    fn start(&mut self, mut run: Run) -> Result<()> {
        self.make_ready(&run)?;
        run.before = self.usage();
        run.read = run.before;
        self.session.cancel_handle().reset();
        self.lifecycle.enter_foreground();
        // Before what was decided already.
        self.queue.push_front(Event::Started {
            route: run.answer.route.clone(),
            prompt_tokens: run.prompt.len(),
        });
        self.run = Some(run);
        Ok(())
    }

    fn new_run(
        &self,
        prompt: &[TokenId],
        ask: &Ask,
        policy: Box<dyn ReasoningPolicy>,
    ) -> Result<Run> {
        let policy = match ask.answer_by {
            Some(_) => Box::new(Anytime(policy)),
            None => policy,
        };
        let route = self.route_of(ask)?;
        let clock = &self.options.clock;
        let mut run = Run::new(&self.session, prompt, ask, route, policy, clock)?;
        run.follow(self.replay_of(ask)?)?;
        Ok(run)
    }

    /// Works until something happens and tells it; `None` after [`Event::Finished`], or when nothing was asked.
    ///
    /// # Errors
    /// Whatever a step can fail with, but for cancellation, which finishes the answer. The question is dropped then.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        match self.work(None)? {
            Progress::Event(event) => Ok(Some(event)),
            Progress::Nothing | Progress::Unfinished => Ok(None),
        }
    }

    /// [`Engine::next_event`] that also returns at the first step after `deadline`, with [`Progress::Unfinished`]; call it again
    /// to go on. A step is a token, a latent step or a chunk of the prompt, and at least one is taken.
    ///
    /// # Errors
    /// As [`Engine::next_event`].
    pub fn next_event_until(&mut self, deadline: Instant) -> Result<Progress> {
        self.work(Some(deadline))
    }

    fn work(&mut self, deadline: Option<Instant>) -> Result<Progress> {
        let mut first = true;
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(Progress::Event(event));
            }
            let Some(mut run) = self.run.take() else {
                return Ok(Progress::Nothing);
            };
            if !first && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.run = Some(run);
                return Ok(Progress::Unfinished);
            }
            first = false;
            if let Some(reason) = run.ending {
                self.release_aside();
                self.finish(run, reason)?;
                continue;
            }
            if let Err(error) = memory::check_refusal().and_then(|()| run.check_replay()) {
                self.release_aside();
                return Err(error);
            }
            if self.lifecycle.take_memory_warning() {
                self.run = Some(run);
                self.shed_memory()?;
                continue;
            }
            if let Some(request) = self.lifecycle.background()
                && run.may_stop(request.until)
            {
                self.suspend(run, &request.checkpoint)?;
                continue;
            }
            let outcome = match run.phase {
                Phase::Prompt => self.read_prompt(&mut run).map(|()| None),
                Phase::Thinking => self.think(&mut run).map(|()| None),
                Phase::Answering => self.answer_step(&mut run),
            };
            let done = match outcome {
                Ok(None) => {
                    self.run = Some(run);
                    continue;
                }
                Ok(Some(reason)) => {
                    self.end_answer(run, reason)?;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Cancelled => self.cancelled(run),
                Err(error) => Err(error),
            };
            self.release_aside();
            done?;
        }
    }

    /// Asks and works to the end.
    ///
    /// # Errors
    /// As [`Engine::ask`] and [`Engine::next_event`].
    pub fn answer(&mut self, prompt: &[TokenId], ask: &Ask) -> Result<Answer> {
        self.ask(prompt, ask)?;
        self.wait()
    }

    /// [`Engine::answer`] for a text.
    ///
    /// # Errors
    /// As [`Engine::ask_text`] and [`Engine::next_event`].
    pub fn answer_text(&mut self, prompt: &str, ask: &Ask) -> Result<Answer> {
        self.ask_text(prompt, ask)?;
        self.wait()
    }

    /// Works to the end of the question that was asked, passing over its events.
    ///
    /// # Errors
    /// As [`Engine::next_event`]; [`ErrorKind::Argument`] if nothing was asked.
    pub fn wait(&mut self) -> Result<Answer> {
        while let Some(event) = self.next_event()? {
            if let Event::Finished(answer) = event {
                return Ok(*answer);
            }
        }
        Err(Error::new(ErrorKind::Argument, "no question was asked"))
    }

    /// The gate of the route that is asked for, if it has one.
    fn gate_of(&self, ask: &Ask) -> Option<&AutoSpec> {
        let spec = self.model().reasoning();
        let name = ask.route.as_ref().unwrap_or(&spec.default_route);
        spec.gate(name).filter(|_| ask.custom_route.is_none())
    }

    fn route_of(&self, ask: &Ask) -> Result<RouteSpec> {
        let spec = self.model().reasoning();
        let mut route = match &ask.custom_route {
            Some(route) => route.clone(),
            None => spec
                .route(ask.route.as_ref().unwrap_or(&spec.default_route))?
                .clone(),
        };
        if let Some(steps) = ask.latent_steps {
            route.latent_steps = steps;
        }
        Ok(route)
    }

    /// Feeds the next chunk of the prompt, the first time after what it shares with the one before.
    fn read_prompt(&mut self, run: &mut Run) -> Result<()> {
        if !run.prompt_begun {
            run.prompt_begun = true;
            self.keep_common_prefix(run)?;
        }
        let fed = self.prompt.len();
        let rest = &run.prompt[fed..];
        let chunk = &rest[..rest.len().min(PREFILL_CHUNK)];
        let began = run.clock.now();
        self.session.feed(chunk)?;
        self.reading.observe(run.clock.since(began), chunk.len());
        self.prompt.extend_from_slice(chunk);
        if self.prompt.len() == run.prompt.len() {
            self.note_kv(run);
            run.read = self.usage();
            run.answer.usage.ms_prefill = run.end_phase(Phase::Thinking);
            run.chunk_began = run.phase_began;
        }
        Ok(())
    }

    fn keep_common_prefix(&mut self, run: &mut Run) -> Result<()> {
        let common = self
            .prompt
            .iter()
            .zip(&run.prompt)
            .take_while(|(a, b)| a == b)
            .count();
        // The last token is always fed: its hidden state and logits are what goes on.
        let reused = if self.options.reuse_prefix {
            common.min(run.prompt.len() - 1)
        } else {
            0
        };
        self.prompt.truncate(reused);
        self.session.truncate(reused)?;
        if reused > 0 {
            run.answer.usage.reused_tokens = reused;
            run.decide(&mut self.queue, Choice::PrefixReused(reused));
        }
        Ok(())
    }

    fn think(&mut self, run: &mut Run) -> Result<()> {
        let kind = match run.policy.next_step(&run.observation()) {
            NextStep::Token => StepKind::Token,
            NextStep::Latent => StepKind::Latent,
            NextStep::Probe { gate, at_least } => return self.probe(run, gate, at_least),
            NextStep::Answer => return self.settle(run),
        };
        run.confidence = None;
        if run.draft.take().is_some() {
            self.release_aside();
        }
        let limit = match &run.replay {
            Some(replay) => replay.thinking_cut(run.place()),
            None => self.heat_limit(run, kind),
        };
        let limit = limit.or_else(|| {
            run.account
                .thinking_limit(kind, &self.spent(run), self.pace)
        });
        if let Some(limit) = limit {
            run.decide(&mut self.queue, Choice::ThinkingCut(limit));
            // The route's own limit is part of what was measured of it.
            run.cut |= limit != Limit::Route;
            let reason = SkipReason::Limit(limit);
            if limit == Limit::Milliseconds && run.best.is_some() {
                run.end_thinking(&mut self.queue, Some(reason))?;
                return run.take_best(&mut self.queue);
            }
            return run.close(&mut self.queue, Some(reason));
        }
        self.drop_chunks(run)?;
        match kind {
            StepKind::Token => self.think_token(run),
            StepKind::Latent => {
                let began = run.clock.now();
                self.feed_pending(run)?;
                let map = &run.route.latent_map;
                match &run.depth {
                    Depth::Shortcut(shortcut) => {
                        let steps = run.answer.usage.latent_steps + 1;
                        let is_last = steps >= run.route.latent_steps;
                        self.session.step_shortcut(map, shortcut, is_last)?;
                    }
                    _ => self.session.step_hidden(map)?,
                }
                self.note_kv(run);
                self.pace.observe(run.clock.since(began), 1);
                run.take_latent(&mut self.queue);
                Ok(())
            }
        }
    }

    fn think_token(&mut self, run: &mut Run) -> Result<()> {
        let sampled = self.sample(run)?;
        let position = self.session.position();
        match run.take_thought(&mut self.queue, sampled, position)? {
            Some(choice) => {
                run.decide(&mut self.queue, choice);
                run.close(&mut self.queue, None)
            }
            None => Ok(()),
        }
    }

    /// Drops what is to be dropped of the chunks that are finished.
    fn drop_chunks(&mut self, run: &mut Run) -> Result<()> {
        let Some(keep) = run.keep_last.filter(|_| !run.finished.is_empty()) else {
            return Ok(());
        };
        self.advance(run)?;
        for chunk in std::mem::take(&mut run.finished) {
            let end = chunk.end.saturating_sub(keep);
            if chunk.start < end {
                self.session.forget(chunk.start..end)?;
                run.answer.usage.dropped_tokens += end - chunk.start;
            }
        }
        Ok(())
    }

    /// The policy says that it was enough: what the probe before it decoded is the answer, if there was one.
    fn settle(&mut self, run: &mut Run) -> Result<()> {
        let Some(confidence) = run.confidence.take() else {
            if !run.route.close.is_empty() {
                run.decide(&mut self.queue, Choice::PolicyClosed);
            }
            return run.close(&mut self.queue, Some(SkipReason::Policy));
        };
        run.decide(&mut self.queue, Choice::Settled(confidence));
        match run.draft.take() {
            Some(draft) => self.commit(run, draft),
            None => run.close(&mut self.queue, Some(SkipReason::Settled)),
        }
    }

    fn answer_step(&mut self, run: &mut Run) -> Result<Option<FinishReason>> {
        let spent = run.answer.usage.answer_tokens;
        if spent == run.max_answer_tokens {
            return Ok(Some(FinishReason::Length));
        }
        let sampled = match run.drafted.pop_front() {
            Some(sampled) => sampled,
            None if run.from_best => return Ok(Some(FinishReason::Budget)),
            None => {
                if let Some(reason) = self.cut_answer(run)? {
                    return Ok(reason);
                }
                self.sample(run)?
            }
        };
        run.take_answer(&mut self.queue, sampled)
    }

    /// Whether a limit ends the answer here: `Some(None)` if an earlier answer takes its place.
    fn cut_answer(&mut self, run: &mut Run) -> Result<Option<Option<FinishReason>>> {
        let kept = run.climb.as_ref().is_some_and(|climb| climb.kept.is_some());
        if run.answer.usage.answer_tokens == 0 && run.best.is_none() && !kept {
            return Ok(None);
        }
        let told = run
            .replay
            .as_ref()
            .and_then(|replay| replay.answer_cut(run.place()));
        let limit = told.or_else(|| run.account.answer_limit(&self.spent(run), self.pace));
        let Some(limit) = limit else {
            return Ok(None);
        };
        run.decide(&mut self.queue, Choice::AnswerCut(limit));
        Ok(Some(match limit {
            Limit::Milliseconds if run.best.is_some() => {
                run.take_best(&mut self.queue)?;
                None
            }
            Limit::Context => Some(FinishReason::Length),
            _ => Some(FinishReason::Budget),
        }))
    }

    /// Feeds what is pending through all layers.
    fn feed_pending(&mut self, run: &mut Run) -> Result<()> {
        if !run.pending.is_empty() {
            self.session.feed(&run.pending)?;
            run.pending.clear();
            self.note_kv(run);
        }
        Ok(())
    }

    /// Feeds what is pending, as deep as the question asks for: a token is to be sampled after it.
    fn advance(&mut self, run: &mut Run) -> Result<()> {
        let Some((&last, before)) = run.pending.split_last() else {
            return Ok(());
        };
        match &run.depth {
            Depth::Full | Depth::Shortcut(_) => return self.feed_pending(run),
            Depth::Exits(exits) => {
                if !before.is_empty() {
                    self.session.feed(before)?;
                }
                let usage = &run.answer.usage;
                let index = usage.thinking_tokens + usage.answer_tokens;
                self.session.step_exit(last, exits, index)?;
            }
            Depth::Drafts(drafts) => {
                if !before.is_empty() {
                    self.session.feed(before)?;
                }
                let late = run.account.out_of_time(drafts.tokens + 1, self.pace);
                let most = match run.account.budget.layer_passes {
                    // What is sampled next needs no guess.
                    None if !late => run.tokens_left().saturating_sub(1),
                    _ => 0,
                };
                self.session.step_drafted(last, most)?;
            }
        }
        run.pending.clear();
        self.note_kv(run);
        Ok(())
    }

    /// Feeds what is pending and samples a token after it.
    fn sample(&mut self, run: &mut Run) -> Result<Sampled> {
        let (began, fed) = (run.clock.now(), run.pending.len());
        self.advance(run)?;
        if self.session.logits().is_none() {
            self.session.head()?;
        }
        let logits = self.session.logits().unwrap_or_default();
        let sampled = run.sampler.sample(logits)?;
        if fed > 0 {
            self.pace.observe(run.clock.since(began), fed);
        }
        run.last = Some(sampled);
        Ok(sampled)
    }

    /// What both sessions did.
    fn usage(&self) -> SessionUsage {
        let mut sum = self.session.usage();
        if let Some(aside) = &self.aside {
            let aside = aside.usage();
            sum.tokens += aside.tokens;
            sum.latent_steps += aside.latent_steps;
            sum.layer_passes += aside.layer_passes;
            sum.head_passes += aside.head_passes;
            sum.exits += aside.exits;
            sum.kv_passes += aside.kv_passes;
        }
        sum
    }

    fn spent(&self, run: &Run) -> Spent {
        let usage = &run.answer.usage;
        Spent {
            generated: usage.thinking_tokens + usage.answer_tokens + usage.probe_tokens,
            thinking: usage.thinking_tokens,
            left: self.session.room() as isize - run.pending.len() as isize,
            layer_passes: self.usage().layer_passes - run.read.layer_passes
                + run.earlier.layer_passes as usize
                + run.pending.len() * run.account.layers,
            answer_ready: run.best.is_some(),
        }
    }

    fn note_kv(&self, run: &mut Run) {
        let peak = &mut run.answer.usage.peak_kv_bytes;
        *peak = (*peak).max(self.session.kv_bytes());
    }

    /// What this run took so far, rungs before it not counted.
    fn books(&self, run: &Run) -> Usage {
        let (done, earlier, mut usage) = (self.usage(), &run.earlier, run.answer.usage);
        usage.generated_tokens = usage.thinking_tokens + usage.answer_tokens + usage.probe_tokens;
        usage.prompt_layer_passes =
            run.read.layer_passes - run.before.layer_passes + earlier.prompt_layer_passes as usize;
        usage.layer_passes =
            done.layer_passes - run.read.layer_passes + earlier.layer_passes as usize;
        usage.head_passes =
            done.head_passes - run.before.head_passes + earlier.head_passes as usize;
        usage.exits = done.exits - run.before.exits + earlier.exits as usize;
        usage.kv_passes = done.kv_passes - run.before.kv_passes + earlier.kv_passes as usize;
        usage.drafted_tokens = done.drafted - run.before.drafted + earlier.guessed as usize;
        usage.accepted_tokens = done.accepted - run.before.accepted + earlier.accepted as usize;
        usage.kv_bytes = self.session.kv_bytes();
        usage
    }

    /// Ends with what there is: an answer that lies ready, or what was generated so far.
    fn cancelled(&mut self, mut run: Run) -> Result<()> {
        if run.best.is_some() {
            if run.phase == Phase::Thinking {
                run.end_thinking(&mut self.queue, None)?;
            }
            run.take_best(&mut self.queue)?;
            while self.answer_step(&mut run)?.is_none() {}
        } else if let Some(kept) = run.climb.as_mut().and_then(|climb| climb.kept.take()) {
            if run.phase == Phase::Prompt {
                run.read = self.usage();
                run.answer.usage.ms_prefill = run.end_phase(Phase::Thinking);
            }
            if run.phase == Phase::Thinking {
                run.end_thinking(&mut self.queue, None)?;
            }
            self.recall(&mut run, kept)?;
        }
        self.finish(run, FinishReason::Cancelled)
    }

    fn finish(&mut self, mut run: Run, reason: FinishReason) -> Result<()> {
        match run.phase {
            Phase::Prompt => {
                run.read = self.usage();
                run.answer.usage.ms_prefill = run.end_phase(Phase::Prompt);
            }
            Phase::Thinking => {
                run.end_chunk(&mut self.queue, false)?;
                run.answer.usage.ms_thinking = run.end_phase(Phase::Thinking);
            }
            Phase::Answering => {
                run.show_rest(&mut self.queue)?;
                run.answer.usage.ms_answer = run.end_phase(Phase::Answering);
            }
        }
        self.note_kv(&mut run);
        run.answer.usage = self.books(&run);
        if let Some(climb) = &run.climb {
            climb.spent.add_to(&mut run.answer.usage);
        }
        let Answer {
            ids,
            confidence,
            certainty,
            finish_reason,
            ..
        } = &mut run.answer;
        if !ids.is_empty() {
            *confidence = (run.probabilities / ids.len() as f64) as f32;
            *certainty = run.smallest;
        }
        *finish_reason = reason;
        if let Some(replay) = &run.replay {
            replay.check_end()?;
        }
        self.queue.push_back(Event::Finished(Box::new(run.answer)));
        Ok(())
    }
}
