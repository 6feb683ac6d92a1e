//! Plain generation: a prompt, then tokens until something says stop.
//!
//! [`Generate`] is a state machine that is pulled, one piece of text at a time; as an iterator or by
//! [`Generate::next_piece`]. It shows whole characters only, and holds text back while it could still become a stop string.
//! For routes, thinking and budgets see [`Engine`](crate::reason::Engine).

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};
use crate::sampler::{Sampler, SamplerOptions};
use crate::session::Session;
use crate::spec::Depth;
use crate::stop::StopStrings;
use crate::tokenizer::{DecodeStream, Tokenizer};

/// When and how to stop, and how to sample.
#[derive(Debug, Clone, Default)]
pub struct GenerateOptions {
    /// Most tokens to generate, the stop token included; `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// How to sample; greedy by default.
    pub sampler: SamplerOptions,
    /// Tokens that end the text; `None`: [`Model::stop_ids`](crate::Model::stop_ids).
    pub stop_ids: Option<Vec<TokenId>>,
    /// Strings that end the text. They are not shown, even when they come in several tokens.
    pub stop_strings: Vec<String>,
    /// How deep generated tokens run; the prompt runs all layers.
    pub depth: Depth,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum FinishReason {
    /// A stop token or stop string.
    Stop,
    /// The asked length was reached, or the context was full.
    Length,
    /// A budget of the reasoning engine was spent.
    Budget,
    /// Cancelled from outside.
    Cancelled,
    /// Written to a file and stopped, to be [resumed](crate::reason::Engine::resume): the app left the screen.
    Suspended,
}

/// A stretch of generated text: whole characters, and the tokens since the last piece.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Piece {
    /// The text; empty for a model without a tokenizer.
    pub text: String,
    /// The tokens.
    pub ids: Vec<TokenId>,
    /// Log-probabilities of `ids`, if they were asked for.
    pub logprobs: Vec<f32>,
}

/// What a generation cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens sampled, the stop token included.
    pub generated_tokens: usize,
    /// From the first pull to the first token.
    pub time_to_first_token: Duration,
    /// Time in the prompt.
    pub prefill: Duration,
    /// Time after the first token.
    pub decode: Duration,
}

impl Stats {
    /// Prompt tokens per second; 0 if none were fed.
    pub fn prefill_tokens_per_s(&self) -> f64 {
        rate(self.prompt_tokens, self.prefill)
    }

    /// Tokens per second after the first one; 0 if there was no second one.
    pub fn decode_tokens_per_s(&self) -> f64 {
        rate(self.generated_tokens.saturating_sub(1), self.decode)
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    if count == 0 || time.is_zero() {
        0.0
    } else {
        count as f64 / time.as_secs_f64()
    }
}

/// Generation on one session. See the head of `generate.rs`.
pub struct Generate<'s> {
    session: &'s mut Session,
    prompt: Vec<TokenId>,
    sampler: Sampler,
    stop_ids: Vec<TokenId>,
    max_tokens: usize,
    depth: Depth,
    text: TextStream,
    state: State,
    first: Option<Instant>,
    stats: Stats,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Prompt,
    /// The logits are there.
    Sample,
    /// This token was sampled; the session does not have it yet.
    Feed(TokenId),
    Done(Option<FinishReason>),
}

impl<'s> Generate<'s> {
    /// Generates after `prompt`, which is fed at the first pull. With an empty prompt the session goes on from its logits.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] for sampler options out of range or nothing to go on from; [`ErrorKind::Tokenizer`] for stop
    /// strings without a tokenizer.
    pub fn new(
        session: &'s mut Session,
        prompt: &[TokenId],
        options: GenerateOptions,
    ) -> Result<Self> {
        let model = session.model().clone();
        let tokenizer = model.tokenizer()?;
        if !options.stop_strings.is_empty() {
            model.require_tokenizer()?;
        }
        if prompt.is_empty() && session.logits().is_none() {
            return Err(Error::new(
                ErrorKind::Argument,
                "an empty prompt, and the session has no logits to go on from",
            ));
        }
        let mut sampler = Sampler::new(model.config().vocab_size, options.sampler)?;
        sampler.observe(prompt);
        if let Depth::Drafts(drafts) = options.depth {
            session.set_drafts(Some(drafts))?;
        }
        Ok(Generate {
            text: TextStream::new(tokenizer, &options.stop_strings),
            stop_ids: options.stop_ids.unwrap_or_else(|| model.stop_ids()),
            max_tokens: options.max_tokens.unwrap_or(usize::MAX),
            depth: options.depth,
            prompt: prompt.to_vec(),
            stats: Stats {
                prompt_tokens: prompt.len(),
                ..Stats::default()
            },
            state: State::Prompt,
            first: None,
            session,
            sampler,
        })
    }

    /// The next piece of text; `None` at the end, and [`Generate::finish_reason`] says why it ended.
    ///
    /// # Errors
    /// As [`Session::prefill`] and [`Sampler::sample`], but for cancellation, which is a finish reason.
    pub fn next_piece(&mut self) -> Result<Option<Piece>> {
        loop {
            let outcome = match self.state {
                State::Prompt => self.read_prompt().map(|()| None),
                State::Sample => self.sample(),
                State::Feed(id) => self.feed(id),
                State::Done(_) => return Ok(None),
            };
            match outcome {
                Ok(Some(piece)) => return Ok(Some(piece)),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Cancelled => {
                    return self.finish(FinishReason::Cancelled);
                }
                Err(error) => {
                    self.state = State::Done(None);
                    return Err(error);
                }
            }
        }
    }

    /// Why it ended; `None` while it goes on, or after an error.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        match self.state {
            State::Done(reason) => reason,
            _ => None,
        }
    }

    /// What it cost so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The sampler, for its [`top_logprobs`](Sampler::top_logprobs).
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// Pulls everything that is left into one piece.
    ///
    /// # Errors
    /// As [`Generate::next_piece`].
    pub fn collect_all(&mut self) -> Result<Piece> {
        let mut all = Piece::default();
        while let Some(piece) = self.next_piece()? {
            all.text.push_str(&piece.text);
            all.ids.extend(piece.ids);
            all.logprobs.extend(piece.logprobs);
        }
        Ok(all)
    }

    fn read_prompt(&mut self) -> Result<()> {
        let start = Instant::now();
        if !self.prompt.is_empty() {
            self.session.prefill(&self.prompt)?;
        }
        self.stats.prefill = start.elapsed();
        self.state = State::Sample;
        Ok(())
    }

    fn sample(&mut self) -> Result<Option<Piece>> {
        if self.stats.generated_tokens == self.max_tokens {
            return self.finish(FinishReason::Length);
        }
        let start = Instant::now();
        let logits = self
            .session
            .logits()
            .ok_or_else(|| Error::new(ErrorKind::Argument, "the session has no logits"))?;
        let sampled = self.sampler.sample(logits)?;
        self.stats.generated_tokens += 1;
        match self.first {
            None => {
                self.stats.time_to_first_token = self.stats.prefill + start.elapsed();
                self.first = Some(Instant::now());
            }
            Some(first) => self.stats.decode = first.elapsed(),
        }
        if self.stop_ids.contains(&sampled.id) {
            return self.finish(FinishReason::Stop);
        }
        let (piece, stop) = self.text.push(sampled.id, sampled.logprob)?;
        self.state = if stop {
            State::Done(Some(FinishReason::Stop))
        } else {
            State::Feed(sampled.id)
        };
        Ok(piece)
    }

    fn feed(&mut self, id: TokenId) -> Result<Option<Piece>> {
        // The last token needs no pass of its own.
        if self.stats.generated_tokens == self.max_tokens || self.session.room() == 0 {
            return self.finish(FinishReason::Length);
        }
        let generated = self.stats.generated_tokens;
        match &self.depth {
            Depth::Full | Depth::Shortcut(_) => {
                self.session.step(id)?;
            }
            Depth::Exits(exits) => {
                self.session.step_exit(id, exits, generated)?;
            }
            Depth::Drafts(_) => {
                // What is sampled next needs no guess.
                let most = self.max_tokens - generated - 1;
                self.session.step_drafted(id, most)?;
            }
        }
        self.state = State::Sample;
        Ok(None)
    }

    fn finish(&mut self, reason: FinishReason) -> Result<Option<Piece>> {
        self.state = State::Done(Some(reason));
        self.text.finish()
    }
}

impl Iterator for Generate<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_piece().transpose()
    }
}

/// Tokens in, pieces out: decodes to whole characters and watches for stop strings. Without a tokenizer each token is a piece.
pub(crate) struct TextStream {
    decode: Option<DecodeStream>,
    stops: StopStrings,
    /// Tokens whose text was not given out yet.
    pending: Piece,
}

impl TextStream {
    pub(crate) fn new(tokenizer: Option<&Tokenizer>, stop_strings: &[String]) -> Self {
        TextStream {
            decode: tokenizer.map(|tokenizer| tokenizer.decode_stream(true)),
            stops: StopStrings::new(stop_strings),
            pending: Piece::default(),
        }
    }

    /// Adds a token; returns what may be shown, and whether a stop string was found.
    pub(crate) fn push(&mut self, id: TokenId, logprob: f32) -> Result<(Option<Piece>, bool)> {
        self.pending.ids.push(id);
        if !logprob.is_nan() {
            self.pending.logprobs.push(logprob);
        }
        let Some(decode) = &mut self.decode else {
            return Ok((Some(std::mem::take(&mut self.pending)), false));
        };
        let (text, stop) = match decode.push(id)? {
            Some(text) => self.stops.push(&text),
            None => (String::new(), false),
        };
        Ok((self.take(text, stop), stop))
    }

    /// What was held back; the stream is then as new.
    pub(crate) fn finish(&mut self) -> Result<Option<Piece>> {
        let rest = match &mut self.decode {
            Some(decode) => decode.finish()?,
            None => None,
        };
        let (mut text, stop) = self.stops.push(&rest.unwrap_or_default());
        if !stop {
            text.push_str(&self.stops.finish());
        }
        let last = !self.pending.ids.is_empty();
        Ok(self.take(text, last))
    }

    fn take(&mut self, text: String, even_if_empty: bool) -> Option<Piece> {
        if text.is_empty() && !even_if_empty {
            return None;
        }
        let piece = std::mem::take(&mut self.pending);
        Some(Piece { text, ..piece })
    }
}
