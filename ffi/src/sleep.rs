//! The input format of the sleep student in the examples. Experimental, as the student is: not part of the stable ABI.

use std::ffi::c_char;

use skimstone::sleep::Night;

use crate::error::skim_error;
use crate::guard;
use crate::status::{Failure, SKIM_STATUS_DATA, SKIM_STATUS_OK};
use crate::text::{Out, text};

/// The prompt of a sleep student: a night as JSON and a question, as the text that the student was trained on. Experimental:
/// declared if SKIM_EXPERIMENTAL is defined, and may change in any version.
///
/// Owner: `*prompt` is the caller's, to free with skim_string_free; `*error` is the caller's.
/// Threads: any.
#[cfg(feature = "experimental")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_x_sleep_prompt(
    night_json: *const c_char,
    night_length: usize,
    question: *const c_char,
    question_length: usize,
    prompt: *mut *mut c_char,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry("skim_x_sleep_prompt", error, || {
            let out = Out::new(prompt, "prompt")?;
            let night = text(night_json, night_length, "night_json")?;
            let question = text(question, question_length, "question")?;
            let night = Night::from_json(night)
                .map_err(|e| Failure::new(SKIM_STATUS_DATA, "data", e.to_string()))?;
            out.give_string(night.prompt(question));
            Ok(SKIM_STATUS_OK)
        })
    }
}
