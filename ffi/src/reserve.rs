//! A reserve for the day on which the system refuses memory.
//!
//! Where Rust's collections are refused memory they end the process, and the app with it. So the library's allocator keeps a few
//! pages back: a small allocation that the system refuses is served out of them, and the runtime is told
//! ([`note_refusal`](skimstone::memory::note_refusal)). Whatever is going on then ends with an error at its next step, and gives back
//! what it took. Large allocations are not served: the runtime asks for those in a way that may fail.
//!
//! The pages are never touched before that day, so they take address space and no memory.

use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of a slot, and the largest alignment served.
const SLOT: usize = 64;

/// Slots: 4 MiB, for what open and generate allocate between two looks at the refusal, in several sessions at once.
const SLOTS: usize = 64 << 10;

/// Larger allocations are refused. Of those that cannot fail the largest is a table of the tokenizer's regular expressions, 320 KB.
const LARGEST: usize = 1 << 20;

#[repr(align(64))]
struct Pages(UnsafeCell<[u8; SLOT * SLOTS]>);

// SAFETY: only its address is taken; who uses which bytes is decided under the lock of `Reserve`.
unsafe impl Sync for Pages {}

static PAGES: Pages = Pages(UnsafeCell::new([0; SLOT * SLOTS]));

/// Which slots are taken, one bit each.
struct Taken(UnsafeCell<[u64; SLOTS / 64]>);

// SAFETY: accessed only under `LOCK`.
unsafe impl Sync for Taken {}

static TAKEN: Taken = Taken(UnsafeCell::new([0; SLOTS / 64]));

/// Spins: a lock of the system may itself need memory.
static LOCK: AtomicBool = AtomicBool::new(false);

fn locked<T>(work: impl FnOnce(&mut [u64; SLOTS / 64]) -> T) -> T {
    while LOCK
        .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        std::hint::spin_loop();
    }
    // SAFETY: nobody else has the lock, and `work`, which is of this file, does not panic.
    let out = work(unsafe { &mut *TAKEN.0.get() });
    LOCK.store(false, Ordering::Release);
    out
}

fn start() -> *mut u8 {
    PAGES.0.get().cast()
}

/// Whether `pointer` is of the reserve.
pub(crate) fn owns(pointer: *const u8) -> bool {
    pointer.addr().wrapping_sub(start().addr()) < SLOT * SLOTS
}

/// Serves what the system refused, or null.
pub(crate) fn serve(layout: Layout) -> *mut u8 {
    if layout.size() > LARGEST || layout.align() > SLOT {
        return std::ptr::null_mut();
    }
    let count = layout.size().div_ceil(SLOT).max(1);
    let first = locked(|taken| {
        let mut free = 0;
        for slot in 0..SLOTS {
            free = if taken[slot / 64] >> (slot % 64) & 1 == 0 {
                free + 1
            } else {
                0
            };
            if free == count {
                let first = slot + 1 - count;
                (first..=slot).for_each(|slot| taken[slot / 64] |= 1 << (slot % 64));
                return Some(first);
            }
        }
        None
    });
    match first {
        Some(first) => {
            skimstone::memory::note_refusal();
            start().wrapping_add(first * SLOT)
        }
        None => std::ptr::null_mut(),
    }
}

/// Takes back what [`serve`] gave for `layout`.
pub(crate) fn take_back(pointer: *mut u8, layout: Layout) {
    let first = (pointer.addr() - start().addr()) / SLOT;
    let count = layout.size().div_ceil(SLOT).max(1);
    locked(|taken| (first..first + count).for_each(|slot| taken[slot / 64] &= !(1 << (slot % 64))));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_apart_and_come_back() {
        let layouts: Vec<Layout> = [(1, 1), (64, 64), (65, 8), (4096, 16), (0, 1)]
            .map(|(size, align)| Layout::from_size_align(size, align).unwrap())
            .into();
        let rounds: Vec<Vec<*mut u8>> = (0..3)
            .map(|_| {
                let given: Vec<*mut u8> = layouts.iter().map(|layout| serve(*layout)).collect();
                let mut ranges: Vec<_> = given
                    .iter()
                    .zip(&layouts)
                    .map(|(pointer, layout)| {
                        assert!(owns(*pointer) && pointer.addr() % layout.align() == 0);
                        (pointer.addr(), pointer.addr() + layout.size())
                    })
                    .collect();
                ranges.sort_unstable();
                assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
                for (pointer, layout) in given.iter().zip(&layouts) {
                    take_back(*pointer, *layout);
                }
                given
            })
            .collect();
        assert_eq!(rounds[0], rounds[2]);
        assert!(serve(Layout::from_size_align(LARGEST + 1, 1).unwrap()).is_null());
        assert!(serve(Layout::from_size_align(64, 128).unwrap()).is_null());
        assert!(!owns(std::ptr::null()) && !owns(std::ptr::from_ref(&rounds).cast()));
        let _ = skimstone::memory::check_refusal();
    }
}
