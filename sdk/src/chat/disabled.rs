//! Without the feature `text` no template can be made, so that none is ever rendered.

use std::collections::BTreeMap;

use super::{ChatOptions, Message};
use crate::error::{Error, ErrorKind, Result};

/// A compiled chat template. This library was built without the feature `text`, so there is none.
#[derive(Debug)]
pub enum ChatTemplate {}

impl ChatTemplate {
    /// Fails.
    ///
    /// # Errors
    /// [`ErrorKind::Template`], always.
    pub fn new(_source: &str, _special_tokens: BTreeMap<String, String>) -> Result<ChatTemplate> {
        let message = "this library was built without chat templates";
        Err(Error::new(ErrorKind::Template, message)
            .with_hint("give token ids, or build it with the feature `text`"))
    }

    /// Cannot be called: there is no template.
    ///
    /// # Errors
    /// None.
    pub fn render(&self, _messages: &[Message], _options: &ChatOptions) -> Result<String> {
        match *self {}
    }
}
