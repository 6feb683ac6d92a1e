//! Without the feature `text` no tokenizer can be made, so that none is ever asked: prompts and answers are token ids.

use std::ops::Range;
use std::sync::Arc;

use crate::bundle::Storage;
use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};

/// Whether a bundle's tokenizer can be used.
pub(crate) const BUILT_IN: bool = false;

/// What is missing and what to do, where a model must have a tokenizer and has none.
pub(crate) const MISSING: (&str, &str) = (
    "this library was built without a tokenizer",
    "give token ids, or build it with the feature `text`",
);

/// A packed vocabulary, which nobody reads here.
pub(crate) enum TableBytes {
    /// A part of the bundle's file.
    Bundle(
        #[allow(dead_code, reason = "as with the feature `text`, where it is read")] Arc<Storage>,
        #[allow(dead_code, reason = "as with the feature `text`, where it is read")] Range<usize>,
    ),
}

/// Packs nothing: a bundle then has the vocabulary as `tokenizer.json` alone.
pub(crate) fn pack(_json: &[u8]) -> Option<Vec<u8>> {
    None
}

fn missing<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Tokenizer, MISSING.0).with_hint(MISSING.1))
}

/// A bundle's tokenizer. This library was built without the feature `text`, so there is none.
#[derive(Clone, Debug)]
pub enum Tokenizer {}

impl Tokenizer {
    /// Fails.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`], always.
    pub fn from_bytes(_json: &[u8], _vocab_size: usize) -> Result<Tokenizer> {
        missing()
    }

    pub(crate) fn from_json(_json: &[u8], _vocab_size: usize) -> Result<Tokenizer> {
        missing()
    }

    pub(crate) fn from_table(
        _table: TableBytes,
        _json_crc: u32,
        _vocab_size: usize,
    ) -> Result<Tokenizer> {
        missing()
    }

    /// Cannot be called, as all that follow: there is no tokenizer.
    ///
    /// # Errors
    /// None.
    pub fn encode(&self, _text: &str, _add_special: bool) -> Result<Vec<TokenId>> {
        match *self {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn decode(&self, _ids: &[TokenId], _skip_special: bool) -> Result<String> {
        match *self {}
    }

    /// Cannot be called.
    pub fn decode_stream(&self, _skip_special: bool) -> DecodeStream {
        match *self {}
    }

    /// Cannot be called.
    pub fn id_to_token(&self, _id: TokenId) -> Option<String> {
        match *self {}
    }

    /// Cannot be called.
    pub fn token_to_id(&self, _token: &str) -> Option<TokenId> {
        match *self {}
    }

    /// Cannot be called.
    pub fn vocab_size(&self) -> usize {
        match *self {}
    }
}

/// Text from ids as they come. There is none here.
#[derive(Clone, Debug)]
pub enum DecodeStream {}

impl DecodeStream {
    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn push(&mut self, _id: TokenId) -> Result<Option<String>> {
        match *self {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn finish(&mut self) -> Result<Option<String>> {
        match *self {}
    }
}
