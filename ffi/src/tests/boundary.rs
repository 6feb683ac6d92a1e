//! What a C program may do wrong, and what a bug of ours does: a status, and nothing worse.

use super::*;

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
    assert!(message.contains("tests/mod.rs:"), "{message}");
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
    // Without a place for the error, or with one that cannot be, too.
    for place in [0, 8, 4095, 4097] {
        let error = std::ptr::without_provenance_mut(place);
        let status = unsafe { skim_session_begin(null_mut(), error) };
        assert_eq!(status, SKIM_STATUS_INVALID_ARGUMENT);
    }
    unsafe {
        skim_session_free(session);
        skim_model_free(model);
    }
}

#[test]
fn null_and_malformed_arguments_are_refused() {
    let model = open();
    let session = new_session(model);
    let bad_utf8 = c"\xff\xfe";
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
            skim_session_set_param(session, c"seed".as_ptr(), bad_utf8.as_ptr(), e),
            skim_session_append_text(session, null(), 3, e),
            skim_session_append_text(session, bad_utf8.as_ptr(), 2, e),
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
