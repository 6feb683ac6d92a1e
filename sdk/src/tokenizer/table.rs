//! A byte-pair vocabulary as it lies in a bundle: read in place, so that opening a model builds no hash tables and the vocabulary is
//! file-backed memory.
//!
//! ```text
//! magic     8 bytes
//! counts    6 × u32: checksum of the tokenizer.json it was made from, tokens N (highest id + 1), named (ids that have a token),
//!                    merges M, arena bytes, rest bytes
//! offsets   u32 × (N + 1)    where in the arena a token begins; an id without a token has no bytes
//! order     u32 × named      ids in the order of their tokens' bytes
//! firsts    u32 × (N + 1)    a token's first merge as the left one
//! merges    3 × u32 × M      right token, rank, merged token; in the order of left and right
//! arena     tokens, UTF-8, one after the other
//! rest      tokenizer.json without its vocabulary and merges
//! ```
//!
//! All numbers are little-endian. [`Table::open`] checks that the sections fit; what stands in them is checked when it is read, since a
//! pass over them would cost what the table saves: a wrong number gives a wrong token or none, never a panic.

use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::sync::Arc;

use super::json::Merge;
use crate::bundle::Storage;
use crate::config::TokenId;

const MAGIC: &[u8; 8] = b"skimbpe1";
const WORD: usize = size_of::<u32>();
/// Words after the magic.
const COUNTS: usize = 6;
const WORDS_PER_MERGE: usize = 3;

/// Ids without a token that a table has room for, beside as many as there are tokens.
const HOLES: usize = 1 << 16;

/// A table in a bundle, or one that was just made.
pub(crate) enum TableBytes {
    /// A part of the bundle's file.
    Bundle(Arc<Storage>, Range<usize>),
    Owned(Vec<u8>),
}

impl Deref for TableBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            TableBytes::Bundle(storage, range) => storage.get(range.clone()).unwrap_or_default(),
            TableBytes::Owned(bytes) => bytes,
        }
    }
}

/// Tokens and merges; see the [module](self).
pub(super) struct Table {
    bytes: TableBytes,
    tokens: usize,
    named: usize,
    source_crc: u32,
    offsets: Range<usize>,
    order: Range<usize>,
    firsts: Range<usize>,
    merges: Range<usize>,
    arena: Range<usize>,
    rest: Range<usize>,
}

impl Table {
    /// Finds the sections of `bytes`; `None` if they are no table.
    pub(super) fn open(bytes: TableBytes) -> Option<Table> {
        let counts = bytes.strip_prefix(MAGIC)?;
        let mut words = counts.as_chunks::<WORD>().0.iter();
        let mut count = || words.next().map(|word| u32::from_le_bytes(*word));
        let source_crc = count()?;
        let mut size = || usize::try_from(count()?).ok();
        let (tokens, named, merges) = (size()?, size()?, size()?);
        let (arena, rest) = (size()?, size()?);
        let mut end = MAGIC.len() + COUNTS * WORD;
        let mut section = |items: usize, bytes: usize| {
            let start = end;
            end = start.checked_add(items.checked_mul(bytes)?)?;
            Some(start..end)
        };
        let (offsets, order) = (section(tokens + 1, WORD)?, section(named, WORD)?);
        let firsts = section(tokens + 1, WORD)?;
        let merges = section(merges, WORDS_PER_MERGE * WORD)?;
        let (arena, rest) = (section(arena, 1)?, section(rest, 1)?);
        if end != bytes.len() {
            return None;
        }
        Some(Table {
            bytes,
            tokens,
            named,
            source_crc,
            offsets,
            order,
            firsts,
            merges,
            arena,
            rest,
        })
    }

    /// Checksum of the `tokenizer.json` that the table was made from.
    pub(super) fn source_crc(&self) -> u32 {
        self.source_crc
    }

    /// The highest id + 1.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Ids that have a token.
    pub(super) fn named(&self) -> usize {
        self.named
    }

    /// `tokenizer.json` without its vocabulary and merges.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.rest.clone()]
    }

    /// The token with this id.
    pub(super) fn token(&self, id: TokenId) -> Option<&str> {
        std::str::from_utf8(self.token_bytes(id)?).ok()
    }

    fn token_bytes(&self, id: TokenId) -> Option<&[u8]> {
        let id = usize::try_from(id).ok()?;
        let start = self.index(&self.offsets, id)?;
        let end = self.index(&self.offsets, id + 1)?;
        let token = self.bytes[self.arena.clone()].get(start..end)?;
        Some(token).filter(|token| !token.is_empty())
    }

    /// The id of a token.
    pub(super) fn id(&self, token: &str) -> Option<TokenId> {
        let at = |i: usize| self.word(&self.order, i);
        let found = search(self.named, |i| {
            Some(self.token_bytes(at(i)?)?.cmp(token.as_bytes()))
        })?;
        at(found)
    }

    /// Rank and id of what two neighbours become; the lowest rank goes first.
    pub(super) fn merge(&self, left: TokenId, right: TokenId) -> Option<(u32, TokenId)> {
        let left = usize::try_from(left).ok()?;
        let first = self.index(&self.firsts, left)?;
        let end = self.index(&self.firsts, left + 1)?;
        let at = |i: usize, word: usize| {
            let merge = first.checked_add(i)?.checked_mul(WORDS_PER_MERGE)?;
            self.word(&self.merges, merge.checked_add(word)?)
        };
        let found = search(end.checked_sub(first)?, |i| Some(at(i, 0)?.cmp(&right)))?;
        Some((at(found, 1)?, at(found, 2)?))
    }

    /// Every token with its id.
    pub(super) fn vocabulary(&self) -> impl Iterator<Item = (&str, TokenId)> {
        // A `u32` in the file, so it fits.
        let ids = 0..self.tokens as TokenId;
        ids.filter_map(|id| Some((self.token(id)?, id)))
    }

    fn word(&self, section: &Range<usize>, i: usize) -> Option<u32> {
        let words = self.bytes[section.clone()].as_chunks::<WORD>().0;
        Some(u32::from_le_bytes(*words.get(i)?))
    }

    fn index(&self, section: &Range<usize>, i: usize) -> Option<usize> {
        usize::try_from(self.word(section, i)?).ok()
    }
}

/// The item of `0..len` that compares equal, where items are in ascending order.
fn search(len: usize, compare: impl Fn(usize) -> Option<std::cmp::Ordering>) -> Option<usize> {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        match compare(middle)? {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Equal => return Some(middle),
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}

/// Packs a vocabulary with its merges, the first of which goes first. `None` for what a table cannot hold: tokens without bytes, two tokens
/// of one id, ids far beyond the number of tokens, merges of what is no token.
pub(super) fn pack(
    vocabulary: &[(impl AsRef<str>, TokenId)],
    merges: &[Merge<'_>],
    rest: &[u8],
    source_crc: u32,
) -> Option<Vec<u8>> {
    // Of a token or a merge that stands twice the last one counts, as it does in the `tokenizers` crate.
    let ids: HashMap<&str, TokenId> = vocabulary
        .iter()
        .map(|(token, id)| (token.as_ref(), *id))
        .collect();
    let tokens = ids.values().max().map_or(Some(0), |id| {
        usize::try_from(*id).ok().and_then(|id| id.checked_add(1))
    })?;
    if tokens > ids.len().saturating_mul(2).saturating_add(HOLES) {
        return None;
    }
    let mut by_id: Vec<&str> = vec![""; tokens];
    for (token, id) in &ids {
        let slot = by_id.get_mut(usize::try_from(*id).ok()?)?;
        if token.is_empty() || !slot.is_empty() {
            return None;
        }
        *slot = token;
    }
    let mut order: Vec<TokenId> = ids.values().copied().collect();
    order.sort_unstable_by_key(|id| by_id.get(*id as usize));

    let mut merged: Vec<(TokenId, TokenId, u32, TokenId)> = Vec::with_capacity(merges.len());
    let mut joined = String::new();
    for (rank, Merge(left, right)) in merges.iter().enumerate() {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let id = |token: &str| ids.get(token).copied();
        let rank = u32::try_from(rank).ok()?;
        merged.push((id(left)?, id(right)?, rank, id(&joined)?));
    }
    merged.sort_unstable_by_key(|&(left, right, rank, _)| (left, right, u32::MAX - rank));
    merged.dedup_by_key(|&mut (left, right, ..)| (left, right));

    let arena: usize = by_id.iter().map(|token| token.len()).sum();
    let counts = [tokens, order.len(), merged.len(), arena, rest.len()];
    let mut out = MAGIC.to_vec();
    let mut put = |word: usize| {
        out.extend_from_slice(&u32::try_from(word).ok()?.to_le_bytes());
        Some(())
    };
    put(source_crc as usize)?;
    for count in counts {
        put(count)?;
    }
    let mut end = 0;
    put(end)?;
    for token in &by_id {
        end += token.len();
        put(end)?;
    }
    for id in order {
        put(id as usize)?;
    }
    let mut first = 0;
    for left in 0..=tokens {
        first += merged[first..].partition_point(|merge| (merge.0 as usize) < left);
        put(first)?;
    }
    for (_, right, rank, merged) in merged {
        for word in [right, rank, merged] {
            put(word as usize)?;
        }
    }
    for token in by_id {
        out.extend_from_slice(token.as_bytes());
    }
    out.extend_from_slice(rest);
    Some(out)
}
