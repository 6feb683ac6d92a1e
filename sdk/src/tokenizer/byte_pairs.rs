//! Byte-pair encoding over a [`Table`]: the neighbours with the lowest rank are merged until none are left to merge.
//!
//! Gives the ids that the `tokenizers` crate gives (its `BPE` without dropout, prefix and suffix), which the tests hold it to.
//!
//! Source: Sennrich, Haddow, Birch, *Neural Machine Translation of Rare Words with Subword Units*, 2016.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};
use tokenizers::{Result, Token};

use super::table::Table;
use crate::config::TokenId;

/// What a byte-pair model does beside merging, under the names of `tokenizer.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Settings {
    /// Stands for a character that is no token.
    pub(super) unk_token: Option<String>,
    /// One such token for a run of characters.
    pub(super) fuse_unk: bool,
    /// A character that is no token becomes its bytes, if they are tokens: `<0x0A>`.
    pub(super) byte_fallback: bool,
    /// A word that is a token is not built from merges.
    pub(super) ignore_merges: bool,
}

/// A vocabulary with what to do with it.
pub(super) struct BytePairs {
    table: Table,
    settings: Settings,
}

/// A piece of the word that is one token so far; a piece that was merged into its left neighbour has no bytes.
#[derive(Clone, Copy)]
struct Piece {
    id: TokenId,
    bytes: usize,
    left: Option<usize>,
    right: Option<usize>,
}

impl BytePairs {
    pub(super) fn new(table: Table, settings: Settings) -> BytePairs {
        BytePairs { table, settings }
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// The tokens of `word`, with their bytes in it.
    pub(super) fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        if self.settings.ignore_merges
            && let Some(id) = self.table.id(word)
        {
            return Ok(vec![Token::new(id, word.to_owned(), (0, word.len()))]);
        }
        let mut pieces = self.characters(word)?;
        self.merge(&mut pieces);
        let mut end = 0;
        let tokens = pieces.into_iter().filter(|piece| piece.bytes > 0);
        let tokens = tokens.map(|piece| {
            let start = end;
            end += piece.bytes;
            let token = self.table.token(piece.id).unwrap_or_default();
            Token::new(piece.id, token.to_owned(), (start, end))
        });
        Ok(tokens.collect())
    }

    /// One piece per character, or what stands for it.
    fn characters(&self, word: &str) -> Result<Vec<Piece>> {
        let mut pieces: Vec<Piece> = Vec::with_capacity(word.len());
        let mut push = |id, bytes| {
            let at = pieces.len();
            let left = at.checked_sub(1);
            if let Some(left) = left {
                pieces[left].right = Some(at);
            }
            pieces.push(Piece {
                id,
                bytes,
                left,
                right: None,
            });
        };
        // A run of characters that are no token, and its bytes.
        let mut unknown: Option<(TokenId, usize)> = None;
        let mut buffer = [0; 4];
        for character in word.chars() {
            let character: &str = character.encode_utf8(&mut buffer);
            let bytes = character.len();
            if let Some(id) = self.table.id(character) {
                if let Some((unknown, bytes)) = unknown.take() {
                    push(unknown, bytes);
                }
                push(id, bytes);
            } else if let Some(ids) = self.fallback_bytes(character) {
                // The unknown run before stays open, as in the `tokenizers` crate: it comes after these bytes.
                ids.into_iter().for_each(|id| push(id, 1));
            } else if let Some(token) = &self.settings.unk_token {
                let Some(id) = self.table.id(token) else {
                    return Err(
                        format!("the unknown token `{token}` is not in the vocabulary").into(),
                    );
                };
                unknown = match unknown {
                    Some((id, before)) if self.settings.fuse_unk => Some((id, before + bytes)),
                    Some((before, length)) => {
                        push(before, length);
                        Some((id, bytes))
                    }
                    None => Some((id, bytes)),
                };
            }
        }
        if let Some((id, bytes)) = unknown {
            push(id, bytes);
        }
        Ok(pieces)
    }

    /// The tokens of a character's bytes, if they are to be used and all are there.
    fn fallback_bytes(&self, character: &str) -> Option<Vec<TokenId>> {
        if !self.settings.byte_fallback {
            return None;
        }
        let id = |byte| self.table.id(&format!("<0x{byte:02X}>"));
        character.bytes().map(id).collect()
    }

    /// Merges neighbours, the lowest rank first, among equals the leftmost.
    fn merge(&self, pieces: &mut [Piece]) {
        // Entries are never taken out, only found to be outdated when their turn comes.
        let mut queue = BinaryHeap::with_capacity(pieces.len());
        for (at, pair) in pieces.windows(2).enumerate() {
            if let Some((rank, id)) = self.table.merge(pair[0].id, pair[1].id) {
                queue.push(Reverse((rank, at, id)));
            }
        }
        while let Some(Reverse((_, at, id))) = queue.pop() {
            let piece = pieces[at];
            let Some(right) = piece.right.filter(|_| piece.bytes > 0) else {
                continue;
            };
            let next = pieces[right];
            if self
                .table
                .merge(piece.id, next.id)
                .is_none_or(|(_, now)| now != id)
            {
                continue;
            }
            pieces[at] = Piece {
                id,
                bytes: piece.bytes + next.bytes,
                left: piece.left,
                right: next.right,
            };
            pieces[right].bytes = 0;
            if let Some(after) = next.right {
                pieces[after].left = Some(at);
            }
            let mut push = |left: usize, right: usize| {
                if let Some((rank, id)) = self.table.merge(pieces[left].id, pieces[right].id) {
                    queue.push(Reverse((rank, left, id)));
                }
            };
            if let Some(left) = piece.left {
                push(left, at);
            }
            if let Some(right) = next.right {
                push(at, right);
            }
        }
    }
}
