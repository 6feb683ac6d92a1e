//! The engine: executes the steps that a policy names, within a budget, and tells what happens.
//!
//! A state machine that is pulled ([`Engine::next_event`]); iterators, callbacks and streams are thin wrappers over it. A token
//! is fed only when something is to be computed after it, so the last token of an answer costs no pass, and the close is fed
//! together with the last thinking token in one pass.

mod run;

use std::collections::VecDeque;
use std::path::Path;
use std::time::Instant;

use super::ask::{Ask, EngineOptions};
use super::budget::{Limit, Pace, StepKind};
use super::event::{Answer, Choice, Event};
use super::policy::{NextStep, ReasoningPolicy, policy_of};
use crate::bundle::PendingFile;
use crate::cancel::CancelHandle;
use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};
use crate::generate::FinishReason;
use crate::model::Model;
use crate::sampler::Sampled;
use crate::session::{PREFILL_CHUNK, Session, SessionOptions};
use crate::spec::RouteSpec;
use run::{Phase, Run};

/// Answers questions on one session. See the [module](super).
pub struct Engine {
    session: Session,
    options: EngineOptions,
    pace: Pace,
    /// The prompt whose entries stand at the start of the KV cache.
    prompt: Vec<TokenId>,
    run: Option<Run>,
    queue: VecDeque<Event>,
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
        let session = Session::new(model, session)?;
        Ok(Engine {
            session,
            options,
            pace: Pace::default(),
            prompt: Vec::new(),
            run: None,
            queue: VecDeque::new(),
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
            options: self.options.clone(),
            pace: self.pace,
            prompt: self.prompt.clone(),
            run: None,
            queue: VecDeque::new(),
        })
    }

    /// Writes the state to a file that appears whole or not at all, and replaces what was there before. A question that is being
    /// answered is not part of it.
    ///
    /// # Errors
    /// As [`Session::save`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut file = PendingFile::create(path)?;
        self.session
            .save(&self.prompt, &mut file)
            .map_err(|error| error.at(path.display()))?;
        file.persist()
    }

    /// Returns to a state that [`Engine::save`] wrote, in this process or another; with [`EngineOptions::reuse_prefix`] the next prompt
    /// goes on from there. A question that is being answered is dropped.
    ///
    /// # Errors
    /// As [`Session::restore_saved`], and [`ErrorKind::Io`]. The engine goes on as it was then.
    pub fn restore(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
        let prompt = self
            .session
            .restore_saved(&bytes)
            .map_err(|error| error.at(path.display()))?;
        self.prompt = prompt;
        self.run = None;
        self.queue.clear();
        Ok(())
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
    /// [`ErrorKind::Argument`] if prompt or budget leave no room for an answer, naming both numbers; [`ErrorKind::Token`].
    pub fn ask(&mut self, prompt: &[TokenId], ask: &Ask) -> Result<()> {
        let route = self.route_of(ask)?;
        self.ask_with_policy(prompt, ask, policy_of(&route))
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
        self.run = None;
        self.queue.clear();
        let route = self.route_of(ask)?;
        let run = Run::new(&self.session, prompt, ask, route, policy)?;
        self.session.cancel_handle().reset();
        self.queue.push_back(Event::Started {
            route: run.answer.route.clone(),
            prompt_tokens: run.prompt.len(),
        });
        self.run = Some(run);
        Ok(())
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
            let outcome = match run.phase {
                Phase::Prompt => self.read_prompt(&mut run).map(|()| None),
                Phase::Thinking => self.think(&mut run).map(|()| None),
                Phase::Answering => self.answer_step(&mut run),
            };
            match outcome {
                Ok(None) => self.run = Some(run),
                Ok(Some(reason)) => self.finish(run, reason)?,
                Err(error) if error.kind() == ErrorKind::Cancelled => {
                    self.finish(run, FinishReason::Cancelled)?
                }
                Err(error) => return Err(error),
            }
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
        self.session.feed(chunk)?;
        self.prompt.extend_from_slice(chunk);
        if self.prompt.len() == run.prompt.len() {
            run.read = self.session.usage();
            run.answer.usage.ms_prefill = run.end_phase(Phase::Thinking);
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
        let next = run.policy.next_step(&run.observation());
        let kind = match next {
            NextStep::Token => StepKind::Token,
            NextStep::Latent => StepKind::Latent,
            NextStep::Answer => {
                if !run.route.close.is_empty() {
                    run.decide(&mut self.queue, Choice::PolicyClosed);
                }
                return self.close(run);
            }
        };
        if let Some(limit) = run
            .account
            .thinking_limit(kind, &run.spent(&self.session), self.pace)
        {
            run.decide(&mut self.queue, Choice::ThinkingCut(limit));
            return self.close(run);
        }
        match kind {
            StepKind::Token => self.think_token(run),
            StepKind::Latent => {
                let began = Instant::now();
                self.feed_pending(run)?;
                self.session.step_hidden(&run.route.latent_map)?;
                self.pace.observe(began.elapsed(), 1);
                let index = run.answer.usage.latent_steps;
                run.answer.usage.latent_steps += 1;
                run.last = None;
                self.queue.push_back(Event::LatentStep { index });
                Ok(())
            }
        }
    }

    fn think_token(&mut self, run: &mut Run) -> Result<()> {
        let sampled = self.sample(run)?;
        run.answer.usage.thinking_tokens += 1;
        if run.chunks == 0 {
            run.begin_chunk(&mut self.queue);
        }
        let mut free = run.close.push(sampled.id);
        // A stop token that belongs to the close is held by it, and not free.
        let ended = free.last() == Some(&sampled.id) && run.stop_ids.contains(&sampled.id);
        if ended {
            free.pop();
        }
        for id in free {
            if run.chunk_separator == Some(id) {
                run.end_chunk(&mut self.queue)?;
                run.begin_chunk(&mut self.queue);
            } else {
                run.chunk_tokens += 1;
                run.answer.thinking_ids.push(id);
                let (piece, _) = run.thinking.push(id, f32::NAN)?;
                run.show_thinking(&mut self.queue, piece);
            }
        }
        if ended {
            run.decide(&mut self.queue, Choice::StudentEnded);
            return self.close(run);
        }
        run.pending.push(sampled.id);
        if run.close.complete() {
            run.decide(&mut self.queue, Choice::StudentClosed);
            return self.close(run);
        }
        Ok(())
    }

    /// Ends the thinking: appends what is missing of the close, and goes over to the answer.
    fn close(&mut self, run: &mut Run) -> Result<()> {
        let rest = run.close.rest();
        run.pending.extend_from_slice(rest);
        run.answer.usage.thinking_tokens += rest.len();
        if run.chunks > 0 {
            run.end_chunk(&mut self.queue)?;
        }
        run.answer.usage.ms_thinking = run.end_phase(Phase::Answering);
        Ok(())
    }

    fn answer_step(&mut self, run: &mut Run) -> Result<Option<FinishReason>> {
        let spent = run.answer.usage.answer_tokens;
        if spent == run.max_answer_tokens {
            return Ok(Some(FinishReason::Length));
        }
        if spent > 0
            && let Some(limit) = run
                .account
                .answer_limit(&run.spent(&self.session), self.pace)
        {
            run.decide(&mut self.queue, Choice::AnswerCut(limit));
            let context = limit == Limit::Context;
            return Ok(Some(if context {
                FinishReason::Length
            } else {
                FinishReason::Budget
            }));
        }
        let sampled = self.sample(run)?;
        run.answer.usage.answer_tokens += 1;
        if run.stop_ids.contains(&sampled.id) {
            return Ok(Some(FinishReason::Stop));
        }
        run.pending.push(sampled.id);
        run.answer.ids.push(sampled.id);
        run.probabilities += f64::from(sampled.logprob).exp();
        let (piece, stop) = run.answer_text.push(sampled.id, sampled.logprob)?;
        run.show_answer(&mut self.queue, piece);
        Ok(stop.then_some(FinishReason::Stop))
    }

    fn feed_pending(&mut self, run: &mut Run) -> Result<()> {
        if !run.pending.is_empty() {
            self.session.feed(&run.pending)?;
            run.pending.clear();
        }
        Ok(())
    }

    /// Feeds what is pending and samples a token after it.
    fn sample(&mut self, run: &mut Run) -> Result<Sampled> {
        let (began, fed) = (Instant::now(), run.pending.len());
        self.feed_pending(run)?;
        if self.session.logits().is_none() {
            self.session.head()?;
        }
        let logits = self.session.logits().unwrap_or_default();
        let sampled = run.sampler.sample(logits)?;
        if fed > 0 {
            self.pace.observe(began.elapsed(), fed);
        }
        run.last = Some(sampled);
        Ok(sampled)
    }

    fn finish(&mut self, mut run: Run, reason: FinishReason) -> Result<()> {
        match run.phase {
            Phase::Prompt => {
                run.read = self.session.usage();
                run.answer.usage.ms_prefill = run.end_phase(Phase::Prompt);
            }
            Phase::Thinking => {
                if run.chunks > 0 {
                    run.end_chunk(&mut self.queue)?;
                }
                run.answer.usage.ms_thinking = run.end_phase(Phase::Thinking);
            }
            Phase::Answering => {
                let rest = run.answer_text.finish()?;
                run.show_answer(&mut self.queue, rest);
                run.answer.usage.ms_answer = run.end_phase(Phase::Answering);
            }
        }
        let session = self.session.usage();
        let Answer {
            usage,
            ids,
            confidence,
            finish_reason,
            ..
        } = &mut run.answer;
        if !ids.is_empty() {
            *confidence = (run.probabilities / ids.len() as f64) as f32;
        }
        *finish_reason = reason;
        usage.generated_tokens = usage.thinking_tokens + usage.answer_tokens;
        usage.prompt_layer_passes = run.read.layer_passes - run.before.layer_passes;
        usage.layer_passes = session.layer_passes - run.read.layer_passes;
        usage.head_passes = session.head_passes - run.before.head_passes;
        usage.kv_bytes = self.session.kv_bytes();
        self.queue.push_back(Event::Finished(Box::new(run.answer)));
        Ok(())
    }
}
