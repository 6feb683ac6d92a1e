//! The boundary through its own C functions: what a C program may do wrong, and that it gets what the Rust engine says.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "the tests are the C program: each call keeps the header's conventions, or breaks one that is checked"
)]

mod boundary;
mod events;
mod random;
mod sessions;
mod settings;
mod sources;

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use skimstone::reason::{Ask, Engine, EngineOptions};
use skimstone::{Model, ModelOptions};

use crate::bundle::*;
use crate::cancel::*;
use crate::error::*;
use crate::event::*;
use crate::log::*;
use crate::memory::*;
use crate::model::*;
use crate::options::*;
use crate::session::*;
use crate::status::*;
use crate::text::*;
use crate::version::*;

thread_local! {
    static PANIC_IN: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Panics in `function` if a test asked for it.
pub(crate) fn injected_panic(function: &'static str) {
    if PANIC_IN.get() == Some(function) {
        PANIC_IN.set(None);
        panic!("injected");
    }
}

const STUDENT: &CStr = match CStr::from_bytes_with_nul(
    concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/students/sleep.skim\0"
    )
    .as_bytes(),
) {
    Ok(path) => path,
    Err(_) => panic!("a path"),
};
const QUESTION: &str = "age 34. in bed 23:05, lights out 23:20, up 07:15.\nhow long was I in bed?";

fn student_path() -> &'static str {
    STUDENT.to_str().unwrap()
}

/// Calls a function with an out-parameter and an error, and returns what it gave or the status and message.
fn call<T>(
    function: impl FnOnce(*mut *mut T, *mut *mut skim_error) -> i32,
) -> Result<*mut T, (i32, String)> {
    let (mut out, mut error) = (null_mut(), null_mut());
    let status = function(&mut out, &mut error);
    if status == SKIM_STATUS_OK {
        assert!(error.is_null());
        return Ok(out);
    }
    assert!(out.is_null(), "written without success");
    Err((status, message(error)))
}

/// Calls a function without out-parameter.
fn act(function: impl FnOnce(*mut *mut skim_error) -> i32) -> Result<i32, (i32, String)> {
    let mut error = null_mut();
    match function(&mut error) {
        status if status >= 0 => Ok(status),
        status => Err((status, message(error))),
    }
}

fn message(error: *mut skim_error) -> String {
    unsafe {
        let message = CStr::from_ptr(skim_error_message(error));
        let message = message.to_str().unwrap().to_owned();
        skim_error_free(error);
        message
    }
}

fn string(text: *mut c_char) -> String {
    unsafe {
        let copy = CStr::from_ptr(text).to_str().unwrap().to_owned();
        skim_string_free(text);
        copy
    }
}

fn open() -> *mut skim_model {
    call(|model, error| unsafe { skim_model_open(STUDENT.as_ptr(), null(), model, error) }).unwrap()
}

fn new_session(model: *mut skim_model) -> *mut skim_session {
    call(|session, error| unsafe { skim_session_new(model, null(), session, error) }).unwrap()
}

fn append(session: *mut skim_session, text: &str) {
    act(|e| unsafe { skim_session_append_text(session, text.as_ptr().cast(), text.len(), e) })
        .unwrap();
}

fn set(session: *mut skim_session, key: &CStr, value: &CStr) -> Result<i32, (i32, String)> {
    act(|e| unsafe { skim_session_set_param(session, key.as_ptr(), value.as_ptr(), e) })
}

fn next(session: *mut skim_session, timeout_ms: i32) -> Result<*mut skim_event, (i32, String)> {
    call(|event, error| unsafe { skim_session_next_event(session, timeout_ms, event, error) })
}

fn value_of(event: *const skim_event) -> Value {
    let mut json = null();
    assert_eq!(
        unsafe { skim_event_json(event, &mut json, null_mut()) },
        SKIM_STATUS_OK
    );
    serde_json::from_str(unsafe { CStr::from_ptr(json) }.to_str().unwrap()).unwrap()
}

/// Times differ from run to run.
fn without_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| !key.starts_with("ms_") && key != "ms" && key != "milliseconds");
            fields.values_mut().for_each(without_times);
        }
        Value::Array(items) => items.iter_mut().for_each(without_times),
        _ => {}
    }
}

fn expected_events(route: &str) -> Vec<Value> {
    let model = Model::open(student_path(), ModelOptions::default()).unwrap();
    let mut engine = Engine::new(&model, EngineOptions::default()).unwrap();
    engine
        .ask_text(QUESTION, &Ask::new().with_route(route))
        .unwrap();
    let mut events = Vec::new();
    while let Some(event) = engine.next_event().unwrap() {
        let Value::Object(tagged) = serde_json::to_value(&event).unwrap() else {
            panic!("{event:?}")
        };
        let (name, mut payload) = tagged.into_iter().next().unwrap();
        payload["event"] = json!(name);
        without_times(&mut payload);
        // As text and back, like what C gets: the last digit of a float may change on the way.
        events.push(serde_json::from_str(&payload.to_string()).unwrap());
    }
    events
}
