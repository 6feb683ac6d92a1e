//! Which routes an imported model has.
//!
//! Published reasoning models mark their thinking with the tokens `<think>` and `</think>`. There are two habits: the model writes
//! `<think>` itself after the chat template's generation prompt (Qwen3), or the generation prompt ends with it (QwQ, DeepSeek-R1).
//! A route's `open` is what has to follow the rendered prompt, so it depends on the habit:
//!
//! | generation prompt | `cot` opens with | `direct` opens with |
//! |---|---|---|
//! | does not end with `<think>` | `<think>` | `<think>\n\n</think>\n\n` |
//! | ends with `<think>` | nothing | `</think>\n\n` |
//!
//! `cot` closes with `</think>` in both.

use std::collections::BTreeMap;

use crate::bundle::BundleSpec;
use crate::chat::{ChatOptions, ChatTemplate, Message};
use crate::config::TokenId;
use crate::error::Result;
use crate::spec::{ReasoningSpec, RouteKind, RouteSpec};
use crate::tokenizer::Tokenizer;

const THINK: &str = "<think>";
const END_OF_THINKING: &str = "</think>";

/// Tokens kept for the answer; a quarter of the context where that is less.
const ANSWER_RESERVE: usize = 256;

/// The reasoning section of an imported model.
pub(super) fn routes(spec: &BundleSpec, tokenizer: Option<&Tokenizer>) -> Result<ReasoningSpec> {
    let mut reasoning = ReasoningSpec {
        stop: stop_tokens(spec),
        ..ReasoningSpec::default()
    };
    let Some(tokenizer) = tokenizer else {
        return Ok(reasoning);
    };
    let (Some(think), Some(end)) = (
        tokenizer.token_to_id(THINK),
        tokenizer.token_to_id(END_OF_THINKING),
    ) else {
        return Ok(reasoning);
    };
    let opened = prompt_opens_thinking(spec);
    let no_thinking = if opened {
        "</think>\n\n"
    } else {
        "<think>\n\n</think>\n\n"
    };
    let direct = RouteSpec {
        open: tokenizer.encode(no_thinking, false)?,
        ..RouteSpec::default()
    };
    let cot = RouteSpec {
        kind: RouteKind::Cot,
        open: if opened { Vec::new() } else { vec![think] },
        close: vec![end],
        ..RouteSpec::default()
    };
    reasoning.routes = BTreeMap::from([("direct".to_owned(), direct), ("cot".to_owned(), cot)]);
    reasoning.default_route = "cot".to_owned();
    reasoning.answer_reserve = ANSWER_RESERVE.min(spec.config.max_position_embeddings / 4);
    Ok(reasoning)
}

/// The end tokens that the two configurations name.
fn stop_tokens(spec: &BundleSpec) -> Vec<TokenId> {
    let mut stop = spec.config.eos_token_id.clone();
    stop.extend(&spec.generation.eos_token_id);
    stop.sort_unstable();
    stop.dedup();
    stop
}

/// Whether the chat template's generation prompt already begins the thinking. A template that cannot be rendered says no; the
/// error will be told to whoever renders it.
fn prompt_opens_thinking(spec: &BundleSpec) -> bool {
    let Some(source) = &spec.chat_template else {
        return false;
    };
    let options = ChatOptions {
        enable_thinking: Some(true),
        ..ChatOptions::default()
    };
    let prompt = ChatTemplate::new(source, spec.special_tokens.clone())
        .and_then(|template| template.render(&[Message::user("?")], &options));
    prompt.is_ok_and(|prompt| prompt.trim_end().ends_with(THINK))
}
