//! A question in progress as data: what was sampled so far, and the state of the draws.
//!
//! Nothing of the books of a [`Run`] is written. They follow from what was sampled: to go on, a new run takes in the same tokens again,
//! without computing anything, and tells its events anew. Keys and values come with the session.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Engine;
use super::climb::ClimbNote;
use super::probe::greedy;
use super::run::{Phase, Run};
use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};
use crate::generate::FinishReason;
use crate::reason::event::{Choice, Event};
use crate::sampler::Sampled;
use crate::session::Session;

/// A token and the bits of its log-probability, which JSON would round or, for NaN, lose.
pub(super) type Token = (TokenId, u32);

pub(super) fn token(sampled: &Sampled) -> Token {
    (sampled.id, sampled.logprob.to_bits())
}

pub(super) fn sampled(token: &Token) -> Sampled {
    Sampled {
        id: token.0,
        logprob: f32::from_bits(token.1),
    }
}

/// What the counts of the session cannot tell, since they begin with it. Narrow, so that sums of hostile ones do not overflow.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Earlier {
    pub(super) layer_passes: u32,
    pub(super) prompt_layer_passes: u32,
    pub(super) head_passes: u32,
    pub(super) exits: u32,
    pub(super) kv_passes: u32,
    /// Tokens that lower layers drafted.
    pub(super) guessed: u32,
    /// Of these, tokens that the others verified.
    pub(super) accepted: u32,
    reused_tokens: u32,
    probes: u32,
    probe_tokens: u32,
    probe_layer_passes: u32,
    skipped_tokens: u32,
    dropped_tokens: u32,
    peak_kv_bytes: u64,
    /// Of the phases that are over, and of the one that is not.
    us_prefill: u32,
    us_thinking: u32,
    us_phase: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    Prompt,
    Thinking,
    Answering,
}

/// See the [module](self).
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Thought {
    pub(super) route: String,
    stage: Stage,
    /// With the route's open.
    pub(super) prompt: Vec<TokenId>,
    /// Whether the session holds a beginning of this prompt, rather than what another question left.
    begun: bool,
    /// Thinking: tokens, and `null` for latent steps.
    steps: Vec<Option<Token>>,
    answered: Vec<Token>,
    /// Sampled for the answer, not taken yet.
    drafted: Vec<Token>,
    from_best: bool,
    /// The answer goes on greedily, as the probe that began it.
    greedy: bool,
    /// Why nothing but the end is left to be told.
    ending: Option<FinishReason>,
    /// The end token is counted, and not among `answered`.
    answer_tokens: u32,
    /// Finished chunks whose entries are still to be dropped.
    undropped: usize,
    random: [u64; 4],
    earlier: Earlier,
    /// Where it stands on a ladder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) climb: Option<ClimbNote>,
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn micros(ms: f64) -> u32 {
    // A cast saturates.
    (ms * 1e3) as u32
}

pub(super) fn inconsistent(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Format, message).at("the question")
}

impl Thought {
    pub(super) fn of(run: &Run, engine: &Engine) -> Thought {
        let (now, usage) = (engine.usage(), &run.answer.usage);
        let layer_passes = match run.phase {
            Phase::Prompt => 0,
            _ => now.layer_passes - run.read.layer_passes,
        };
        let prompt_passes = match run.phase {
            Phase::Prompt => now.layer_passes - run.before.layer_passes,
            _ => run.read.layer_passes - run.before.layer_passes,
        };
        let heads = now.head_passes - run.before.head_passes;
        let since = run.clock.since(run.phase_began).as_secs_f64() * 1e3;
        let before = &run.earlier;
        let add = |before: u32, count: usize| before.saturating_add(narrow(count));
        Thought {
            route: run.answer.route.clone(),
            stage: match run.phase {
                Phase::Prompt => Stage::Prompt,
                Phase::Thinking => Stage::Thinking,
                Phase::Answering => Stage::Answering,
            },
            prompt: run.prompt.clone(),
            begun: run.prompt_begun,
            steps: run
                .steps
                .iter()
                .map(|step| step.as_ref().map(token))
                .collect(),
            answered: run.answered.iter().map(token).collect(),
            drafted: run.drafted.iter().map(token).collect(),
            from_best: run.from_best,
            greedy: run.settled,
            ending: run.ending,
            answer_tokens: narrow(usage.answer_tokens),
            undropped: run.finished.len(),
            random: run.sampler.random(),
            climb: run.climb_note(),
            earlier: Earlier {
                layer_passes: add(before.layer_passes, layer_passes),
                prompt_layer_passes: add(before.prompt_layer_passes, prompt_passes),
                head_passes: add(before.head_passes, heads),
                exits: add(before.exits, now.exits - run.before.exits),
                kv_passes: add(before.kv_passes, now.kv_passes - run.before.kv_passes),
                guessed: add(before.guessed, now.drafted - run.before.drafted),
                accepted: add(before.accepted, now.accepted - run.before.accepted),
                reused_tokens: narrow(usage.reused_tokens),
                probes: narrow(usage.probes),
                probe_tokens: narrow(usage.probe_tokens),
                probe_layer_passes: narrow(usage.probe_layer_passes),
                skipped_tokens: narrow(usage.skipped_tokens),
                dropped_tokens: narrow(usage.dropped_tokens),
                peak_kv_bytes: usage.peak_kv_bytes,
                us_prefill: micros(usage.ms_prefill),
                us_thinking: micros(usage.ms_thinking),
                us_phase: micros(since),
            },
        }
    }

    pub(super) fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|error| Error::new(ErrorKind::Argument, error.to_string()).with_source(error))
    }

    /// Reads what [`Thought::to_json`] wrote; whether it fits is seen when it is [taken in](Run::take_in).
    pub(super) fn from_json(json: &[u8]) -> Result<Thought> {
        serde_json::from_slice(json)
            .map_err(|error| inconsistent(error.to_string()).with_source(error))
    }
}

impl Run {
    /// Brings a new run to where `thought` was left, beside a session at `position` that holds `fed` tokens of a prompt.
    pub(super) fn take_in(
        &mut self,
        thought: &Thought,
        session: &Session,
        position: usize,
        fed: &[TokenId],
        queue: &mut VecDeque<Event>,
    ) -> Result<()> {
        let ids = thought.steps.iter().flatten();
        let ids = ids.chain(&thought.answered).chain(&thought.drafted);
        for (id, _) in ids {
            session.model().check_ids(&[*id])?;
        }
        self.prompt_begun = thought.begun;
        self.sampler.set_random(thought.random);
        self.restore_books(&thought.earlier);
        if thought.stage == Stage::Prompt {
            let whole = !thought.begun
                || (position == fed.len() && self.prompt.starts_with(fed) && fed != self.prompt);
            if !whole || !thought.steps.is_empty() || !thought.answered.is_empty() {
                return Err(inconsistent(
                    "what was read is not the beginning of its prompt",
                ));
            }
            return Ok(());
        }
        if !thought.begun || fed != self.prompt {
            return Err(inconsistent("its prompt is not what was read"));
        }
        // What follows the prompt: of which the session holds the first part, and the rest is still to be fed.
        let mut sequence: Vec<Option<TokenId>> = Vec::new();
        self.end_phase(Phase::Thinking);
        self.chunk_began = self.phase_began;
        for step in &thought.steps {
            if self.phase != Phase::Thinking {
                return Err(inconsistent("its thinking goes on after its end"));
            }
            let at = self.prompt.len() + sequence.len();
            match step {
                Some(step) => {
                    let sampled = sampled(step);
                    self.sampler.observe(&[sampled.id]);
                    let closed = self.take_thought(queue, sampled, at)?;
                    sequence.extend(self.pending.drain(..).map(Some));
                    if closed.is_some() {
                        self.close(queue, None)?;
                    }
                }
                None => {
                    self.take_latent(queue);
                    sequence.push(None);
                }
            }
        }
        let answers = thought.stage == Stage::Answering;
        if answers && self.phase == Phase::Thinking {
            self.close(queue, None)?;
        }
        let answered =
            !thought.answered.is_empty() || !thought.drafted.is_empty() || thought.from_best;
        if !answers && (self.phase != Phase::Thinking || answered || thought.ending.is_some()) {
            return Err(inconsistent("its thinking has ended"));
        }
        sequence.extend(self.pending.drain(..).map(Some));
        if thought.greedy {
            self.sampler = greedy(&self.sampler, session.model().config().vocab_size)?;
            self.settled = true;
        }
        for answered in &thought.answered {
            let sampled = sampled(answered);
            self.sampler.observe(&[sampled.id]);
            let stopped = self.take_answer(queue, sampled)?.is_some();
            // The last one may complete a stop string.
            let last = self.answered.len() == thought.answered.len();
            if stopped && !(last && thought.ending.is_some()) {
                return Err(inconsistent("its answer goes on after its end"));
            }
            sequence.extend(self.pending.drain(..).map(Some));
        }
        self.drafted = thought.drafted.iter().map(sampled).collect();
        self.from_best = thought.from_best;
        let done = position.checked_sub(self.prompt.len());
        let done = done.ok_or_else(|| inconsistent("its prompt was not read to the end"))?;
        if self.from_best || !self.drafted.is_empty() {
            // The session has no part in what is left, or is ahead of it by what was drafted.
            sequence.extend(self.drafted.iter().map(|sampled| Some(sampled.id)));
            if !self.from_best && done > sequence.len() {
                return Err(inconsistent("it is shorter than what was computed"));
            }
        } else {
            let rest = sequence
                .get(done..)
                .ok_or_else(|| inconsistent("it is shorter than what was computed"))?;
            let rest: Option<Vec<TokenId>> = rest.iter().copied().collect();
            self.pending = rest.ok_or_else(|| inconsistent("a latent step was not computed"))?;
        }
        let dropped = self.finished.len().saturating_sub(thought.undropped);
        self.finished.drain(..dropped);
        if answers {
            self.answer.usage.answer_tokens = thought.answer_tokens as usize;
        }
        self.ending = thought.ending;
        if self.ending.is_some() {
            self.show_rest(queue)?;
        }
        // Replayed without computing: the counts of probes, of what was skipped and dropped come from before.
        self.restore_books(&thought.earlier);
        if let Some(climb) = self.climb.clone().filter(|climb| climb.recalled)
            && let Some(kept) = &climb.kept
        {
            self.take_books(kept);
        }
        let tokens = self.answer.usage.thinking_tokens;
        self.decide(queue, Choice::Resumed(tokens));
        Ok(())
    }

    fn restore_books(&mut self, earlier: &Earlier) {
        self.earlier = *earlier;
        let usage = &mut self.answer.usage;
        usage.reused_tokens = earlier.reused_tokens as usize;
        usage.probes = earlier.probes as usize;
        usage.probe_tokens = earlier.probe_tokens as usize;
        usage.probe_layer_passes = earlier.probe_layer_passes as usize;
        usage.skipped_tokens = earlier.skipped_tokens as usize;
        usage.dropped_tokens = earlier.dropped_tokens as usize;
        usage.peak_kv_bytes = earlier.peak_kv_bytes;
        usage.ms_prefill = f64::from(earlier.us_prefill) / 1e3;
        usage.ms_thinking = f64::from(earlier.us_thinking) / 1e3;
        let since = Duration::from_micros(u64::from(earlier.us_phase));
        let now = self.clock.now();
        self.phase_began = now.checked_sub(since).unwrap_or(now);
    }
}
