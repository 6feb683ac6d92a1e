//! A small pool of worker threads that share the columns of one output.
//!
//! One job runs at a time. The caller writes it down, opens the *gate*, works on it itself, closes the gate and waits for
//! the workers that came in; a worker that wakes late finds the gate closed and goes back. So a call never waits for a
//! thread that the system has not scheduled, only for one that holds a piece of the work. A second caller that finds the
//! pool busy computes alone.
//!
//! ```text
//! gate:  | epoch, 47 bits | open, 1 bit | workers inside, 16 bits |
//! ```
//!
//! Between jobs a worker spins for [`SPIN`], then parks. Opening the gate wakes those that are parked; nothing else
//! takes a lock or a system call, and nothing allocates.
#![allow(
    unsafe_code,
    reason = "lends a closure and disjoint bands of a slice to other threads"
)]

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{KernelError, Result};

/// How long an idle worker spins before it parks.
///
/// Waking a parked thread costs a system call and some 5 to 50 µs; the ops of one layer follow each other faster than
/// that, while the pause between two answers is far longer and should cost no energy.
const SPIN: Duration = Duration::from_micros(50);

/// The most threads of one pool: far more than a memory bus feeds, and far under the 2¹⁶ that the gate can count.
const MAX_THREADS: usize = 1024;

/// Bytes of a thread's stack, by std's default.
const STACK: usize = 2 << 20;

/// Pieces per thread: more than one, so that a slow core (or one that is taken away) does not hold up the others.
const PIECES: usize = 4;

/// Multiply-adds of a piece of a large job: what a thread may still be at when the others have nothing left.
const PIECE_WORK: usize = 1 << 21;

/// Work under this many multiply-adds stays on the caller.
///
/// One thread does some 30 multiply-adds per nanosecond in the slowest of the common cases (q8, one token), so this is
/// about 8 µs; handing over to a spinning worker and collecting it costs about 1 µs, to a parked one several times that.
pub(crate) const MIN_PARALLEL: usize = 1 << 18;

/// Worker threads beside the caller; none if the pool has one thread.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    gate: AtomicU64,
    /// Held by the caller whose job is running.
    busy: AtomicBool,
    /// Written while the gate is closed and nobody is inside; read by those inside.
    job: UnsafeCell<Job>,
    /// The next piece of the job to hand out.
    next: AtomicUsize,
    /// Whether a worker's piece panicked.
    panicked: AtomicBool,
    /// Whether the workers shall end.
    stop: AtomicBool,
    /// Which workers need a wake-up.
    parked: Box<[AtomicBool]>,
}

// SAFETY: all fields but `job` are `Sync` and `Send`. `job` is written only by the caller that holds `busy`, while the
// gate is closed and counts nobody inside; it is read only by that caller and by workers counted inside. The gate's
// acquire and release operations order the two. Its pointer goes to an `F: Sync` that outlives the job (see `Pool::run`).
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it is tied to a thread.
unsafe impl Send for Shared {}

/// A borrowed closure without its type and lifetime.
#[derive(Clone, Copy, Debug)]
struct Job {
    closure: *const (),
    call: unsafe fn(*const (), usize),
    pieces: usize,
}

/// Calls the closure behind `closure` with a piece.
///
/// # Safety
/// `closure` points to a live `F`.
unsafe fn call<F: Fn(usize) + Sync>(closure: *const (), piece: usize) {
    // SAFETY: by the caller's word; `F: Sync` allows the shared borrow on any thread.
    let f = unsafe { &*closure.cast::<F>() };
    f(piece);
}

const INSIDE: u64 = (1 << 16) - 1;
const OPEN: u64 = 1 << 16;
const EPOCH: u64 = 1 << 17;

impl Pool {
    /// A pool of `threads` threads counting the caller.
    pub(crate) fn new(threads: usize) -> Result<Self> {
        if threads == 0 {
            return Err(KernelError::Threads {
                threads,
                source: None,
            });
        }
        if threads > MAX_THREADS {
            return Err(KernelError::Limit {
                op: "pool",
                what: "threads",
                limit: MAX_THREADS,
                actual: threads,
            });
        }
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            job: UnsafeCell::new(Job {
                closure: std::ptr::null(),
                call: call::<fn(usize)>,
                pieces: 0,
            }),
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            parked: (1..threads).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut pool = Self {
            shared,
            workers: Vec::with_capacity(threads - 1),
        };
        for index in 0..threads - 1 {
            let shared = Arc::clone(&pool.shared);
            // The handle of a thread is an allocation of std's that cannot fail: where there is not even room for a stack, none is begun.
            let mut room: Vec<u8> = Vec::new();
            room.try_reserve_exact(STACK)
                .map_err(|_| KernelError::Threads {
                    threads,
                    source: Some(std::io::ErrorKind::OutOfMemory.into()),
                })?;
            drop(room);
            let worker = thread::Builder::new()
                .name(format!("skimstone-{index}"))
                .spawn(move || shared.work(index))
                // Dropping `pool` ends the workers that did start.
                .map_err(|source| KernelError::Threads {
                    threads,
                    source: Some(source),
                })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads counting the caller.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f` on parts that together make up `split`, in any order and on any thread.
    ///
    /// `work` is the number of multiply-adds of the whole, by which the pool decides whether and how finely to share it.
    ///
    /// # Panics
    /// If `f` panicked on any thread.
    pub(crate) fn split<S: Split>(&self, split: S, work: usize, f: impl Fn(S::Part) + Sync) {
        self.split_each([split], work, |_, part| f(part));
    }

    /// As [`split`](Self::split) over several things in one job; `f` hears which one a part is of.
    pub(crate) fn split_each<S: Split, const N: usize>(
        &self,
        splits: [S; N],
        work: usize,
        f: impl Fn(usize, S::Part) + Sync,
    ) {
        let steps: usize = splits.iter().map(S::steps).sum();
        if self.workers.is_empty() || work < MIN_PARALLEL || steps < 2 || !self.shared.take() {
            for (i, split) in splits.iter().enumerate() {
                if split.steps() > 0 {
                    // SAFETY: the only part of it.
                    f(i, unsafe { split.part(0..split.steps()) });
                }
            }
            return;
        }
        let per_piece = self.per_piece(steps, work);
        let pieces = splits.iter().map(|split| split.steps().div_ceil(per_piece));
        self.run(pieces.sum(), |mut piece| {
            for (i, split) in splits.iter().enumerate() {
                let (steps, pieces) = (split.steps(), split.steps().div_ceil(per_piece));
                if piece < pieces {
                    let start = piece * per_piece;
                    // SAFETY: `run` hands out each piece once, and the pieces of `splits` follow each other.
                    return f(i, unsafe {
                        split.part(start..steps.min(start + per_piece))
                    });
                }
                piece -= pieces;
            }
        });
    }

    /// Steps per piece of a job of `steps` steps.
    fn per_piece(&self, steps: usize, work: usize) -> usize {
        let pieces = (self.threads() * PIECES).max(work / PIECE_WORK);
        steps.div_ceil(pieces)
    }

    /// Runs `f` once for each piece. The caller has taken `busy`.
    fn run<F: Fn(usize) + Sync>(&self, pieces: usize, f: F) {
        let shared = &*self.shared;
        let job = Job {
            closure: (&raw const f).cast(),
            call: call::<F>,
            pieces,
        };
        // SAFETY: `busy` is ours, and the previous holder left only after closing the gate and seeing nobody inside.
        unsafe { *shared.job.get() = job };
        shared.next.store(0, Ordering::Relaxed);
        // Closes and waits if one of our own pieces panics, before `f` is dropped.
        let unwinding = CloseOnUnwind(shared);
        let epoch = shared.gate.load(Ordering::Relaxed).wrapping_add(EPOCH);
        shared.gate.store(epoch | OPEN, Ordering::SeqCst);
        for (worker, parked) in self.workers.iter().zip(&shared.parked) {
            // Ordered after the gate; a worker sets `parked` before it looks at the gate one last time.
            if parked.load(Ordering::SeqCst) && parked.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.pieces(job);
        std::mem::forget(unwinding);
        assert!(!shared.close(), "a kernel panicked on a worker thread");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its work, so there is nothing to learn from the result.
            let _ = worker.join();
        }
    }
}

/// Ends the job of a caller that unwinds.
struct CloseOnUnwind<'a>(&'a Shared);

impl Drop for CloseOnUnwind<'_> {
    fn drop(&mut self) {
        // The caller's own panic is on its way already.
        let _ = self.0.close();
    }
}

impl Shared {
    /// Takes the pool, unless another caller has it.
    fn take(&self) -> bool {
        !self.busy.swap(true, Ordering::Acquire)
    }

    /// Ends a job: closes the gate, waits for those inside, gives the pool free. Returns whether a worker panicked.
    fn close(&self) -> bool {
        let mut gate = self.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0u32;
        while gate & INSIDE != 0 {
            // What is awaited is one piece. If that takes long, its thread may want this core.
            spins += 1;
            if spins.is_multiple_of(1024) {
                thread::yield_now()
            } else {
                spin_loop()
            }
            gate = self.gate.load(Ordering::Acquire);
        }
        let panicked = self.panicked.swap(false, Ordering::Relaxed);
        self.busy.store(false, Ordering::Release);
        panicked
    }

    /// The life of a worker.
    fn work(&self, index: usize) {
        let mut last = 0;
        while let Some(gate) = self.wait(index, last) {
            let inside = gate + 1;
            if self
                .gate
                .compare_exchange(gate, inside, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
            {
                // Another worker came or went, or the gate closed: look again.
                continue;
            }
            last = gate & !(OPEN | INSIDE);
            // SAFETY: we are counted inside, so the job stands until we leave.
            let job = unsafe { *self.job.get() };
            if catch_unwind(AssertUnwindSafe(|| self.pieces(job))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.gate.fetch_sub(1, Ordering::Release);
        }
    }

    /// Runs pieces until none are left.
    fn pieces(&self, job: Job) {
        loop {
            let piece = self.next.fetch_add(1, Ordering::Relaxed);
            if piece >= job.pieces {
                return;
            }
            // SAFETY: this thread is the caller or counted inside, so `run` still borrows the closure.
            unsafe { (job.call)(job.closure, piece) };
        }
    }

    /// Waits for a gate that is open for another job than that of epoch `last`; `None` when the pool ends.
    fn wait(&self, index: usize, last: u64) -> Option<u64> {
        let look = || {
            let gate = self.gate.load(Ordering::SeqCst);
            (gate & OPEN != 0 && gate & !(OPEN | INSIDE) != last).then_some(gate)
        };
        loop {
            let start = Instant::now();
            while start.elapsed() < SPIN {
                for _ in 0..32 {
                    if let Some(gate) = look() {
                        return Some(gate);
                    }
                    spin_loop();
                }
            }
            self.parked[index].store(true, Ordering::SeqCst);
            if self.stop.load(Ordering::SeqCst) {
                return None;
            }
            let gate = look();
            if gate.is_none() {
                // May wake for no reason or for a job that is over: then the loop starts again.
                thread::park();
            }
            self.parked[index].store(false, Ordering::SeqCst);
            if gate.is_some() {
                return gate;
            }
        }
    }
}

/// Something to be written that is cut into steps, of which any range makes a part.
///
/// # Safety
/// Parts of disjoint steps share no memory, and a part is inside what the value borrows.
pub(crate) unsafe trait Split: Sync {
    /// What a thread gets.
    type Part;

    /// Number of steps.
    fn steps(&self) -> usize;

    /// The part of these steps.
    ///
    /// # Safety
    /// `steps` is within `0..self.steps()`, and no other part with one of them was or will be made.
    unsafe fn part(&self, steps: Range<usize>) -> Self::Part;
}

// SAFETY: each member keeps the rules for itself, and they borrow different memory.
unsafe impl<A: Split, B: Split> Split for (A, B) {
    type Part = (A::Part, B::Part);

    fn steps(&self) -> usize {
        // A member with fewer steps than another would be left short; the callers cut both alike.
        self.0.steps().min(self.1.steps())
    }

    unsafe fn part(&self, steps: Range<usize>) -> Self::Part {
        // SAFETY: as the caller says.
        unsafe { (self.0.part(steps.clone()), self.1.part(steps)) }
    }
}

/// The columns of a row-major matrix; a step is a few neighbours, and a part is a [`Band`].
pub(crate) struct Columns<'a, T = f32> {
    data: *mut T,
    rows: usize,
    width: usize,
    step: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: stands for the exclusive borrow of a `[T]`; threads get disjoint parts of it, which they may write.
unsafe impl<T: Send> Sync for Columns<'_, T> {}

impl<'a, T> Columns<'a, T> {
    /// `data` has rows of `width` values; `step` of them are a step.
    pub(crate) fn new(data: &'a mut [T], width: usize, step: usize) -> Self {
        Columns {
            rows: data.len().checked_div(width).unwrap_or(0),
            data: data.as_mut_ptr(),
            width,
            step: step.max(1),
            borrow: PhantomData,
        }
    }
}

// SAFETY: the bands of disjoint steps have no column in common.
unsafe impl<'a, T: Send> Split for Columns<'a, T> {
    type Part = Band<'a, T>;

    fn steps(&self) -> usize {
        if self.rows == 0 {
            0
        } else {
            self.width.div_ceil(self.step)
        }
    }

    unsafe fn part(&self, steps: Range<usize>) -> Band<'a, T> {
        let end = self.width.min(steps.end * self.step);
        Band {
            data: self.data,
            rows: self.rows,
            width: self.width,
            start: end.min(steps.start * self.step),
            end,
            borrow: PhantomData,
        }
    }
}

/// A band of adjacent columns of a row-major matrix, which one thread may write.
#[derive(Debug)]
pub(crate) struct Band<'a, T = f32> {
    data: *mut T,
    rows: usize,
    width: usize,
    start: usize,
    end: usize,
    borrow: PhantomData<&'a mut [T]>,
}

impl<T> Band<'_, T> {
    /// The columns of the band.
    #[inline(always)]
    pub(crate) fn columns(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The band's part of row `row`.
    #[inline(always)]
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: `data` is a borrowed slice of `rows · width` values, `row < rows` and `start <= end <= width`, so this
        // part is inside it. Bands of one matrix do not overlap, and `&mut self` allows one part at a time.
        unsafe {
            let start = self.data.add(row * self.width + self.start);
            std::slice::from_raw_parts_mut(start, self.end - self.start)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUGE: usize = usize::MAX;

    fn fill(pool: &Pool, rows: usize, width: usize, step: usize) {
        let mut y = vec![-1.0; rows * width];
        pool.split(Columns::new(&mut y, width, step), HUGE, |mut band| {
            assert!(band.columns().start.is_multiple_of(step));
            for row in 0..rows {
                let start = band.columns().start;
                for (i, y) in band.row_mut(row).iter_mut().enumerate() {
                    *y += (row * width + start + i) as f32 + 1.0;
                }
            }
        });
        assert!(
            y.iter().enumerate().all(|(i, y)| *y == i as f32),
            "each value is written once"
        );
    }

    #[test]
    fn every_value_is_written_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).unwrap();
            for (rows, width, step) in [
                (1, 1, 1),
                (1, 64, 4),
                (3, 37, 1),
                (5, 96, 32),
                (0, 7, 1),
                (2, 1000, 8),
            ] {
                for _ in 0..50 {
                    fill(&pool, rows, width, step);
                }
            }
        }
    }

    #[test]
    fn several_outputs_share_one_job() {
        for threads in [1, 3] {
            let pool = Pool::new(threads).unwrap();
            let (mut a, mut b, mut c) = ([0.0; 80], [0.0; 2 * 37], []);
            let outputs = [
                Columns::new(&mut a, 80, 16),
                Columns::new(&mut b, 37, 16),
                Columns::new(&mut c, 16, 16),
            ];
            pool.split_each(outputs, HUGE, |i, mut band| {
                for row in 0..[1, 2, 0][i] {
                    let row = band.row_mut(row).iter_mut();
                    row.for_each(|y| *y += 1.0 + i as f32);
                }
            });
            assert!(a.iter().all(|y| *y == 1.0) && b.iter().all(|y| *y == 2.0));
            let pair = (
                Columns::new(&mut a[..74], 37, 16),
                Columns::new(&mut b, 37, 16),
            );
            pool.split(pair, HUGE, |(mut a, mut b)| {
                assert_eq!(a.columns(), b.columns());
                for row in 0..2 {
                    let pairs = a.row_mut(row).iter_mut().zip(b.row_mut(row));
                    pairs.for_each(|(a, b)| *a += *b);
                }
            });
            assert!(a[..74].iter().all(|y| *y == 3.0));
        }
    }

    #[test]
    fn workers_wake_from_their_sleep() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..5 {
            thread::sleep(4 * SPIN);
            fill(&pool, 2, 1000, 1);
        }
    }

    #[test]
    fn many_callers_and_nested_calls_finish() {
        let pool = Pool::new(3).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        fill(&pool, 2, 100, 1);
                    }
                });
            }
        });
        let mut y = [0.0; 16];
        pool.split(Columns::new(&mut y, 16, 1), HUGE, |_| {
            fill(&pool, 2, 100, 1)
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives() {
        let pool = Pool::new(3).unwrap();
        for bad in 0..20 {
            let mut y = vec![0.0; 20];
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.split(Columns::new(&mut y, 20, 1), HUGE, |band| {
                    assert!(!band.columns().contains(&bad), "column {bad}");
                });
            }));
            assert!(result.is_err());
            fill(&pool, 2, 100, 1);
        }
    }

    #[test]
    fn absurd_thread_counts_are_refused() {
        assert!(matches!(
            Pool::new(0),
            Err(KernelError::Threads { threads: 0, .. })
        ));
        assert!(matches!(
            Pool::new(usize::MAX),
            Err(KernelError::Limit { .. })
        ));
    }
}
