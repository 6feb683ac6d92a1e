//! Any sequence of C calls with any arguments: handles of every type in every place, null and impossible addresses, any text, number
//! and order, frees included. No call may panic, and none may fault. What C cannot check, an address that was never a handle or is one
//! no more, is left out.
#![no_main]

#[path = "seeds.rs"]
mod seeds;
#[path = "../../sdk/tests/tiny/mod.rs"]
mod tiny;

use std::ffi::{c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use skimstone::kernels::Format;
use skimstone_capi::bundle::*;
use skimstone_capi::cancel::*;
use skimstone_capi::error::*;
use skimstone_capi::event::*;
use skimstone_capi::memory::*;
use skimstone_capi::model::*;
use skimstone_capi::options::*;
use skimstone_capi::session::*;
use skimstone_capi::sleep::*;
use skimstone_capi::status::{SKIM_STATUS_PANIC, SKIM_STATUS_POISONED};
use skimstone_capi::text::*;

/// Takes choices off the input; zeros once it is used up.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> usize {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        usize::from(*first)
    }

    /// Bytes that a NUL follows, or one of the words that lead somewhere.
    fn text(&mut self) -> Vec<u8> {
        const WORDS: [&str; 16] = [
            "",
            "route",
            "cot",
            "latent",
            "budget_tokens",
            "12",
            "context",
            "40",
            "reuse_prefix",
            "true",
            "stop",
            "[\"a\"]",
            "logit_bias",
            "[[3,null]]",
            "usage.generated_tokens",
            "user",
        ];
        let choice = self.byte();
        let mut bytes = match WORDS.get(choice) {
            Some(word) => word.as_bytes().to_vec(),
            None => {
                let (text, rest) = self.0.split_at(self.0.len().min(choice % 32));
                self.0 = rest;
                text.to_vec()
            }
        };
        bytes.push(0);
        bytes
    }
}

/// A file that may be read and written, never a path out of the input.
fn path() -> &'static [u8] {
    static PATH: OnceLock<Vec<u8>> = OnceLock::new();
    PATH.get_or_init(|| {
        let mut path = seeds::scratch("capi").into_os_string().into_encoded_bytes();
        path.push(0);
        path
    })
}

fn student() -> &'static [u8] {
    static STUDENT: OnceLock<Vec<u8>> = OnceLock::new();
    STUDENT.get_or_init(|| seeds::bundle(Format::Q8))
}

/// A handle that is live, and what frees it.
#[derive(Clone, Copy)]
struct Live(*mut c_void, unsafe fn(*mut c_void) -> i32);

macro_rules! free {
    ($function:ident) => {
        |handle| unsafe { $function(handle.cast()) }
    };
}

unsafe extern "C" fn stop(_: *const skim_event, count: *mut c_void) -> i32 {
    let count = count.cast::<usize>();
    unsafe {
        *count = count.read().saturating_sub(1);
        i32::from(*count == 0)
    }
}

fn calls(input: &mut Input<'_>) {
    let mut live: Vec<Live> = Vec::new();
    for _ in 0..64 {
        if input.0.is_empty() {
            break;
        }
        let pick = |input: &mut Input<'_>, live: &[Live]| -> *mut c_void {
            match input.byte() {
                0 => null_mut(),
                1 => std::ptr::without_provenance_mut(3),
                2 => std::ptr::without_provenance_mut(64),
                n if live.is_empty() => std::ptr::without_provenance_mut(n % 8),
                n => live[n % live.len()].0,
            }
        };
        let operation = input.byte() % 46;
        let (a, b) = (pick(input, &live), pick(input, &live));
        let (key, value) = (input.text(), input.text());
        let flags = input.byte();
        let word = |text: &[u8], null_bit: usize| -> *const c_char {
            if flags & null_bit != 0 {
                null()
            } else {
                text.as_ptr().cast()
            }
        };
        let (k, v) = (word(&key, 1), word(&value, 2));
        let length = if flags & 2 != 0 {
            flags
        } else {
            value.len() - 1
        };
        // Out-parameters, or null.
        let mut error = null_mut();
        let e = if flags & 4 != 0 {
            null_mut()
        } else {
            &raw mut error
        };
        let mut out: *mut c_void = null_mut();
        let o = if flags & 8 != 0 {
            null_mut()
        } else {
            &raw mut out
        };
        let mut numbers = [0u64; 2];
        let n = if flags & 8 != 0 {
            null_mut()
        } else {
            numbers.as_mut_ptr()
        };
        let (mut real, mut count) = (0f64, 0usize);
        let (mut ids, mut text) = ([0u32; 4], null::<c_char>());
        let mut left = flags % 7;
        let small = input.byte() as i32 - 8;
        let tokens = [small as u32, 3, 90, 200];
        let p = if flags & 16 != 0 {
            k
        } else {
            path().as_ptr().cast()
        };
        let strings = [0, 6, 21, 23, 31, 33].contains(&operation);
        // SAFETY: every handle is null, impossible or live; every buffer is as long as is said, or null.
        let (status, made): (i32, Option<unsafe fn(*mut c_void) -> i32>) = unsafe {
            match operation {
                0 => (skim_options_get(a.cast(), k, o.cast(), e), None),
                1 | 2 => (skim_options_set(a.cast(), k, v, e), None),
                3 => (
                    skim_options_new(o.cast(), e),
                    Some(free!(skim_options_free)),
                ),
                4 | 5 => {
                    let data = student();
                    let len = if flags & 32 != 0 {
                        data.len().min(flags * 40)
                    } else {
                        data.len()
                    };
                    let data = if flags & 64 != 0 {
                        null()
                    } else {
                        data.as_ptr().cast()
                    };
                    (
                        skim_bundle_open_memory(data, len, None, null_mut(), b.cast(), o.cast(), e),
                        Some(free!(skim_bundle_free)),
                    )
                }
                6 => (skim_bundle_inspect(a.cast(), o.cast(), e), None),
                7 => (
                    skim_bundle_estimate(
                        a.cast(),
                        b.cast(),
                        small as u32,
                        n,
                        n.wrapping_add(usize::from(!n.is_null())),
                        e,
                    ),
                    None,
                ),
                8 | 9 => (
                    skim_model_new(a.cast(), b.cast(), o.cast(), e),
                    Some(free!(skim_model_free)),
                ),
                10 => (skim_model_memory_used(a.cast(), n, e), None),
                11 => (skim_model_trim_memory(a.cast(), e), None),
                12 => {
                    let room = if flags & 32 != 0 {
                        null_mut()
                    } else {
                        ids.as_mut_ptr()
                    };
                    (
                        skim_model_tokenize(
                            a.cast(),
                            v,
                            length,
                            small,
                            room,
                            flags % 5,
                            &raw mut count,
                            e,
                        ),
                        None,
                    )
                }
                13 => (skim_model_set_thermal(a.cast(), small, e), None),
                14 | 15 => (
                    skim_session_new(a.cast(), b.cast(), o.cast(), e),
                    Some(free!(skim_session_free)),
                ),
                16 | 17 => (skim_session_set_param(a.cast(), k, v, e), None),
                18 => (skim_session_append_text(a.cast(), v, length, e), None),
                19 => (
                    skim_session_append_tokens(a.cast(), tokens.as_ptr(), flags % 5, e),
                    None,
                ),
                20 => (skim_session_append_message(a.cast(), k, v, length, e), None),
                21 => (skim_session_get_param(a.cast(), k, o.cast(), e), None),
                22 => (skim_session_clear(a.cast(), e), None),
                23 => (skim_session_get_bounds(a.cast(), k, o.cast(), e), None),
                24 => (skim_session_begin(a.cast(), e), None),
                25 | 26 => (
                    skim_session_next_event(a.cast(), small, o.cast(), e),
                    Some(free!(skim_event_free)),
                ),
                27 => (
                    skim_session_generate(
                        a.cast(),
                        Some(stop),
                        (&raw mut left).cast(),
                        None,
                        o.cast(),
                        e,
                    ),
                    Some(free!(skim_event_free)),
                ),
                28 => (
                    skim_session_cancel_handle(a.cast(), o.cast(), e),
                    Some(free!(skim_cancel_free)),
                ),
                29 => (
                    skim_session_fork(a.cast(), o.cast(), e),
                    Some(free!(skim_session_free)),
                ),
                30 => (skim_session_save(a.cast(), p, e), None),
                31 => (skim_session_inspect(a.cast(), o.cast(), e), None),
                32 => (skim_session_restore(a.cast(), p, e), None),
                33 => (skim_event_string(a.cast(), k, o.cast(), e), None),
                34 => (skim_session_resume(a.cast(), p, e), None),
                35 => (skim_session_memory_warning(a.cast(), e), None),
                36 => (
                    skim_session_enter_background(a.cast(), p, small as u32, e),
                    None,
                ),
                37 => (skim_session_enter_foreground(a.cast(), e), None),
                38 => (skim_event_number(a.cast(), k, &raw mut real, e), None),
                39 => (skim_event_json(a.cast(), &raw mut text, e), None),
                40 => (skim_cancel_trigger(a.cast()), None),
                41 => (skim_memory_allocated(n, n, e), None),
                42 => (
                    skim_x_sleep_prompt(k, key.len() - 1, v, length, o.cast(), e),
                    None,
                ),
                43 => (
                    skim_bundle_open(p, b.cast(), o.cast(), e),
                    Some(free!(skim_bundle_free)),
                ),
                44 => {
                    let _ = (
                        skim_event_type(a.cast()),
                        skim_event_name(a.cast()),
                        skim_event_text(a.cast(), &raw mut count),
                    );
                    let _ = (
                        skim_error_status(a.cast()),
                        skim_error_message(a.cast()),
                        skim_error_hint(a.cast()),
                    );
                    (0, None)
                }
                _ => match live.is_empty() {
                    true => (0, None),
                    false => {
                        let Live(handle, free) = live.swap_remove(flags % live.len());
                        (free(handle), None)
                    }
                },
            }
        };
        assert!(
            status != SKIM_STATUS_PANIC && status != SKIM_STATUS_POISONED,
            "operation {operation}: {status}"
        );
        assert!(
            error.is_null() || status < 0,
            "an error with status {status}"
        );
        assert!(
            out.is_null() || status == 0,
            "operation {operation} wrote with status {status}"
        );
        if !out.is_null() {
            match made {
                Some(free) => live.push(Live(out, free)),
                None if strings || operation == 42 => unsafe { drop(skim_string_free(out.cast())) },
                None => panic!("operation {operation} gives nothing"),
            }
        }
        // Errors are handles, too, to be handed in where others belong.
        if !error.is_null() {
            live.push(Live(error.cast(), free!(skim_error_free)));
        }
    }
    for Live(handle, free) in live {
        // SAFETY: live, and freed once.
        let status = unsafe { free(handle) };
        assert_eq!(status, 0);
    }
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    // Options, a bundle, a model, a session; then text, a question and its events; then everything at random.
    let call = |operation: u8, a: u8, b: u8, rest: &[u8]| [&[operation, a, b][..], rest].concat();
    let quiet: &[u8] = &[0, 0, 0, 40];
    let mut life = Vec::new();
    life.extend(call(3, 0, 0, quiet));
    life.extend(call(4, 0, 0, quiet));
    life.extend(call(8, 4, 3, quiet));
    life.extend(call(14, 5, 3, quiet));
    life.extend(call(19, 7, 0, &[0, 0, 64, 40]));
    let mut question = life.clone();
    question.extend(call(16, 7, 0, &[1, 2, 0, 40]));
    question.extend(call(24, 7, 0, quiet));
    (0..12).for_each(|_| question.extend(call(25, 7, 0, &[0, 0, 0, 100])));
    question.extend(call(30, 7, 0, quiet));
    question.extend(call(34, 7, 0, quiet));
    question.extend(call(27, 7, 0, quiet));
    let random = |seed| {
        tiny::Random::new(seed)
            .ids(400)
            .iter()
            .map(|&id| id as u8)
            .collect()
    };
    vec![
        ("life", life),
        ("question", question),
        ("random", random(1)),
        ("other", random(2)),
    ]
}

fuzz_target!(init: seeds::write(seeds), |data: &[u8]| calls(&mut Input(data)));
