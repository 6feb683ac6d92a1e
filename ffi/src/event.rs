//! Events: what happened, by name, with every field as JSON.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::OnceLock;

use serde_json::Value;
use skimstone::reason::Event;

use crate::error::skim_error;
use crate::guard;
use crate::object::{Object, reference};
use crate::status::{Failure, Outcome, SKIM_STATUS_OK};
use crate::text::{Out, c_text, name};

/// An event that this header has no number for; skim_event_name tells which.
pub const SKIM_EVENT_OTHER: i32 = 0;
/// A route was chosen; the prompt is read next. Fields: `route`, `prompt_tokens`.
pub const SKIM_EVENT_STARTED: i32 = 1;
/// A chunk of thinking begins. Field: `index`.
pub const SKIM_EVENT_CHUNK_STARTED: i32 = 2;
/// Text of the thinking. Fields: `text`, `ids`.
pub const SKIM_EVENT_THINKING_TEXT: i32 = 3;
/// A chunk of thinking ended. Fields: `index`, `tokens`.
pub const SKIM_EVENT_CHUNK_FINISHED: i32 = 4;
/// A latent step was taken. Field: `index`.
pub const SKIM_EVENT_LATENT_STEP: i32 = 5;
/// Something was decided. Fields: `choice`, `generated_tokens`, `milliseconds`.
pub const SKIM_EVENT_DECISION: i32 = 6;
/// Text of the answer. Fields: `text`, `ids`, `logprobs`: natural logarithms, one for each token.
pub const SKIM_EVENT_ANSWER_TEXT: i32 = 7;
/// The end. Its text is the whole answer; fields: `text`, `thinking`, `route`, `confidence`, `usage`, `finish_reason`, `decisions`.
pub const SKIM_EVENT_FINISHED: i32 = 8;

/// Called with each event. The event is only valid during the call. A return value that is not 0 cancels.
///
/// Runs on the thread that called the function it was given to. It must not throw or jump out of the call. It may call every
/// function but those of the session that the event comes from, which return SKIM_STATUS_BUSY; skim_cancel_trigger is always
/// allowed.
pub type skim_event_callback =
    Option<unsafe extern "C" fn(event: *const skim_event, user_data: *mut c_void) -> i32>;

/// Something that happened while a question was answered. Immutable.
pub struct skim_event {
    event: Event,
    text: Option<CString>,
    value: OnceLock<Value>,
    json: OnceLock<CString>,
}
impl Object for skim_event {
    const NAME: &'static str = "event";
}

impl skim_event {
    pub(crate) fn new(event: Event) -> skim_event {
        let text = match &event {
            Event::ThinkingText(piece) | Event::AnswerText(piece) => Some(c_text(&piece.text)),
            Event::Finished(answer) => Some(c_text(&answer.text)),
            _ => None,
        };
        skim_event {
            event,
            text,
            value: OnceLock::new(),
            json: OnceLock::new(),
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.event, Event::Finished(_))
    }

    fn kind(&self) -> (i32, &'static CStr) {
        match self.event {
            Event::Started { .. } => (SKIM_EVENT_STARTED, c"started"),
            Event::ChunkStarted { .. } => (SKIM_EVENT_CHUNK_STARTED, c"chunk_started"),
            Event::ThinkingText(_) => (SKIM_EVENT_THINKING_TEXT, c"thinking_text"),
            Event::ChunkFinished { .. } => (SKIM_EVENT_CHUNK_FINISHED, c"chunk_finished"),
            Event::LatentStep { .. } => (SKIM_EVENT_LATENT_STEP, c"latent_step"),
            Event::Decision(_) => (SKIM_EVENT_DECISION, c"decision"),
            Event::AnswerText(_) => (SKIM_EVENT_ANSWER_TEXT, c"answer_text"),
            Event::Finished(_) => (SKIM_EVENT_FINISHED, c"finished"),
            // Of a newer runtime: told under its own name, in the JSON.
            _ => (SKIM_EVENT_OTHER, c"other"),
        }
    }

    /// The event's fields, and its name as `event`.
    fn value(&self) -> &Value {
        self.value.get_or_init(|| {
            // The runtime's own form is {name: fields}.
            let tagged = serde_json::to_value(&self.event).unwrap_or_default();
            let mut fields = serde_json::Map::new();
            if let Value::Object(tagged) = tagged
                && let Some((name, payload)) = tagged.into_iter().next()
            {
                fields.insert("event".to_owned(), Value::String(name));
                match payload {
                    Value::Object(payload) => fields.extend(payload),
                    other => drop(fields.insert("value".to_owned(), other)),
                }
            }
            Value::Object(fields)
        })
    }

    fn field(&self, path: &str) -> Outcome<&Value> {
        let mut value = self.value();
        for key in path.split('.') {
            let next = match value {
                Value::Array(items) => key.parse().ok().and_then(|i: usize| items.get(i)),
                other => other.get(key),
            };
            value = next.ok_or_else(|| {
                let (_, name) = self.kind();
                let message = format!("an event {name:?} has no field `{path}`");
                Failure::argument(message)
            })?;
        }
        Ok(value)
    }
}

/// Which event it is: one of SKIM_EVENT_…, 0 for others and for null.
///
/// Owner: `event` stays as it is.
/// Threads: any, several at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_event_type(event: *const skim_event) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe { reference(event) }.map_or(SKIM_EVENT_OTHER, |event| event.kind().0)
}

/// The name of a known event such as "answer_text", otherwise "other"; the field `event` always has the name. Empty for null.
///
/// Owner: the library's, for ever.
/// Threads: any, several at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_event_name(event: *const skim_event) -> *const c_char {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe { reference(event) }.map_or(c"".as_ptr(), |event| event.kind().1.as_ptr())
}

/// The event's text: whole characters of UTF-8, NUL-terminated. Empty where there is none, and for null. `length`, which may be
/// null, receives its bytes.
///
/// Owner: the text is the event's, valid as long as that.
/// Threads: any, several at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_event_text(
    event: *const skim_event,
    length: *mut usize,
) -> *const c_char {
    // SAFETY: the caller keeps the conventions of the header.
    let event = unsafe { reference(event) }.ok();
    let text = event.and_then(|event| event.text.as_deref()).unwrap_or(c"");
    // SAFETY: as above.
    if let Ok(out) = unsafe { Out::new(length, "length") } {
        out.write(text.count_bytes());
    }
    text.as_ptr()
}

/// The whole event as JSON: `event` is its name, the rest are its fields. Fields may be added.
///
/// Owner: `*json` is the event's, valid as long as that; `*error` is the caller's.
/// Threads: any, several at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_event_json(
    event: *const skim_event,
    json: *mut *const c_char,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_event_json", event, error, |event| {
            let out = Out::new(json, "json")?;
            let text = event
                .json
                .get_or_init(|| c_text(&event.value().to_string()));
            out.write(text.as_ptr());
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// A number among the event's fields, such as "usage.generated_tokens" of a finished one; true and false are 1 and 0.
///
/// Owner: nothing but `*error`, which is the caller's.
/// Threads: any, several at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_event_number(
    event: *const skim_event,
    path: *const c_char,
    number: *mut f64,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_event_number", event, error, |event| {
            let (out, path) = (Out::new(number, "number")?, name(path, "path")?);
            let value = event.field(path)?;
            let value = value.as_f64().or(value.as_bool().map(f64::from));
            out.write(
                value
                    .ok_or_else(|| Failure::argument(format!("field `{path}` is not a number")))?,
            );
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// A text among the event's fields, such as "route"; of other fields their JSON.
///
/// Owner: `*text` is the caller's, to free with skim_string_free; `*error` is the caller's.
/// Threads: any, several at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_event_string(
    event: *const skim_event,
    path: *const c_char,
    text: *mut *mut c_char,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_event_string", event, error, |event| {
            let out = Out::new(text, "text")?;
            out.give_string(match event.field(name(path, "path")?)? {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Frees an event that skim_session_next_event or skim_session_generate gave. Null does nothing. Not for events that a callback
/// receives.
///
/// Owner: takes `event`.
/// Threads: any; no other thread may use `event`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_event_free(event: *mut skim_event) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe { guard::free("skim_event_free", event, |_| Ok(())) }
}
