//! Forks and snapshots: sessions that share what they have in common.

use super::{Fresh, Session};
use crate::cancel::CancelHandle;
use crate::error::{Error, ErrorKind, Result};
use crate::kv_cache::{KvCache, KvSnapshot};
use crate::memory;
use crate::model::Model;

/// A session's state at one moment. Shares its full KV blocks with the session; costs at most one block per layer.
pub struct Snapshot {
    pub(super) model: Model,
    pub(super) kv: KvSnapshot,
    pub(super) position: usize,
    pub(super) hidden: Vec<f32>,
    pub(super) normed: Vec<f32>,
    pub(super) logits: Vec<f32>,
    pub(super) fresh: Fresh,
    pub(super) resume: usize,
}

impl Session {
    /// A second session in the same state. It shares full KV blocks, reserves the rest of its context, and has its own cancel
    /// flag.
    ///
    /// # Errors
    /// [`ErrorKind::Memory`] if the cap does not allow it.
    pub fn fork(&self) -> Result<Session> {
        let kv = self.kv.fork(self.position as u32)?;
        let mut fork = Session::with_cache(&self.model, kv, self.context, CancelHandle::new())?;
        fork.position = self.position;
        fork.hidden.copy_from_slice(&self.hidden);
        fork.normed.copy_from_slice(&self.normed);
        fork.logits.copy_from_slice(&self.logits);
        fork.fresh = self.fresh;
        fork.resume = self.resume;
        Ok(fork)
    }

    /// A session that can [follow](Session::follow) this one: with its cancel flag, and no keys and values yet.
    pub(crate) fn companion(&self) -> Result<Session> {
        let layers = self.model.config().num_hidden_layers;
        let kv = KvCache::new(self.model.pool(), layers, 0)?;
        Session::with_cache(&self.model, kv, self.context, self.cancel.clone())
    }

    /// Becomes a fork of `other`, a session of the same model, in place: buffers are used again, counts go on. With `room` it
    /// reserves so many more entries and no more, without it keeps its own reserve.
    pub(crate) fn follow(&mut self, other: &Session, room: Option<usize>) -> Result<()> {
        self.drop_ahead();
        self.kv.follow(&other.kv, other.position as u32, room)?;
        self.position = other.position;
        self.hidden.copy_from_slice(&other.hidden);
        self.normed.copy_from_slice(&other.normed);
        if other.fresh == Fresh::Logits {
            self.logits.copy_from_slice(&other.logits);
        }
        self.fresh = other.fresh;
        self.resume = other.resume;
        self.taps.iter_mut().for_each(|tap| tap.filled = false);
        Ok(())
    }

    /// Forgets everything and gives the blocks of keys and values back.
    pub(crate) fn release(&mut self) {
        self.drop_ahead();
        self.kv.release();
        self.position = 0;
        self.forget_outputs();
    }

    /// The state of this moment.
    ///
    /// # Errors
    /// [`ErrorKind::Memory`] if the cap does not allow the copy of the last blocks.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot {
            model: self.model.clone(),
            kv: self.kv.snapshot(self.position as u32)?,
            position: self.position,
            hidden: memory::copy(&self.hidden)?,
            normed: memory::copy(&self.normed)?,
            logits: memory::copy(&self.logits)?,
            fresh: self.fresh,
            resume: self.resume,
        })
    }

    /// Returns to the state of `snapshot`, which may come from another session of the same model.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] for another model's snapshot, [`ErrorKind::ContextFull`] if it does not fit,
    /// [`ErrorKind::Memory`] if the cap does not allow it. Nothing changes then.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        if !self.model.same_as(&snapshot.model) {
            return Err(Error::new(
                ErrorKind::Argument,
                "the snapshot belongs to another model",
            ));
        }
        if snapshot.position > self.context {
            return Err(self.context_full(snapshot.position));
        }
        self.drop_ahead();
        self.kv.restore(&snapshot.kv)?;
        self.position = snapshot.position;
        self.hidden.copy_from_slice(&snapshot.hidden);
        self.normed.copy_from_slice(&snapshot.normed);
        self.logits.copy_from_slice(&snapshot.logits);
        self.fresh = snapshot.fresh;
        self.resume = snapshot.resume;
        self.taps.iter_mut().for_each(|tap| tap.filled = false);
        Ok(())
    }
}

impl Snapshot {
    /// The next position of a session in this state.
    pub fn position(&self) -> usize {
        self.position
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
