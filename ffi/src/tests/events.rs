//! Events: those of the engine, by pull and by callback, and their end by a cancel.

use super::*;

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
    // Nor is the event ours to free.
    let free = unsafe { skim_event_free(event.cast_mut()) };
    assert_eq!(free, SKIM_STATUS_INVALID_ARGUMENT);
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
