//! The log: silent, until an app asks for it.

use std::ffi::{c_char, c_void};
use std::sync::{Arc, PoisonError, RwLock};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::error::skim_error;
use crate::guard;
use crate::status::{Failure, SKIM_STATUS_OK};
use crate::text::{UserData, c_text, skim_destroy};

/// Nothing is told.
pub const SKIM_LOG_OFF: i32 = 0;
/// Bugs of the library.
pub const SKIM_LOG_ERROR: i32 = 1;
/// What may be a mistake.
pub const SKIM_LOG_WARN: i32 = 2;
/// Once per model and session.
pub const SKIM_LOG_INFO: i32 = 3;
/// Once per question. No text of the user.
pub const SKIM_LOG_DEBUG: i32 = 4;
/// Everything.
pub const SKIM_LOG_TRACE: i32 = 5;

/// Called with each line of the log; `level` is one of SKIM_LOG_…, both texts are NUL-terminated UTF-8 and only valid during the
/// call. It may be called from any thread, from several at once, and must not throw or jump out of the call.
pub type skim_log_callback = Option<
    unsafe extern "C" fn(
        level: i32,
        target: *const c_char,
        message: *const c_char,
        user_data: *mut c_void,
    ),
>;

struct Sink {
    callback: unsafe extern "C" fn(i32, *const c_char, *const c_char, *mut c_void),
    user_data: UserData,
}

struct Logger;

static SINK: RwLock<Option<Arc<Sink>>> = RwLock::new(None);
static LOGGER: Logger = Logger;

fn sink() -> Option<Arc<Sink>> {
    SINK.read().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // The lock is released before the call, so that a callback may set another sink.
        if let Some(sink) = sink() {
            let level = match record.level() {
                Level::Error => SKIM_LOG_ERROR,
                Level::Warn => SKIM_LOG_WARN,
                Level::Info => SKIM_LOG_INFO,
                Level::Debug => SKIM_LOG_DEBUG,
                Level::Trace => SKIM_LOG_TRACE,
            };
            let (target, message) = (c_text(record.target()), c_text(&record.args().to_string()));
            // SAFETY: the header asks for a function that may be called so; the sink keeps what came along with it alive.
            unsafe {
                (sink.callback)(
                    level,
                    target.as_ptr(),
                    message.as_ptr(),
                    sink.user_data.pointer,
                );
            }
        }
    }

    fn flush(&self) {}
}

/// Sends the log of the whole library, from `level` on, to `callback`, instead of wherever it went before; null switches it off.
/// Without this call nothing is told, and nothing is ever printed.
///
/// Owner: takes `user_data`; `destroy(user_data)` is called, if it is not null, once the callback is replaced and no call of it
/// runs any more, also if this function fails. `*error` is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_log_set(
    level: i32,
    callback: skim_log_callback,
    user_data: *mut c_void,
    destroy: skim_destroy,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry("skim_log_set", error, || {
            let user_data = UserData::new(user_data, destroy);
            let filter = match level {
                SKIM_LOG_OFF => LevelFilter::Off,
                SKIM_LOG_ERROR => LevelFilter::Error,
                SKIM_LOG_WARN => LevelFilter::Warn,
                SKIM_LOG_INFO => LevelFilter::Info,
                SKIM_LOG_DEBUG => LevelFilter::Debug,
                SKIM_LOG_TRACE => LevelFilter::Trace,
                other => {
                    let message = format!("level is {other}, expected 0 to {SKIM_LOG_TRACE}");
                    return Err(Failure::argument(message));
                }
            };
            let next = callback.map(|callback| {
                Arc::new(Sink {
                    callback,
                    user_data,
                })
            });
            log::set_max_level(if next.is_some() {
                filter
            } else {
                LevelFilter::Off
            });
            // An error means that it was set before.
            let _ = log::set_logger(&LOGGER);
            let mut sink = SINK.write().unwrap_or_else(PoisonError::into_inner);
            let before = std::mem::replace(&mut *sink, next);
            // The destructor is foreign code, too: not under the lock.
            drop(sink);
            drop(before);
            Ok(SKIM_STATUS_OK)
        })
    }
}
