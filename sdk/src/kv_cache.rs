//! Keys and values of one session, in refcounted blocks.
//!
//! ```text
//! KvCache ── layer 0 ── [block][block][block·]   k: [G, D, 32], v: [G, 32, D]   shared with forks until written
//!         │             positions [len]          absolute position of every entry
//!         │             visible   [blocks]       one bit per entry
//!         ├─ layer 1 ── … its own length: a position that skips a layer leaves no entry there
//!         └─ spare   ── blocks reserved for what the context still needs, so that `append` takes no lock
//! ```
//!
//! A block holds only keys and values. Positions and visibility belong to the session, so hiding a chunk in one fork
//! does not touch the others. Full blocks are shared by reference count; the last, partly filled block of a layer is
//! always owned by one session alone, which is why [`KvCache::append`] writes through [`Arc::get_mut`] and needs neither
//! locks nor copies. Whatever can need memory or fail happens in [`KvCache::new`], [`KvCache::fork`],
//! [`KvCache::truncate`], [`KvCache::remove`] and [`KvCache::restore`], before they change anything.

mod capacity;
mod pool;
mod saved;

use std::ops::Range;
use std::sync::Arc;

use skimstone_kernels::{KvBlock, KvFormat, KvSource};

use crate::error::{Error, ErrorKind, Result};
use crate::memory;

use pool::Block;
pub(crate) use pool::KvPool;
pub use pool::PoolUsage;

/// Positions per block. Small enough that a fork copies little, large enough that attention runs over long rows; at most
/// 64, since the visibility of a block is one `u64`.
pub const BLOCK_POSITIONS: usize = 32;

/// Entries of one layer.
struct LayerKv {
    blocks: Vec<Arc<Block>>,
    /// Absolute position of every entry, ascending. `[len]`
    positions: Vec<u32>,
    /// One word per block; bit `i` set: entry `i` of the block is seen by attention.
    visible: Vec<u64>,
}

impl LayerKv {
    fn with_capacity(context: usize) -> Result<Self> {
        let mut layer = LayerKv {
            blocks: Vec::new(),
            positions: Vec::new(),
            visible: Vec::new(),
        };
        layer.reserve(context)?;
        Ok(layer)
    }

    /// Makes room for `entries` entries, so that appending does not allocate.
    fn reserve(&mut self, entries: usize) -> Result<()> {
        let blocks = entries.div_ceil(BLOCK_POSITIONS);
        reserve(&mut self.positions, entries)?;
        reserve(&mut self.visible, blocks)?;
        reserve(&mut self.blocks, blocks)
    }

    fn len(&self) -> usize {
        self.positions.len()
    }

    /// Entries with a position below `position`.
    fn count_below(&self, position: u32) -> usize {
        self.positions.partition_point(|&p| p < position)
    }

    /// The entries with positions in `positions`: first, and one behind the last.
    fn entries_at(&self, positions: &Range<u32>) -> (usize, usize) {
        let first = self.count_below(positions.start);
        (first, self.count_below(positions.end).max(first))
    }

    /// Cuts to `len` entries; blocks that nobody else holds go to `spare`.
    fn cut(&mut self, len: usize, spare: &mut Vec<Arc<Block>>) {
        let blocks = len.div_ceil(BLOCK_POSITIONS);
        for mut block in self.blocks.drain(blocks..) {
            if Arc::get_mut(&mut block).is_some() {
                spare.push(block);
            }
        }
        self.visible.truncate(blocks);
        if let Some(last) = self.visible.last_mut() {
            let filled = len - (blocks - 1) * BLOCK_POSITIONS;
            *last &= mask(0..filled);
        }
        self.positions.truncate(len);
    }

    /// Moves the entries from `from` on down to `to`, over those between; `entry` is scratch. The blocks from that of `to` on are
    /// this session's own.
    fn move_down(&mut self, from: usize, to: usize, entry: &mut Vec<u8>) -> Result<()> {
        for (source, target) in (from..self.len()).zip(to..) {
            let (block, slot) = (source / BLOCK_POSITIONS, source % BLOCK_POSITIONS);
            self.blocks[block].take_entry(slot, entry)?;
            let seen = self.visible[block] >> slot & 1;
            let (block, slot) = (target / BLOCK_POSITIONS, target % BLOCK_POSITIONS);
            Arc::get_mut(&mut self.blocks[block])
                .ok_or_else(no_reserve)?
                .put_entry(slot, entry)?;
            self.visible[block] = self.visible[block] & !(1 << slot) | seen << slot;
            self.positions[target] = self.positions[source];
        }
        Ok(())
    }

    /// Takes over the entries of `other` with positions below `end`: shares its full blocks, copies the partial one into a block of
    /// `spare`.
    fn share_from(&mut self, other: &LayerKv, end: u32, spare: &mut Vec<Arc<Block>>) -> Result<()> {
        let len = other.count_below(end);
        let (full, rest) = (len / BLOCK_POSITIONS, len % BLOCK_POSITIONS);
        self.blocks.extend(other.blocks[..full].iter().cloned());
        self.visible.extend_from_slice(&other.visible[..full]);
        if rest > 0 {
            self.blocks
                .push(copy_into_spare(&other.blocks[full], spare)?);
            self.visible.push(other.visible[full] & mask(0..rest));
        }
        self.positions.extend_from_slice(&other.positions[..len]);
        Ok(())
    }
}

fn copy_into_spare(block: &Block, spare: &mut Vec<Arc<Block>>) -> Result<Arc<Block>> {
    let mut copy = spare.pop().ok_or_else(no_reserve)?;
    Arc::get_mut(&mut copy)
        .ok_or_else(no_reserve)?
        .copy_from(block);
    Ok(copy)
}

fn context_full(context: usize) -> Error {
    Error::new(
        ErrorKind::ContextFull,
        format!("the context of {context} positions is full"),
    )
}

/// A broken invariant of this file: whoever changes the layers reserves first.
fn no_reserve() -> Error {
    Error::new(
        ErrorKind::Memory,
        "no key/value block is reserved for this position",
    )
}

/// Bits of a range of entries of one block.
fn mask(range: Range<usize>) -> u64 {
    let below = |n: usize| if n >= 64 { u64::MAX } else { (1u64 << n) - 1 };
    below(range.end) & !below(range.start)
}

/// Keys and values of one session. See the [module](self).
pub(crate) struct KvCache {
    layers: Vec<LayerKv>,
    /// Blocks reserved for what the layers do not hold yet.
    spare: Vec<Arc<Block>>,
    /// Lengths of the layers at the last [`KvCache::mark`].
    marks: Vec<usize>,
    context: usize,
    pool: Arc<KvPool>,
}

/// Entries of a cache at one moment, shared with the session they came from.
pub(crate) struct KvSnapshot {
    layers: Vec<LayerKv>,
}

impl KvCache {
    /// An empty cache with everything reserved that `context` positions in `layers` layers need.
    pub(crate) fn new(pool: &Arc<KvPool>, layers: usize, context: usize) -> Result<Self> {
        Ok(KvCache {
            layers: (0..layers)
                .map(|_| LayerKv::with_capacity(context))
                .collect::<Result<_>>()?,
            spare: pool.take(layers * context.div_ceil(BLOCK_POSITIONS))?,
            marks: vec![0; layers],
            context,
            pool: pool.clone(),
        })
    }

    /// Bytes that a session of `context` positions reserves.
    pub(crate) fn bytes(
        layers: usize,
        context: usize,
        format: KvFormat,
        kv_heads: usize,
        head_dim: usize,
    ) -> u64 {
        let blocks = context.div_ceil(BLOCK_POSITIONS);
        (layers * blocks) as u64 * KvPool::block_bytes(format, kv_heads, head_dim)
    }

    /// Bytes of the blocks that hold entries, shared ones included.
    pub(crate) fn held_bytes(&self) -> u64 {
        let blocks: usize = self.layers.iter().map(|layer| layer.blocks.len()).sum();
        blocks as u64 * 2 * self.pool.half() as u64
    }

    /// Entries of `layer` with positions below `end`.
    pub(crate) fn len(&self, layer: usize, end: u32) -> usize {
        self.layers[layer].count_below(end)
    }

    /// Entries that may be reserved for.
    pub(crate) fn capacity(&self) -> usize {
        self.context
    }

    /// Entries of the fullest layer, of those with positions below `end`.
    pub(crate) fn longest(&self, end: u32) -> usize {
        longest(&self.layers, end)
    }

    /// What attention reads of `layer`.
    pub(crate) fn view(&self, layer: usize) -> LayerView<'_> {
        LayerView {
            layer: &self.layers[layer],
            half: self.pool.half(),
            format: self.pool.format,
        }
    }

    /// Appends one entry per position. Shapes: `k`, `v` are `[T, G, D]`. Neither allocates nor locks.
    pub(crate) fn append(
        &mut self,
        layer: usize,
        k: &[f32],
        v: &[f32],
        positions: &[u32],
    ) -> Result<()> {
        let row = self.pool.kv_heads * self.pool.head_dim;
        let context = self.context;
        let kv = &mut self.layers[layer];
        for ((k, v), &position) in k.chunks_exact(row).zip(v.chunks_exact(row)).zip(positions) {
            let len = kv.len();
            if len == context {
                return Err(context_full(context));
            }
            let slot = len % BLOCK_POSITIONS;
            if slot == 0 {
                kv.blocks.push(self.spare.pop().ok_or_else(no_reserve)?);
                kv.visible.push(0);
            }
            let (Some(block), Some(visible)) = (kv.blocks.last_mut(), kv.visible.last_mut()) else {
                return Err(no_reserve());
            };
            Arc::get_mut(block)
                .ok_or_else(no_reserve)?
                .write(slot, k, v)?;
            *visible |= 1 << slot;
            kv.positions.push(position);
        }
        Ok(())
    }

    /// Remembers the lengths of all layers for [`KvCache::rewind`].
    pub(crate) fn mark(&mut self) {
        for (mark, layer) in self.marks.iter_mut().zip(&self.layers) {
            *mark = layer.len();
        }
    }

    /// Drops what was appended since [`KvCache::mark`], in every layer; for a pass that was cancelled midway.
    pub(crate) fn rewind(&mut self) {
        for (&mark, layer) in self.marks.iter().zip(&mut self.layers) {
            layer.cut(mark, &mut self.spare);
        }
    }

    /// Drops the entries at `position` or later, all of which were appended since something was last shared: those ahead of the
    /// session. Neither allocates nor fails.
    pub(crate) fn drop_ahead(&mut self, position: u32) {
        for layer in &mut self.layers {
            let len = layer.count_below(position);
            layer.cut(len, &mut self.spare);
        }
    }

    /// Drops every entry at `position` or later.
    ///
    /// # Errors
    /// When blocks shared with a fork must be copied or replaced and the byte cap does not allow it; nothing changes then.
    pub(crate) fn truncate(&mut self, position: u32) -> Result<()> {
        let per_layer = self.context.div_ceil(BLOCK_POSITIONS);
        let (mut required, mut available) = (0, self.spare.len());
        for layer in &self.layers {
            let len = layer.count_below(position);
            let blocks = len.div_ceil(BLOCK_POSITIONS);
            required += per_layer - blocks;
            if len % BLOCK_POSITIONS != 0 && Arc::strong_count(&layer.blocks[blocks - 1]) > 1 {
                required += 1;
            }
            available += unshared(&layer.blocks[blocks..]);
        }
        self.reserve(required, available)?;
        for layer in &mut self.layers {
            let len = layer.count_below(position);
            layer.cut(len, &mut self.spare);
            if len % BLOCK_POSITIONS != 0
                && let Some(last) = layer.blocks.last_mut()
                && Arc::get_mut(last).is_none()
            {
                *last = copy_into_spare(last, &mut self.spare)?;
            }
        }
        self.spare.truncate(required);
        Ok(())
    }

    /// Drops the entries at `positions` and closes the gap, so that their blocks are free again. What came later stays as it was
    /// computed, with its own absolute positions.
    ///
    /// # Errors
    /// When blocks shared with a fork must be copied and the byte cap does not allow it; nothing changes then.
    pub(crate) fn remove(&mut self, positions: Range<u32>) -> Result<()> {
        let per_layer = self.context.div_ceil(BLOCK_POSITIONS);
        let (mut required, mut copies, mut available) = (0, 0, self.spare.len());
        for layer in &self.layers {
            let (from, to) = layer.entries_at(&positions);
            let left = (layer.len() - (to - from)).div_ceil(BLOCK_POSITIONS);
            required += per_layer - left;
            available += unshared(&layer.blocks[left..]);
            if from < to {
                let written =
                    &layer.blocks[from / BLOCK_POSITIONS..left.max(from / BLOCK_POSITIONS)];
                copies += written.len() - unshared(written);
            }
        }
        // Copies are made before blocks fall free.
        let missing = (required + copies)
            .saturating_sub(available)
            .max(copies.saturating_sub(self.spare.len()));
        self.spare.extend(self.pool.take(missing)?);
        let mut entry = Vec::new();
        for layer in &mut self.layers {
            let (from, to) = layer.entries_at(&positions);
            if from == to {
                continue;
            }
            let len = layer.len() - (to - from);
            for i in from / BLOCK_POSITIONS..len.div_ceil(BLOCK_POSITIONS) {
                if Arc::get_mut(&mut layer.blocks[i]).is_none() {
                    layer.blocks[i] = copy_into_spare(&layer.blocks[i], &mut self.spare)?;
                }
            }
            layer.move_down(to, from, &mut entry)?;
            layer.cut(len, &mut self.spare);
        }
        self.spare.truncate(required);
        Ok(())
    }

    /// Shows or hides the entries at `positions` to attention, in every layer.
    pub(crate) fn set_visible(&mut self, positions: Range<u32>, visible: bool) {
        for layer in &mut self.layers {
            let (first_entry, end) = layer.entries_at(&positions);
            let entries = first_entry..end;
            for (i, word) in layer.visible.iter_mut().enumerate() {
                let first = i * BLOCK_POSITIONS;
                let from = entries.start.clamp(first, first + BLOCK_POSITIONS) - first;
                let to = entries.end.clamp(first, first + BLOCK_POSITIONS) - first;
                let bits = mask(from..to.max(from));
                *word = if visible { *word | bits } else { *word & !bits };
            }
        }
    }

    /// A second cache with the entries below `end` and its own reserve.
    pub(crate) fn fork(&self, end: u32) -> Result<KvCache> {
        let full = full_blocks(&self.layers, end);
        let blocks = self.layers.len() * self.context.div_ceil(BLOCK_POSITIONS);
        let mut spare = self.pool.take(blocks - full)?;
        let layers = share(&self.layers, end, self.context, &mut spare)?;
        Ok(KvCache {
            layers,
            spare,
            marks: vec![0; self.layers.len()],
            context: self.context,
            pool: self.pool.clone(),
        })
    }

    /// The entries below `end`, without a reserve to go on from.
    pub(crate) fn snapshot(&self, end: u32) -> Result<KvSnapshot> {
        let partial = self
            .layers
            .iter()
            .filter(|layer| layer.count_below(end) % BLOCK_POSITIONS != 0)
            .count();
        let mut copies = self.pool.take(partial)?;
        let layers = share(&self.layers, end, 0, &mut copies)?;
        Ok(KvSnapshot { layers })
    }

    /// Replaces all entries by those of `snapshot`.
    pub(crate) fn restore(&mut self, snapshot: &KvSnapshot) -> Result<()> {
        let longest = longest(&snapshot.layers, u32::MAX);
        if longest > self.context || snapshot.layers.len() != self.layers.len() {
            return Err(Error::new(
                ErrorKind::ContextFull,
                format!(
                    "the snapshot holds {longest} positions, the session's context is {}",
                    self.context
                ),
            ));
        }
        self.adopt(&snapshot.layers, u32::MAX)
    }

    /// Replaces all entries by those of `other`, a session of the same model, below `end`; its full blocks are shared. With `room` it gets
    /// a reserve of just so many more entries, without it keeps its own context.
    pub(crate) fn follow(&mut self, other: &KvCache, end: u32, room: Option<usize>) -> Result<()> {
        if let Some(room) = room {
            self.context = other.longest(end) + room;
        }
        self.adopt(&other.layers, end)
    }

    fn adopt(&mut self, layers: &[LayerKv], end: u32) -> Result<()> {
        let full = full_blocks(layers, end);
        let required = self.layers.len() * self.context.div_ceil(BLOCK_POSITIONS) - full;
        let unshared: usize = self
            .layers
            .iter()
            .map(|layer| unshared(&layer.blocks))
            .sum();
        self.reserve(required, self.spare.len() + unshared)?;
        for (layer, source) in self.layers.iter_mut().zip(layers) {
            layer.cut(0, &mut self.spare);
            layer.share_from(source, end, &mut self.spare)?;
        }
        self.spare.truncate(required);
        Ok(())
    }

    /// Takes from the pool what `available` blocks lack of `required`.
    fn reserve(&mut self, required: usize, available: usize) -> Result<()> {
        if required > available {
            let fresh = self.pool.take(required - available)?;
            memory::reserve(&mut self.spare, fresh.len())?;
            self.spare.extend(fresh);
        }
        Ok(())
    }
}

fn share(
    layers: &[LayerKv],
    end: u32,
    context: usize,
    spare: &mut Vec<Arc<Block>>,
) -> Result<Vec<LayerKv>> {
    layers
        .iter()
        .map(|layer| {
            let mut copy = LayerKv::with_capacity(context)?;
            copy.share_from(layer, end, spare)?;
            Ok(copy)
        })
        .collect()
}

/// Room for `len` elements in all.
fn reserve<T>(list: &mut Vec<T>, len: usize) -> Result<()> {
    memory::reserve(list, len.saturating_sub(list.len()))
}

fn longest(layers: &[LayerKv], end: u32) -> usize {
    let lens = layers.iter().map(|layer| layer.count_below(end));
    lens.max().unwrap_or(0)
}

/// Blocks that entries below `end` fill.
fn full_blocks(layers: &[LayerKv], end: u32) -> usize {
    let full = layers.iter().map(|layer| layer.count_below(end));
    full.map(|len| len / BLOCK_POSITIONS).sum()
}

/// Blocks that only this session holds. Others may drop theirs meanwhile, so this is a lower bound.
fn unshared(blocks: &[Arc<Block>]) -> usize {
    blocks
        .iter()
        .filter(|block| Arc::strong_count(block) == 1)
        .count()
}

/// One layer as attention reads it.
pub(crate) struct LayerView<'a> {
    layer: &'a LayerKv,
    half: usize,
    format: KvFormat,
}

impl KvSource for LayerView<'_> {
    fn format(&self) -> KvFormat {
        self.format
    }

    fn blocks(&self) -> usize {
        self.layer.blocks.len()
    }

    fn block(&self, i: usize) -> KvBlock<'_> {
        let first = i * BLOCK_POSITIONS;
        let len = (self.layer.len() - first).min(BLOCK_POSITIONS);
        let (k, v) = self.layer.blocks[i].kv.split_at(self.half);
        KvBlock {
            k,
            v,
            stride: BLOCK_POSITIONS,
            len,
            positions: &self.layer.positions[first..first + len],
            visible: self.layer.visible[i],
        }
    }
}
