//! Sessions side by side: forks, threads, and what was appended.

use super::*;

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
