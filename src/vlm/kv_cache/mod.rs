//! Key/value cache of many sequences, kept outside the model.
//!
//! Positions are stored in blocks of [`BLOCK`]; a sequence is a table of blocks, and nobody outside
//! this folder sees them. A fork shares its blocks, which are copied when one of the owners writes
//! to them; a rollback gives blocks back. Prefixes of recent sequences stay in the pool until it
//! needs their blocks.

mod pool;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, ops::Range};

use candle_core::{DType, Device, Result, Tensor, bail};

use super::{
    nn::{DeviceAttention, Ragged, RaggedRow, ragged_attention},
    prompt::ImageId,
};
use pool::BlockPool;

/// Positions of a block.
pub(crate) const BLOCK: usize = 16;

/// Sizes of a model's keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Number of layers.
    pub layers: usize,
    /// Key/value heads of a layer.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl KvShape {
    /// Returns the width of a layer's keys, equal to that of its values.
    pub fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Returns the bytes that one position takes in all layers.
    pub fn position_bytes(&self) -> usize {
        2 * self.layers * self.width() * DType::F32.size_in_bytes()
    }
}

/// Positions that a step appends to one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSpan {
    /// Slot of the sequence.
    pub slot: usize,
    /// First position.
    pub start: usize,
    /// Number of positions.
    pub len: usize,
    /// Ranges of positions that all attend to each other, later ones included.
    pub full: Vec<Range<usize>>,
}

/// Content of a prefix: what its keys and values depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PrefixKey {
    /// Tokens of all positions.
    pub(crate) tokens: Vec<u32>,
    /// Positions, identity and rows of every image run.
    pub(crate) images: Vec<(Range<usize>, ImageId, Range<usize>)>,
}

impl PrefixKey {
    /// Returns the number of leading positions that both have in common, images as a whole; 0 if
    /// these are text alone: images belong to somebody, and so does what follows them.
    fn common(&self, other: &Self) -> usize {
        if self.images.first() != other.images.first() {
            return 0;
        }
        let pairs = self.tokens.iter().zip(&other.tokens);
        let mut len = pairs.take_while(|(a, b)| a == b).count();
        let most = self.images.len().max(other.images.len());
        for i in 0..most {
            let (a, b) = (self.images.get(i), other.images.get(i));
            let ends = [a, b].into_iter().flatten();
            if a != b || ends.clone().any(|(range, ..)| range.end > len) {
                let starts = ends.map(|(range, ..)| range.start);
                len = starts.min().map_or(len, |start| len.min(start));
                if i == 0 {
                    len = 0;
                }
                break;
            }
        }
        len
    }
}

/// Prefix whose blocks are kept.
#[derive(Debug)]
struct Prefix {
    key: PrefixKey,
    blocks: Vec<u32>,
}

/// Blocks and length of a sequence.
#[derive(Debug, Clone, Default)]
struct Sequence {
    blocks: Vec<u32>,
    len: usize,
}

/// Preallocated storage for `slots` independent sequences of up to `capacity` positions each.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    /// Keys and values of each layer, `(blocks * BLOCK, width)`.
    layers: Vec<(Tensor, Tensor)>,
    pool: BlockPool,
    sequences: Vec<Sequence>,
    capacity: usize,
    /// Most prefixes to remember.
    most_prefixes: usize,
    /// Prefixes in order of last use.
    prefixes: VecDeque<Prefix>,
    /// Places of the step in progress, on another device than the CPU.
    step: Option<DeviceAttention>,
}

impl KvCache {
    /// Allocates zeroed storage for `slots` sequences of at most `capacity` positions, together at
    /// most `positions`.
    ///
    /// # Errors
    /// When the device has no such memory.
    pub fn new(
        shape: KvShape,
        slots: usize,
        capacity: usize,
        positions: usize,
        device: &Device,
    ) -> Result<Self> {
        let most = slots.saturating_mul(capacity.div_ceil(BLOCK));
        let blocks = positions.div_ceil(BLOCK).min(most);
        let zeros = || Tensor::zeros((blocks * BLOCK, shape.width()), DType::F32, device);
        let layers = (0..shape.layers)
            .map(|_| Ok((zeros()?, zeros()?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            shape,
            layers,
            pool: BlockPool::new(blocks),
            sequences: vec![Sequence::default(); slots],
            capacity,
            most_prefixes: 0,
            prefixes: VecDeque::new(),
            step: None,
        })
    }

    /// Keeps the last `most` prefixes with images, as long as no sequence needs their blocks, so
    /// that a sequence that begins as one of them skips what they have in common.
    pub fn remembering(mut self, most: usize) -> Self {
        self.most_prefixes = most;
        self
    }

    /// Returns the number of sequences that fit.
    pub fn slots(&self) -> usize {
        self.sequences.len()
    }

    /// Returns the most positions of a sequence.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns the number of positions in use in `slot`.
    pub fn len(&self, slot: usize) -> usize {
        self.sequences[slot].len
    }

    /// Returns the share of all blocks that sequences use, 0 to 1.
    pub fn usage(&self) -> f64 {
        let used: usize = self.sequences.iter().map(|s| s.blocks.len()).sum();
        (used as f64 / self.pool.len().max(1) as f64).min(1.0)
    }

    /// Returns the most positions that all sequences can hold together.
    pub fn positions(&self) -> usize {
        self.pool.len() * BLOCK
    }

    /// Rolls `slot` back to `len` positions; `0` frees it. A longer `len` changes nothing.
    pub fn truncate(&mut self, slot: usize, len: usize) {
        let sequence = &mut self.sequences[slot];
        sequence.len = sequence.len.min(len);
        let blocks = sequence.len.div_ceil(BLOCK).min(sequence.blocks.len());
        let freed = sequence.blocks.split_off(blocks);
        self.pool.release(&freed);
    }

    /// Makes `to` a copy of the first `len` positions of `from` (or of all, if fewer).
    pub fn fork(&mut self, from: usize, to: usize, len: usize) {
        if from == to {
            return self.truncate(to, len);
        }
        let len = self.sequences[from].len.min(len);
        let blocks = self.sequences[from].blocks[..len.div_ceil(BLOCK)].to_vec();
        self.pool.share(&blocks);
        let freed = std::mem::replace(&mut self.sequences[to], Sequence { blocks, len });
        self.pool.release(&freed.blocks);
    }

    /// Checks that rows of `(slot, start, tokens)` continue their slots and fit, before any write.
    pub(crate) fn check(&self, rows: &[(usize, usize, usize)]) -> Result<()> {
        let mut used = vec![false; self.slots()];
        for &(slot, start, tokens) in rows {
            if slot >= self.slots() || std::mem::replace(&mut used[slot], true) {
                bail!("slot {slot} does not exist or is named twice in one step");
            }
            let len = self.sequences[slot].len;
            if start != len {
                bail!("slot {slot} holds {len} positions, the row starts at {start}");
            }
            if tokens == 0 {
                bail!("a row needs tokens");
            }
            if start + tokens > self.capacity {
                bail!(
                    "slot {slot} would hold {} positions, capacity is {}",
                    start + tokens,
                    self.capacity
                );
            }
        }
        Ok(())
    }

    /// Writes this step's keys and values of `layer` and attends: `q` is `(tokens, heads *
    /// head_dim)`, `k` and `v` are `(tokens, kv_heads * head_dim)`, tokens in the rows' order.
    /// Returns `(tokens, heads * head_dim)`. The first layer makes room for the rows.
    ///
    /// # Errors
    /// When no block is free or a tensor operation fails.
    pub fn attend(
        &mut self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        rows: &[RowSpan],
    ) -> Result<Tensor> {
        if layer == 0 {
            rows.iter().try_for_each(|row| self.make_room(row))?;
        }
        let (keys, values) = &self.layers[layer];
        if !q.device().is_cpu() {
            if layer == 0 {
                self.step = Some(DeviceAttention::new(&self.ragged(q, rows)?, q.device())?);
            }
            let Some(step) = &self.step else {
                bail!("a step begins with the first layer")
            };
            step.write(keys, k)?;
            step.write(values, v)?;
            return step.attend(q, keys, values);
        }
        let mut first = 0;
        for row in rows {
            let blocks = &self.sequences[row.slot].blocks;
            let mut position = row.start;
            let end = row.start + row.len;
            while position < end {
                let count = (BLOCK - position % BLOCK).min(end - position);
                let line = blocks[position / BLOCK] as usize * BLOCK + position % BLOCK;
                keys.slice_set(&k.narrow(0, first, count)?, 0, line)?;
                values.slice_set(&v.narrow(0, first, count)?, 0, line)?;
                (first, position) = (first + count, position + count);
            }
        }
        ragged_attention(q, keys, values, &self.ragged(q, rows)?)
    }

    /// Returns the blocks and heads of a step's rows with the queries `q`.
    fn ragged<'a>(&'a self, q: &Tensor, rows: &'a [RowSpan]) -> Result<Ragged<'a>> {
        Ok(Ragged {
            rows: rows
                .iter()
                .map(|row| RaggedRow {
                    blocks: &self.sequences[row.slot].blocks,
                    start: row.start,
                    len: row.len,
                    full: &row.full,
                })
                .collect(),
            block: BLOCK,
            heads: q.dim(1)? / self.shape.head_dim,
            kv_heads: self.shape.kv_heads,
            head_dim: self.shape.head_dim,
        })
    }

    /// Returns the keys of the first `len` positions of `slot`, flat.
    #[cfg(test)]
    pub(crate) fn keys(&self, layer: usize, slot: usize, len: usize) -> Result<Vec<f32>> {
        let lines: Vec<u32> = (0..len)
            .map(|p| self.sequences[slot].blocks[p / BLOCK] * BLOCK as u32 + (p % BLOCK) as u32)
            .collect();
        let keys = &self.layers[layer].0;
        keys.index_select(&Tensor::new(lines, keys.device())?, 0)?
            .flatten_all()?
            .to_vec1()
    }

    /// Gives a row's sequence blocks of its own for the positions to write.
    fn make_room(&mut self, row: &RowSpan) -> Result<()> {
        let first = row.start / BLOCK;
        let begun = self.sequences[row.slot].blocks.get(first).copied();
        if let Some(shared) = begun {
            // A block that it shares with prefixes alone is its own once they are forgotten.
            while self.pool.is_shared(shared) && self.pool.free() == 0 && self.forget_oldest() {}
        }
        if let Some(shared) = begun
            && self.pool.is_shared(shared)
        {
            let own = self.take_block()?;
            let written = row.start % BLOCK;
            for (k, v) in self.layers.iter().filter(|_| written > 0) {
                for t in [k, v] {
                    // `Tensor::copy` would copy the whole storage with all blocks.
                    let lines = t
                        .narrow(0, shared as usize * BLOCK, written)?
                        .force_contiguous()?;
                    t.slice_set(&lines, 0, own as usize * BLOCK)?;
                }
            }
            self.pool.release(&[shared]);
            self.sequences[row.slot].blocks[first] = own;
        }
        while self.sequences[row.slot].blocks.len() * BLOCK < row.start + row.len {
            let block = self.take_block()?;
            self.sequences[row.slot].blocks.push(block);
        }
        Ok(())
    }

    /// Takes a free block, if necessary one of the prefix that was used longest ago.
    fn take_block(&mut self) -> Result<u32> {
        loop {
            if let Some(block) = self.pool.take() {
                return Ok(block);
            }
            if !self.forget_oldest() {
                bail!("the key/value cache is full");
            }
        }
    }

    /// Forgets the prefix that was used longest ago; returns `false` if there is none.
    fn forget_oldest(&mut self) -> bool {
        let oldest = self.prefixes.pop_front();
        oldest
            .iter()
            .for_each(|prefix| self.pool.release(&prefix.blocks));
        oldest.is_some()
    }

    /// Advances the length of a row's slot after every layer has been written.
    pub(crate) fn advance(&mut self, row: &RowSpan) {
        self.sequences[row.slot].len = row.start + row.len;
    }

    /// Restores in `slot` the longest beginning of `key` that is remembered, if the slot holds
    /// less, and returns its length; 0 if there is none.
    pub(crate) fn recall(&mut self, slot: usize, key: &PrefixKey) -> usize {
        let lengths = self.prefixes.iter().map(|prefix| prefix.key.common(key));
        let longest = lengths.enumerate().max_by_key(|&(_, len)| len);
        let Some((index, len)) = longest.filter(|&(_, len)| len > self.len(slot)) else {
            return 0;
        };
        let Some(prefix) = self.prefixes.remove(index) else {
            return 0;
        };
        let blocks = prefix.blocks[..len.div_ceil(BLOCK)].to_vec();
        self.pool.share(&blocks);
        self.truncate(slot, 0);
        self.sequences[slot] = Sequence { blocks, len };
        self.prefixes.push_back(prefix);
        len
    }

    /// Remembers the beginning `key` of `slot`, in place of what begins it.
    pub(crate) fn remember(&mut self, slot: usize, key: PrefixKey) {
        let len = key.tokens.len();
        let common = |prefix: &Prefix| prefix.key.common(&key);
        if self.most_prefixes == 0 || self.prefixes.iter().any(|prefix| common(prefix) == len) {
            return;
        }
        let begins_it = |prefix: &Prefix| common(prefix) == prefix.key.tokens.len();
        let (shorter, others): (VecDeque<_>, _) = self
            .prefixes
            .drain(..)
            .partition(|prefix| begins_it(prefix));
        self.prefixes = others;
        for prefix in shorter {
            self.pool.release(&prefix.blocks);
        }
        let blocks = self.sequences[slot].blocks[..len.div_ceil(BLOCK)].to_vec();
        self.pool.share(&blocks);
        self.prefixes.push_back(Prefix { key, blocks });
        if self.prefixes.len() > self.most_prefixes {
            self.forget_oldest();
        }
    }
}
