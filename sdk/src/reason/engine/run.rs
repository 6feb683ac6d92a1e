//! One question while it is being answered: its route, its texts, its books.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::climb::Climb;
use super::thought::Earlier;
use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};
use crate::generate::{FinishReason, Piece, TextStream};
use crate::memory;
use crate::model::Model;
use crate::reason::ask::Ask;
use crate::reason::budget::{Account, Clock, Spent};
use crate::reason::event::{Answer, Choice, Decision, Event, SkipReason, Usage};
use crate::reason::policy::{Observation, ReasoningPolicy};
use crate::reason::replay::{Place, Replay};
use crate::sampler::{Sampled, Sampler, SamplerOptions};
use crate::session::{Session, SessionUsage};
use crate::spec::{Depth, RouteSpec};
use crate::stop::TokenSequence;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Prompt,
    Thinking,
    Answering,
}

/// An answer that a probe decoded.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    /// Its tokens, the end token included. All but the last are fed in the session of the probe.
    pub(super) sampled: Vec<Sampled>,
    /// It has an end; nothing needs to be sampled after it.
    pub(super) complete: bool,
    /// Smallest probability of its tokens.
    pub(super) confidence: f32,
    /// Chunks that were finished before.
    pub(super) chunks: usize,
    /// Tokens that the close took.
    pub(super) close: usize,
    pub(super) layer_passes: usize,
}

/// Tokens of an answer that probes wait for where the specification says nothing of answers.
const SHORT_ANSWER: usize = 16;

/// One question being answered.
pub(super) struct Run {
    pub(super) model: Model,
    pub(super) phase: Phase,
    pub(super) policy: Box<dyn ReasoningPolicy>,
    pub(super) route: RouteSpec,
    pub(super) depth: Depth,
    pub(super) prompt: Vec<TokenId>,
    /// Whether what it shares with the prompt before is settled.
    pub(super) prompt_begun: bool,
    pub(super) account: Account,
    pub(super) max_answer_tokens: usize,
    pub(super) sampler: Sampler,
    pub(super) stop_ids: Vec<TokenId>,
    pub(super) stop_strings: Vec<String>,
    pub(super) chunk_separator: Option<TokenId>,
    pub(super) chunk_ends: Vec<TokenId>,
    pub(super) close: TokenSequence,
    pub(super) thinking: TextStream,
    pub(super) answer_text: TextStream,
    /// Sampled or forced, not fed yet.
    pub(super) pending: Vec<TokenId>,
    pub(super) last: Option<Sampled>,
    /// Chunks begun, the state of the newest one, and the position at which it began.
    pub(super) chunks: usize,
    pub(super) chunk_open: bool,
    pub(super) chunk_tokens: usize,
    pub(super) chunk_start: usize,
    pub(super) chunk_began: Instant,
    /// The newest token ended a chunk.
    pub(super) chunk_ended: bool,
    /// Positions of finished chunks that are not dropped yet, and how many tokens of each are to stay.
    pub(super) finished: Vec<Range<usize>>,
    pub(super) keep_last: Option<usize>,
    /// Of the last step, if it was a probe.
    pub(super) confidence: Option<f32>,
    /// What it decoded.
    pub(super) draft: Option<Draft>,
    /// The sampler of probes: greedy, otherwise as asked.
    pub(super) prober: Option<Sampler>,
    pub(super) probe_limit: usize,
    /// Keep the newest answer of a probe, to have one when time is up.
    pub(super) keep_best: bool,
    pub(super) best: Option<Draft>,
    /// Sampled already for the answer; all but the last are fed.
    pub(super) drafted: VecDeque<Sampled>,
    /// The answer is an earlier one, and ends where it ends.
    pub(super) from_best: bool,
    /// What was sampled: the thinking, `None` for latent steps, and the answer.
    pub(super) steps: Vec<Option<Sampled>>,
    pub(super) answered: Vec<Sampled>,
    /// The answer goes on from a probe, with its sampler.
    pub(super) settled: bool,
    /// Why nothing is left to do; the end is told after everything that came before it.
    pub(super) ending: Option<FinishReason>,
    /// Books of the process in which the question was begun, if that was another.
    pub(super) earlier: Earlier,
    /// Where it stands on a ladder, if it is on one.
    pub(super) climb: Option<Box<Climb>>,
    /// The log to follow.
    pub(super) replay: Option<Replay>,
    /// It needs the session of probes.
    pub(super) probes: bool,
    /// A limit ended the thinking.
    pub(super) cut: bool,
    /// Smallest probability of the answer's tokens, the end token included.
    pub(super) smallest: f32,
    /// Text of the answer that is not certain to stay.
    pub(super) held: Option<Vec<Event>>,
    pub(super) probabilities: f64,
    pub(super) clock: Clock,
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
        clock: &Clock,
    ) -> Result<Run> {
        let (model, asked) = (session.model(), clock.now());
        let spec = model.reasoning();
        let name = ask
            .route
            .clone()
            .unwrap_or_else(|| spec.default_route.clone());
        let mut ids = prompt.to_vec();
        ids.extend_from_slice(&route.open);
        check_prompt(session, &ids, &route, &name)?;

        let depth = match &ask.depth {
            Some(depth) => depth.clone(),
            None => spec.depth(route.depth)?,
        };
        let layers = model.config().num_hidden_layers;
        let fault = match &depth {
            Depth::Exits(exits) => exits.fault(layers).map(|fault| ("exits", fault)),
            Depth::Shortcut(shortcut) => {
                let fault = shortcut.fault(model.config());
                fault.map(|fault| ("shortcut", fault))
            }
            Depth::Full | Depth::Drafts(_) => None,
        };
        if let Some((section, (place, message))) = fault {
            let place = format_args!("{section}.{place}");
            return Err(Error::new(ErrorKind::Argument, message).at(place));
        }

        let account = Account {
            budget: ask.budget,
            close: route.close.len(),
            reserve: spec.answer_reserve.max(1),
            max_thinking: route.max_thinking_tokens,
            room: session.kv_entries() - ids.len(),
            layers,
            deadline: ask
                .budget
                .milliseconds
                .map(Duration::from_millis)
                .into_iter()
                .chain(ask.answer_by)
                .min()
                // What is too far away for a clock is no deadline.
                .and_then(|time| asked.checked_add(time)),
            clock: clock.clone(),
        };
        account.check(&name, ids.len(), session.kv_entries())?;
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
        // A chain of latent steps allocates nothing.
        let mut steps = Vec::new();
        memory::reserve(&mut steps, route.latent_steps.min(account.room))?;
        let usage = Usage {
            prompt_tokens: ids.len(),
            ..Usage::default()
        };
        let mut run = Run {
            model: model.clone(),
            phase: Phase::Prompt,
            policy,
            depth,
            account,
            max_answer_tokens: ask.max_answer_tokens.unwrap_or(usize::MAX),
            sampler,
            stop_ids: model.stop_ids(),
            stop_strings: ask.stop_strings.clone(),
            chunk_separator: spec.chunk,
            chunk_ends: spec.chunk_ends.clone(),
            close: TokenSequence::new(&route.close),
            thinking: TextStream::new(tokenizer, &[]),
            answer_text: TextStream::new(tokenizer, &ask.stop_strings),
            pending: Vec::new(),
            last: None,
            chunks: 0,
            chunk_open: false,
            chunk_tokens: 0,
            chunk_start: ids.len(),
            chunk_began: asked,
            chunk_ended: false,
            finished: Vec::new(),
            keep_last: ask.drop_chunks,
            confidence: None,
            draft: None,
            prober: None,
            probe_limit: ask
                .max_probe_tokens
                .unwrap_or(match spec.answer_reserve {
                    0 => SHORT_ANSWER,
                    reserve => reserve,
                })
                .max(1)
                .min(ask.max_answer_tokens.unwrap_or(usize::MAX)),
            keep_best: ask.answer_by.is_some(),
            best: None,
            drafted: VecDeque::new(),
            from_best: false,
            steps,
            answered: Vec::new(),
            settled: false,
            ending: None,
            earlier: Earlier::default(),
            climb: None,
            replay: None,
            probes: ask.answer_by.is_some(),
            cut: false,
            smallest: 1.0,
            held: None,
            probabilities: 0.0,
            clock: clock.clone(),
            asked,
            phase_began: asked,
            before: SessionUsage::default(),
            read: SessionUsage::default(),
            answer: Answer {
                text: String::new(),
                ids: Vec::new(),
                thinking: String::new(),
                thinking_ids: Vec::new(),
                along: match spec.gate(&name) {
                    Some(auto) if ask.custom_route.is_none() => auto.route.clone(),
                    _ => name.clone(),
                },
                route: name.clone(),
                confidence: 0.0,
                certainty: 0.0,
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
            chunk_ended: self.chunk_ended,
            confidence: self.confidence,
            token: self.last.map(|last| last.id),
            logprob: self.last.map(|last| last.logprob),
        }
    }

    /// Tokens that may still be generated, as far as numbers of tokens limit them.
    pub(super) fn tokens_left(&self) -> usize {
        let usage = &self.answer.usage;
        let generated = usage.thinking_tokens + usage.answer_tokens + usage.probe_tokens;
        let budget = self.account.budget.tokens.unwrap_or(usize::MAX);
        let answer = match self.phase {
            Phase::Answering => self.max_answer_tokens - usage.answer_tokens,
            Phase::Prompt | Phase::Thinking => usize::MAX,
        };
        budget.saturating_sub(generated).min(answer)
    }

    pub(super) fn begin_chunk(&mut self, queue: &mut VecDeque<Event>) {
        if self.chunks > 0 && self.chunk_separator.is_some() {
            self.answer.thinking.push('\n');
        }
        queue.push_back(Event::ChunkStarted { index: self.chunks });
        self.chunks += 1;
        self.chunk_open = true;
        self.chunk_tokens = 0;
    }

    /// Ends the chunk that is open, if one is; `complete`: where chunks end.
    pub(super) fn end_chunk(&mut self, queue: &mut VecDeque<Event>, complete: bool) -> Result<()> {
        if !std::mem::take(&mut self.chunk_open) {
            return Ok(());
        }
        let rest = self.thinking.finish()?;
        self.show_thinking(queue, rest);
        let now = self.clock.now();
        let since = now.saturating_duration_since(self.chunk_began);
        self.chunk_began = now;
        queue.push_back(Event::ChunkFinished {
            index: self.chunks - 1,
            tokens: self.chunk_tokens,
            ms: since.as_secs_f64() * 1e3,
            complete,
        });
        Ok(())
    }

    /// Takes in a token of the thinking that is certainly none of the close; `position` is its place in the session.
    pub(super) fn think(
        &mut self,
        queue: &mut VecDeque<Event>,
        id: TokenId,
        position: usize,
    ) -> Result<()> {
        if !self.chunk_open {
            self.begin_chunk(queue);
        }
        let separates = self.chunk_separator == Some(id);
        if !separates {
            self.chunk_tokens += 1;
            self.answer.thinking_ids.push(id);
            let (piece, _) = self.thinking.push(id, f32::NAN)?;
            self.show_thinking(queue, piece);
        }
        self.chunk_ended = separates || self.chunk_ends.contains(&id);
        if self.chunk_ended {
            self.end_chunk(queue, true)?;
            self.finished.push(self.chunk_start..position + 1);
            self.chunk_start = position + 1;
        }
        Ok(())
    }

    /// Takes in a token of the thinking whose place in the session is `position`; returns why the thinking ends with it, if it does.
    pub(super) fn take_thought(
        &mut self,
        queue: &mut VecDeque<Event>,
        sampled: Sampled,
        position: usize,
    ) -> Result<Option<Choice>> {
        self.steps.push(Some(sampled));
        self.last = Some(sampled);
        self.chunk_ended = false;
        self.answer.usage.thinking_tokens += 1;
        let mut free = self.close.push(sampled.id);
        // What the close holds lies before the one behind the token.
        let first = position + 1 - self.close.held() - free.len();
        // A stop token that belongs to the close is held by it, and not free.
        let ended = free.last() == Some(&sampled.id) && self.stop_ids.contains(&sampled.id);
        if ended {
            free.pop();
        }
        for (id, position) in free.into_iter().zip(first..) {
            self.think(queue, id, position)?;
        }
        if ended {
            return Ok(Some(Choice::StudentEnded));
        }
        self.pending.push(sampled.id);
        // A close that may have begun is no place to look aside.
        self.chunk_ended &= self.close.held() == 0;
        Ok(self.close.complete().then_some(Choice::StudentClosed))
    }

    /// Takes in a latent step.
    pub(super) fn take_latent(&mut self, queue: &mut VecDeque<Event>) {
        let index = self.answer.usage.latent_steps;
        self.answer.usage.latent_steps += 1;
        self.chunk_ended = false;
        self.last = None;
        self.steps.push(None);
        queue.push_back(Event::LatentStep { index });
    }

    /// Takes in a token of the answer; returns why the answer ends with it, if it does.
    pub(super) fn take_answer(
        &mut self,
        queue: &mut VecDeque<Event>,
        sampled: Sampled,
    ) -> Result<Option<FinishReason>> {
        self.answer.usage.answer_tokens += 1;
        self.smallest = self.smallest.min(sampled.logprob.exp());
        if self.stop_ids.contains(&sampled.id) {
            return Ok(Some(FinishReason::Stop));
        }
        if self.drafted.is_empty() && !self.from_best {
            self.pending.push(sampled.id);
        }
        self.answered.push(sampled);
        self.answer.ids.push(sampled.id);
        self.probabilities += f64::from(sampled.logprob).exp();
        let (piece, stop) = self.answer_text.push(sampled.id, sampled.logprob)?;
        self.show_answer(queue, piece);
        Ok(stop.then_some(FinishReason::Stop))
    }

    /// Ends the thinking: appends what is missing of the close, and goes over to the answer.
    pub(super) fn close(
        &mut self,
        queue: &mut VecDeque<Event>,
        skipped: Option<SkipReason>,
    ) -> Result<()> {
        let rest = self.close.rest();
        self.pending.extend_from_slice(rest);
        self.answer.usage.thinking_tokens += rest.len();
        self.end_thinking(queue, skipped)
    }

    pub(super) fn end_thinking(
        &mut self,
        queue: &mut VecDeque<Event>,
        skipped: Option<SkipReason>,
    ) -> Result<()> {
        self.end_chunk(queue, false)?;
        if let Some(reason) = skipped {
            self.skip(queue, reason);
        }
        self.answer.usage.ms_thinking = self.end_phase(Phase::Answering);
        // Until it is whole, an earlier one may have to take its place.
        self.held = (self.best.is_some() || self.may_not_stand()).then(Vec::new);
        Ok(())
    }

    /// Whether this is a good moment to stop: nothing of the thinking or of the answer has begun that is not at its end.
    pub(super) fn at_rest(&self) -> bool {
        match self.phase {
            Phase::Prompt => true,
            Phase::Thinking => !self.chunk_open && self.close.held() == 0,
            Phase::Answering => false,
        }
    }

    /// Positions that may still be needed after the prompt, under the limits of the question; `None` if nothing limits them but the context.
    pub(super) fn most_positions(&self, spent: &Spent) -> Option<usize> {
        // The rungs above may need more than this one.
        if self.climb.is_some() {
            return None;
        }
        let account = &self.account;
        let usage = &self.answer.usage;
        let latent = self.route.latent_steps.saturating_sub(usage.latent_steps);
        let by_tokens = account.budget.tokens.map(|budget| {
            budget
                .saturating_sub(spent.generated)
                .saturating_add(latent)
        });
        let by_passes = account.budget.layer_passes.map(|budget| {
            let left = budget.saturating_sub(spent.layer_passes);
            left / account.layers + 1
        });
        let answer = (self.max_answer_tokens != usize::MAX)
            .then(|| self.max_answer_tokens.saturating_sub(usage.answer_tokens));
        let by_route = match (account.max_thinking, answer) {
            _ if self.phase == Phase::Answering => answer,
            (Some(thinking), Some(answer)) => {
                let left = thinking.saturating_sub(usage.thinking_tokens);
                Some(
                    left.saturating_add(latent + account.close)
                        .saturating_add(answer),
                )
            }
            _ => None,
        };
        let most = [by_tokens, by_passes, by_route]
            .into_iter()
            .flatten()
            .min()?;
        Some(self.pending.len().saturating_add(most))
    }

    /// Tells what is not going to be written.
    pub(super) fn skip(&mut self, queue: &mut VecDeque<Event>, reason: SkipReason) {
        if !self.route.kind.thinks_in_tokens() {
            return;
        }
        let tokens_saved = self.route.expected_rest(self.answer.usage.thinking_tokens);
        self.answer.usage.skipped_tokens = tokens_saved.unwrap_or(0);
        queue.push_back(Event::ChunkSkipped {
            reason,
            tokens_saved,
        });
    }

    /// Forgets the answer so far and takes the best of the probes instead; the session has no part in it.
    pub(super) fn take_best(&mut self, queue: &mut VecDeque<Event>) -> Result<()> {
        let Some(best) = self.best.take() else {
            return Ok(());
        };
        self.decide(
            queue,
            Choice::BestSoFar {
                confidence: best.confidence,
                chunks: best.chunks,
            },
        );
        let tokenizer = self.model.tokenizer()?;
        self.answer_text = TextStream::new(tokenizer, &self.stop_strings);
        let Answer {
            ids, text, usage, ..
        } = &mut self.answer;
        ids.clear();
        text.clear();
        self.answered.clear();
        usage.probe_tokens += usage.answer_tokens;
        usage.probe_tokens -= best.sampled.len();
        usage.probe_layer_passes -= best.layer_passes;
        usage.answer_tokens = 0;
        self.probabilities = 0.0;
        self.smallest = 1.0;
        self.held = Some(Vec::new());
        self.pending.clear();
        self.drafted = best.sampled.into();
        self.from_best = true;
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
            let event = Event::AnswerText(piece);
            match &mut self.held {
                Some(held) => held.push(event),
                None => queue.push_back(event),
            }
        }
    }

    /// Shows what was held back of the answer, now that no more comes.
    pub(super) fn show_rest(&mut self, queue: &mut VecDeque<Event>) -> Result<()> {
        let rest = self.answer_text.finish()?;
        self.show_answer(queue, rest);
        queue.extend(self.held.take().into_iter().flatten());
        Ok(())
    }

    pub(super) fn decide(&mut self, queue: &mut VecDeque<Event>, choice: Choice) {
        let decision = self.log(choice);
        queue.push_back(Event::Decision(decision));
    }

    pub(super) fn log(&mut self, choice: Choice) -> Decision {
        let usage = &self.answer.usage;
        let decision = Decision {
            generated_tokens: usage.thinking_tokens + usage.answer_tokens,
            latent_steps: usage.latent_steps,
            milliseconds: self.clock.since(self.asked).as_secs_f64() * 1e3,
            choice,
        };
        if let Some(replay) = &mut self.replay {
            replay.follow(&decision);
        }
        self.answer.decisions.push(decision.clone());
        decision
    }

    /// Where the next decision stands.
    pub(super) fn place(&self) -> Place {
        let usage = &self.answer.usage;
        let generated = usage.thinking_tokens + usage.answer_tokens;
        (generated, usage.latent_steps)
    }

    /// Follows a log from here on; the choice of the route was made already. Time is no limit then.
    pub(super) fn follow(&mut self, replay: Option<Replay>) -> Result<()> {
        let Some(mut replay) = replay else {
            return Ok(());
        };
        self.account.deadline = None;
        for decision in &self.answer.decisions {
            replay.follow(decision);
        }
        replay.check()?;
        self.replay = Some(replay);
        Ok(())
    }

    pub(super) fn check_replay(&self) -> Result<()> {
        self.replay.as_ref().map_or(Ok(()), Replay::check)
    }

    /// Goes over to `next`; returns the milliseconds of the phase that ends.
    pub(super) fn end_phase(&mut self, next: Phase) -> f64 {
        let now = self.clock.now();
        let since = now.saturating_duration_since(self.phase_began);
        self.phase = next;
        self.phase_began = now;
        since.as_secs_f64() * 1e3
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
    let most = session.kv_entries();
    if ids.len() > most {
        let message = format!("the prompt has {} tokens, the context is {most}", ids.len());
        return Err(Error::new(ErrorKind::ContextFull, message)
            .with_hint("shorten the prompt or open a larger context"));
    }
    Ok(())
}
