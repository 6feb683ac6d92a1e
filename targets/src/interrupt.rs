//! Ctrl-C: the first one ends the work, and what is there is printed; the second one ends the process.

use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use skimstone::{CancelHandle, Error, ErrorKind};

use crate::failure::Result;

/// The exit status of a process that an interrupt ended, as shells count: 128 and the signal's number.
pub(crate) const STATUS: u8 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);
static WORK: Mutex<Vec<CancelHandle>> = Mutex::new(Vec::new());

/// Whether there was an interrupt.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Has the next interrupt, or the one that was already, cancel the work of `handle`. To be called after a question was asked, which
/// takes earlier cancels back.
pub(crate) fn stops(handle: CancelHandle) -> Result {
    static LISTENING: Once = Once::new();
    let mut listens = Ok(());
    LISTENING.call_once(|| listens = ctrlc::set_handler(interrupted));
    listens.map_err(|error| {
        Error::new(ErrorKind::Io, format!("cannot listen for Ctrl-C: {error}")).with_source(error)
    })?;
    let mut work = work();
    if asked() {
        handle.cancel();
    }
    work.push(handle);
    Ok(())
}

/// Runs on a thread of its own.
fn interrupted() {
    if ASKED.swap(true, Ordering::SeqCst) {
        exit(i32::from(STATUS));
    }
    work().iter().for_each(CancelHandle::cancel);
}

fn work() -> std::sync::MutexGuard<'static, Vec<CancelHandle>> {
    WORK.lock().unwrap_or_else(PoisonError::into_inner)
}
