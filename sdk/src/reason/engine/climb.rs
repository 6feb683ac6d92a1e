//! Climbing a ladder: one rung after the other from the same prompt, until an answer is sure enough or nothing is left for another.
//!
//! ```text
//! session   question ┬ open · answer            rung 0: not sure enough
//!                    └ open · thinking · answer  rung 1: the question's entries are kept, the rest is cut off
//! ```
//!
//! Every rung is a [`Run`] of its own, with the limits that the ones before it left; its books are added up at the end. An answer is
//! shown only when it stands.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::run::Run;
use super::thought::{self, Token};
use super::{Engine, Result};
use crate::config::TokenId;
use crate::error::ErrorKind;
use crate::generate::{FinishReason, TextStream};
use crate::reason::ask::Ask;
use crate::reason::event::{Choice, Usage};
use crate::reason::gate::Gated;
use crate::reason::ladder::{Left, choose};
use crate::reason::policy::{ReasoningPolicy, policy_of};
use crate::sampler::Sampled;
use crate::spec::{AutoSpec, LadderSpec};

/// Where a question stands on its ladder.
#[derive(Debug, Clone)]
pub(super) struct Climb {
    /// As it was asked: with all of its limits.
    pub(super) ask: Ask,
    pub(super) rung: usize,
    /// Tokens of the prompt before the rung's open.
    pub(super) question: usize,
    pub(super) spent: Spending,
    /// The answer that the student was surest of, from the rungs before.
    pub(super) kept: Option<Kept>,
    /// That is the answer.
    pub(super) recalled: bool,
}

/// What the rungs before took. Narrow, so that sums of hostile ones do not overflow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spending {
    prompt_tokens: u32,
    reused_tokens: u32,
    generated_tokens: u32,
    latent_steps: u32,
    probes: u32,
    layer_passes: u32,
    probe_layer_passes: u32,
    prompt_layer_passes: u32,
    head_passes: u32,
    exits: u32,
    kv_passes: u32,
    drafted_tokens: u32,
    accepted_tokens: u32,
    rungs: u32,
    us_prefill: u32,
    us: u32,
    peak_kv_bytes: u64,
}

/// An answer that did not stand, but may have to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    rung: u32,
    /// Without the end token.
    pub(super) answered: Vec<Token>,
    /// Bits of the smallest probability.
    confidence: u32,
    thinking: String,
    pub(super) thinking_ids: Vec<TokenId>,
    thinking_tokens: u32,
    answer_tokens: u32,
    probe_tokens: u32,
}

/// What a checkpoint keeps of a climb.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClimbNote {
    pub(super) rung: u32,
    pub(super) along: u32,
    /// A limit ended the rung's thinking.
    cut: bool,
    pub(super) spent: Spending,
    pub(super) kept: Option<Kept>,
    recalled: bool,
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Spending {
    /// With what one more rung took; its prompt is only its open, if there was one before.
    fn and(mut self, usage: &Usage) -> Spending {
        let add = |sum: &mut u32, count: usize| *sum = sum.saturating_add(narrow(count));
        // A cast saturates.
        let us = |ms: f64| (ms * 1e3) as usize;
        if self.rungs == 0 {
            self.prompt_tokens = narrow(usage.prompt_tokens);
            self.reused_tokens = narrow(usage.reused_tokens);
            self.prompt_layer_passes = narrow(usage.prompt_layer_passes);
            self.us_prefill = narrow(us(usage.ms_prefill));
        } else {
            add(&mut self.layer_passes, usage.prompt_layer_passes);
            add(&mut self.us, us(usage.ms_prefill));
        }
        add(&mut self.generated_tokens, usage.generated_tokens);
        add(&mut self.latent_steps, usage.latent_steps);
        add(&mut self.probes, usage.probes);
        add(&mut self.layer_passes, usage.layer_passes);
        add(&mut self.probe_layer_passes, usage.probe_layer_passes);
        add(&mut self.head_passes, usage.head_passes);
        add(&mut self.exits, usage.exits);
        add(&mut self.kv_passes, usage.kv_passes);
        add(&mut self.drafted_tokens, usage.drafted_tokens);
        add(&mut self.accepted_tokens, usage.accepted_tokens);
        add(&mut self.us, us(usage.ms_thinking + usage.ms_answer));
        add(&mut self.rungs, 1);
        self.peak_kv_bytes = self.peak_kv_bytes.max(usage.peak_kv_bytes);
        self
    }

    /// Adds what the rungs before took to the books of the last one.
    pub(super) fn add_to(&self, usage: &mut Usage) {
        usage.rungs = self.rungs as usize + 1;
        if self.rungs == 0 {
            return;
        }
        let sum = |own: usize, before: u32| own + before as usize;
        usage.prompt_tokens = self.prompt_tokens as usize;
        usage.reused_tokens = self.reused_tokens as usize;
        usage.rejected_tokens = self.generated_tokens as usize;
        usage.generated_tokens = sum(usage.generated_tokens, self.generated_tokens);
        usage.latent_steps = sum(usage.latent_steps, self.latent_steps);
        usage.probes = sum(usage.probes, self.probes);
        usage.layer_passes = sum(usage.layer_passes, self.layer_passes) + usage.prompt_layer_passes;
        usage.probe_layer_passes = sum(usage.probe_layer_passes, self.probe_layer_passes);
        usage.prompt_layer_passes = self.prompt_layer_passes as usize;
        usage.head_passes = sum(usage.head_passes, self.head_passes);
        usage.exits = sum(usage.exits, self.exits);
        usage.kv_passes = sum(usage.kv_passes, self.kv_passes);
        usage.drafted_tokens = sum(usage.drafted_tokens, self.drafted_tokens);
        usage.accepted_tokens = sum(usage.accepted_tokens, self.accepted_tokens);
        usage.ms_thinking += usage.ms_prefill + f64::from(self.us) / 1e3;
        usage.ms_prefill = f64::from(self.us_prefill) / 1e3;
        usage.peak_kv_bytes = usage.peak_kv_bytes.max(self.peak_kv_bytes);
    }
}

impl Kept {
    fn confidence(&self) -> f32 {
        f32::from_bits(self.confidence)
    }
}

impl Engine {
    /// The ladder of the route that is asked for, if it has one.
    pub(super) fn ladder_of(&self, ask: &Ask) -> Option<&LadderSpec> {
        let spec = self.model().reasoning();
        let name = ask.route.as_ref().unwrap_or(&spec.default_route);
        spec.ladder(name).filter(|_| ask.custom_route.is_none())
    }

    /// Begins to answer `prompt` on the lowest rung that pays.
    pub(super) fn climb(&mut self, prompt: &[TokenId], ask: &Ask) -> Result<()> {
        let mut run = self.first_rung(prompt, ask)?;
        let rung = run.climb.as_ref().map_or(0, |climb| climb.rung);
        self.note_rung(&mut run, 0, rung, self.at_first(prompt, ask));
        self.start(run)
    }

    fn first_rung(&self, prompt: &[TokenId], ask: &Ask) -> Result<Run> {
        let left = self.at_first(prompt, ask);
        let ladder = self.ladder();
        let planned = match self.replay_of(ask)? {
            Some(replay) => replay.rung(),
            None => choose(ladder, 0, left, -1.0),
        };
        let mut rung = planned.unwrap_or(0).min(ladder.rungs.len() - 1);
        let mut run = self.rung_run(prompt, ask, rung);
        // The best one under a limit may need more than there is; the cheapest that does not is taken then.
        for cheaper in (0..rung).rev() {
            if run.is_ok() {
                break;
            }
            rung = cheaper;
            run = self.rung_run(prompt, ask, rung);
        }
        let mut run = run?;
        run.climb = Some(Box::new(Climb {
            ask: ask.clone(),
            rung,
            question: prompt.len(),
            spent: Spending::default(),
            kept: None,
            recalled: false,
        }));
        Ok(run)
    }

    /// The limits of a question that nothing was spent of, but for the time that its prompt will take.
    fn at_first(&self, prompt: &[TokenId], ask: &Ask) -> Left {
        let time = ask.budget.milliseconds.map(Duration::from_millis);
        let time = time.into_iter().chain(ask.answer_by).min();
        let reading = self.reading.of(prompt.len());
        let number = |limit: Option<usize>| limit.map_or(f64::INFINITY, |limit| limit as f64);
        Left {
            tokens: number(ask.budget.tokens),
            layer_passes: number(ask.budget.layer_passes),
            positions: time.map_or(f64::INFINITY, |time| {
                self.pace.steps_in(time.saturating_sub(reading))
            }),
        }
    }

    fn ladder(&self) -> &LadderSpec {
        let spec = self.model().reasoning().ladder.as_ref();
        spec.expect("only questions on a ladder are asked for it")
    }

    /// A run along rung `rung`, with the limits of `ask`.
    pub(super) fn rung_run(&self, prompt: &[TokenId], ask: &Ask, rung: usize) -> Result<Run> {
        let spec = self.model().reasoning();
        let name = &self.ladder().rungs[rung].route;
        let along = spec.route(name)?.clone();
        let ask = ask.clone().with_custom_route(AutoSpec::NAME, along);
        let gate = spec.auto.as_ref().filter(|auto| auto.route == *name);
        let policy: Box<dyn ReasoningPolicy> = match gate {
            Some(auto) => Box::new(Gated {
                gate: auto.gate,
                threshold: auto.threshold,
            }),
            None => policy_of(&self.route_of(&ask)?),
        };
        let mut run = self.new_run(prompt, &ask, policy)?;
        run.probes |= gate.is_some();
        run.answer.along.clone_from(name);
        Ok(run)
    }

    /// Logs that `rung` is taken, and which ones from `from` on are not.
    fn note_rung(&mut self, run: &mut Run, from: usize, rung: usize, left: Left) {
        let model = self.model().clone();
        let Some(ladder) = &model.reasoning().ladder else {
            return;
        };
        let share = |i: usize| {
            let (share, _) = left.share(&ladder.rungs[i]);
            share.is_finite().then_some(share as f32)
        };
        for i in from..rung {
            let choice = Choice::RungLeftOut {
                rung: i,
                route: ladder.rungs[i].route.clone(),
                share: share(i),
            };
            run.decide(&mut self.queue, choice);
        }
        let choice = Choice::RungTaken {
            rung,
            route: ladder.rungs[rung].route.clone(),
            threshold: ladder.rungs[rung].threshold,
            share: share(rung),
        };
        run.decide(&mut self.queue, choice);
    }

    /// The answer of a run has come to its end: it stands, or an earlier one does, or the next rung follows.
    pub(super) fn end_answer(&mut self, mut run: Run, reason: FinishReason) -> Result<()> {
        run.ending = Some(reason);
        if run.climb.is_some()
            && let Some(next) = self.judge(&mut run, reason)?
        {
            self.run = Some(next);
            return Ok(());
        }
        run.show_rest(&mut self.queue)?;
        self.run = Some(run);
        Ok(())
    }

    /// Judges the answer of a rung; the run along the next one, if that follows.
    fn judge(&mut self, run: &mut Run, reason: FinishReason) -> Result<Option<Run>> {
        let Some(climb) = run.climb.clone() else {
            return Ok(None);
        };
        let rung = climb.rung;
        let threshold = self.ladder().rungs[rung].threshold;
        // What a limit ended is no whole answer and not as sure as its words, and no words are no answer.
        let long = run.answer.usage.answer_tokens == run.max_answer_tokens;
        let ended = reason == FinishReason::Stop || long;
        let confidence = match ended && !run.answered.is_empty() {
            true => run.smallest,
            false => 0.0,
        };
        let place = run.place();
        let accepted = match &run.replay {
            Some(replay) => replay.accepts(place),
            None => threshold.is_some_and(|threshold| !run.cut && confidence >= threshold),
        };
        if let Some(threshold) = threshold {
            if accepted {
                let choice = Choice::RungAccepted {
                    rung,
                    confidence,
                    threshold,
                };
                run.decide(&mut self.queue, choice);
                return Ok(None);
            }
            if let Some(next) = self.escalate(run, &climb, confidence, threshold)? {
                return Ok(Some(next));
            }
        }
        let surer = climb.kept.clone().filter(|kept| match &run.replay {
            Some(replay) => replay.recalls(place),
            None => (run.cut || !ended) && kept.confidence() > confidence,
        });
        match surer {
            Some(kept) => self.recall(run, kept)?,
            None => {
                let above = self.ladder().rungs.get(rung + 1);
                let limit = above.and_then(|above| self.left(run, &climb).share(above).1);
                let choice = Choice::RungStands {
                    rung,
                    confidence,
                    limit,
                };
                run.decide(&mut self.queue, choice);
            }
        }
        Ok(None)
    }

    /// What is left after the rungs before and this one.
    fn left(&self, run: &Run, climb: &Climb) -> Left {
        let (budget, spent) = (climb.ask.budget, climb.spent.and(&self.books(run)));
        let left = |limit: Option<usize>, spent: u32| {
            limit.map_or(f64::INFINITY, |limit| limit as f64 - f64::from(spent))
        };
        Left {
            tokens: left(budget.tokens, spent.generated_tokens),
            layer_passes: left(budget.layer_passes, spent.layer_passes),
            positions: run.account.deadline.map_or(f64::INFINITY, |deadline| {
                let time = deadline.saturating_duration_since(run.clock.now());
                self.pace.steps_in(time)
            }),
        }
    }

    /// The run along the next rung that pays, if one does.
    fn escalate(
        &mut self,
        run: &mut Run,
        climb: &Climb,
        confidence: f32,
        threshold: f32,
    ) -> Result<Option<Run>> {
        let (rung, left) = (climb.rung, self.left(run, climb));
        let place = run.place();
        let ladder = self.ladder();
        let floor = ladder.rungs[rung]
            .sorted
            .map_or(0.0, |sorted| sorted.rejected_accuracy);
        let taken = match &run.replay {
            Some(replay) if replay.escalates(place) => replay.rung(),
            Some(_) => None,
            None => choose(ladder, rung + 1, left, f64::from(floor)),
        };
        let Some(taken) = taken.filter(|taken| (rung + 1..ladder.rungs.len()).contains(taken))
        else {
            return Ok(None);
        };
        let mut usage = self.books(run);
        usage.ms_answer = run.clock.since(run.phase_began).as_secs_f64() * 1e3;
        let spent = climb.spent.and(&usage);
        let question = run.prompt[..climb.question].to_vec();
        let mut ask = climb.ask.clone();
        if !self.leave(&mut ask, &spent, taken)? {
            return Ok(None);
        }
        // An answer is there: what does not fit beside it is no error.
        let dispensable = |kind: ErrorKind| {
            matches!(
                kind,
                ErrorKind::Argument | ErrorKind::ContextFull | ErrorKind::Memory
            )
        };
        let mut next = match self.rung_run(&question, &ask, taken) {
            Ok(next) => next,
            Err(error) if dispensable(error.kind()) => return Ok(None),
            Err(error) => return Err(error),
        };
        let reused = climb.question.min(next.prompt.len() - 1);
        self.release_aside();
        match self
            .make_ready(&next)
            .and_then(|()| self.session.truncate(reused))
        {
            Ok(()) => self.prompt.truncate(reused),
            Err(error) if dispensable(error.kind()) => return Ok(None),
            Err(error) => return Err(error),
        }
        let milliseconds = usage.ms_prefill + usage.ms_thinking + usage.ms_answer;
        let choice = Choice::RungEscalated {
            rung,
            confidence,
            threshold,
            tokens: usage.generated_tokens,
            layer_passes: usage.layer_passes,
            milliseconds,
        };
        run.decide(&mut self.queue, choice);
        let mut kept = climb.kept.clone();
        if kept
            .as_ref()
            .is_none_or(|kept| confidence > kept.confidence())
            && confidence > 0.0
        {
            kept = Some(Kept {
                rung: narrow(rung),
                answered: run.answered.iter().map(thought::token).collect(),
                confidence: confidence.to_bits(),
                thinking: std::mem::take(&mut run.answer.thinking),
                thinking_ids: std::mem::take(&mut run.answer.thinking_ids),
                thinking_tokens: narrow(usage.thinking_tokens),
                answer_tokens: narrow(usage.answer_tokens),
                probe_tokens: narrow(usage.probe_tokens),
            });
        }
        next.prompt_begun = true;
        next.asked = run.asked;
        next.account.deadline = run.account.deadline;
        next.before = self.usage();
        next.read = next.before;
        next.answer.decisions = std::mem::take(&mut run.answer.decisions);
        next.replay = run.replay.take();
        next.climb = Some(Box::new(Climb {
            ask: climb.ask.clone(),
            rung: taken,
            question: climb.question,
            spent,
            kept,
            recalled: false,
        }));
        self.note_rung(&mut next, rung + 1, taken, left);
        Ok(Some(next))
    }

    /// Takes what was spent from the limits of `ask`; false if not even the open of `rung` can be read.
    fn leave(&self, ask: &mut Ask, spent: &Spending, rung: usize) -> Result<bool> {
        if spent.rungs == 0 {
            return Ok(true);
        }
        let model = self.model();
        let route = model.reasoning().route(&self.ladder().rungs[rung].route)?;
        if let Some(tokens) = &mut ask.budget.tokens {
            *tokens = tokens.saturating_sub(spent.generated_tokens as usize);
        }
        if let Some(passes) = &mut ask.budget.layer_passes {
            // No part of the prompt that no limit counts. Without an open the prompt's last token is read again.
            let open = route.open.len().max(1) * model.config().num_hidden_layers;
            let Some(rest) = passes.checked_sub(spent.layer_passes as usize + open) else {
                return Ok(false);
            };
            *passes = rest;
        }
        Ok(true)
    }

    /// A run that goes on where `note` says that it was on the ladder.
    pub(super) fn resume_climb(
        &self,
        prompt: &[TokenId],
        ask: &Ask,
        note: &ClimbNote,
    ) -> Result<Run> {
        let (rung, rungs) = (note.rung as usize, &self.ladder().rungs);
        let along = rungs.get(note.along as usize);
        let along = along.ok_or_else(|| thought::inconsistent("its ladder has no such rung"))?;
        if let Some(kept) = &note.kept {
            let ids = kept.answered.iter().map(|(id, _)| *id);
            let ids: Vec<TokenId> = ids.chain(kept.thinking_ids.iter().copied()).collect();
            self.model().check_ids(&ids)?;
        }
        let mut rest = ask.clone();
        if !self.leave(&mut rest, &note.spent, rung)? {
            let message = "it has spent more layer passes than it may";
            return Err(thought::inconsistent(message));
        }
        let mut run = self.rung_run(prompt, &rest, rung)?;
        run.answer.along.clone_from(&along.route);
        run.cut = note.cut;
        run.climb = Some(Box::new(Climb {
            ask: ask.clone(),
            rung,
            question: prompt.len(),
            spent: note.spent,
            kept: note.kept.clone(),
            recalled: note.recalled,
        }));
        Ok(run)
    }

    /// Makes an earlier answer the answer; this rung's thinking was for nothing.
    pub(super) fn recall(&mut self, run: &mut Run, kept: Kept) -> Result<()> {
        let model = self.model().clone();
        let rung = kept.rung as usize;
        let choice = Choice::RungRecalled {
            rung,
            confidence: kept.confidence(),
        };
        run.decide(&mut self.queue, choice);
        let generated = |usage: &Usage| {
            narrow(usage.thinking_tokens + usage.answer_tokens + usage.probe_tokens)
        };
        let own = generated(&run.answer.usage);
        run.take_books(&kept);
        let of_kept = generated(&run.answer.usage);
        if let Some(climb) = &mut run.climb {
            let spent = &mut climb.spent;
            spent.generated_tokens = spent
                .generated_tokens
                .saturating_add(own)
                .saturating_sub(of_kept);
            climb.recalled = true;
            climb.kept = Some(kept.clone());
        }
        if let Some(ladder) = &model.reasoning().ladder
            && let Some(rung) = ladder.rungs.get(rung)
        {
            run.answer.along.clone_from(&rung.route);
        }
        let answered: Vec<Sampled> = kept.answered.iter().map(thought::sampled).collect();
        run.answer.ids = answered.iter().map(|sampled| sampled.id).collect();
        run.answer.text.clear();
        run.answer_text = TextStream::new(model.tokenizer()?, &run.stop_strings);
        run.held = None;
        run.probabilities = 0.0;
        for sampled in &answered {
            run.probabilities += f64::from(sampled.logprob).exp();
            let (piece, _) = run.answer_text.push(sampled.id, sampled.logprob)?;
            run.show_answer(&mut self.queue, piece);
        }
        run.answered = answered;
        // The session has no part in it.
        run.pending.clear();
        run.drafted.clear();
        run.from_best = true;
        run.ending = Some(FinishReason::Budget);
        Ok(())
    }
}

impl Run {
    /// Takes over what is told of an earlier answer, but for its words.
    pub(super) fn take_books(&mut self, kept: &Kept) {
        let usage = &mut self.answer.usage;
        usage.thinking_tokens = kept.thinking_tokens as usize;
        usage.answer_tokens = kept.answer_tokens as usize;
        usage.probe_tokens = kept.probe_tokens as usize;
        usage.skipped_tokens = 0;
        self.answer.thinking.clone_from(&kept.thinking);
        self.answer.thinking_ids.clone_from(&kept.thinking_ids);
        self.smallest = kept.confidence();
    }

    /// Whether the answer may not be the one that stands.
    pub(super) fn may_not_stand(&self) -> bool {
        self.climb.as_ref().is_some_and(|climb| {
            let ladder = self.model.reasoning().ladder.as_ref();
            let threshold = ladder.and_then(|ladder| ladder.rungs.get(climb.rung)?.threshold);
            threshold.is_some() || climb.kept.is_some()
        })
    }

    pub(super) fn climb_note(&self) -> Option<ClimbNote> {
        let climb = self.climb.as_ref()?;
        let rungs = &self.model.reasoning().ladder.as_ref()?.rungs;
        let along = rungs
            .iter()
            .position(|rung| rung.route == self.answer.along);
        Some(ClimbNote {
            rung: narrow(climb.rung),
            along: narrow(along.unwrap_or(climb.rung)),
            cut: self.cut,
            spent: climb.spent,
            kept: climb.kept.clone(),
            recalled: climb.recalled,
        })
    }
}
