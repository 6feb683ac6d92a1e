//! The boundary through its own C functions: what a C program may do wrong, and that it gets what the Rust engine says.

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
            fields.retain(|key, _| !key.starts_with("ms_") && key != "milliseconds");
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

#[test]
fn pulled_events_are_those_of_the_engine() {
    let model = open();
    let session = new_session(model);
    // The session keeps what it needs.
    assert_eq!(unsafe { skim_model_free(model) }, SKIM_STATUS_OK);
    append(session, QUESTION);
    for (route, name) in [(c"direct", "direct"), (c"skip", "skip"), (c"cot", "cot")] {
        set(session, c"route", route).unwrap();
        act(|e| unsafe { skim_session_begin(session, e) }).unwrap();
        let (mut events, mut pauses) = (Vec::new(), 0);
        loop {
            match next(session, 0) {
                Ok(event) => {
                    let mut value = value_of(event);
                    without_times(&mut value);
                    events.push(value);
                    assert_eq!(unsafe { skim_event_free(event) }, SKIM_STATUS_OK);
                }
                Err((SKIM_STATUS_TIMEOUT, _)) => pauses += 1,
                Err((SKIM_STATUS_END, _)) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(events, expected_events(name), "{name}");
        assert!(pauses > 0);
    }
    assert_eq!(unsafe { skim_session_free(session) }, SKIM_STATUS_OK);
}

struct Seen {
    names: Vec<String>,
    text: String,
    session: *mut skim_session,
    cancel_after: usize,
}

static DESTROYED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn see(event: *const skim_event, user_data: *mut c_void) -> i32 {
    let seen = unsafe { &mut *user_data.cast::<Seen>() };
    let name = unsafe { CStr::from_ptr(skim_event_name(event)) };
    seen.names.push(name.to_str().unwrap().to_owned());
    if unsafe { skim_event_type(event) } == SKIM_EVENT_ANSWER_TEXT {
        let mut length = 0;
        let text = unsafe { CStr::from_ptr(skim_event_text(event, &mut length)) };
        assert_eq!(text.count_bytes(), length);
        seen.text.push_str(text.to_str().unwrap());
    }
    // The session that the event comes from is busy: no call back, no deadlock, and no free under our feet.
    let session = seen.session;
    let busy = act(|e| unsafe { skim_session_clear(session, e) }).unwrap_err();
    assert_eq!(busy.0, SKIM_STATUS_BUSY);
    assert_eq!(unsafe { skim_session_free(session) }, SKIM_STATUS_BUSY);
    i32::from(seen.names.len() == seen.cancel_after)
}

unsafe extern "C" fn destroy(user_data: *mut c_void) {
    assert!(!user_data.is_null());
    DESTROYED.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_callback_sees_every_event_and_may_cancel() {
    let model = open();
    let session = new_session(model);
    append(session, QUESTION);
    set(session, c"route", c"cot").unwrap();
    let mut seen = Seen {
        names: Vec::new(),
        text: String::new(),
        session,
        cancel_after: 0,
    };
    let generate = |seen: &mut Seen| {
        let user_data = (&raw mut *seen).cast();
        call(|finished, error| unsafe {
            skim_session_generate(
                session,
                Some(see),
                user_data,
                Some(destroy),
                finished,
                error,
            )
        })
        .unwrap()
    };
    let finished = generate(&mut seen);
    assert_eq!(DESTROYED.load(Ordering::Relaxed), 1);
    let answer = value_of(finished);
    assert_eq!(answer["text"], json!(seen.text));
    assert_eq!(answer["finish_reason"], json!("stop"));
    assert_eq!(seen.names.last().unwrap(), "finished");
    let mut tokens = 0.0;
    let mut number = |path: &CStr| {
        act(|e| unsafe { skim_event_number(finished, path.as_ptr(), &mut tokens, e) })
            .map(|_| tokens)
    };
    assert_eq!(
        number(c"usage.generated_tokens").unwrap(),
        answer["usage"]["generated_tokens"].as_f64().unwrap()
    );
    assert_eq!(
        number(c"usage.nothing").unwrap_err().0,
        SKIM_STATUS_INVALID_ARGUMENT
    );
    assert_eq!(number(c"text").unwrap_err().0, SKIM_STATUS_INVALID_ARGUMENT);
    let route = call(|out, e| unsafe { skim_event_string(finished, c"route".as_ptr(), out, e) });
    assert_eq!(string(route.unwrap()), "cot");
    unsafe { skim_event_free(finished) };

    (seen.names, seen.cancel_after) = (Vec::new(), 4);
    let finished = generate(&mut seen);
    assert_eq!(value_of(finished)["finish_reason"], json!("cancelled"));
    assert_eq!(seen.names.len(), 5, "{:?}", seen.names);
    assert_eq!(DESTROYED.load(Ordering::Relaxed), 2);
    unsafe {
        skim_event_free(finished);
        skim_session_free(session);
        skim_model_free(model);
    }
}

#[test]
fn a_long_prompt_is_cancelled_while_it_is_read() {
    let model = open();
    let session = new_session(model);
    let tokens: Vec<u32> = (0..400).map(|i| 20 + i % 50).collect();
    act(|e| unsafe { skim_session_append_tokens(session, tokens.as_ptr(), tokens.len(), e) })
        .unwrap();
    let cancel =
        call(|cancel, e| unsafe { skim_session_cancel_handle(session, cancel, e) }).unwrap();
    // Taken back by `begin`.
    assert_eq!(unsafe { skim_cancel_trigger(cancel) }, SKIM_STATUS_OK);
    act(|e| unsafe { skim_session_begin(session, e) }).unwrap();
    let started = next(session, -1).unwrap();
    assert_eq!(unsafe { skim_event_type(started) }, SKIM_EVENT_STARTED);
    unsafe { skim_event_free(started) };
    // One chunk of the prompt.
    assert_eq!(next(session, 0).unwrap_err().0, SKIM_STATUS_TIMEOUT);
    unsafe { skim_cancel_trigger(cancel) };
    let finished = next(session, -1).unwrap();
    assert_eq!(value_of(finished)["finish_reason"], json!("cancelled"));
    assert_eq!(next(session, -1).unwrap_err().0, SKIM_STATUS_END);
    let about = call(|json, e| unsafe { skim_session_inspect(session, json, e) }).unwrap();
    let about: Value = serde_json::from_str(&string(about)).unwrap();
    let position = about["position"].as_u64().unwrap();
    assert!(position > 0 && position < 400, "{about}");
    unsafe {
        skim_event_free(finished);
        skim_session_free(session);
        // It outlives its session.
        assert_eq!(skim_cancel_trigger(cancel), SKIM_STATUS_OK);
        skim_cancel_free(cancel);
        skim_model_free(model);
    }
}

#[test]
fn a_panic_is_a_status_and_poisons_only_its_handle() {
    let model = open();
    let session = new_session(model);
    append(session, QUESTION);
    PANIC_IN.set(Some("skim_session_begin"));
    let (status, message) = act(|e| unsafe { skim_session_begin(session, e) }).unwrap_err();
    assert_eq!(status, SKIM_STATUS_PANIC);
    assert!(
        message.contains("skim_session_begin panicked: injected"),
        "{message}"
    );
    assert!(message.contains("tests.rs"), "{message}");
    let refused = [
        act(|e| unsafe { skim_session_begin(session, e) }),
        act(|e| unsafe { skim_session_clear(session, e) }),
        next(session, -1).map(|_| 0),
    ];
    for refused in refused {
        assert_eq!(refused.unwrap_err().0, SKIM_STATUS_POISONED);
    }
    assert_eq!(unsafe { skim_session_free(session) }, SKIM_STATUS_OK);

    let other = new_session(model);
    append(other, QUESTION);
    let finished =
        call(|out, e| unsafe { skim_session_generate(other, None, null_mut(), None, out, e) });
    unsafe { skim_event_free(finished.unwrap()) };
    PANIC_IN.set(Some("skim_session_new"));
    let error = call(|session, e| unsafe { skim_session_new(model, null(), session, e) });
    assert_eq!(error.unwrap_err().0, SKIM_STATUS_PANIC);
    let error = call(|session, e| unsafe { skim_session_new(model, null(), session, e) });
    assert_eq!(error.unwrap_err().0, SKIM_STATUS_POISONED);
    unsafe {
        skim_session_free(other);
        skim_model_free(model);
    }
}

#[test]
fn what_is_no_handle_is_refused() {
    let model = open();
    let session = new_session(model);
    let no_session: [*mut skim_session; 5] = [
        null_mut(),
        std::ptr::without_provenance_mut(1),
        std::ptr::without_provenance_mut(4088),
        std::ptr::without_provenance_mut(usize::MAX),
        model.cast(),
    ];
    for pointer in no_session {
        let refused = [
            act(|e| unsafe { skim_session_begin(pointer, e) }),
            act(|e| unsafe { skim_session_append_text(pointer, c"x".as_ptr(), 1, e) }),
            next(pointer, 0).map(|_| 0),
            call(|fork, e| unsafe { skim_session_fork(pointer, fork, e) }).map(|_| 0),
            call(|cancel, e| unsafe { skim_session_cancel_handle(pointer, cancel, e) }).map(|_| 0),
        ];
        for refused in refused {
            let (status, message) = refused.unwrap_err();
            assert_eq!(status, SKIM_STATUS_INVALID_ARGUMENT);
            assert!(message.starts_with("session is"), "{message}");
        }
    }
    assert_eq!(
        unsafe { skim_session_free(model.cast()) },
        SKIM_STATUS_INVALID_ARGUMENT
    );
    // Without a place for the error, too.
    assert_eq!(
        unsafe { skim_session_begin(null_mut(), null_mut()) },
        SKIM_STATUS_INVALID_ARGUMENT
    );
    unsafe {
        skim_session_free(session);
        skim_model_free(model);
    }
}

#[test]
fn null_and_malformed_arguments_are_refused() {
    let model = open();
    let session = new_session(model);
    let bad_utf8 = b"\xff\xfe";
    let e = null_mut::<*mut skim_error>();
    let refused = unsafe {
        [
            skim_model_open(null(), null(), &mut null_mut(), e),
            skim_model_open(STUDENT.as_ptr(), null(), null_mut(), e),
            skim_model_new(null(), null(), &mut null_mut(), e),
            skim_bundle_open(STUDENT.as_ptr(), null(), null_mut(), e),
            skim_bundle_open_fd(-1, 0, 0, null(), &mut null_mut(), e),
            skim_bundle_open_memory(null(), 8, None, null_mut(), null(), &mut null_mut(), e),
            skim_bundle_open_memory(
                STUDENT.as_ptr().cast(),
                usize::MAX,
                None,
                null_mut(),
                null(),
                &mut null_mut(),
                e,
            ),
            skim_bundle_estimate(null(), null(), 1, &mut 0, &mut 0, e),
            skim_model_inspect(model, null_mut(), e),
            skim_model_memory_used(model, null_mut(), e),
            skim_model_tokenize(model, c"x".as_ptr(), 1, 0, null_mut(), 9, &mut 0, e),
            skim_options_new(null_mut(), e),
            skim_options_set(null_mut(), c"seed".as_ptr(), c"1".as_ptr(), e),
            skim_options_get_bounds(null(), null_mut(), e),
            skim_session_new(model, null(), null_mut(), e),
            skim_session_set_param(session, null(), c"1".as_ptr(), e),
            skim_session_set_param(session, c"seed".as_ptr(), bad_utf8.as_ptr().cast(), e),
            skim_session_append_text(session, null(), 3, e),
            skim_session_append_text(session, bad_utf8.as_ptr().cast(), 2, e),
            skim_session_append_tokens(session, null(), 3, e),
            skim_session_append_message(session, null(), c"x".as_ptr(), 1, e),
            skim_session_next_event(session, 0, null_mut(), e),
            skim_session_save(session, null(), e),
            skim_session_restore(session, null(), e),
            skim_event_number(null(), c"x".as_ptr(), &mut 0.0, e),
            skim_memory_allocated(null_mut(), &mut 0, e),
            skim_log_set(77, None, null_mut(), None, e),
            skim_cancel_trigger(null()),
        ]
    };
    for (i, status) in refused.into_iter().enumerate() {
        assert_eq!(status, SKIM_STATUS_INVALID_ARGUMENT, "call {i}");
    }
    let nothing = act(|e| unsafe { skim_session_begin(session, e) }).unwrap_err();
    assert_eq!(nothing.0, SKIM_STATUS_STATE);
    unsafe {
        for free in [
            skim_model_free(null_mut()),
            skim_session_free(null_mut()),
            skim_event_free(null_mut()),
            skim_error_free(null_mut()),
            skim_string_free(null_mut()),
            skim_cancel_free(null_mut()),
            skim_bundle_free(null_mut()),
            skim_options_free(null_mut()),
        ] {
            assert_eq!(free, SKIM_STATUS_OK);
        }
        assert_eq!(skim_error_status(null()), SKIM_STATUS_OK);
        assert_eq!(CStr::from_ptr(skim_error_message(null())), c"");
        assert_eq!(skim_event_type(null()), SKIM_EVENT_OTHER);
        assert_eq!(CStr::from_ptr(skim_event_text(null(), null_mut())), c"");
        skim_session_free(session);
        skim_model_free(model);
    }
}

#[test]
fn settings_are_checked_with_their_bounds_in_the_message() {
    let model = open();
    let session = new_session(model);
    struct Case(&'static CStr, &'static CStr, i32, &'static str);
    let cases = [
        Case(
            c"budget_tokens",
            c"0",
            SKIM_STATUS_INVALID_ARGUMENT,
            "from 1 to",
        ),
        Case(
            c"budget_tokens",
            c"-1",
            SKIM_STATUS_INVALID_ARGUMENT,
            "whole number",
        ),
        Case(
            c"temperature",
            c"NaN",
            SKIM_STATUS_INVALID_ARGUMENT,
            "from 0 to 100",
        ),
        Case(
            c"temperature",
            c"hot",
            SKIM_STATUS_INVALID_ARGUMENT,
            "a number",
        ),
        Case(
            c"route",
            c"fast",
            SKIM_STATUS_UNKNOWN_ROUTE,
            "this model knows",
        ),
        Case(
            c"stop",
            c"END",
            SKIM_STATUS_INVALID_ARGUMENT,
            "a JSON list of strings",
        ),
        Case(
            c"logit_bias",
            c"[[1]]",
            SKIM_STATUS_INVALID_ARGUMENT,
            "a JSON list of",
        ),
        Case(
            c"threads",
            c"2",
            SKIM_STATUS_INVALID_ARGUMENT,
            "takes effect at open",
        ),
        Case(
            c"effort",
            c"2",
            SKIM_STATUS_INVALID_ARGUMENT,
            "known are: route,",
        ),
    ];
    for Case(key, value, status, part) in cases {
        let (got, message) = set(session, key, value).unwrap_err();
        assert_eq!(got, status, "{key:?} {message}");
        assert!(message.contains(part), "{message}");
    }
    let get = |key: &CStr| {
        string(
            call(|out, e| unsafe { skim_session_get_param(session, key.as_ptr(), out, e) })
                .unwrap(),
        )
    };
    for (key, value, json) in [
        (c"budget_tokens", c"120", "120"),
        (c"temperature", c"0.5", "0.5"),
        (c"route", c"skip", "\"skip\""),
        (c"stop", c"[\"a\",\"b\"]", "[\"a\",\"b\"]"),
        (c"logit_bias", c"[[3,null],[4,0.5]]", "[[3,null],[4,0.5]]"),
        (c"seed", c"18446744073709551615", "18446744073709551615"),
    ] {
        let before = get(key);
        set(session, key, value).unwrap();
        assert_eq!(get(key), json);
        act(|e| unsafe { skim_session_set_param(session, key.as_ptr(), null(), e) }).unwrap();
        assert_eq!(get(key), before);
    }
    let bounds = call(|out, e| unsafe { skim_session_get_bounds(session, null(), out, e) });
    let bounds: Value = serde_json::from_str(&string(bounds.unwrap())).unwrap();
    let route = bounds
        .as_array()
        .unwrap()
        .iter()
        .find(|knob| knob["key"] == "route")
        .unwrap();
    assert!(
        route["values"].as_array().unwrap().contains(&json!("skip")),
        "{route}"
    );
    unsafe {
        skim_session_free(session);
        skim_model_free(model);
    }
}

#[test]
fn every_knob_takes_its_default_and_its_bounds() {
    let options = call(|out, e| unsafe { skim_options_new(out, e) }).unwrap();
    let all = call(|out, e| unsafe { skim_options_get_bounds(null(), out, e) }).unwrap();
    let all: Value = serde_json::from_str(&string(all)).unwrap();
    for knob in all.as_array().unwrap() {
        let key = CString::new(knob["key"].as_str().unwrap()).unwrap();
        let mut values = vec![
            knob["min"].clone(),
            knob["max"].clone(),
            knob["default"].clone(),
        ];
        values.extend(knob["values"].as_array().cloned().unwrap_or_default());
        for value in values.iter().filter(|value| !value.is_null()) {
            let text = value.as_str().map_or(value.to_string(), str::to_owned);
            let text = CString::new(text).unwrap();
            act(|e| unsafe { skim_options_set(options, key.as_ptr(), text.as_ptr(), e) }).unwrap();
            let back = call(|out, e| unsafe { skim_options_get(options, key.as_ptr(), out, e) });
            let back: Value = serde_json::from_str(&string(back.unwrap())).unwrap();
            let near = |a: &Value| {
                a.as_f64()
                    .zip(value.as_f64())
                    .is_some_and(|(a, b)| (a - b).abs() < 1e-6)
            };
            assert!(
                back == *value || near(&back),
                "{key:?}: {value} became {back}"
            );
        }
    }
    unsafe { skim_options_free(options) };
}

#[test]
fn a_bundle_opens_from_path_descriptor_and_memory() {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    let bytes = std::fs::read(student_path()).unwrap();
    let mut archive = tempfile::tempfile().unwrap();
    archive.write_all(&[1; 192]).unwrap();
    archive.write_all(&bytes).unwrap();
    archive.write_all(&[2; 100]).unwrap();
    let open_fd = |offset, length| {
        let fd = archive.as_raw_fd();
        call(|out, e| unsafe { skim_bundle_open_fd(fd, offset, length, null(), out, e) })
    };
    // Aligned memory of our own, given back by `free_aligned`.
    let layout = std::alloc::Layout::from_size_align(bytes.len(), 64).unwrap();
    let aligned = unsafe { std::alloc::alloc(layout) };
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), aligned, bytes.len()) };
    static GIVEN_BACK: AtomicUsize = AtomicUsize::new(0);
    unsafe extern "C" fn give_back(user_data: *mut c_void) {
        assert!(!user_data.is_null());
        GIVEN_BACK.fetch_add(1, Ordering::Relaxed);
    }
    let open_memory = |data: *const u8, destroy: skim_destroy| {
        call(|out, e| unsafe {
            skim_bundle_open_memory(
                data.cast(),
                bytes.len(),
                destroy,
                aligned.cast(),
                null(),
                out,
                e,
            )
        })
    };
    let bundles = [
        call(|out, e| unsafe { skim_bundle_open(STUDENT.as_ptr(), null(), out, e) }).unwrap(),
        open_fd(192, bytes.len() as u64).unwrap(),
        open_memory(bytes.as_ptr(), None).unwrap(),
        open_memory(aligned, Some(give_back)).unwrap(),
    ];
    let mut answers = Vec::new();
    for bundle in bundles {
        let (mut file_backed, mut anonymous) = (0, 0);
        act(|e| unsafe {
            skim_bundle_estimate(bundle, null(), 1, &mut file_backed, &mut anonymous, e)
        })
        .unwrap();
        assert!(anonymous > 0);
        let about = call(|out, e| unsafe { skim_bundle_inspect(bundle, out, e) }).unwrap();
        let about: Value = serde_json::from_str(&string(about)).unwrap();
        let copied = about["is_copy"].as_bool().unwrap();
        assert_eq!(file_backed, if copied { 0 } else { bytes.len() as u64 });
        let model = call(|out, e| unsafe { skim_model_new(bundle, null(), out, e) }).unwrap();
        assert_eq!(unsafe { skim_bundle_free(bundle) }, SKIM_STATUS_OK);
        let session = new_session(model);
        append(session, QUESTION);
        let mut used = 0;
        act(|e| unsafe { skim_model_memory_used(model, &mut used, e) }).unwrap();
        assert!(used <= anonymous, "{used} of {anonymous}");
        let finished = call(|out, e| unsafe {
            skim_session_generate(session, None, null_mut(), None, out, e)
        })
        .unwrap();
        answers.push(value_of(finished)["ids"].clone());
        unsafe {
            skim_event_free(finished);
            skim_session_free(session);
            skim_model_free(model);
        }
    }
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert_eq!(GIVEN_BACK.load(Ordering::Relaxed), 1);

    let (status, message) = open_memory(aligned.wrapping_add(1), Some(give_back)).unwrap_err();
    assert_eq!(status, SKIM_STATUS_IO, "{message}");
    assert!(
        message.contains("1 bytes after a multiple of 64"),
        "{message}"
    );
    assert_eq!(GIVEN_BACK.load(Ordering::Relaxed), 2);
    unsafe { std::alloc::dealloc(aligned, layout) };
    for (offset, length, part) in [
        (191, 0, "not a multiple of 64"),
        (192, 1 << 40, "of a file of"),
        (0, 0, "header"),
        (u64::MAX, 2, "overflow"),
    ] {
        let (_, message) = open_fd(offset, length).unwrap_err();
        assert!(message.contains(part), "{message}");
    }
    let (status, message) =
        call(|out, e| unsafe { skim_bundle_open_fd(9999, 0, 0, null(), out, e) }).unwrap_err();
    assert_eq!(status, SKIM_STATUS_IO);
    assert!(message.starts_with("file descriptor 9999: "), "{message}");
}

#[test]
fn the_cap_is_kept_and_named() {
    let options = call(|out, e| unsafe { skim_options_new(out, e) }).unwrap();
    let set = |key: &CStr, value: &CStr| {
        act(|e| unsafe { skim_options_set(options, key.as_ptr(), value.as_ptr(), e) }).unwrap()
    };
    set(c"max_bytes", c"100000");
    for copy in [c"false", c"true"] {
        set(c"copy_weights", copy);
        let (status, message) =
            call(|out, e| unsafe { skim_model_open(STUDENT.as_ptr(), options, out, e) })
                .unwrap_err();
        assert_eq!(status, SKIM_STATUS_MEMORY);
        assert!(message.contains("the cap is 100000 bytes"), "{message}");
    }
    let (status, _) =
        call(|out, e| unsafe { skim_bundle_open(STUDENT.as_ptr(), options, out, e) }).unwrap_err();
    assert_eq!(status, SKIM_STATUS_MEMORY);
    unsafe { skim_options_free(options) };
}

#[test]
fn a_fork_answers_alike_and_shares_what_was_read() {
    let options = call(|out, e| unsafe { skim_options_new(out, e) }).unwrap();
    act(|e| unsafe { skim_options_set(options, c"reuse_prefix".as_ptr(), c"true".as_ptr(), e) })
        .unwrap();
    let model = open();
    let session = call(|out, e| unsafe { skim_session_new(model, options, out, e) }).unwrap();
    append(session, QUESTION);
    let answer = |session| {
        let finished = call(|out, e| unsafe {
            skim_session_generate(session, None, null_mut(), None, out, e)
        })
        .unwrap();
        let value = value_of(finished);
        unsafe { skim_event_free(finished) };
        value
    };
    let first = answer(session);
    assert_eq!(first["usage"]["reused_tokens"], json!(0));
    let fork = call(|out, e| unsafe { skim_session_fork(session, out, e) }).unwrap();
    assert_eq!(unsafe { skim_session_free(session) }, SKIM_STATUS_OK);
    let second = answer(fork);
    assert_eq!(second["ids"], first["ids"]);
    let prompt = first["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(second["usage"]["reused_tokens"], json!(prompt - 1));
    unsafe {
        skim_session_free(fork);
        skim_options_free(options);
        skim_model_free(model);
    }
}

#[test]
fn text_and_messages_do_not_mix() {
    let model = open();
    let session = new_session(model);
    append(session, "a");
    let message = |session| {
        act(|e| unsafe {
            skim_session_append_message(session, c"user".as_ptr(), c"hi".as_ptr(), 2, e)
        })
    };
    assert_eq!(message(session).unwrap_err().0, SKIM_STATUS_STATE);
    act(|e| unsafe { skim_session_clear(session, e) }).unwrap();
    message(session).unwrap();
    // The student of the examples has no template.
    let begun = act(|e| unsafe { skim_session_begin(session, e) });
    assert_eq!(begun.unwrap_err().0, SKIM_STATUS_TEMPLATE);
    unsafe {
        skim_session_free(session);
        skim_model_free(model);
    }
}

#[test]
fn a_program_of_another_abi_is_refused() {
    assert_eq!(
        act(|e| unsafe { skim_init(SKIM_ABI_VERSION, e) }),
        Ok(SKIM_STATUS_OK)
    );
    for version in [SKIM_ABI_VERSION + 1, SKIM_ABI_VERSION + (1 << 16), u32::MAX] {
        let (status, message) = act(|e| unsafe { skim_init(version, e) }).unwrap_err();
        assert_eq!(status, SKIM_STATUS_ABI);
        assert!(message.contains("this library has"), "{message}");
    }
    assert_eq!(skim_abi_version(), SKIM_ABI_VERSION);
    let version = unsafe { CStr::from_ptr(skim_version()) };
    assert_eq!(version.to_str().unwrap(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn eight_threads_answer_cancel_and_fork() {
    let model = open();
    let address = model.expose_provenance();
    let expected = expected_events("skip").pop().unwrap()["ids"].clone();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let expected = &expected;
            scope.spawn(move || {
                let model = std::ptr::with_exposed_provenance_mut::<skim_model>(address);
                let session = new_session(model);
                append(session, QUESTION);
                set(session, c"route", c"skip").unwrap();
                let cancel =
                    call(|out, e| unsafe { skim_session_cancel_handle(session, out, e) }).unwrap();
                let cancel_address = cancel.expose_provenance();
                for round in 0..6 {
                    let cancelled = (thread + round) % 3 == 0;
                    let canceller = cancelled.then(|| {
                        scope.spawn(move || {
                            std::thread::sleep(std::time::Duration::from_micros(
                                300 * round as u64,
                            ));
                            unsafe {
                                skim_cancel_trigger(std::ptr::with_exposed_provenance(
                                    cancel_address,
                                ))
                            }
                        })
                    });
                    let fork =
                        call(|out, e| unsafe { skim_session_fork(session, out, e) }).unwrap();
                    for session in [session, fork] {
                        let finished = call(|out, e| unsafe {
                            skim_session_generate(session, None, null_mut(), None, out, e)
                        })
                        .unwrap();
                        let answer = value_of(finished);
                        if answer["finish_reason"] == json!("stop") {
                            assert_eq!(answer["ids"], *expected);
                        } else {
                            assert!(cancelled);
                        }
                        unsafe { skim_event_free(finished) };
                    }
                    unsafe { skim_session_free(fork) };
                    if let Some(canceller) = canceller {
                        assert_eq!(canceller.join().unwrap(), SKIM_STATUS_OK);
                    }
                }
                unsafe {
                    skim_cancel_free(cancel);
                    skim_session_free(session);
                }
            });
        }
    });
    unsafe { skim_model_free(model) };
}

#[test]
fn the_log_goes_where_it_is_sent() {
    static LINES: AtomicUsize = AtomicUsize::new(0);
    static GIVEN_BACK: AtomicUsize = AtomicUsize::new(0);
    unsafe extern "C" fn line(
        level: i32,
        target: *const c_char,
        message: *const c_char,
        user_data: *mut c_void,
    ) {
        assert!((SKIM_LOG_ERROR..=SKIM_LOG_TRACE).contains(&level));
        assert_eq!(user_data.addr(), 64);
        let texts = unsafe { [CStr::from_ptr(target), CStr::from_ptr(message)] };
        if texts[1].to_str().unwrap().starts_with("model opened: ") {
            LINES.fetch_add(1, Ordering::Relaxed);
        }
    }
    unsafe extern "C" fn give_back(_: *mut c_void) {
        GIVEN_BACK.fetch_add(1, Ordering::Relaxed);
    }
    let data = std::ptr::without_provenance_mut(64);
    act(|e| unsafe { skim_log_set(SKIM_LOG_INFO, Some(line), data, Some(give_back), e) }).unwrap();
    unsafe { skim_model_free(open()) };
    assert!(LINES.load(Ordering::Relaxed) >= 1);
    assert_eq!(GIVEN_BACK.load(Ordering::Relaxed), 0);
    act(|e| unsafe { skim_log_set(SKIM_LOG_OFF, None, null_mut(), None, e) }).unwrap();
    let mut live = 0;
    act(|e| unsafe { skim_memory_allocated(&mut live, &mut 0, e) }).unwrap();
    assert!(live > 0);
}
