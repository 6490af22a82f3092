//! Key/value cache of many sequences, kept outside the model.

use std::collections::VecDeque;

use candle_core::{DType, Device, Result, Tensor, TensorId, bail};

use super::Row;

/// Preallocated key/value storage for `slots` independent sequences of up to `capacity` positions.
///
/// Each layer holds two tensors `(slots * capacity, kv_width)`; position `p` of slot `s` is row
/// `s * capacity + p`. Rows are overwritten in place, so a rollback only shortens the length: rows
/// beyond it are never read.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    capacity: usize,
    lens: Vec<usize>,
    prefixes: Vec<usize>,
    images: Images,
}

/// Cached keys and values of recently used images. An image precedes all text, so they depend on
/// the image alone.
#[derive(Debug, Default)]
struct Images {
    limit: usize,
    /// Images in order of last use; a layer's keys and values are `(image_tokens, kv_width)`.
    recent: VecDeque<(TensorId, Vec<(Tensor, Tensor)>)>,
}

impl KvCache {
    /// Allocates zeroed storage.
    pub fn new(
        layers: usize,
        slots: usize,
        capacity: usize,
        kv_width: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let zeros = || Tensor::zeros((slots * capacity, kv_width), dtype, device);
        let layers = (0..layers)
            .map(|_| Ok((zeros()?, zeros()?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            layers,
            capacity,
            lens: vec![0; slots],
            prefixes: vec![0; slots],
            images: Images::default(),
        })
    }

    /// Enables caching of the last `most` images, so that a sequence beginning with one of them
    /// skips its prefill. Images are identified by tensor: clones are the same image, equal tensors
    /// are not.
    pub fn remembering(mut self, limit: usize) -> Self {
        self.images.limit = limit;
        self
    }

    /// Number of sequences that fit.
    pub fn slots(&self) -> usize {
        self.lens.len()
    }

    /// Maximum positions of a sequence.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Number of positions in use in `slot`.
    pub fn len(&self, slot: usize) -> usize {
        self.lens[slot]
    }

    /// Number of leading positions of `slot` that attend to each other (the image).
    pub fn prefix(&self, slot: usize) -> usize {
        self.prefixes[slot]
    }

    /// Share of all positions in use, 0 to 1.
    pub fn usage(&self) -> f64 {
        self.lens.iter().sum::<usize>() as f64 / (self.lens.len() * self.capacity).max(1) as f64
    }

    /// Rolls `slot` back to `len` positions; `0` frees it. A longer `len` changes nothing.
    pub fn truncate(&mut self, slot: usize, len: usize) {
        self.lens[slot] = self.lens[slot].min(len);
        if len < self.prefixes[slot] {
            self.prefixes[slot] = 0;
            self.lens[slot] = 0;
        }
    }

    /// Copies the first `len` positions of `from` (or all, if fewer) to `to`.
    pub fn fork(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        let len = self.lens[from].min(len);
        if from != to && len > 0 {
            for (k, v) in &self.layers {
                for t in [k, v] {
                    // `Tensor::copy` would copy the whole storage with all slots.
                    let lines = t.narrow(0, from * self.capacity, len)?.force_contiguous()?;
                    t.slice_set(&lines, 0, to * self.capacity)?;
                }
            }
        }
        self.lens[to] = len;
        self.prefixes[to] = self.prefixes[from].min(len);
        Ok(())
    }

    /// Key and value storage of `layer`, `(slots * capacity, kv_width)` each.
    pub(crate) fn layer(&self, layer: usize) -> (&Tensor, &Tensor) {
        let (k, v) = &self.layers[layer];
        (k, v)
    }

    /// Checks that every row continues its slot and fits, before any write.
    pub(crate) fn check(&self, rows: &[Row<'_>], image_tokens: usize) -> Result<()> {
        let mut used = vec![false; self.slots()];
        for row in rows {
            if row.slot >= self.slots() || std::mem::replace(&mut used[row.slot], true) {
                bail!(
                    "slot {} does not exist or is named twice in one step",
                    row.slot
                );
            }
            let len = self.lens[row.slot];
            if row.start != len {
                bail!(
                    "slot {} holds {len} positions, the row starts at {}",
                    row.slot,
                    row.start
                );
            }
            if row.tokens.is_empty() || (row.image.is_some() && row.start != 0) {
                bail!("a row needs tokens, and an image only at position 0");
            }
            let end =
                row.start + row.tokens.len() + if row.image.is_some() { image_tokens } else { 0 };
            if end > self.capacity {
                bail!(
                    "slot {} would hold {end} positions, capacity is {}",
                    row.slot,
                    self.capacity
                );
            }
        }
        Ok(())
    }

    /// Writes one row's keys and values `(n, kv_width)` of `layer` after the slot's current length.
    pub(crate) fn write(&self, layer: usize, slot: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        let line = slot * self.capacity + self.lens[slot];
        self.layers[layer].0.slice_set(k, 0, line)?;
        self.layers[layer].1.slice_set(v, 0, line)
    }

    /// Copies a cached image to the start of `slot`; returns `false` if it is not cached.
    pub(crate) fn recall(&mut self, slot: usize, image: TensorId) -> Result<bool> {
        let Some(index) = self.images.recent.iter().position(|(id, _)| *id == image) else {
            return Ok(false);
        };
        let Some(recent) = self.images.recent.remove(index) else {
            return Ok(false);
        };
        let mut len = 0;
        for (layer, (k, v)) in recent.1.iter().enumerate() {
            self.write(layer, slot, k, v)?;
            len = k.dim(0)?;
        }
        self.images.recent.push_back(recent);
        self.advance(slot, len, len);
        Ok(true)
    }

    /// Caches the image at the start of `slot`.
    pub(crate) fn remember(&mut self, slot: usize, image: TensorId) -> Result<()> {
        if self.images.limit == 0 || self.images.recent.iter().any(|(id, _)| *id == image) {
            return Ok(());
        }
        // `Tensor::copy` would keep a copy of the whole storage with all slots for each image.
        let lines = |t: &Tensor| {
            t.narrow(0, slot * self.capacity, self.prefixes[slot])?
                .force_contiguous()
        };
        let layers = self
            .layers
            .iter()
            .map(|(k, v)| Ok((lines(k)?, lines(v)?)))
            .collect::<Result<_>>()?;
        if self.images.recent.len() == self.images.limit {
            self.images.recent.pop_front();
        }
        self.images.recent.push_back((image, layers));
        Ok(())
    }

    /// Advances the length of `slot` after every layer has been written.
    pub(crate) fn advance(&mut self, slot: usize, count: usize, prefix: usize) {
        if self.lens[slot] == 0 {
            self.prefixes[slot] = prefix;
        }
        self.lens[slot] += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remember_stores_only_the_lines_of_the_image() {
        let mut cache = KvCache::new(1, 4, 32, 8, DType::F32, &Device::Cpu)
            .unwrap()
            .remembering(2);
        cache.advance(3, 5, 5);
        cache
            .remember(3, Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap().id())
            .unwrap();
        let (keys, _) = &cache.images.recent[0].1[0];
        let (storage, layout) = keys.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            panic!("not on the CPU")
        };
        assert_eq!(
            (
                storage.as_slice::<f32>().unwrap().len(),
                layout.start_offset()
            ),
            (5 * 8, 0)
        );
    }
}
