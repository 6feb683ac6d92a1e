//! One question while it is being answered: its route, its texts, its books.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};
use crate::generate::{FinishReason, Piece, TextStream};
use crate::reason::ask::Ask;
use crate::reason::budget::{Account, Spent};
use crate::reason::event::{Answer, Choice, Decision, Event, Usage};
use crate::reason::policy::{Observation, ReasoningPolicy};
use crate::sampler::{Sampled, Sampler, SamplerOptions};
use crate::session::{Session, SessionUsage};
use crate::spec::RouteSpec;
use crate::stop::TokenSequence;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Prompt,
    Thinking,
    Answering,
}

/// One question being answered.
pub(super) struct Run {
    pub(super) phase: Phase,
    pub(super) policy: Box<dyn ReasoningPolicy>,
    pub(super) route: RouteSpec,
    pub(super) prompt: Vec<TokenId>,
    /// Whether what it shares with the prompt before is settled.
    pub(super) prompt_begun: bool,
    pub(super) account: Account,
    pub(super) max_answer_tokens: usize,
    pub(super) sampler: Sampler,
    pub(super) stop_ids: Vec<TokenId>,
    pub(super) chunk_separator: Option<TokenId>,
    pub(super) close: TokenSequence,
    pub(super) thinking: TextStream,
    pub(super) answer_text: TextStream,
    /// Sampled or forced, not fed yet.
    pub(super) pending: Vec<TokenId>,
    pub(super) last: Option<Sampled>,
    pub(super) chunks: usize,
    pub(super) chunk_tokens: usize,
    pub(super) probabilities: f64,
    pub(super) asked: Instant,
    pub(super) phase_began: Instant,
    /// Session counts when the question was asked, and when its prompt was read.
    pub(super) before: SessionUsage,
    pub(super) read: SessionUsage,
    pub(super) answer: Answer,
}

impl Run {
    pub(super) fn new(
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
            prompt_begun: false,
            route,
        };
        run.log(Choice::Route(name));
        Ok(run)
    }

    pub(super) fn observation(&self) -> Observation {
        Observation {
            prompt_tokens: self.prompt.len(),
            thinking_tokens: self.answer.usage.thinking_tokens,
            latent_steps: self.answer.usage.latent_steps,
            chunks: self.chunks,
            token: self.last.map(|last| last.id),
            logprob: self.last.map(|last| last.logprob),
        }
    }

    pub(super) fn spent(&self, session: &Session) -> Spent {
        let usage = &self.answer.usage;
        Spent {
            generated: usage.thinking_tokens + usage.answer_tokens,
            thinking: usage.thinking_tokens,
            positions: session.position() - self.prompt.len() + self.pending.len(),
            layer_passes: session.usage().layer_passes - self.read.layer_passes
                + self.pending.len() * self.account.layers,
        }
    }

    pub(super) fn begin_chunk(&mut self, queue: &mut VecDeque<Event>) {
        if self.chunks > 0 {
            self.answer.thinking.push('\n');
        }
        queue.push_back(Event::ChunkStarted { index: self.chunks });
        self.chunks += 1;
        self.chunk_tokens = 0;
    }

    pub(super) fn end_chunk(&mut self, queue: &mut VecDeque<Event>) -> Result<()> {
        let rest = self.thinking.finish()?;
        self.show_thinking(queue, rest);
        queue.push_back(Event::ChunkFinished {
            index: self.chunks - 1,
            tokens: self.chunk_tokens,
        });
        Ok(())
    }

    pub(super) fn show_thinking(&mut self, queue: &mut VecDeque<Event>, piece: Option<Piece>) {
        if let Some(piece) = piece {
            self.answer.thinking.push_str(&piece.text);
            queue.push_back(Event::ThinkingText(piece));
        }
    }

    pub(super) fn show_answer(&mut self, queue: &mut VecDeque<Event>, piece: Option<Piece>) {
        if let Some(piece) = piece {
            self.answer.text.push_str(&piece.text);
            queue.push_back(Event::AnswerText(piece));
        }
    }

    pub(super) fn decide(&mut self, queue: &mut VecDeque<Event>, choice: Choice) {
        let decision = self.log(choice);
        queue.push_back(Event::Decision(decision));
    }

    pub(super) fn log(&mut self, choice: Choice) -> Decision {
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
    pub(super) fn end_phase(&mut self, next: Phase) -> f64 {
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
