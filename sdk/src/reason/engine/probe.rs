//! Probes: what would the student answer if its thinking ended here, and how sure is it?
//!
//! ```text
//! session   prompt · thinking ────────────────▶ goes on as if nothing had been
//!                           └ follow, full blocks shared
//! aside                       close · answer ─▶ confidence; taken over if the policy settles for it
//! ```

use super::run::{Draft, Run};
use super::{Engine, Result};
use crate::error::{Error, ErrorKind};
use crate::generate::TextStream;
use crate::reason::budget::Limit;
use crate::reason::event::{Choice, Event, Probe, SkipReason};
use crate::reason::gate::certainty;
use crate::sampler::{Sampled, Sampler, SamplerOptions};
use crate::session::Session;
use crate::spec::{Depth, GateKind};

/// What was seen aside.
struct Seen {
    sampled: Vec<Sampled>,
    complete: bool,
    /// A token fell below what was of interest, or time was up.
    given_up: bool,
    /// Smallest probability of the tokens.
    smallest: f32,
    /// Certainty of the first token's distribution.
    first: f32,
}

impl Engine {
    /// Looks aside how sure the student is; see [`NextStep::Probe`](super::NextStep::Probe).
    pub(super) fn probe(&mut self, run: &mut Run, gate: GateKind, at_least: f32) -> Result<()> {
        if run.confidence.is_some() {
            let message = "the policy probes twice at one place";
            return Err(Error::new(ErrorKind::Argument, message));
        }
        let began = run.clock.now();
        let fed = run.pending.len();
        self.advance(run)?;
        if fed > 0 {
            self.pace.observe(run.clock.since(began), fed);
        }
        let next = matches!(gate, GateKind::Entropy | GateKind::MaxProb);
        let mut found = Probe {
            gate,
            confidence: 0.0,
            chunks: run.chunks,
            thinking_tokens: run.answer.usage.thinking_tokens,
            ids: Vec::new(),
            logprobs: Vec::new(),
            complete: false,
            tokens: 0,
        };
        if next {
            if self.session.logits().is_none() {
                self.session.head()?;
            }
            found.confidence = certainty(gate, self.session.logits().unwrap_or_default());
        }
        if !next || run.keep_best {
            let decodes = run.keep_best || gate == GateKind::Answer;
            let wanted = if decodes { run.probe_limit } else { 1 };
            let close = run.close.rest().len();
            let told = run
                .replay
                .as_ref()
                .and_then(|replay| match replay.at(run.place()) {
                    Some(Choice::ProbeLeftOut(limit)) => Some(Err(*limit)),
                    Some(Choice::ProbeCut { tokens, .. }) => Some(Ok(wanted.min(*tokens))),
                    _ => None,
                });
            let affordable = told.unwrap_or_else(|| {
                let spent = self.spent(run);
                run.account.probe_tokens(close, wanted, &spent, self.pace)
            });
            let most = match affordable {
                Ok(most) => most,
                Err(limit) => return self.leave_out(run, found, limit),
            };
            match self.prepare(close + most - 1) {
                Err(error) if error.kind() == ErrorKind::Memory => {
                    return self.leave_out(run, found, Limit::Memory);
                }
                prepared => prepared?,
            }
            let before = self.usage().layer_passes;
            let most = if decodes { most } else { 0 };
            let at_least = if gate == GateKind::Answer {
                at_least
            } else {
                0.0
            };
            let seen = self.look_aside(run, gate, most, at_least)?;
            let unsure = seen.smallest < at_least;
            if decodes && !seen.complete && !unsure && seen.sampled.len() < wanted {
                let choice = Choice::ProbeCut {
                    tokens: seen.sampled.len(),
                    given_up: seen.given_up,
                };
                run.decide(&mut self.queue, choice);
            }
            let layer_passes = self.usage().layer_passes - before;
            found.confidence = match gate {
                GateKind::Answer => seen.smallest,
                _ if next => found.confidence,
                _ => seen.first,
            };
            let answer = seen.sampled.len() - usize::from(seen.complete && decodes_end(run, &seen));
            found.ids = seen.sampled[..answer].iter().map(|s| s.id).collect();
            found.logprobs = seen.sampled.iter().map(|s| s.logprob).collect();
            found.complete = seen.complete;
            found.tokens = close + seen.sampled.len();
            let usage = &mut run.answer.usage;
            usage.probe_tokens += found.tokens;
            usage.probe_layer_passes += layer_passes;
            run.draft = (!seen.given_up).then_some(Draft {
                sampled: seen.sampled,
                complete: seen.complete,
                confidence: seen.smallest,
                chunks: run.chunks,
                close,
                layer_passes,
            });
            if run.keep_best && run.draft.is_some() {
                run.best.clone_from(&run.draft);
            }
            // What has an end needs the session no more.
            if run.draft.as_ref().is_none_or(|draft| draft.complete) {
                self.release_aside();
            }
        }
        run.answer.usage.probes += 1;
        run.confidence = Some(found.confidence);
        run.decide(&mut self.queue, Choice::Probed(found.confidence));
        self.queue.push_back(Event::Probed(found));
        Ok(())
    }

    /// Makes what a probe decoded the answer: its tokens are not computed again.
    pub(super) fn commit(&mut self, run: &mut Run, draft: Draft) -> Result<()> {
        if !draft.complete
            && let Some(aside) = &mut self.aside
        {
            self.session.follow(aside, None)?;
            aside.release();
            // An answer that began greedily goes on so.
            if !draft.sampled.is_empty()
                && let Some(prober) = run.prober.take()
            {
                run.sampler = prober;
                run.settled = true;
            }
            self.note_kv(run);
        }
        let usage = &mut run.answer.usage;
        usage.probe_tokens -= draft.close + draft.sampled.len();
        usage.probe_layer_passes -= draft.layer_passes;
        usage.thinking_tokens += draft.close;
        run.drafted = draft.sampled.into();
        // It is whole already, or goes on from here.
        run.best = None;
        run.end_thinking(&mut self.queue, Some(SkipReason::Settled))
    }

    /// The session of probes.
    pub(super) fn aside(&mut self) -> Result<&mut Session> {
        let aside = match self.aside.take() {
            Some(aside) => aside,
            None => self.session.companion()?,
        };
        Ok(self.aside.insert(aside))
    }

    pub(super) fn release_aside(&mut self) {
        if let Some(aside) = &mut self.aside {
            aside.release();
        }
    }

    /// Makes the session of probes a fork of the other, with room for `room` positions.
    fn prepare(&mut self, room: usize) -> Result<()> {
        self.aside()?;
        match &mut self.aside {
            Some(aside) => aside.follow(&self.session, Some(room)),
            None => Ok(()),
        }
    }

    fn leave_out(&mut self, run: &mut Run, found: Probe, limit: Limit) -> Result<()> {
        run.confidence = Some(found.confidence);
        run.decide(&mut self.queue, Choice::ProbeLeftOut(limit));
        Ok(())
    }

    /// Closes the thinking aside and decodes at most `most` tokens, until one has a probability below `at_least`.
    fn look_aside(
        &mut self,
        run: &mut Run,
        gate: GateKind,
        most: usize,
        at_least: f32,
    ) -> Result<Seen> {
        let out_of_time = match run.replay.as_ref().and_then(|log| log.at(run.place())) {
            Some(Choice::ProbeCut { given_up, .. }) => *given_up,
            _ => false,
        };
        let pace = &mut self.pace;
        let aside = match &mut self.aside {
            Some(aside) => aside,
            None => return Err(Error::new(ErrorKind::Argument, "no session to look aside")),
        };
        let prober = match &mut run.prober {
            Some(prober) => prober,
            none => none.insert(greedy(&run.sampler, run.model.config().vocab_size)?),
        };
        if prober.options().repetition_penalty != 1.0 {
            prober.reset();
            prober.observe(&run.prompt);
            prober.observe(&run.answer.thinking_ids);
            prober.observe(run.chunk_separator.as_slice());
        }
        let close = run.close.rest();
        if !close.is_empty() {
            let began = run.clock.now();
            aside.feed(close)?;
            pace.observe(run.clock.since(began), close.len());
        }
        if aside.logits().is_none() {
            aside.head()?;
        }
        let mut seen = Seen {
            sampled: Vec::with_capacity(most),
            complete: false,
            given_up: out_of_time,
            smallest: 1.0,
            first: certainty(gate, aside.logits().unwrap_or_default()),
        };
        let mut text = match run.stop_strings.is_empty() {
            true => None,
            false => Some(TextStream::new(run.model.tokenizer()?, &run.stop_strings)),
        };
        while seen.sampled.len() < most {
            if let Some(last) = seen.sampled.last() {
                if run.account.out_of_time(1, *pace) {
                    seen.given_up = true;
                    break;
                }
                let began = run.clock.now();
                match &run.depth {
                    Depth::Exits(exits) => {
                        let usage = &run.answer.usage;
                        let before = usage.thinking_tokens + usage.answer_tokens;
                        aside.step_exit(last.id, exits, before + seen.sampled.len())?;
                    }
                    _ => {
                        aside.step(last.id)?;
                    }
                }
                pace.observe(run.clock.since(began), 1);
            }
            let sampled = prober.sample(aside.logits().unwrap_or_default())?;
            seen.smallest = seen.smallest.min(sampled.logprob.exp());
            seen.sampled.push(sampled);
            let stop = match &mut text {
                Some(text) => text.push(sampled.id, sampled.logprob)?.1,
                None => false,
            };
            seen.given_up = out_of_time || seen.smallest < at_least;
            seen.complete = stop || run.stop_ids.contains(&sampled.id);
            if seen.complete || seen.smallest < at_least {
                break;
            }
        }
        Ok(seen)
    }
}

/// Whether the last token is an end token, and no part of the answer; a stop string ends an answer with what it stands in.
fn decodes_end(run: &Run, seen: &Seen) -> bool {
    let last = seen.sampled.last();
    last.is_some_and(|last| run.stop_ids.contains(&last.id))
}

/// A sampler that takes the most likely token of what `sampler` allows.
pub(super) fn greedy(sampler: &Sampler, vocab_size: usize) -> Result<Sampler> {
    let options = SamplerOptions {
        temperature: 0.0,
        logprobs: Some(0),
        ..sampler.options().clone()
    };
    Sampler::new(vocab_size, options)
}
