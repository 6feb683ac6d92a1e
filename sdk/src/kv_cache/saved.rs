//! Keys and values as bytes: what a saved session is mostly made of.

use std::io::{self, Write};
use std::sync::Arc;

use super::{
    BLOCK_POSITIONS, Block, KvCache, KvPool, KvSnapshot, LayerKv, context_full, mask, no_reserve,
};
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use crate::session::Reader;

impl KvPool {
    /// What bytes written by one pool need to fit another: format, heads, and sizes.
    pub(crate) fn layout(&self) -> [u32; 4] {
        let format = self.format.name().bytes();
        [
            // The name as a number: `f16` is never another format.
            format.fold(0, |number, byte| number << 8 | u32::from(byte)),
            self.kv_heads as u32,
            self.head_dim as u32,
            BLOCK_POSITIONS as u32,
        ]
    }
}

impl KvCache {
    /// Writes the entries of positions below `end`. Per layer: their number, positions, visibility, blocks. What a block holds beyond
    /// them is written as zeros: it may be of another session, or a draft.
    pub(crate) fn write(&self, end: u32, out: &mut impl Write) -> Result<io::Result<()>> {
        let pool = &self.pool;
        let zeros = memory::zeros(pool.kv_heads * pool.head_dim)?;
        let mut bytes = Vec::new();
        for layer in &self.layers {
            let len = layer.count_below(end);
            let blocks = len.div_ceil(BLOCK_POSITIONS);
            let filled = |block: usize| (len - block * BLOCK_POSITIONS).min(BLOCK_POSITIONS);
            bytes.clear();
            memory::reserve(&mut bytes, 8 + 4 * len + 8 * blocks)?;
            bytes.extend((len as u64).to_le_bytes());
            let positions = layer.positions[..len].iter();
            bytes.extend(positions.flat_map(|p| p.to_le_bytes()));
            for (i, word) in layer.visible[..blocks].iter().enumerate() {
                bytes.extend((word & mask(0..filled(i))).to_le_bytes());
            }
            if let Err(error) = out.write_all(&bytes) {
                return Ok(Err(error));
            }
            for (i, block) in layer.blocks[..blocks].iter().enumerate() {
                bytes.clear();
                memory::reserve(&mut bytes, block.kv.len())?;
                bytes.extend_from_slice(&block.kv);
                let (keys, values) = bytes.split_at_mut(pool.half());
                for slot in filled(i)..BLOCK_POSITIONS {
                    pool.format.write_entry(
                        slot,
                        BLOCK_POSITIONS,
                        pool.head_dim,
                        [&zeros, &zeros],
                        [&mut *keys, &mut *values],
                    )?;
                }
                if let Err(error) = out.write_all(&bytes) {
                    return Ok(Err(error));
                }
            }
        }
        Ok(Ok(()))
    }
}

impl KvSnapshot {
    /// Reads the entries of `layers` layers, of at most `position` positions each; every number is checked before it is used.
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        pool: &Arc<KvPool>,
        layers: usize,
        position: usize,
    ) -> Result<KvSnapshot> {
        let layers = (0..layers).map(|layer| {
            read_layer(reader, pool, position).map_err(|e| e.at(format_args!("layer {layer}")))
        });
        Ok(KvSnapshot {
            layers: layers.collect::<Result<_>>()?,
        })
    }
}

fn read_layer(reader: &mut Reader<'_>, pool: &Arc<KvPool>, position: usize) -> Result<LayerKv> {
    let broken = |message: String| Error::new(ErrorKind::Format, message);
    let len = reader.count()?;
    if len > position {
        return Err(context_full(position));
    }
    let positions: Vec<u32> = reader.array(len, u32::from_le_bytes)?;
    if positions.iter().any(|&p| p as usize >= position)
        || positions.windows(2).any(|pair| pair[0] >= pair[1])
    {
        return Err(broken(format!(
            "its positions do not ascend below {position}"
        )));
    }
    let blocks = len.div_ceil(BLOCK_POSITIONS);
    let visible: Vec<u64> = reader.array(blocks, u64::from_le_bytes)?;
    for (i, word) in visible.iter().enumerate() {
        let filled = (len - i * BLOCK_POSITIONS).min(BLOCK_POSITIONS);
        if word & !mask(0..filled) != 0 {
            return Err(broken(format!(
                "block {i} shows entries that it does not have"
            )));
        }
    }
    // The bytes are there before any memory is taken for them.
    let bytes = reader.take(blocks.saturating_mul(2 * pool.half()))?;
    let mut held = pool.take(blocks)?;
    for (block, bytes) in held.iter_mut().zip(bytes.chunks_exact(2 * pool.half())) {
        fill(block, bytes)?;
    }
    Ok(LayerKv {
        blocks: held,
        positions,
        visible,
    })
}

fn fill(block: &mut Arc<Block>, bytes: &[u8]) -> Result<()> {
    let block = Arc::get_mut(block).ok_or_else(no_reserve)?;
    block.kv.clear();
    block.kv.extend_from_slice(bytes);
    Ok(())
}
