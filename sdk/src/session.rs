//! `Session`: one conversation's mutable state, and the steps that advance it.
//!
//! Everything is sized when a session is created: the KV blocks of its whole context, the scratch of one prefill chunk, the
//! logits. [`Session::step`] therefore neither allocates nor locks, and fails only if the session is cancelled, its context is
//! full, or the token is not one.
//!
//! A position may be fed from a token, an embedding, a soft mix of embeddings, the last hidden state, or a hidden state at some
//! layer ([`StepInput`]); each call says whether it needs logits, since a latent step does not and the head is a large share
//! of a small model.

mod drafts;
mod exits;
mod options;
mod saved;
mod shortcut;
mod snapshot;

use std::ops::Range;

use crate::cancel::CancelHandle;
use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};
use crate::forward::{OneCache, Scratch, attention_room};
use crate::kv_cache::KvCache;
use crate::memory::{self, Charge, session_bytes};
use crate::model::Model;
use crate::spec::LatentMap;

pub use options::SessionOptions;
pub(crate) use saved::{Reader, Saved};
pub use shortcut::LatentStep;
pub use snapshot::Snapshot;

/// Prompt tokens per pass. Enough rows to read each weight once for many tokens, few enough that scratch stays small and a
/// cancelled prefill ends soon.
pub(crate) const PREFILL_CHUNK: usize = 64;

/// What feeds one position.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum StepInput<'a> {
    /// A token.
    Token(TokenId),
    /// A vector in the space of embeddings. `[E]`
    Embed(&'a [f32]),
    /// A mix of token embeddings: `Σ probs[i] · embedding(ids[i])`.
    Soft {
        /// The tokens.
        ids: &'a [TokenId],
        /// Their weights, usually probabilities that sum to 1.
        probs: &'a [f32],
    },
    /// The last hidden state through a latent map: one latent step.
    Hidden(&'a LatentMap),
    /// A hidden state that enters before `layer`; the layers below do not run and get no entry in their KV cache.
    Resume {
        /// The first layer to run.
        layer: usize,
        /// Its input. `[E]`
        hidden: &'a [f32],
    },
}

/// What a session has done since it was created; forks start at zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionUsage {
    /// Positions fed from tokens.
    pub tokens: usize,
    /// Positions fed from hidden states, embeddings or mixes.
    pub latent_steps: usize,
    /// Layers run, counted per position.
    pub layer_passes: usize,
    /// Times the LM head ran, counted per position.
    pub head_passes: usize,
    /// Positions that left layers out ([`Session::step_exit`]).
    pub exits: usize,
    /// Layers left out whose keys and values were computed all the same.
    pub kv_passes: usize,
    /// Tokens guessed and verified ([`Session::step_drafted`]).
    pub drafted: usize,
    /// Of these, tokens that were fed next.
    pub accepted: usize,
}

/// One conversation. See the head of `session.rs`.
pub struct Session {
    model: Model,
    pub(crate) kv: KvCache,
    /// What threads share the positions of attention in.
    pub(crate) room: Vec<f32>,
    scratch: Scratch,
    context: usize,
    position: usize,
    /// Of the last position, if `fresh`. `[E]`
    hidden: Vec<f32>,
    /// `hidden` after the final norm. `[E]`
    normed: Vec<f32>,
    /// The state before the layer before an exit. `[E]`
    previous: Vec<f32>,
    /// `[V]`
    logits: Vec<f32>,
    fresh: Fresh,
    /// The layer at which the next latent step with shortcuts begins, with `hidden`; 0 if it begins as any other.
    resume: usize,
    taps: Vec<Tap>,
    drafts: Option<Box<drafts::Drafts>>,
    usage: SessionUsage,
    cancel: CancelHandle,
    _charge: Charge,
}

/// Which outputs belong to the last position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fresh {
    Nothing,
    Hidden,
    Logits,
}

struct Tap {
    layer: usize,
    /// `[E]`
    hidden: Vec<f32>,
    filled: bool,
}

impl Session {
    /// A session with everything reserved that its context needs.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] for a context that the model does not have; [`ErrorKind::Memory`] if the cap does not allow it.
    pub fn new(model: &Model, options: SessionOptions) -> Result<Session> {
        let context = options.context.unwrap_or(model.context());
        if context == 0 || context > model.context() {
            let message = format!(
                "a context of {context} positions, the model was opened for 1 to {}",
                model.context()
            );
            return Err(Error::new(ErrorKind::Argument, message));
        }
        let entries = options.kv_entries.unwrap_or(context);
        if entries == 0 || entries > context {
            let message =
                format!("{entries} KV cache entries for a context of {context} positions");
            return Err(Error::new(ErrorKind::Argument, message));
        }
        let kv = KvCache::new(model.pool(), model.config().num_hidden_layers, entries)?;
        Session::with_cache(model, kv, context, options.cancel.unwrap_or_default())
    }

    fn with_cache(
        model: &Model,
        kv: KvCache,
        context: usize,
        cancel: CancelHandle,
    ) -> Result<Session> {
        let config = model.config();
        let charge = model.ledger().charge(session_bytes(config, context))?;
        memory::check_refusal()?;
        Ok(Session {
            kv,
            room: memory::zeros(attention_room(config, context))?,
            scratch: Scratch::new(config, PREFILL_CHUNK)?,
            context,
            position: 0,
            hidden: memory::zeros(config.hidden_size)?,
            normed: memory::zeros(config.hidden_size)?,
            previous: memory::zeros(config.hidden_size)?,
            logits: memory::zeros(config.vocab_size)?,
            fresh: Fresh::Nothing,
            resume: 0,
            taps: Vec::new(),
            drafts: None,
            usage: SessionUsage::default(),
            cancel,
            model: model.clone(),
            _charge: charge,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Positions reserved.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The next position; how many were fed.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Positions that may still be fed: until the context ends, or the reserved entries of the KV cache are full.
    pub fn room(&self) -> usize {
        (self.context - self.position).min(self.kv.capacity() - self.longest())
    }

    /// Entries of the KV cache that are reserved.
    pub fn kv_entries(&self) -> usize {
        self.kv.capacity()
    }

    /// Entries of the fullest layer of the KV cache: the fewest that [`Session::set_kv_entries`] allows.
    pub fn kv_used(&self) -> usize {
        self.kv.longest(u32::MAX)
    }

    /// Reserves the KV cache for `entries` entries from now on: fewer, down to [`Session::kv_used`], give memory back to the model's
    /// pool (from there [`Model::trim_memory`] gives it to the system), more are reserved at once, as at the start.
    ///
    /// # Errors
    /// Nothing changes then. [`ErrorKind::Argument`] for fewer entries than are used or more than the context;
    /// [`ErrorKind::Memory`] if the cap or the system do not allow it.
    pub fn set_kv_entries(&mut self, entries: usize) -> Result<()> {
        if entries < self.kv_used() || entries > self.context {
            let message = format!(
                "{entries} KV cache entries, {} are used and the context is {}",
                self.kv_used(),
                self.context
            );
            return Err(Error::new(ErrorKind::Argument, message));
        }
        self.kv.set_capacity(entries)
    }

    /// Logits of the last position, `[V]`; `None` if it was fed without the head.
    pub fn logits(&self) -> Option<&[f32]> {
        (self.fresh == Fresh::Logits).then_some(&self.logits)
    }

    /// Hidden state of the last position after the last layer, `[E]`; `None` at the start and after [`Session::truncate`].
    pub fn hidden(&self) -> Option<&[f32]> {
        (self.fresh >= Fresh::Hidden).then_some(&self.hidden)
    }

    /// [`Session::hidden`] after the final norm.
    pub fn hidden_normed(&self) -> Option<&[f32]> {
        (self.fresh >= Fresh::Hidden).then_some(&self.normed)
    }

    /// Counts since the session was created.
    pub fn usage(&self) -> SessionUsage {
        self.usage
    }

    /// Bytes of the KV blocks that hold entries; blocks shared with forks count in each.
    pub fn kv_bytes(&self) -> u64 {
        self.kv.held_bytes()
    }

    /// Entries in the KV cache of `layer`: fewer than [`Session::position`] where positions skipped the layer.
    ///
    /// # Panics
    /// If the model has no such layer.
    pub fn kv_len(&self, layer: usize) -> usize {
        self.kv.len(layer, self.position as u32)
    }

    /// Entries of the fullest layer, what is ahead of the position not counted.
    fn longest(&self) -> usize {
        self.kv.longest(self.position as u32)
    }

    /// The flag that stops this session's work.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// Feeds `ids` and returns the logits of the last one.
    ///
    /// Works in chunks and looks at the cancel flag before each layer of each chunk. When it stops early, the chunks that were
    /// completed stay, and [`Session::position`] says how many positions those are.
    ///
    /// # Errors
    /// [`ErrorKind::ContextFull`], naming both numbers; [`ErrorKind::Token`]; [`ErrorKind::Argument`] for no tokens at all;
    /// [`ErrorKind::Cancelled`].
    pub fn prefill(&mut self, ids: &[TokenId]) -> Result<&[f32]> {
        self.feed(ids)?;
        self.head()
    }

    /// [`Session::prefill`] without the head: for a prompt that latent steps follow.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn feed(&mut self, ids: &[TokenId]) -> Result<()> {
        self.check_input(ids)?;
        for chunk in ids.chunks(PREFILL_CHUNK) {
            self.feed_chunk(chunk)?;
        }
        Ok(())
    }

    /// Feeds `ids` and hands the logits after each one to `each`, with its index.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn prefill_each(
        &mut self,
        ids: &[TokenId],
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.check_input(ids)?;
        let width = self.hidden.len();
        for (i, chunk) in ids.chunks(PREFILL_CHUNK).enumerate() {
            self.feed_chunk(chunk)?;
            for row in 0..chunk.len() {
                // The last row comes last, so that the session's own outputs are right afterwards.
                self.hidden
                    .copy_from_slice(&self.scratch.hidden[row * width..][..width]);
                self.model.forward().norm(&self.hidden, &mut self.normed)?;
                each(i * PREFILL_CHUNK + row, self.head()?);
            }
        }
        Ok(())
    }

    /// Feeds one token and returns the logits after it. Does not allocate.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn step(&mut self, id: TokenId) -> Result<&[f32]> {
        self.step_input(StepInput::Token(id), true)?;
        Ok(&self.logits)
    }

    /// One latent step: feeds the last hidden state through `map`, without the head. Does not allocate.
    ///
    /// # Errors
    /// As [`Session::step_input`].
    pub fn step_hidden(&mut self, map: &LatentMap) -> Result<()> {
        self.step_input(StepInput::Hidden(map), false)
    }

    /// What [`Session::step_hidden`] would feed now, `[E]`: for looking at latent steps, and for feeding something else in their place
    /// ([`StepInput::Embed`]).
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] where there is no hidden state, for a vector of the wrong length, or a map that the bundle does not have.
    pub fn latent_input(&mut self, map: &LatentMap, input: &mut [f32]) -> Result<()> {
        self.load(StepInput::Hidden(map))?;
        copy_row(&self.scratch.hidden[..self.hidden.len()], input)
    }

    /// Feeds one position from `input`; `head` says whether to compute logits. Does not allocate.
    ///
    /// # Errors
    /// [`ErrorKind::ContextFull`], [`ErrorKind::Token`], [`ErrorKind::Cancelled`]; [`ErrorKind::Argument`] for a vector of the
    /// wrong length, a layer that does not exist, or a hidden state where there is none.
    pub fn step_input(&mut self, input: StepInput<'_>, head: bool) -> Result<()> {
        self.check_room(1)?;
        let layers = self.model.config().num_hidden_layers;
        let first = self.load(input)?;
        self.pass(first..layers, 1)?;
        match input {
            StepInput::Token(_) => self.usage.tokens += 1,
            _ => self.usage.latent_steps += 1,
        }
        if head {
            self.head()?;
        }
        Ok(())
    }

    /// Logits of the last position, computed now if it was fed without the head.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] if there is no last position.
    pub fn head(&mut self) -> Result<&[f32]> {
        if self.fresh == Fresh::Nothing {
            return Err(no_hidden());
        }
        self.model
            .forward()
            .head(&self.normed, &mut self.scratch, &mut self.logits)?;
        self.usage.head_passes += 1;
        self.fresh = Fresh::Logits;
        Ok(&self.logits)
    }

    /// Keeps the last hidden state after each of `layers` from now on; replaces earlier taps.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] for a layer that does not exist.
    pub fn set_taps(&mut self, layers: &[usize]) -> Result<()> {
        let (count, width) = (self.model.config().num_hidden_layers, self.hidden.len());
        if let Some(layer) = layers.iter().find(|&&layer| layer >= count) {
            return Err(no_layer(*layer, count));
        }
        let tap = |&layer: &usize| {
            Ok(Tap {
                layer,
                hidden: memory::zeros(width)?,
                filled: false,
            })
        };
        self.taps = layers.iter().map(tap).collect::<Result<_>>()?;
        Ok(())
    }

    /// The hidden state of the last position after `layer`, `[E]`; `None` if it is not tapped or did not run.
    pub fn tap(&self, layer: usize) -> Option<&[f32]> {
        self.taps
            .iter()
            .find(|tap| tap.layer == layer && tap.filled)
            .map(|tap| tap.hidden.as_slice())
    }

    /// Forgets every position from `len` on. Logits and hidden state are gone then; feed a token to have new ones.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] if `len` is beyond the position; [`ErrorKind::Memory`] if blocks that a fork shares cannot be
    /// replaced under the cap. Nothing changes then.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        if len > self.position {
            let message = format!(
                "cannot truncate to {len}, the session is at position {}",
                self.position
            );
            return Err(Error::new(ErrorKind::Argument, message));
        }
        if len < self.position {
            self.drop_ahead();
            self.kv.truncate(len as u32)?;
            self.position = len;
            self.forget_outputs();
        }
        Ok(())
    }

    /// Drops the entries of `positions` from the KV cache and frees their memory. Later positions keep what they had read of
    /// them, and their own absolute positions; nothing is recomputed. [`Session::position`] stays.
    ///
    /// # Errors
    /// [`ErrorKind::Memory`] if blocks that a fork shares cannot be replaced under the cap. Nothing changes then.
    pub fn forget(&mut self, positions: Range<usize>) -> Result<()> {
        self.drop_ahead();
        let clamp = |position: usize| position.min(self.position) as u32;
        self.kv.remove(clamp(positions.start)..clamp(positions.end))
    }

    /// Shows or hides `positions` to later ones, in every layer. Nothing is recomputed.
    pub fn set_visible(&mut self, positions: Range<usize>, visible: bool) {
        self.drop_ahead();
        let clamp = |position: usize| position.min(self.position) as u32;
        self.kv
            .set_visible(clamp(positions.start)..clamp(positions.end), visible);
    }

    /// Puts `input` into the first row of the residual stream; returns the layer to start at.
    fn load(&mut self, input: StepInput<'_>) -> Result<usize> {
        let config = self.model.config();
        let row = &mut self.scratch.hidden[..config.hidden_size];
        let embeddings = self.model.forward().weights.embed_tokens();
        match input {
            StepInput::Token(id) => {
                self.model.check_ids(&[id])?;
                embeddings.row_into(id as usize, row)?;
            }
            StepInput::Embed(values) => copy_row(values, row)?,
            StepInput::Soft { ids, probs } => {
                self.model.check_ids(ids)?;
                if ids.is_empty() || ids.len() != probs.len() {
                    let message = format!(
                        "a soft input of {} tokens and {} weights",
                        ids.len(),
                        probs.len()
                    );
                    return Err(Error::new(ErrorKind::Argument, message));
                }
                let (row, embedding) = self.scratch.two_rows(config.hidden_size);
                row.fill(0.0);
                for (&id, &weight) in ids.iter().zip(probs) {
                    embeddings.row_into(id as usize, embedding)?;
                    for (x, value) in row.iter_mut().zip(embedding.iter()) {
                        *x += weight * value;
                    }
                }
            }
            StepInput::Hidden(map) => {
                if self.fresh == Fresh::Nothing {
                    return Err(no_hidden());
                }
                match map {
                    LatentMap::Identity { normed: true } => copy_row(&self.normed, row)?,
                    LatentMap::Identity { normed: false } => copy_row(&self.hidden, row)?,
                    LatentMap::Mlp { .. } => self
                        .model
                        .forward()
                        .latent_input(&self.normed, &mut self.scratch)?,
                }
            }
            StepInput::Resume { layer, hidden } => {
                if layer >= config.num_hidden_layers {
                    return Err(no_layer(layer, config.num_hidden_layers));
                }
                copy_row(hidden, row)?;
                return Ok(layer);
            }
        }
        Ok(0)
    }

    fn feed_chunk(&mut self, ids: &[TokenId]) -> Result<()> {
        let embeddings = self.model.forward().weights.embed_tokens();
        let rows = self.scratch.hidden.chunks_exact_mut(self.hidden.len());
        for (&id, row) in ids.iter().zip(rows) {
            embeddings.row_into(id as usize, row)?;
        }
        self.pass(0..self.model.config().num_hidden_layers, ids.len())?;
        self.usage.tokens += ids.len();
        Ok(())
    }

    /// Runs `layers` over the first `rows` rows of the residual stream and keeps the last one.
    fn pass(&mut self, layers: Range<usize>, rows: usize) -> Result<()> {
        self.begin(rows);
        self.run(layers, rows)?;
        self.finish(rows)
    }

    /// Prepares to run layers over `rows` positions.
    fn begin(&mut self, rows: usize) {
        self.drop_ahead();
        for (i, slot) in self.scratch.positions[..rows].iter_mut().enumerate() {
            *slot = (self.position + i) as u32;
        }
        self.resume = 0;
        self.kv.mark();
        self.taps.iter_mut().for_each(|tap| tap.filled = false);
    }

    /// Runs `layers` over the first `rows` rows of the residual stream; after an error the KV cache is as it was at [`Session::begin`].
    fn run(&mut self, layers: Range<usize>, rows: usize) -> Result<()> {
        let Session {
            model,
            kv,
            room,
            scratch,
            taps,
            cancel,
            ..
        } = self;
        let (width, count) = (model.config().hidden_size, layers.len());
        let mut tap = |layer: usize, hidden: &[f32]| {
            for tap in taps.iter_mut().filter(|tap| tap.layer == layer) {
                tap.hidden.copy_from_slice(&hidden[(rows - 1) * width..]);
                tap.filled = true;
            }
        };
        let mut cache = OneCache { kv, room, rows };
        let forward = model.forward();
        if let Err(error) = forward.run(layers, rows, scratch, &mut cache, cancel, &mut tap) {
            self.kv.rewind();
            return Err(error);
        }
        self.usage.layer_passes += rows * count;
        Ok(())
    }

    /// Runs `layers` over `rows` rows. Taps are left alone, and so are the entries of a pass that fails.
    fn run_untapped(&mut self, layers: Range<usize>, rows: usize) -> Result<()> {
        let Session {
            model,
            kv,
            room,
            scratch,
            cancel,
            ..
        } = self;
        let count = layers.len();
        let mut cache = OneCache { kv, room, rows };
        let forward = model.forward();
        forward.run(layers, rows, scratch, &mut cache, cancel, &mut |_, _| {})?;
        self.usage.layer_passes += rows * count;
        Ok(())
    }

    /// Takes over `rows` positions, and the state of the last one.
    fn finish(&mut self, rows: usize) -> Result<()> {
        let width = self.hidden.len();
        self.position += rows;
        self.hidden
            .copy_from_slice(&self.scratch.hidden[(rows - 1) * width..rows * width]);
        self.model.forward().norm(&self.hidden, &mut self.normed)?;
        self.fresh = Fresh::Hidden;
        Ok(())
    }

    /// Takes over the outputs of a position that a [`Batch`](crate::Batch) ran.
    pub(crate) fn accept(&mut self, hidden: &[f32], normed: &[f32], logits: &[f32]) {
        self.position += 1;
        self.usage.tokens += 1;
        self.usage.layer_passes += self.model.config().num_hidden_layers;
        self.usage.head_passes += 1;
        self.hidden.copy_from_slice(hidden);
        self.normed.copy_from_slice(normed);
        self.logits.copy_from_slice(logits);
        self.fresh = Fresh::Logits;
        self.resume = 0;
        self.taps.iter_mut().for_each(|tap| tap.filled = false);
    }

    fn forget_outputs(&mut self) {
        self.fresh = Fresh::Nothing;
        self.resume = 0;
        self.taps.iter_mut().for_each(|tap| tap.filled = false);
    }

    fn check_input(&self, ids: &[TokenId]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::new(ErrorKind::Argument, "no tokens to feed"));
        }
        self.model.check_ids(ids)?;
        self.check_room(ids.len())
    }

    /// Refuses more positions than are left.
    pub(crate) fn check_room(&self, positions: usize) -> Result<()> {
        if positions > self.room() {
            return Err(self.context_full(self.position + positions));
        }
        Ok(())
    }

    fn context_full(&self, needed: usize) -> Error {
        let message = if needed > self.context {
            format!(
                "{needed} positions are needed, the context is {}",
                self.context
            )
        } else {
            let entries = self.longest() + needed - self.position;
            format!(
                "{entries} KV cache entries are needed, {} are reserved",
                self.kv.capacity()
            )
        };
        Error::new(ErrorKind::ContextFull, message)
            .with_hint("shorten the prompt or open a larger context")
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("position", &self.position)
            .field("context", &self.context)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

fn copy_row(values: &[f32], row: &mut [f32]) -> Result<()> {
    if values.len() != row.len() {
        let message = format!(
            "a vector of {} values, hidden_size is {}",
            values.len(),
            row.len()
        );
        return Err(Error::new(ErrorKind::Argument, message));
    }
    row.copy_from_slice(values);
    Ok(())
}

fn no_hidden() -> Error {
    Error::new(
        ErrorKind::Argument,
        "there is no hidden state yet; feed a token first",
    )
}

fn no_layer(layer: usize, layers: usize) -> Error {
    Error::new(
        ErrorKind::Argument,
        format!("there is no layer {layer}, the model has {layers}"),
    )
}
