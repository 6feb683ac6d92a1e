//! Thousands of calls with handles of any type in any place, null, impossible addresses, and odd texts and numbers.

use super::*;

/// The xorshift of Marsaglia, so that a failure comes again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

const TEXTS: [*const c_char; 8] = [
    null(),
    std::ptr::without_provenance(3),
    c"".as_ptr(),
    c"route".as_ptr(),
    c"budget_tokens".as_ptr(),
    c"12".as_ptr(),
    c"[[1,null]]".as_ptr(),
    c"\xff\xc0not UTF-8".as_ptr(),
];

/// Texts of a length: never longer than what is there.
const SIZED: [(*const c_char, usize); 5] = [
    (null(), 0),
    (null(), 5),
    (c"how long was I in bed?".as_ptr(), 22),
    (c"\xff\xfe".as_ptr(), 2),
    (c"x".as_ptr(), usize::MAX),
];

#[test]
fn any_arguments_end_in_a_status() {
    let model = open();
    let session = new_session(model);
    let bundle =
        call(|out, e| unsafe { skim_bundle_open(STUDENT.as_ptr(), null(), out, e) }).unwrap();
    let options = call(|out, e| unsafe { skim_options_new(out, e) }).unwrap();
    let cancel = call(|out, e| unsafe { skim_session_cancel_handle(session, out, e) }).unwrap();
    append(session, QUESTION);
    let finished =
        call(|out, e| unsafe { skim_session_generate(session, None, null_mut(), None, out, e) })
            .unwrap();
    let handles: [*mut c_void; 9] = [
        null_mut(),
        std::ptr::without_provenance_mut(1),
        std::ptr::without_provenance_mut(64),
        model.cast(),
        session.cast(),
        bundle.cast(),
        options.cast(),
        cancel.cast(),
        finished.cast(),
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut succeeded = 0;
    for round in 0..20_000 {
        let handle = random.of(&handles);
        let other: *mut c_void = random.of(&handles);
        let (key, value) = (random.of(&TEXTS), random.of(&TEXTS));
        let (text, length) = random.of(&SIZED);
        let mut error = null_mut();
        let e = random.of(&[&raw mut error, null_mut()]);
        let (mut string_to, mut number_to, mut real_to, mut count_to) =
            (null_mut::<c_char>(), 0u64, 0f64, 0usize);
        let (string, number, real, count) = match random.below(4) {
            0 => (null_mut(), null_mut(), null_mut(), null_mut()),
            _ => (
                &raw mut string_to,
                &raw mut number_to,
                &raw mut real_to,
                &raw mut count_to,
            ),
        };
        let (mut event, mut fork) = (null_mut(), null_mut());
        let status = unsafe {
            match random.below(27) {
                0 => skim_bundle_inspect(handle.cast(), string, e),
                1 => skim_bundle_estimate(handle.cast(), other.cast(), 3, number, &mut 0, e),
                2 => skim_model_inspect(handle.cast(), string, e),
                3 => skim_model_memory_used(handle.cast(), number, e),
                4 => skim_model_trim_memory(handle.cast(), e),
                5 => skim_model_tokenize(handle.cast(), text, length, 1, null_mut(), 0, count, e),
                6 => skim_options_set(handle.cast(), key, value, e),
                7 => skim_options_get(handle.cast(), key, string, e),
                8 => skim_options_get_bounds(key, string, e),
                9 => skim_session_set_param(handle.cast(), key, value, e),
                10 => skim_session_get_param(handle.cast(), key, string, e),
                11 => skim_session_get_bounds(handle.cast(), key, string, e),
                12 => skim_session_append_text(handle.cast(), text, length, e),
                13 => {
                    skim_session_append_tokens(handle.cast(), [7, u32::MAX].as_ptr(), round % 3, e)
                }
                14 => skim_session_append_message(handle.cast(), key, text, length, e),
                15 => skim_session_clear(handle.cast(), e),
                16 => skim_session_begin(handle.cast(), e),
                17 => skim_session_next_event(handle.cast(), round as i32 % 2, &mut event, e),
                18 => skim_session_fork(handle.cast(), &mut fork, e),
                19 => skim_event_number(handle.cast(), key, real, e),
                20 => skim_event_string(handle.cast(), key, string, e),
                21 => skim_session_memory_warning(handle.cast(), e),
                // A folder that is not there: the texts above would be files here.
                22 => {
                    let path = random.of(&[null(), c"/nowhere/question".as_ptr()]);
                    skim_session_enter_background(handle.cast(), path, round as u32, e)
                }
                23 => skim_session_enter_foreground(handle.cast(), e),
                24 => skim_session_resume(handle.cast(), key, e),
                25 => skim_model_set_thermal(handle.cast(), random.below(6) as i32 - 1, e),
                _ => skim_cancel_trigger(handle.cast()),
            }
        };
        assert!(status != SKIM_STATUS_PANIC && status != SKIM_STATUS_POISONED);
        // Written on failure and only then, and the other way round.
        assert!(error.is_null() || status < 0);
        assert!(
            status == SKIM_STATUS_OK || (string_to.is_null() && event.is_null() && fork.is_null())
        );
        succeeded += usize::from(status >= 0);
        unsafe {
            skim_error_free(error);
            skim_string_free(string_to);
            skim_event_free(event);
            skim_session_free(fork);
        }
    }
    assert!(succeeded > 500, "{succeeded}");
    unsafe {
        skim_event_free(finished);
        skim_cancel_free(cancel);
        skim_options_free(options);
        skim_bundle_free(bundle);
        skim_session_free(session);
        skim_model_free(model);
    }
}
