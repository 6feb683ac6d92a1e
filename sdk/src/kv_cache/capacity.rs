//! How much a cache reserves: everything at first, less after a memory warning, everything again for the next question.

use super::{BLOCK_POSITIONS, KvCache, no_reserve};
use crate::error::Result;

impl KvCache {
    /// Reserves for `entries` entries in every layer, no more and no less; of what is given up, blocks that were written to go first,
    /// since only those take memory.
    ///
    /// # Errors
    /// If `entries` are fewer than there are, or the byte cap or the system do not allow as many. Nothing changes then.
    pub(crate) fn set_capacity(&mut self, entries: usize) -> Result<()> {
        let per_layer = entries.div_ceil(BLOCK_POSITIONS);
        if entries < self.longest(u32::MAX) {
            return Err(no_reserve());
        }
        let held: usize = self.layers.iter().map(|layer| layer.blocks.len()).sum();
        let required = self.layers.len() * per_layer - held;
        for layer in &mut self.layers {
            layer.reserve(entries)?;
        }
        self.reserve(required, self.spare.len())?;
        self.spare.sort_by_key(|block| !block.kv.is_empty());
        self.spare.truncate(required);
        self.context = entries;
        Ok(())
    }

    /// Gives all blocks back to the pool.
    pub(crate) fn release(&mut self) {
        for layer in &mut self.layers {
            layer.cut(0, &mut self.spare);
        }
        self.spare.clear();
        self.context = 0;
    }
}
