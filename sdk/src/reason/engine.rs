//! The engine: executes the steps that a policy names, within a budget, and tells what happens.
//!
//! A state machine that is pulled ([`Engine::next_event`]); iterators, callbacks and streams are thin wrappers over it. A token
//! is fed only when something is to be computed after it, so the last token of an answer costs no pass, and the close is fed
//! together with the last thinking token in one pass.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::budget::{Account, Budget, Limit, Pace, Spent, StepKind};
use super::event::{Answer, Choice, Decision, Event, Usage};
use super::policy::{NextStep, Observation, ReasoningPolicy, policy_of};
use crate::cancel::CancelHandle;
use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};
use crate::generate::{FinishReason, Piece, TextStream};
use crate::model::Model;
use crate::sampler::{Sampled, Sampler, SamplerOptions};
use crate::session::{Session, SessionOptions, SessionUsage};
use crate::spec::RouteSpec;
use crate::stop::TokenSequence;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Prompt,
    Thinking,
    Answering,
}

/// One question being answered.
struct Run {
    phase: Phase,
    policy: Box<dyn ReasoningPolicy>,
    route: RouteSpec,
    prompt: Vec<TokenId>,
    account: Account,
    max_answer_tokens: usize,
    sampler: Sampler,
    stop_ids: Vec<TokenId>,
    chunk_separator: Option<TokenId>,
    close: TokenSequence,
    thinking: TextStream,
    answer_text: TextStream,
    /// Sampled or forced, not fed yet.
    pending: Vec<TokenId>,
    last: Option<Sampled>,
    chunks: usize,
    chunk_tokens: usize,
    probabilities: f64,
    asked: Instant,
    phase_began: Instant,
    /// Session counts when the question was asked, and when its prompt was read.
    before: SessionUsage,
    read: SessionUsage,
    answer: Answer,
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
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(Some(event));
            }
            let Some(mut run) = self.run.take() else {
                return Ok(None);
            };
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

    fn read_prompt(&mut self, run: &mut Run) -> Result<()> {
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
        let result = self.session.feed(&run.prompt[reused..]);
        self.prompt
            .extend_from_slice(&run.prompt[reused..self.session.position()]);
        result?;
        run.read = self.session.usage();
        run.answer.usage.ms_prefill = run.end_phase(Phase::Thinking);
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

impl Run {
    fn new(
        session: &Session,
        prompt: &[TokenId],
        ask: &Ask,
        route: RouteSpec,
        policy: Box<dyn ReasoningPolicy>,
    ) -> Result<Run> {
        let (model, asked) = (session.model(), Instant::now());
        let spec = model.reasoning();
        let name = ask
            .route
            .clone()
            .unwrap_or_else(|| spec.default_route.clone());
        let mut ids = prompt.to_vec();
        ids.extend_from_slice(&route.open);
        check_prompt(session, &ids, &route, &name)?;

        let account = Account {
            budget: ask.budget,
            close: route.close.len(),
            reserve: spec.answer_reserve.max(1),
            max_thinking: route.max_thinking_tokens,
            room: session.context() - ids.len(),
            layers: model.config().num_hidden_layers,
            deadline: ask
                .budget
                .milliseconds
                .map(|ms| asked + Duration::from_millis(ms)),
        };
        account.check(&name, ids.len(), session.context())?;
        if !ask.stop_strings.is_empty() {
            model.require_tokenizer()?;
        }
        let tokenizer = model.tokenizer()?;
        // The confidence needs the probability of each token.
        let logprobs = Some(ask.sampler.logprobs.unwrap_or(0));
        let mut sampler = Sampler::new(
            model.config().vocab_size,
            SamplerOptions {
                logprobs,
                ..ask.sampler.clone()
            },
        )?;
        sampler.observe(&ids);
        let usage = Usage {
            prompt_tokens: ids.len(),
            ..Usage::default()
        };
        let mut run = Run {
            phase: Phase::Prompt,
            policy,
            account,
            max_answer_tokens: ask.max_answer_tokens.unwrap_or(usize::MAX),
            sampler,
            stop_ids: model.stop_ids(),
            chunk_separator: spec.chunk,
            close: TokenSequence::new(&route.close),
            thinking: TextStream::new(tokenizer, &[]),
            answer_text: TextStream::new(tokenizer, &ask.stop_strings),
            pending: Vec::new(),
            last: None,
            chunks: 0,
            chunk_tokens: 0,
            probabilities: 0.0,
            asked,
            phase_began: asked,
            before: session.usage(),
            read: session.usage(),
            answer: Answer {
                text: String::new(),
                ids: Vec::new(),
                thinking: String::new(),
                thinking_ids: Vec::new(),
                route: name.clone(),
                confidence: 0.0,
                usage,
                finish_reason: FinishReason::Stop,
                decisions: Vec::new(),
            },
            prompt: ids,
            route,
        };
        run.log(Choice::Route(name));
        Ok(run)
    }

    fn observation(&self) -> Observation {
        Observation {
            prompt_tokens: self.prompt.len(),
            thinking_tokens: self.answer.usage.thinking_tokens,
            latent_steps: self.answer.usage.latent_steps,
            chunks: self.chunks,
            token: self.last.map(|last| last.id),
            logprob: self.last.map(|last| last.logprob),
        }
    }

    fn spent(&self, session: &Session) -> Spent {
        let usage = &self.answer.usage;
        Spent {
            generated: usage.thinking_tokens + usage.answer_tokens,
            thinking: usage.thinking_tokens,
            positions: session.position() - self.prompt.len() + self.pending.len(),
            layer_passes: session.usage().layer_passes - self.read.layer_passes
                + self.pending.len() * self.account.layers,
        }
    }

    fn begin_chunk(&mut self, queue: &mut VecDeque<Event>) {
        if self.chunks > 0 {
            self.answer.thinking.push('\n');
        }
        queue.push_back(Event::ChunkStarted { index: self.chunks });
        self.chunks += 1;
        self.chunk_tokens = 0;
    }

    fn end_chunk(&mut self, queue: &mut VecDeque<Event>) -> Result<()> {
        let rest = self.thinking.finish()?;
        self.show_thinking(queue, rest);
        queue.push_back(Event::ChunkFinished {
            index: self.chunks - 1,
            tokens: self.chunk_tokens,
        });
        Ok(())
    }

    fn show_thinking(&mut self, queue: &mut VecDeque<Event>, piece: Option<Piece>) {
        if let Some(piece) = piece {
            self.answer.thinking.push_str(&piece.text);
            queue.push_back(Event::ThinkingText(piece));
        }
    }

    fn show_answer(&mut self, queue: &mut VecDeque<Event>, piece: Option<Piece>) {
        if let Some(piece) = piece {
            self.answer.text.push_str(&piece.text);
            queue.push_back(Event::AnswerText(piece));
        }
    }

    fn decide(&mut self, queue: &mut VecDeque<Event>, choice: Choice) {
        let decision = self.log(choice);
        queue.push_back(Event::Decision(decision));
    }

    fn log(&mut self, choice: Choice) -> Decision {
        let usage = &self.answer.usage;
        let decision = Decision {
            generated_tokens: usage.thinking_tokens + usage.answer_tokens,
            milliseconds: self.asked.elapsed().as_secs_f64() * 1e3,
            choice,
        };
        self.answer.decisions.push(decision.clone());
        decision
    }

    /// Goes over to `next`; returns the milliseconds of the phase that ends.
    fn end_phase(&mut self, next: Phase) -> f64 {
        let ms = self.phase_began.elapsed().as_secs_f64() * 1e3;
        self.phase = next;
        self.phase_began = Instant::now();
        ms
    }
}

/// Checks what comes from outside, before anything is computed.
fn check_prompt(session: &Session, ids: &[TokenId], route: &RouteSpec, name: &str) -> Result<()> {
    let model = session.model();
    if ids.is_empty() {
        return Err(Error::new(ErrorKind::Argument, "an empty prompt"));
    }
    model.check_ids(ids)?;
    model
        .check_ids(&route.close)
        .map_err(|error| error.at(format_args!("close of route `{name}`")))?;
    if ids.len() > session.context() {
        let message = format!(
            "the prompt has {} tokens, the context is {}",
            ids.len(),
            session.context()
        );
        return Err(Error::new(ErrorKind::ContextFull, message)
            .with_hint("shorten the prompt or open a larger context"));
    }
    Ok(())
}
