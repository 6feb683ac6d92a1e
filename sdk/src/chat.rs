//! Chat templates: messages → the prompt text that a model was trained on.

#[cfg(not(feature = "text"))]
#[path = "chat/disabled.rs"]
mod template;
#[cfg(feature = "text")]
mod template;

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use template::ChatTemplate;

/// One turn of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said.
    pub content: String,
    /// The thinking of an assistant, where it is kept apart from the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls that an assistant made, in the JSON of OpenAI-compatible servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<serde_json::Value>,
}

impl Message {
    /// A message of any role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message {
            role: role.into(),
            content: content.into(),
            ..Message::default()
        }
    }

    /// What the developer says before the conversation.
    pub fn system(content: impl Into<String>) -> Message {
        Message::new("system", content)
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Message {
        Message::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Message {
        Message::new("assistant", content)
    }
}

/// How to render a conversation.
#[derive(Clone, Debug)]
pub struct ChatOptions {
    /// End with what makes the model speak next.
    pub add_generation_prompt: bool,
    /// Passed to templates that know it; `None` leaves it undefined, and the template decides.
    pub enable_thinking: Option<bool>,
    /// Functions that the model may call, as JSON schemas.
    pub tools: Vec<serde_json::Value>,
    /// Further variables of the template.
    pub variables: BTreeMap<String, serde_json::Value>,
    /// The time that `strftime_now` shows, in UTC; `None`: now.
    pub now: Option<SystemTime>,
}

impl Default for ChatOptions {
    /// The model speaks next; everything else is left to the template.
    fn default() -> Self {
        ChatOptions {
            add_generation_prompt: true,
            enable_thinking: None,
            tools: Vec::new(),
            variables: BTreeMap::new(),
            now: None,
        }
    }
}
