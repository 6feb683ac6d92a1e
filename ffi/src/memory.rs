//! Accounting of the heap: what the library itself has allocated, measured where it is allocated. What the system refuses comes out
//! of a reserve, if it is small.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::skim_error;
use crate::guard;
use crate::reserve;
use crate::status::SKIM_STATUS_OK;
use crate::text::Out;

static LIVE: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, with books. Steps do not allocate, so counting costs nothing that matters.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn took(bytes: usize) {
    let live = LIVE.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator with the arguments as they came, or, for memory that it refused, to the reserve;
// which of them a pointer came from is told by its address. The books do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        let mut pointer = unsafe { System.alloc(layout) };
        if pointer.is_null() {
            pointer = reserve::serve(layout);
        }
        if !pointer.is_null() {
            took(layout.size());
        }
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        let mut pointer = unsafe { System.alloc_zeroed(layout) };
        if pointer.is_null() {
            pointer = reserve::serve(layout);
            if !pointer.is_null() {
                // SAFETY: served for this layout; what lay there before was of others.
                unsafe { pointer.write_bytes(0, layout.size()) };
            }
        }
        if !pointer.is_null() {
            took(layout.size());
        }
        pointer
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !reserve::owns(pointer) {
            // SAFETY: as the caller promises, of memory of the system.
            let moved = unsafe { System.realloc(pointer, layout, size) };
            if !moved.is_null() {
                LIVE.fetch_sub(layout.size() as u64, Ordering::Relaxed);
                took(size);
                return moved;
            }
        }
        // Out of the reserve, or, if the system refuses to grow it, into it.
        // SAFETY: the caller promises that the new size is one of this alignment; the old memory has the smaller of both sizes, and
        // is given back as it was taken.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                pointer.copy_to_nonoverlapping(moved, layout.size().min(size));
                self.dealloc(pointer, layout);
            }
            moved
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if reserve::owns(pointer) {
            reserve::take_back(pointer, layout);
        } else {
            // SAFETY: as the caller promises, of memory of the system.
            unsafe { System.dealloc(pointer, layout) };
        }
        LIVE.fetch_sub(layout.size() as u64, Ordering::Relaxed);
    }
}

/// Bytes that the library has on the heap, over all models and sessions: now, and at most since it was loaded. Mapped files and
/// copied weights are not on the heap; see skim_model_memory_used for what is booked against a cap.
///
/// Owner: nothing but `*error`, which is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_memory_allocated(
    live: *mut u64,
    peak: *mut u64,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry("skim_memory_allocated", error, || {
            let (live, peak) = (Out::new(live, "live")?, Out::new(peak, "peak")?);
            live.write(LIVE.load(Ordering::Relaxed));
            peak.write(PEAK.load(Ordering::Relaxed));
            Ok(SKIM_STATUS_OK)
        })
    }
}
