//! How much memory a model and its sessions take: known before loading, capped while running.
//!
//! Weights are mapped from the bundle and count as *file-backed*: the system may drop and re-read those pages. Everything else
//! is *anonymous*, which is what a phone charges the app for and what the cap [`ModelOptions::max_bytes`] limits:
//!
//! | part | counted |
//! | --- | --- |
//! | tokenizer | an estimate: three times its JSON; at most 2 MiB where its vocabulary lies packed in the bundle |
//! | keys and values | blocks for the whole context of every session, reserved when it is created |
//! | scratch | activations of one prefill chunk, partial sums of attention, logits and hidden states of every session |
//! | samplers | one per session |
//! | weights | of a bundle that was copied instead of mapped ([`OpenOptions::copy`](crate::OpenOptions::copy)) |
//!
//! An [engine](crate::reason::Engine) that probes (`auto`, [`Ask::answer_by`](crate::reason::Ask::answer_by)) has a second session from the
//! first such question on: its scratch always, and during a probe blocks for the close, the answer and one partial block per layer.
//! A [`Batch`](crate::Batch) books its own scratch when it is made, and a session that [guesses](crate::Session::set_drafts) a row of logits
//! and two states per guess. Thread stacks, the allocator's own bookkeeping and short-lived strings are not counted.
//!
//! [`ModelOptions::max_bytes`]: crate::ModelOptions::max_bytes

mod system;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use skimstone_kernels::{Format, KvFormat};

use crate::bundle::Bundle;
use crate::config::ModelConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::forward::{Scratch, attention_room};
use crate::kv_cache::KvCache;
use crate::sampler::Sampler;
use crate::session::PREFILL_CHUNK;
use crate::tokenizer;

pub use system::{check_refusal, note_refusal};
pub(crate) use system::{copy, probe, read_file, refused, reserve, return_free_pages, zeros};

/// Bytes that a model and its sessions will take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Bytes of the mapped bundle.
    pub file_backed: u64,
    /// Bytes that the app is charged for; what the cap limits.
    pub anonymous: u64,
    /// Both together.
    pub total: u64,
    /// What `anonymous` consists of, by name.
    pub parts: Vec<(&'static str, u64)>,
}

impl MemoryEstimate {
    pub(crate) fn new(file_backed: u64, parts: Vec<(&'static str, u64)>) -> Self {
        let anonymous = parts.iter().map(|part| part.1).sum();
        MemoryEstimate {
            file_backed,
            anonymous,
            total: file_backed + anonymous,
            parts,
        }
    }
}

impl fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes mapped from the file, {} bytes of memory (",
            self.file_backed, self.anonymous
        )?;
        for (i, (name, bytes)) in self.parts.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{name} {bytes}")?;
        }
        f.write_str(")")
    }
}

/// The memory that `sessions` sessions of `context` positions will take, before anything is loaded.
///
/// Each session counts its keys and values, its scratch, and one sampler. Of these, all but the samplers appear in
/// [`Model::memory_used`](crate::Model::memory_used) once they are created.
///
/// `kv_format` is that of [`ModelOptions::kv_format`](crate::ModelOptions::kv_format).
pub fn estimate(
    bundle: &Bundle,
    context: usize,
    sessions: usize,
    kv_format: Option<KvFormat>,
) -> MemoryEstimate {
    let copied = copied_bytes(bundle);
    let mut estimate = estimate_shape(
        bundle.config(),
        bundle.file_bytes() as u64 - copied,
        tokenizer_bytes(bundle),
        context,
        sessions,
        kv_format_of(bundle, kv_format),
    );
    if copied > 0 {
        estimate.parts.push(("weights", copied));
    }
    MemoryEstimate::new(estimate.file_backed, estimate.parts)
}

/// [`estimate`] for a model that is not there yet: of the shape `config`, in a mapped file of `file_bytes` with a tokenizer that takes
/// `tokenizer_bytes` of memory (0 without one).
pub fn estimate_shape(
    config: &ModelConfig,
    file_bytes: u64,
    tokenizer_bytes: u64,
    context: usize,
    sessions: usize,
    kv_format: KvFormat,
) -> MemoryEstimate {
    let sessions = sessions as u64;
    let (layers, kv_heads) = (config.num_hidden_layers, config.num_key_value_heads);
    let parts = vec![
        (
            "keys and values",
            sessions * KvCache::bytes(layers, context, kv_format, kv_heads, config.head_dim),
        ),
        ("scratch", sessions * session_bytes(config, context)),
        ("samplers", sessions * Sampler::bytes(config.vocab_size)),
        ("tokenizer", tokenizer_bytes),
    ];
    MemoryEstimate::new(file_bytes, parts)
}

/// Bytes of the bundle that are memory of this process.
pub(crate) fn copied_bytes(bundle: &Bundle) -> u64 {
    if bundle.is_copy() {
        bundle.file_bytes() as u64
    } else {
        0
    }
}

/// The format of keys and values that was asked for, or the one that suits the weights.
pub(crate) fn kv_format_of(bundle: &Bundle, asked: Option<KvFormat>) -> KvFormat {
    let weights = bundle.weights();
    asked.unwrap_or_else(|| default_kv_format(weights.embed_tokens().format()))
}

/// The format of keys and values that suits an embedding in `weights`, which is taken when none is asked for.
pub fn default_kv_format(weights: Format) -> KvFormat {
    match weights {
        Format::F32 => KvFormat::F32,
        _ => KvFormat::F16,
    }
}

/// Bytes of a session of `context` positions besides its keys and values: scratch, logits, three hidden states.
pub(crate) fn session_bytes(config: &ModelConfig, context: usize) -> u64 {
    let outputs = config.vocab_size + 3 * config.hidden_size;
    let floats = outputs + attention_room(config, context);
    Scratch::bytes(config, PREFILL_CHUNK) + (floats * size_of::<f32>()) as u64
}

/// Vocabulary, merges and their maps take about three times the JSON that they are read from.
const TOKENIZER_FACTOR: u64 = 3;

/// What a tokenizer takes whose vocabulary stays in the file: its compiled patterns and their caches (1.9 MB for Qwen2.5's).
const PACKED_TOKENIZER_BYTES: u64 = 2 << 20;

/// Bytes of memory that the tokenizer of `bundle` takes.
pub fn tokenizer_bytes(bundle: &Bundle) -> u64 {
    if !tokenizer::BUILT_IN {
        return 0;
    }
    let bytes = TOKENIZER_FACTOR * bundle.tokenizer_json().map_or(0, |json| json.len() as u64);
    if bundle.has_packed_tokenizer() {
        bytes.min(PACKED_TOKENIZER_BYTES)
    } else {
        bytes
    }
}

/// Anonymous bytes in use by one model and everything made from it, against a hard cap.
#[derive(Debug)]
pub(crate) struct Ledger {
    limit: u64,
    used: AtomicU64,
}

impl Ledger {
    pub(crate) fn new(max_bytes: Option<u64>) -> Arc<Self> {
        Arc::new(Ledger {
            limit: max_bytes.unwrap_or(u64::MAX),
            used: AtomicU64::new(0),
        })
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Books `bytes`, or refuses and books nothing.
    pub(crate) fn take(&self, bytes: u64) -> Result<()> {
        let add = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= self.limit);
        match self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
        {
            Ok(_) => Ok(()),
            Err(used) => Err(over_cap(used.saturating_add(bytes), self.limit)
                .with_hint("use a smaller context, fewer sessions or a higher cap")),
        }
    }

    pub(crate) fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Books `bytes` until the returned charge is dropped.
    pub(crate) fn charge(self: &Arc<Self>, bytes: u64) -> Result<Charge> {
        self.take(bytes)?;
        Ok(Charge {
            ledger: self.clone(),
            bytes,
        })
    }
}

/// An entry in a [`Ledger`] that lives as long as the memory it stands for.
#[derive(Debug)]
pub(crate) struct Charge {
    ledger: Arc<Ledger>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.give(self.bytes);
    }
}

/// The one message of the cap.
pub(crate) fn over_cap(needed: u64, cap: u64) -> Error {
    let message = format!("{needed} bytes of memory are needed, the cap is {cap} bytes");
    Error::new(ErrorKind::Memory, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_refuses_with_both_numbers_and_books_nothing() {
        let ledger = Ledger::new(Some(100));
        let charge = ledger.charge(60).unwrap();
        let error = ledger.take(41).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Memory);
        assert!(
            error
                .to_string()
                .contains("101 bytes of memory are needed, the cap is 100 bytes"),
            "{error}"
        );
        assert_eq!(ledger.used(), 60);
        drop(charge);
        assert_eq!(ledger.used(), 0);
        ledger.take(100).unwrap();
    }
}
