//! What an engine tells while it works, and what it returns.

use serde::{Deserialize, Serialize};

use super::budget::Limit;
use crate::config::TokenId;
use crate::generate::{FinishReason, Piece};
use crate::spec::GateKind;

/// One thing that happened. Text is whole characters; special tokens are not shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A route was chosen; the prompt is read next.
    Started {
        /// Its name.
        route: String,
        /// Tokens of the prompt, the route's open included.
        prompt_tokens: usize,
    },
    /// A chunk of thinking begins. A student whose bundle does not say where chunks end thinks in one.
    ChunkStarted {
        /// From 0.
        index: usize,
    },
    /// Text of the thinking.
    ThinkingText(Piece),
    /// A chunk of thinking ended.
    ChunkFinished {
        /// From 0.
        index: usize,
        /// Its tokens, separator and close not counted.
        tokens: usize,
        /// Milliseconds since the end of the chunk before, or of the prompt; probes included.
        ms: f64,
        /// The student ended it where chunks end; otherwise the thinking ended with it.
        complete: bool,
    },
    /// The thinking ended before the student closed it: what would have followed is not written.
    ChunkSkipped {
        /// Why.
        reason: SkipReason,
        /// Thinking tokens that were still to be expected: the mean of what is left of those lengths that were longer, of the
        /// questions that the route was measured on ([`RouteSpec::thinking_quantiles`](crate::RouteSpec::thinking_quantiles)).
        /// An estimate of the route, not of this question; probes are not subtracted. `None` if the route was not measured.
        tokens_saved: Option<usize>,
    },
    /// The student was asked on the side how sure it is; nothing of that is part of the thinking.
    Probed(Probe),
    /// A latent step was taken.
    LatentStep {
        /// From 0.
        index: usize,
    },
    /// Something was decided.
    Decision(Decision),
    /// Text of the answer.
    AnswerText(Piece),
    /// The end.
    Finished(Box<Answer>),
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Probe {
    /// What was looked at.
    pub gate: GateKind,
    /// From 0 to 1, larger when surer; an upper bound if the probe ended early.
    pub confidence: f32,
    /// Chunks that were finished before.
    pub chunks: usize,
    /// Thinking tokens before.
    pub thinking_tokens: usize,
    /// The answer, without the end token; as far as it was decoded.
    pub ids: Vec<TokenId>,
    /// Log-probabilities of `ids`, and of the end token if `complete`.
    pub logprobs: Vec<f32>,
    /// The answer was decoded to its end.
    pub complete: bool,
    /// Tokens it generated, the close included.
    pub tokens: usize,
}

/// Why the rest of the thinking was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SkipReason {
    /// The answer was settled: the gate of `auto`.
    Settled,
    /// A policy ended the thinking.
    Policy,
    /// A limit ended it.
    Limit(Limit),
}

/// Something that the engine or a policy decided, for the log. A log can be followed again: [`Ask::with_replay`](super::Ask::with_replay).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Tokens of thinking and answer at that moment, on a ladder those of the rung.
    pub generated_tokens: usize,
    /// Latent steps at that moment.
    #[serde(default)]
    pub latent_steps: usize,
    /// Milliseconds since the question.
    pub milliseconds: f64,
    /// What was decided.
    pub choice: Choice,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Choice {
    /// This route is taken.
    Route(String),
    /// So many tokens of the prompt were still in the session from the question before.
    PrefixReused(usize),
    /// The student closed its thinking.
    StudentClosed,
    /// The policy ended the thinking; the engine appended the close.
    PolicyClosed,
    /// The student ended the text without closing its thinking; the engine appended the close.
    StudentEnded,
    /// A limit ended the thinking; the engine appended the close.
    ThinkingCut(Limit),
    /// A probe was made, with this confidence.
    Probed(f32),
    /// A probe could not be afforded.
    ProbeLeftOut(Limit),
    /// The policy ended the thinking after a probe of this confidence; what the probe decoded is the answer.
    Settled(f32),
    /// Time was up: the answer is the last one that was ready.
    BestSoFar {
        /// Smallest probability of any of its tokens.
        confidence: f32,
        /// Chunks that were finished before it.
        chunks: usize,
    },
    /// A limit ended a probe before its answer had an end; the next decision is what it found.
    ProbeCut {
        /// Tokens of the answer that it decoded.
        tokens: usize,
        /// Time was up in the middle of it: what it decoded is of no use.
        given_up: bool,
    },
    /// A limit ended the answer.
    AnswerCut(Limit),
    /// A rung of the ladder is taken.
    RungTaken {
        /// From 0, the cheapest.
        rung: usize,
        /// Its route.
        route: String,
        /// The confidence from which on its answer stands; `None`: it does in any case.
        threshold: Option<f32>,
        /// What is left of the scarcest limit, as a multiple of the mean cost of the rung; `None`: nothing is limited.
        share: Option<f32>,
    },
    /// A rung is passed over: under what is left, its trial is not expected to pay.
    RungLeftOut {
        /// From 0, the cheapest.
        rung: usize,
        /// Its route.
        route: String,
        /// As in [`Choice::RungTaken`].
        share: Option<f32>,
    },
    /// The answer of a rung stands: the student was sure enough of it.
    RungAccepted {
        /// From 0, the cheapest.
        rung: usize,
        /// Smallest probability of any token of the answer, the end token included.
        confidence: f32,
        /// What it had to reach.
        threshold: f32,
    },
    /// The student was not sure enough of the answer of a rung: a dearer one follows, from the end of the prompt.
    RungEscalated {
        /// From 0, the cheapest.
        rung: usize,
        /// As in [`Choice::RungAccepted`].
        confidence: f32,
        /// What it had to reach.
        threshold: f32,
        /// Tokens that the rung generated.
        tokens: usize,
        /// Its layer passes.
        layer_passes: usize,
        /// Its time.
        milliseconds: f64,
    },
    /// The answer of a rung stands, since none follows.
    RungStands {
        /// From 0, the cheapest.
        rung: usize,
        /// As in [`Choice::RungAccepted`].
        confidence: f32,
        /// What leaves too little for the rungs above, if something does.
        limit: Option<Limit>,
    },
    /// A limit cut the newest rung short, and the student was surer of its answer on an earlier one: that is the answer.
    RungRecalled {
        /// From 0, the cheapest.
        rung: usize,
        /// As in [`Choice::RungAccepted`].
        confidence: f32,
    },
    /// The question goes on from a file, after so many thinking tokens; what was told before this was not computed again.
    Resumed(usize),
}

impl Choice {
    /// Whether both are the same but for what was measured: confidences differ between processors in their last bits, and time
    /// always does.
    pub(super) fn is_like(&self, other: &Choice) -> bool {
        use Choice::*;
        match (self, other) {
            (Probed(_), Probed(_)) | (Settled(_), Settled(_)) => true,
            (BestSoFar { chunks: a, .. }, BestSoFar { chunks: b, .. }) => a == b,
            (
                RungTaken { rung: a, route, .. },
                RungTaken {
                    rung: b,
                    route: other,
                    ..
                },
            )
            | (
                RungLeftOut { rung: a, route, .. },
                RungLeftOut {
                    rung: b,
                    route: other,
                    ..
                },
            ) => a == b && route == other,
            (RungAccepted { rung: a, .. }, RungAccepted { rung: b, .. })
            | (RungStands { rung: a, .. }, RungStands { rung: b, .. })
            | (RungRecalled { rung: a, .. }, RungRecalled { rung: b, .. }) => a == b,
            (
                RungEscalated {
                    rung: a, tokens, ..
                },
                RungEscalated {
                    rung: b,
                    tokens: other,
                    ..
                },
            ) => a == b && tokens == other,
            (a, b) => a == b,
        }
    }
}

/// What an answer cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Tokens of the prompt, the route's open included.
    pub prompt_tokens: usize,
    /// Of these, tokens that were still in the session and not fed again.
    pub reused_tokens: usize,
    /// Tokens between prompt and answer: thinking, chunk separators, close (sampled or forced).
    pub thinking_tokens: usize,
    /// Tokens of the answer, the stop token included.
    pub answer_tokens: usize,
    /// Tokens that probes generated beside, their close included; those of a probe that became the answer count as its tokens
    /// instead.
    pub probe_tokens: usize,
    /// Tokens that other rungs of the ladder generated than the one whose answer this is.
    pub rejected_tokens: usize,
    /// `thinking_tokens + answer_tokens + probe_tokens + rejected_tokens`: what a token budget limits.
    pub generated_tokens: usize,
    /// Rungs of the ladder that were taken; 0 without one.
    pub rungs: usize,
    /// Probes.
    pub probes: usize,
    /// Thinking tokens that were not written, as far as [`Event::ChunkSkipped`] estimates them.
    pub skipped_tokens: usize,
    /// Thinking tokens whose keys and values were dropped at the end of their chunk.
    pub dropped_tokens: usize,
    /// Latent steps, on every rung.
    pub latent_steps: usize,
    /// Layers run per position, after the prompt, in probes and on every rung too: what a budget of layer passes limits.
    pub layer_passes: usize,
    /// Of these, in probes that did not become the answer.
    pub probe_layer_passes: usize,
    /// Layers run per position, in the prompt.
    pub prompt_layer_passes: usize,
    /// Times the LM head ran per position, in probes too, for guesses and at exits.
    pub head_passes: usize,
    /// Tokens that left layers out, in probes too.
    pub exits: usize,
    /// Layers left out for which keys and values were computed all the same: two products each.
    pub kv_passes: usize,
    /// Tokens that the first layers guessed and the others verified. Their layer and head passes are counted with all others.
    pub drafted_tokens: usize,
    /// Of these, tokens that were right, and cost no pass of their own.
    pub accepted_tokens: usize,
    /// Milliseconds of reading the prompt.
    pub ms_prefill: f64,
    /// Milliseconds from there to the end of the thinking; on a ladder the rungs before the last one are part of it.
    pub ms_thinking: f64,
    /// Milliseconds from there to the end.
    pub ms_answer: f64,
    /// Bytes of the KV blocks that held entries at the end.
    pub kv_bytes: u64,
    /// The most that they were at any time. What a probe holds beside is shared but for its close, its answer and one block per
    /// layer, and not counted.
    pub peak_kv_bytes: u64,
}

/// The result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// The answer's text; empty for a model without a tokenizer.
    pub text: String,
    /// The answer's tokens, without the stop token.
    pub ids: Vec<TokenId>,
    /// The thinking's text; one line per chunk.
    pub thinking: String,
    /// The thinking's tokens as sampled, without the close.
    pub thinking_ids: Vec<TokenId>,
    /// The route that was asked for.
    pub route: String,
    /// The route that the answer came by: the same, and for `auto` the one that it thought along.
    pub along: String,
    /// Mean probability of the answer's tokens (stop token not counted) under the model, from 0 to 1; 0 for an empty answer.
    /// It says how sure the student was of its words, which is not how likely they are to be right.
    pub confidence: f32,
    /// Smallest probability of any of the answer's tokens, the stop token included: what the thresholds of a ladder are held
    /// against. 0 for an empty answer.
    pub certainty: f32,
    /// What it cost.
    pub usage: Usage,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What was decided on the way.
    pub decisions: Vec<Decision>,
}
