//! One pass over the weights for several sessions.
//!
//! Decoding is bound by reading weights. `B` sessions that step together read them once: their activations are the `T = B` rows
//! of the same products, and only attention goes session by session. Samples, votes, plans and deletion trials rest on this.

use std::ops::Range;

use crate::cancel::CancelHandle;
use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};
use crate::forward::{KvRows, Scratch};
use crate::kv_cache::KvCache;
use crate::memory::{self, Charge};
use crate::model::Model;
use crate::session::Session;

/// Working memory for stepping up to a fixed number of sessions of one model together.
pub struct Batch {
    model: Model,
    scratch: Scratch,
    /// `[B, E]`
    normed: Vec<f32>,
    /// `[B, V]`
    logits: Vec<f32>,
    cancel: CancelHandle,
    _charge: Charge,
}

struct OneRowEach<'a, 'b>(&'a mut [&'b mut Session]);

impl KvRows for OneRowEach<'_, '_> {
    fn caches(&self) -> usize {
        self.0.len()
    }

    fn cache(&mut self, i: usize) -> (&mut KvCache, &mut [f32], Range<usize>) {
        let Session { kv, room, .. } = &mut *self.0[i];
        (kv, room, i..i + 1)
    }
}

impl Batch {
    /// Room for `sessions` sessions of `model`.
    ///
    /// # Errors
    /// [`ErrorKind::Memory`] if the cap does not allow it.
    pub fn new(model: &Model, sessions: usize) -> Result<Batch> {
        let config = model.config();
        let outputs = sessions * (config.hidden_size + config.vocab_size) * size_of::<f32>();
        let charge = model
            .ledger()
            .charge(Scratch::bytes(config, sessions) + outputs as u64)?;
        Ok(Batch {
            model: model.clone(),
            scratch: Scratch::new(config, sessions)?,
            normed: memory::zeros(sessions * config.hidden_size)?,
            logits: memory::zeros(sessions * config.vocab_size)?,
            cancel: CancelHandle::new(),
            _charge: charge,
        })
    }

    /// The flag that stops a step. The sessions' own flags are looked at before the step only.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// Feeds `ids[i]` to `sessions[i]`, for all of them or for none. The logits are bit-equal to those of separate steps.
    /// Does not allocate. Taps are not filled.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] if the numbers disagree, exceed the batch, or a session is of another model; otherwise as
    /// [`Session::step`].
    pub fn step(&mut self, sessions: &mut [&mut Session], ids: &[TokenId]) -> Result<()> {
        let rows = sessions.len();
        if rows != ids.len() || rows > self.scratch.rows() {
            let message = format!(
                "{rows} sessions and {} tokens in a batch of {}",
                ids.len(),
                self.scratch.rows()
            );
            return Err(Error::new(ErrorKind::Argument, message));
        }
        self.model.check_ids(ids)?;
        for session in sessions.iter() {
            if !self.model.same_as(session.model()) {
                return Err(Error::new(
                    ErrorKind::Argument,
                    "a session of the batch belongs to another model",
                ));
            }
            session.check_room(1)?;
            session.cancel_handle().check()?;
        }
        if rows == 0 {
            return Ok(());
        }
        let config = self.model.config();
        let (width, vocab) = (config.hidden_size, config.vocab_size);
        let forward = self.model.forward();
        let embeddings = forward.weights.embed_tokens();
        for (i, session) in sessions.iter_mut().enumerate() {
            self.scratch.positions[i] = session.position() as u32;
            embeddings.row_into(
                ids[i] as usize,
                &mut self.scratch.hidden[i * width..(i + 1) * width],
            )?;
            session.drop_ahead();
            session.kv.mark();
        }
        let layers = 0..config.num_hidden_layers;
        let mut caches = OneRowEach(sessions);
        let result = forward.run(
            layers,
            rows,
            &mut self.scratch,
            &mut caches,
            &self.cancel,
            &mut |_, _| {},
        );
        if let Err(error) = result {
            sessions.iter_mut().for_each(|session| session.kv.rewind());
            return Err(error);
        }
        let (normed, logits) = (
            &mut self.normed[..rows * width],
            &mut self.logits[..rows * vocab],
        );
        forward.norm(&self.scratch.hidden[..rows * width], normed)?;
        forward.head(normed, &mut self.scratch, logits)?;
        let hidden = self.scratch.hidden.chunks_exact(width);
        let outputs = hidden
            .zip(normed.chunks_exact(width))
            .zip(logits.chunks_exact(vocab));
        for (session, ((hidden, normed), logits)) in sessions.iter_mut().zip(outputs) {
            session.accept(hidden, normed, logits);
        }
        Ok(())
    }
}
