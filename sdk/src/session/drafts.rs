//! Self-speculative decoding: the first layers guess the next tokens, the others verify them in one pass.
//!
//! ```text
//! guess     x0 ─layers 0..E─▶ norm, head ─▶ x1 ─layers 0..E─▶ … ─▶ xk      one row at a time; states after layer E are kept
//! verify    x0 … xk ─layers E..L─▶ norm, head ─▶ the logits after each      all rows in one pass
//! ```
//!
//! The session is then as if `x0` had been fed, with rows ahead of it. Feeding `x1` next takes the row that is there; feeding anything else
//! drops what is ahead. So whoever decides on the next token (sampler, stop condition, budget) never sees a guess: it sees the logits that
//! plain steps give, bit for bit, since a pass over several rows computes each as a pass over one would.
//!
//! Source: LayerSkip, arXiv 2404.16710; keys, values and states of the first layers are shared by guess and verification as there.

use super::{Fresh, Session, StepInput};
use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{self, Charge};
use crate::model::Model;
use crate::spec::DraftSpec;

/// The rows of one round, and room for the largest.
pub(super) struct Drafts {
    spec: DraftSpec,
    /// Tokens after which nothing follows.
    ends: Vec<TokenId>,
    /// Fed, then guessed. `[T]`
    ids: Vec<TokenId>,
    /// States after the first layers, then after the last one. `[T, E]`
    states: Vec<f32>,
    /// `[T, E]`
    normed: Vec<f32>,
    /// `[T, V]`
    logits: Vec<f32>,
    /// Rows of the round, and how many of them the session has taken.
    rows: usize,
    taken: usize,
    _charge: Charge,
}

impl Drafts {
    fn new(model: &Model, spec: DraftSpec) -> Result<Drafts> {
        let config = model.config();
        let rows = spec.tokens + 1;
        let floats = rows * (2 * config.hidden_size + config.vocab_size);
        let bytes = floats * size_of::<f32>() + rows * size_of::<TokenId>();
        Ok(Drafts {
            _charge: model.ledger().charge(bytes as u64)?,
            ends: model.stop_ids(),
            ids: memory::zeros(rows)?,
            states: memory::zeros(rows * config.hidden_size)?,
            normed: memory::zeros(rows * config.hidden_size)?,
            logits: memory::zeros(rows * config.vocab_size)?,
            rows: 0,
            taken: 0,
            spec,
        })
    }
}

impl Session {
    /// Makes room for guesses, or gives it back; [`Session::step_drafted`] needs it. Forks have none.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] for a specification that makes no sense for the model; [`ErrorKind::Memory`] if the cap does not allow
    /// `tokens + 1` rows of logits. Nothing changes then.
    pub fn set_drafts(&mut self, spec: Option<DraftSpec>) -> Result<()> {
        if spec == self.drafts.as_ref().map(|drafts| drafts.spec) {
            return Ok(());
        }
        let layers = self.model.config().num_hidden_layers;
        if let Some((place, message)) = spec.and_then(|spec| spec.fault(layers)) {
            return Err(Error::new(ErrorKind::Argument, message).at(format_args!("drafts.{place}")));
        }
        let drafts = spec.map(|spec| Drafts::new(&self.model, spec));
        let drafts = drafts.transpose()?.map(Box::new);
        self.drop_ahead();
        self.drafts = drafts;
        Ok(())
    }

    /// [`Session::step`], which may have computed the tokens after this one already, or does so now: at most `most` of them. Position,
    /// outputs and all that follows are as if there were no guesses; only [`Session::usage`] tells. Does not allocate. Taps are not
    /// filled.
    ///
    /// # Errors
    /// As [`Session::step`], and [`ErrorKind::Argument`] without [`Session::set_drafts`].
    pub fn step_drafted(&mut self, id: TokenId, most: usize) -> Result<&[f32]> {
        let Some(drafts) = &self.drafts else {
            let message = "the session has no room for guesses";
            return Err(Error::new(ErrorKind::Argument, message).with_hint("call set_drafts first"));
        };
        self.cancel.check()?;
        if drafts.taken < drafts.rows && drafts.ids[drafts.taken] == id {
            self.usage.accepted += 1;
        } else {
            self.drop_ahead();
            self.check_room(1)?;
            self.model.check_ids(&[id])?;
            self.kv.mark();
            if let Err(error) = self.round(id, most) {
                self.kv.rewind();
                return Err(error);
            }
        }
        self.take_row();
        Ok(&self.logits)
    }

    /// Forgets what is ahead of the position.
    pub(crate) fn drop_ahead(&mut self) {
        if let Some(drafts) = &mut self.drafts {
            if drafts.taken < drafts.rows {
                self.kv.drop_ahead(self.position as u32);
            }
            (drafts.rows, drafts.taken) = (0, 0);
        }
    }

    /// Makes the next row the session's last position.
    fn take_row(&mut self) {
        let Some(drafts) = &mut self.drafts else {
            return;
        };
        let (row, width, vocab) = (drafts.taken, self.hidden.len(), self.logits.len());
        self.hidden
            .copy_from_slice(&drafts.states[row * width..][..width]);
        self.normed
            .copy_from_slice(&drafts.normed[row * width..][..width]);
        self.logits
            .copy_from_slice(&drafts.logits[row * vocab..][..vocab]);
        drafts.taken += 1;
        self.position += 1;
        self.usage.tokens += 1;
        self.fresh = Fresh::Logits;
        self.resume = 0;
        self.taps.iter_mut().for_each(|tap| tap.filled = false);
    }

    /// Guesses what follows `id`, and verifies it.
    fn round(&mut self, id: TokenId, most: usize) -> Result<()> {
        let room = self.room();
        let (layers, position) = (self.model.config().num_hidden_layers, self.position);
        let (width, vocab) = (self.hidden.len(), self.logits.len());
        let Some(mut drafts) = self.drafts.take() else {
            return Ok(());
        };
        let rows = 1 + drafts.spec.tokens.min(most).min(room - 1);
        drafts.ids[0] = id;
        let guessed = self.guess(&mut drafts, rows);
        let verified = guessed.and_then(|rows| {
            for (row, slot) in self.scratch.positions[..rows].iter_mut().enumerate() {
                *slot = (position + row) as u32;
            }
            let (states, normed) = (
                &mut drafts.states[..rows * width],
                &mut drafts.normed[..rows * width],
            );
            self.scratch.hidden[..rows * width].copy_from_slice(states);
            self.run_untapped(drafts.spec.layers..layers, rows)?;
            states.copy_from_slice(&self.scratch.hidden[..rows * width]);
            let forward = self.model.forward();
            forward.norm(states, normed)?;
            let logits = &mut drafts.logits[..rows * vocab];
            forward.head(normed, &mut self.scratch, logits)?;
            self.usage.head_passes += rows;
            self.usage.drafted += rows - 1;
            (drafts.rows, drafts.taken) = (rows, 0);
            Ok(())
        });
        self.drafts = Some(drafts);
        verified
    }

    /// Runs the first layers over the token and its guesses, at most `rows` in all; how many there are.
    fn guess(&mut self, drafts: &mut Drafts, rows: usize) -> Result<usize> {
        let (width, vocab) = (self.hidden.len(), self.logits.len());
        let DraftSpec {
            layers, confidence, ..
        } = drafts.spec;
        for row in 0..rows {
            self.load(StepInput::Token(drafts.ids[row]))?;
            self.scratch.positions[0] = (self.position + row) as u32;
            self.run_untapped(0..layers, 1)?;
            let state = &mut drafts.states[row * width..][..width];
            state.copy_from_slice(&self.scratch.hidden[..width]);
            if row + 1 == rows || row > 0 && drafts.ends.contains(&drafts.ids[row]) {
                return Ok(row + 1);
            }
            let (normed, logits) = (&mut drafts.normed[..width], &mut drafts.logits[..vocab]);
            let forward = self.model.forward();
            forward.norm(state, normed)?;
            forward.head(normed, &mut self.scratch, logits)?;
            self.usage.head_passes += 1;
            let table = forward.cpu.table();
            let guess = table.argmax(logits);
            if confidence > 0.0 {
                let logprob = f64::from(logits[guess]) - table.log_sum_exp(logits);
                if logprob.exp() < f64::from(confidence) {
                    return Ok(row + 1);
                }
            }
            drafts.ids[row + 1] = guess as TokenId;
        }
        Ok(rows)
    }
}
