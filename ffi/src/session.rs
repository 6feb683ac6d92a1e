//! Sessions: a conversation, its questions, their events.
//!
//! The state of a session lies behind a lock that is only ever tried, never waited for: a second thread, or a callback that calls
//! back, gets a status instead of a race or a deadlock.

use std::ffi::{c_char, c_void};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skimstone::reason::{Engine, Lifecycle, Progress};
use skimstone::{ChatOptions, ChatTemplate, Error, ErrorKind, Message, TokenId};

use crate::bundle::path_of;
use crate::cancel::{self, skim_cancel};
use crate::error::skim_error;
use crate::event::{skim_event, skim_event_callback};
use crate::guard;
use crate::knobs::{Settings, When, bounds};
use crate::model::skim_model;
use crate::object::{Handle, Object};
use crate::options::{settings_of, skim_options};
use crate::status::{
    Failure, Outcome, SKIM_STATUS_BUSY, SKIM_STATUS_END, SKIM_STATUS_OK, SKIM_STATUS_TIMEOUT,
};
use crate::text::{Out, UserData, name, optional_name, skim_destroy, slice, text};

/// One conversation: what was appended, and the keys and values that the model computed for it.
pub struct skim_session {
    state: Mutex<State>,
    /// Apart, so that a thread reaches it while another works.
    lifecycle: Lifecycle,
}
impl Object for skim_session {
    const NAME: &'static str = "session";
}

pub(crate) struct State {
    pub(crate) engine: Engine,
    settings: Settings,
    pub(crate) prompt: Prompt,
    /// Compiled at the first use.
    template: Option<ChatTemplate>,
}

/// What was appended: stretches of a text, or messages.
#[derive(Clone, Default)]
pub(crate) struct Prompt {
    pub(crate) parts: Vec<Part>,
    pub(crate) messages: Vec<Message>,
}

/// A stretch of the prompt.
#[derive(Clone)]
pub(crate) enum Part {
    Text(String),
    Tokens(Vec<TokenId>),
}

/// What a session can set.
const ASK: &[When] = &[When::Ask];

impl skim_session {
    pub(crate) fn lock(&self) -> Outcome<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Ok(state),
            // A panic poisoned the handle, too, and the guard refuses it.
            Err(TryLockError::Poisoned(state)) => Ok(state.into_inner()),
            Err(TryLockError::WouldBlock) => {
                let message = "the session is in use by another thread or by the call that this one was made from";
                Err(Failure::new(SKIM_STATUS_BUSY, "busy", message))
            }
        }
    }
}

impl State {
    fn append(&mut self, part: Part) -> Outcome<()> {
        if !self.prompt.messages.is_empty() {
            return Err(mixed());
        }
        // One text, however it was cut, is tokenized as one.
        match (self.prompt.parts.last_mut(), part) {
            (Some(Part::Text(text)), Part::Text(more)) => text.push_str(&more),
            (Some(Part::Tokens(ids)), Part::Tokens(more)) => ids.extend(more),
            (_, part) => self.prompt.parts.push(part),
        }
        Ok(())
    }

    /// The tokens of everything that was appended.
    fn tokens(&mut self) -> Outcome<Vec<TokenId>> {
        let model = self.engine.model().clone();
        if !self.prompt.messages.is_empty() {
            if self.template.is_none() {
                self.template = model.bundle().chat()?;
            }
            let template = self.template.as_ref().ok_or_else(|| {
                Error::new(ErrorKind::Template, "the bundle has no chat template")
                    .with_hint("append text instead of messages")
            })?;
            let text = template.render(&self.prompt.messages, &ChatOptions::default())?;
            return Ok(model.require_tokenizer()?.encode(&text, false)?);
        }
        let mut ids = Vec::new();
        for (i, part) in self.prompt.parts.iter().enumerate() {
            match part {
                Part::Tokens(tokens) => ids.extend(tokens),
                Part::Text(text) => ids.extend(model.require_tokenizer()?.encode(text, i == 0)?),
            }
        }
        Ok(ids)
    }

    fn begin(&mut self) -> Outcome<()> {
        let ids = self.tokens()?;
        if ids.is_empty() {
            return Err(Failure::state("nothing was appended to answer"));
        }
        log::debug!("a question of {} tokens", ids.len());
        let ask = self.settings.ask_of(self.engine.model())?;
        Ok(self.engine.ask(&ids, &ask)?)
    }
}

fn mixed() -> Failure {
    Failure::state("the session has messages, and text was appended, or the other way round")
        .with_hint("use one of them, or call skim_session_clear between")
}

fn handle(engine: Engine, settings: Settings, prompt: Prompt) -> *mut skim_session {
    Handle::new(skim_session {
        lifecycle: engine.lifecycle(),
        state: Mutex::new(State {
            engine,
            settings,
            prompt,
            template: None,
        }),
    })
    .give()
}

/// Makes a session of `model`: reserves the keys and values of its whole context, so that answering allocates none. Uses
/// `context`, `reuse_prefix` and, as a start, everything that skim_session_set_param can change, of `options`, which may be null.
///
/// Owner: `model` stays the caller's, who may free it at once; `*session` is the caller's, to free with skim_session_free;
/// `*error` is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_new(
    model: *const skim_model,
    options: *const skim_options,
    session: *mut *mut skim_session,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_new", model, error, |model| {
            let out = Out::new(session, "session")?;
            let settings = settings_of(options)?;
            if let Some(route) = &settings.ask.route {
                model.model.reasoning().route(route)?;
            }
            let engine = Engine::new(&model.model, settings.engine.clone())?;
            log::info!("session of {} positions", engine.session().context());
            out.write(handle(engine, settings, Prompt::default()));
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Sets how the next question is answered; see skim_options_set for the values. Null sets `key` back to its default. A question
/// that is being answered does not change.
///
/// Owner: `key` and `value` stay the caller's; `*error` is the caller's.
/// Threads: one at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_set_param(
    session: *mut skim_session,
    key: *const c_char,
    value: *const c_char,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_set_param", session, error, |session| {
            let (key, value) = (name(key, "key")?, optional_name(value, "value")?);
            let mut state = session.lock()?;
            let model = state.engine.model().clone();
            state.settings.set(key, value, ASK, Some(&model))?;
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// The value of `key` as JSON; `null` where nothing was set and there is no default value.
///
/// Owner: `*value` is the caller's, to free with skim_string_free; `*error` is the caller's.
/// Threads: one at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_get_param(
    session: *const skim_session,
    key: *const c_char,
    value: *mut *mut c_char,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_get_param", session, error, |session| {
            let out = Out::new(value, "value")?;
            let key = name(key, "key")?;
            out.give_string(session.lock()?.settings.get(key, ASK)?);
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// What skim_session_set_param can set, as skim_options_get_bounds; of a route also the names that the model knows.
///
/// Owner: `*bounds_json` is the caller's, to free with skim_string_free; `*error` is the caller's.
/// Threads: one at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_get_bounds(
    session: *const skim_session,
    key: *const c_char,
    bounds_json: *mut *mut c_char,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_get_bounds", session, error, |session| {
            let out = Out::new(bounds_json, "bounds_json")?;
            let state = session.lock()?;
            out.give_string(bounds(
                optional_name(key, "key")?,
                ASK,
                Some(state.engine.model()),
            )?);
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Appends `length` bytes of UTF-8 to the prompt. What was appended stays until skim_session_clear: for a second turn append the
/// first answer and what follows. A session of `reuse_prefix` then reads only what is new.
///
/// Owner: `text_utf8` stays the caller's, it is copied; `*error` is the caller's.
/// Threads: one at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_append_text(
    session: *mut skim_session,
    text_utf8: *const c_char,
    length: usize,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_append_text", session, error, |session| {
            let part = Part::Text(text(text_utf8, length, "text_utf8")?.to_owned());
            session.lock()?.append(part)?;
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Appends tokens to the prompt, as they are.
///
/// Owner: `tokens` stays the caller's, it is copied; `*error` is the caller's.
/// Threads: one at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_append_tokens(
    session: *mut skim_session,
    tokens: *const u32,
    count: usize,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_append_tokens", session, error, |session| {
            let part = Part::Tokens(slice(tokens, count, "tokens")?.to_vec());
            session.lock()?.append(part)?;
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Appends a message of `role` ("system", "user", "assistant", "tool") to the conversation, which the model's chat template turns
/// into a prompt. The assistant's own answers are appended by the caller, too. Not together with text or tokens.
///
/// Owner: `role` and `content` stay the caller's, they are copied; `*error` is the caller's.
/// Threads: one at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_append_message(
    session: *mut skim_session,
    role: *const c_char,
    content: *const c_char,
    length: usize,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_append_message", session, error, |session| {
            let message = Message::new(name(role, "role")?, text(content, length, "content")?);
            let mut state = session.lock()?;
            if !state.prompt.parts.is_empty() {
                return Err(mixed());
            }
            state.prompt.messages.push(message);
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Forgets everything that was appended. Keys and values stay for what the next prompt may share.
///
/// Owner: nothing but `*error`, which is the caller's.
/// Threads: one at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_clear(
    session: *mut skim_session,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_clear", session, error, |session| {
            session.lock()?.prompt = Prompt::default();
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Begins to answer what was appended. Computes nothing yet; pull with skim_session_next_event. A question that was not answered
/// to its end is dropped, and a cancel that was asked for before is taken back.
///
/// Owner: nothing but `*error`, which is the caller's.
/// Threads: one at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_begin(
    session: *mut skim_session,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_begin", session, error, |session| {
            session.lock()?.begin()?;
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Works, on the calling thread and those of the model, until something happens, and tells it. Nothing is computed between calls:
/// to stop pulling is to pause. With a `timeout_ms` of 0 or more it also returns SKIM_STATUS_TIMEOUT, without an event, at the
/// first step after that time; a step is a token, a latent step or a chunk of the prompt, and at least one is taken. Negative: no
/// timeout. SKIM_STATUS_END after the finished event, and if there is no question. An error ends the question.
///
/// Owner: `*event` is the caller's, to free with skim_event_free, written only with SKIM_STATUS_OK; `*error` is the caller's.
/// Threads: one at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_next_event(
    session: *mut skim_session,
    timeout_ms: i32,
    event: *mut *mut skim_event,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_next_event", session, error, |session| {
            let out = Out::new(event, "event")?;
            let engine = &mut session.lock()?.engine;
            let progress = match u64::try_from(timeout_ms) {
                Ok(ms) => engine.next_event_until(Instant::now() + Duration::from_millis(ms))?,
                Err(_) => match engine.next_event()? {
                    Some(event) => Progress::Event(event),
                    None => Progress::Nothing,
                },
            };
            match progress {
                Progress::Event(event) => {
                    out.write(Handle::new(skim_event::new(event)).give());
                    Ok(SKIM_STATUS_OK)
                }
                Progress::Unfinished => Ok(SKIM_STATUS_TIMEOUT),
                Progress::Nothing => Ok(SKIM_STATUS_END),
            }
        })
    }
}

/// skim_session_begin, and all events to the end: each is handed to `callback`, which may be null. If the callback returns other
/// than 0 the question is cancelled, and of the events only the finished one follows. `finished`, which may be null, receives
/// that last event; with a cancel, too, this function returns SKIM_STATUS_OK.
///
/// Owner: takes `user_data`; `destroy(user_data)` is called, if it is not null, before this function returns, also if it fails.
/// `*finished` is the caller's, to free with skim_event_free; `*error` is the caller's.
/// Threads: one at a time; the callback runs on the calling thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_generate(
    session: *mut skim_session,
    callback: skim_event_callback,
    user_data: *mut c_void,
    destroy: skim_destroy,
    finished: *mut *mut skim_event,
    error: *mut *mut skim_error,
) -> i32 {
    let user_data = UserData::new(user_data, destroy);
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_generate", session, error, |session| {
            let out = match finished.is_null() {
                true => None,
                false => Some(Out::new(finished, "finished")?),
            };
            let mut state = session.lock()?;
            state.begin()?;
            let (mut cancelled, mut last) = (false, None);
            while let Some(event) = state.engine.next_event()? {
                let event = Handle::new(skim_event::new(event));
                if let Some(callback) = callback
                    && (!cancelled || event.is_finished())
                    && callback(event.lend(), user_data.pointer) != 0
                {
                    cancelled = true;
                    state.engine.cancel_handle().cancel();
                }
                last = event.is_finished().then_some(event);
            }
            if let (Some(out), Some(last)) = (out, last) {
                out.write(last.give());
            }
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// A handle that stops this session's work from anywhere.
///
/// Owner: `*cancel` is the caller's, to free with skim_cancel_free; `*error` is the caller's.
/// Threads: one at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_cancel_handle(
    session: *const skim_session,
    cancel: *mut *mut skim_cancel,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_cancel_handle", session, error, |session| {
            let out = Out::new(cancel, "cancel")?;
            out.write(cancel::handle(session.lock()?.engine.cancel_handle()));
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// A second session in the same state: what was appended, the parameters, and the keys and values, which both share. A question
/// that is being answered stays with the first. The fork has a cancel handle of its own.
///
/// Owner: `*fork` is the caller's, to free with skim_session_free, in any order; `*error` is the caller's.
/// Threads: one at a time; afterwards each session on its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_fork(
    session: *const skim_session,
    fork: *mut *mut skim_session,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_fork", session, error, |session| {
            let out = Out::new(fork, "fork")?;
            let state = session.lock()?;
            out.write(handle(
                state.engine.fork()?,
                state.settings.clone(),
                state.prompt.clone(),
            ));
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Writes keys and values of what was read so far, and the question that is being answered, which goes on, to the file at `path`. It
/// appears whole or not at all, replaces what was there before, and is on the storage when this returns. What was appended and the
/// parameters are not part of it. The directory must allow a second file beside it meanwhile.
///
/// Owner: `path` stays the caller's; `*error` is the caller's.
/// Threads: one at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_save(
    session: *const skim_session,
    path: *const c_char,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_save", session, error, |session| {
            let path = path_of(path)?;
            session.lock()?.engine.save(path)?;
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Takes keys and values from a file that skim_session_save wrote, in this process or another: the next question reads only what
/// its prompt has beyond them, in a session of `reuse_prefix`. A question that is being answered is dropped, and so is one in the
/// file: see skim_session_resume. A file that is not whole, or of another model, other weights or another `kv_format`, is refused, and the session stays as it was.
///
/// Owner: `path` stays the caller's; `*error` is the caller's.
/// Threads: one at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_restore(
    session: *mut skim_session,
    path: *const c_char,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_restore", session, error, |session| {
            let path = path_of(path)?;
            let mut state = session.lock()?;
            if !state.settings.engine.reuse_prefix {
                return Err(Failure::state("the session reads every prompt anew")
                    .with_hint("make it with options in which `reuse_prefix` is true"));
            }
            state.engine.restore(path)?;
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Goes on with the question in a file that skim_session_save or skim_session_enter_background wrote, in this process or another,
/// as if it had not been interrupted; pull with skim_session_next_event. The parameters must be those of the question; a route that
/// is not set is that of the file. Time limits begin anew. Its events come from the start again, without being computed, up to a
/// decision "resumed". Files are refused as by skim_session_restore, and if they have no question; the session stays as it was then.
/// What was appended is not touched.
///
/// Owner: `path` stays the caller's; `*error` is the caller's.
/// Threads: one at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_resume(
    session: *mut skim_session,
    path: *const c_char,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_resume", session, error, |session| {
            let path = path_of(path)?;
            let State {
                engine, settings, ..
            } = &mut *session.lock()?;
            engine.resume(path, &settings.ask)?;
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// For a memory warning of the system. Without a question in progress the session gives back the keys and values that the next
/// prompt might share, and all their memory; the next question reserves it again, or fails with SKIM_STATUS_MEMORY. During a question
/// it gives back what that cannot need any more under its limits. Answers do not change. If another thread works on the session, it
/// does so at its next step. skim_model_memory_used tells what is left.
///
/// Owner: nothing but `*error`, which is the caller's.
/// Threads: any, at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_memory_warning(
    session: *const skim_session,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_memory_warning", session, error, |session| {
            match session.lock() {
                Ok(mut state) => {
                    let bytes = state.engine.shed_memory()?;
                    log::info!("memory warning: {bytes} bytes given back");
                }
                Err(_busy) => session.lifecycle.memory_warning(),
            }
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// The app leaves the screen. The question in progress finishes its chunk of thinking, or its answer, if that takes no longer than
/// `grace_ms`, and else its step; writes what skim_session_save writes to `path`; and ends with the finish reason "suspended". A prompt
/// ends after the part in progress. If no thread works on the session at this moment, the file is also written before this returns,
/// so that nothing is lost if nobody pulls any more. If the file cannot be written, whoever pulls gets the error, and the question
/// stays: pulling again goes on with it. The next question, or skim_session_enter_foreground, takes the request back.
///
/// Owner: `path` stays the caller's, it is copied; `*error` is the caller's.
/// Threads: any, at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_enter_background(
    session: *const skim_session,
    path: *const c_char,
    grace_ms: u32,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_enter_background", session, error, |session| {
            let path = path_of(path)?;
            let grace = Duration::from_millis(u64::from(grace_ms));
            session.lifecycle.enter_background(path, grace);
            if let Ok(state) = session.lock() {
                state.engine.save(path)?;
            }
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// The app is back: a question that was not suspended yet goes on.
///
/// Owner: nothing but `*error`, which is the caller's.
/// Threads: any, at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_enter_foreground(
    session: *const skim_session,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_enter_foreground", session, error, |session| {
            session.lifecycle.enter_foreground();
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Describes the session as JSON: `context`, `kv_entries`, `position`, `kv_bytes`, `tokens`, `latent_steps`, `layer_passes`, `head_passes`, all
/// since it was made.
///
/// Owner: `*json` is the caller's, to free with skim_string_free; `*error` is the caller's.
/// Threads: one at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_inspect(
    session: *const skim_session,
    json: *mut *mut c_char,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_session_inspect", session, error, |session| {
            let out = Out::new(json, "json")?;
            out.give_string(describe(&session.lock()?.engine).to_string());
            Ok(SKIM_STATUS_OK)
        })
    }
}

fn describe(engine: &Engine) -> Value {
    let session = engine.session();
    let usage = session.usage();
    json!({
        "context": session.context(),
        "kv_entries": session.kv_entries(),
        "position": session.position(),
        "kv_bytes": session.kv_bytes(),
        "tokens": usage.tokens,
        "latent_steps": usage.latent_steps,
        "layer_passes": usage.layer_passes,
        "head_passes": usage.head_passes,
    })
}

/// Frees a session. Null does nothing. SKIM_STATUS_BUSY, and nothing is freed, while another call on it runs, such as the one whose
/// callback this is called from.
///
/// Owner: takes `session`, unless it is busy.
/// Threads: any; no other thread may use `session`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_session_free(session: *mut skim_session) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::free("skim_session_free", session, |session| {
            session.lock().map(drop)
        })
    }
}
