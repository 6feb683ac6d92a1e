//! Where blocks come from and go back to.

use std::sync::{Arc, Mutex, PoisonError};

use skimstone_kernels::KvFormat;

use super::BLOCK_POSITIONS;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{self, Ledger};

/// Keys and values of [`BLOCK_POSITIONS`] positions of one layer. Returns its buffer to the pool when the last owner drops it.
pub(super) struct Block {
    /// Keys `[G, D, 32]`, then values `[G, 32, D]`, in the pool's format, which may add scales to each head. Empty until the block is first written, so that reserved
    /// memory costs nothing yet.
    pub(super) kv: Vec<u8>,
    pool: Arc<KvPool>,
}

impl Drop for Block {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.kv));
    }
}

impl Block {
    pub(super) fn write(&mut self, slot: usize, k: &[f32], v: &[f32]) -> Result<()> {
        let half = self.pool.half();
        if self.kv.is_empty() {
            // Within the reserved capacity: fills, does not allocate.
            self.kv.resize(2 * half, 0);
        }
        let (keys, values) = self.kv.split_at_mut(half);
        let (format, head_dim) = (self.pool.format, self.pool.head_dim);
        Ok(format.write_entry(slot, BLOCK_POSITIONS, head_dim, [k, v], [keys, values])?)
    }

    /// Copies the entry in `slot` to `entry`, as it is stored.
    pub(super) fn take_entry(&self, slot: usize, entry: &mut Vec<u8>) -> Result<()> {
        let (keys, values) = self.kv.split_at(self.pool.half());
        let (format, head_dim) = (self.pool.format, self.pool.head_dim);
        Ok(format.take_entry(slot, BLOCK_POSITIONS, head_dim, [keys, values], entry)?)
    }

    pub(super) fn put_entry(&mut self, slot: usize, entry: &[u8]) -> Result<()> {
        let (keys, values) = self.kv.split_at_mut(self.pool.half());
        let (format, head_dim) = (self.pool.format, self.pool.head_dim);
        Ok(format.put_entry(slot, BLOCK_POSITIONS, head_dim, entry, [keys, values])?)
    }

    pub(super) fn copy_from(&mut self, other: &Block) {
        self.kv.clear();
        self.kv.extend_from_slice(&other.kv);
    }
}

/// All KV blocks of one model: hands them out, takes them back, and counts their bytes against the model's cap.
pub(crate) struct KvPool {
    pub(super) format: KvFormat,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    ledger: Arc<Ledger>,
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    free: Vec<Vec<u8>>,
    in_use: usize,
}

/// What the block pool of a model holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUsage {
    /// Blocks that sessions and snapshots hold or have reserved.
    pub blocks_in_use: usize,
    /// Blocks that were returned and wait to be used again.
    pub blocks_free: usize,
    /// Bytes of one block.
    pub block_bytes: u64,
}

impl KvPool {
    pub(crate) fn new(
        format: KvFormat,
        kv_heads: usize,
        head_dim: usize,
        ledger: Arc<Ledger>,
    ) -> Self {
        KvPool {
            format,
            kv_heads,
            head_dim,
            ledger,
            state: Mutex::default(),
        }
    }

    /// Bytes of the keys of one block.
    pub(super) fn half(&self) -> usize {
        self.kv_heads * self.format.head_bytes(BLOCK_POSITIONS, self.head_dim)
    }

    /// Bytes of one block of `kv_heads` heads of `head_dim` values.
    pub(crate) fn block_bytes(format: KvFormat, kv_heads: usize, head_dim: usize) -> u64 {
        2 * (kv_heads * format.head_bytes(BLOCK_POSITIONS, head_dim)) as u64
    }

    pub(crate) fn usage(&self) -> PoolUsage {
        let state = self.lock();
        PoolUsage {
            blocks_in_use: state.in_use,
            blocks_free: state.free.len(),
            block_bytes: 2 * self.half() as u64,
        }
    }

    /// Frees the blocks that nobody uses and takes their bytes off the model's account.
    pub(crate) fn trim(&self) {
        let free = std::mem::take(&mut self.lock().free);
        let bytes = free.len() as u64 * 2 * self.half() as u64;
        drop(free);
        self.ledger.give(bytes);
    }

    /// `count` blocks, or an error and none.
    pub(super) fn take(self: &Arc<Self>, count: usize) -> Result<Vec<Arc<Block>>> {
        let bytes = 2 * self.half() as u64;
        let mut blocks = Vec::new();
        memory::reserve(&mut blocks, count)?;
        let mut state = self.lock();
        // Giving back must not need memory.
        let room = state.in_use + count;
        memory::reserve(&mut state.free, room)?;
        let missing = count.saturating_sub(state.free.len());
        self.ledger.take(missing as u64 * bytes)?;
        let mut fresh: Vec<Vec<u8>> = Vec::new();
        let reserved = memory::reserve(&mut fresh, count).and_then(|()| {
            for _ in 0..missing {
                let mut kv = Vec::new();
                memory::reserve(&mut kv, 2 * self.half())?;
                fresh.push(kv);
            }
            Ok(())
        });
        if reserved.is_err() {
            self.ledger.give(missing as u64 * bytes);
            let message = format!(
                "the system refused {} bytes for keys and values",
                missing as u64 * bytes
            );
            return Err(Error::new(ErrorKind::Memory, message)
                .with_hint("use a smaller context or fewer sessions"));
        }
        let reused = state.free.len() - (count - missing);
        state.in_use += count;
        fresh.extend(state.free.drain(reused..));
        drop(state);
        let mut fresh = fresh.into_iter();
        while let Some(kv) = fresh.next() {
            // Thousands of small allocations in a long context.
            if let Err(error) = memory::check_refusal() {
                self.give_back(kv);
                fresh.for_each(|kv| self.give_back(kv));
                return Err(error);
            }
            let pool = self.clone();
            blocks.push(Arc::new(Block { kv, pool }));
        }
        Ok(blocks)
    }

    fn give_back(&self, kv: Vec<u8>) {
        let mut state = self.lock();
        state.free.push(kv);
        state.in_use -= 1;
    }

    /// The pool holds plain counts and buffers that are valid at any point, so a panic elsewhere does not spoil it.
    fn lock(&self) -> std::sync::MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
