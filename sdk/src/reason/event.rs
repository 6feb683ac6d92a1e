//! What an engine tells while it works, and what it returns.

use serde::Serialize;

use super::budget::Limit;
use crate::config::TokenId;
use crate::generate::{FinishReason, Piece};

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
    /// A chunk of thinking begins. A student without a chunk separator thinks in one chunk.
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
    },
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

/// Something that the engine or a policy decided, for the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// Generated tokens at that moment.
    pub generated_tokens: usize,
    /// Milliseconds since the question.
    pub milliseconds: f64,
    /// What was decided.
    pub choice: Choice,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    /// A limit ended the answer.
    AnswerCut(Limit),
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
    /// `thinking_tokens + answer_tokens`: what a token budget limits.
    pub generated_tokens: usize,
    /// Latent steps.
    pub latent_steps: usize,
    /// Layers run per position, after the prompt: what a budget of layer passes limits.
    pub layer_passes: usize,
    /// Layers run per position, in the prompt.
    pub prompt_layer_passes: usize,
    /// Times the LM head ran.
    pub head_passes: usize,
    /// Milliseconds of reading the prompt.
    pub ms_prefill: f64,
    /// Milliseconds from there to the end of the thinking.
    pub ms_thinking: f64,
    /// Milliseconds from there to the end.
    pub ms_answer: f64,
    /// Bytes of the KV blocks that held entries at the end.
    pub kv_bytes: u64,
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
    /// The route that was taken.
    pub route: String,
    /// Mean probability of the answer's tokens (stop token not counted) under the model, from 0 to 1; 0 for an empty answer.
    /// It says how sure the student was of its words, which is not how likely they are to be right.
    pub confidence: f32,
    /// What it cost.
    pub usage: Usage,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What was decided on the way.
    pub decisions: Vec<Decision>,
}
