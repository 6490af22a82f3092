//! Whatever the sequence of operations, attention sees what a fresh sequence would.

use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::*;

const SHAPE: KvShape = KvShape {
    layers: 2,
    kv_heads: 1,
    head_dim: 4,
};
const HEADS: usize = 2;
const SLOTS: usize = 4;
const CAPACITY: usize = 70;

#[derive(Debug, Clone)]
enum Op {
    /// Appends positions to some slots in one step; with an image of so many positions first if
    /// the slot is empty.
    Append(Vec<(usize, usize)>, usize),
    Truncate(usize, usize),
    Fork(usize, usize, usize),
    /// Begins a slot anew as a remembered prefix does, for so many positions behind its image.
    Reuse(usize, usize, usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let slot = || 0..SLOTS;
    let append = (
        proptest::collection::vec((slot(), 1usize..40), 1..3),
        0usize..20,
    );
    let op = prop_oneof![
        4 => append.prop_map(|(rows, image)| Op::Append(rows, image)),
        2 => (slot(), 0usize..70).prop_map(|(slot, len)| Op::Truncate(slot, len)),
        2 => (slot(), slot(), 0usize..70).prop_map(|(from, to, len)| Op::Fork(from, to, len)),
        2 => (slot(), 0usize..4, 0usize..30)
            .prop_map(|(slot, which, behind)| Op::Reuse(slot, which, behind)),
    ];
    proptest::collection::vec(op, 1..40)
}

/// What a slot holds: a number for every position, and its leading image.
#[derive(Debug, Clone, Default, PartialEq)]
struct Written {
    values: Vec<u32>,
    image: usize,
}

/// A row of numbers that depend on what was written at the position.
fn numbers(value: u32, layer: usize, what: u32, width: usize) -> Vec<f32> {
    (0..width as u32)
        .map(|i| {
            let mixed = value
                .wrapping_mul(2_654_435_761)
                .wrapping_add((layer as u32 * 7 + what) * 977 + i * 131);
            ((mixed >> 7) % 1000) as f32 / 500.0 - 1.0
        })
        .collect()
}

fn rows_of(values: &[u32], layer: usize, what: u32, width: usize) -> Tensor {
    let flat: Vec<f32> = values
        .iter()
        .flat_map(|&value| numbers(value, layer, what, width))
        .collect();
    Tensor::from_vec(flat, (values.len(), width), &Device::Cpu).unwrap()
}

/// Appends to the cache and returns the attention of the last layer, flat.
fn append(cache: &mut KvCache, rows: &[RowSpan], values: &[u32]) -> Result<Vec<f32>> {
    let extents: Vec<_> = rows.iter().map(|r| (r.slot, r.start, r.len)).collect();
    cache.check(&extents)?;
    let mut out = Vec::new();
    for layer in 0..SHAPE.layers {
        let (q, k, v) = (
            rows_of(values, layer, 0, HEADS * SHAPE.head_dim),
            rows_of(values, layer, 1, SHAPE.width()),
            rows_of(values, layer, 2, SHAPE.width()),
        );
        out = cache
            .attend(layer, &q, &k, &v, rows)?
            .flatten_all()?
            .to_vec1()?;
    }
    rows.iter().for_each(|row| cache.advance(row));
    Ok(out)
}

fn span(slot: usize, start: usize, len: usize, image: usize) -> RowSpan {
    let full = (image > 0).then_some(0..image).into_iter().collect();
    RowSpan {
        slot,
        start,
        len,
        full,
    }
}

/// Attention of the last `new` positions, computed in a cache of its own.
fn fresh(written: &Written, new: usize) -> Vec<f32> {
    let mut cache = KvCache::new(SHAPE, 1, CAPACITY, CAPACITY, &Device::Cpu).unwrap();
    let row = span(0, 0, written.values.len(), written.image);
    let all = append(&mut cache, &[row], &written.values).unwrap();
    all[(written.values.len() - new) * HEADS * SHAPE.head_dim..].to_vec()
}

fn key(written: &Written) -> PrefixKey {
    PrefixKey {
        tokens: written.values.clone(),
        images: vec![(0..written.image, ImageId([0; 32]), 0..written.image)],
    }
}

proptest! {
    #[test]
    fn attention_sees_what_a_fresh_sequence_would(ops in ops(), spare in 0usize..3) {
        // Fewer blocks than all slots could need, so that prefixes are given up.
        let positions = (SLOTS - spare) * CAPACITY;
        let mut cache = KvCache::new(SHAPE, SLOTS, CAPACITY, positions, &Device::Cpu)
            .unwrap()
            .remembering(3);
        let mut slots = vec![Written::default(); SLOTS];
        let mut remembered: Vec<Written> = Vec::new();
        let mut next = 0u32;
        for op in ops {
            match op {
                Op::Append(rows, image) => {
                    let mut rows: Vec<(usize, usize)> = rows;
                    rows.sort_unstable();
                    rows.dedup_by_key(|row| row.0);
                    let (mut spans, mut values, mut written) = (Vec::new(), Vec::new(), Vec::new());
                    for &(slot, len) in &rows {
                        let mut after = slots[slot].clone();
                        let start = after.values.len();
                        if start == 0 {
                            after.image = image.min(len);
                        }
                        let new: Vec<u32> = (0..len as u32).map(|i| next + i).collect();
                        next += len as u32;
                        after.values.extend(&new);
                        values.extend(new);
                        spans.push(span(slot, start, len, after.image));
                        written.push((slot, len, after));
                    }
                    let before: Vec<usize> = (0..SLOTS).map(|slot| cache.len(slot)).collect();
                    match append(&mut cache, &spans, &values) {
                        Ok(out) => {
                            let mut at = 0;
                            for (slot, len, after) in written {
                                let size = len * HEADS * SHAPE.head_dim;
                                prop_assert_eq!(&out[at..at + size], &fresh(&after, len)[..]);
                                at += size;
                                if after.image > 0 && slots[slot].values.is_empty() {
                                    cache.remember(slot, key(&after));
                                    remembered.push(after.clone());
                                }
                                slots[slot] = after;
                            }
                        }
                        Err(error) => {
                            // As a model's step does.
                            spans.iter().for_each(|row| cache.truncate(row.slot, row.start));
                            let full = error.to_string().contains("full");
                            prop_assert!(full || error.to_string().contains("capacity"));
                            let after: Vec<usize> =
                                (0..SLOTS).map(|slot| cache.len(slot)).collect();
                            prop_assert_eq!(before, after);
                        }
                    }
                }
                Op::Truncate(slot, len) => {
                    // A rollback into an image gives up the whole sequence.
                    let len = if len < slots[slot].image { 0 } else { len };
                    cache.truncate(slot, len);
                    slots[slot].values.truncate(len);
                    if slots[slot].values.is_empty() {
                        slots[slot] = Written::default();
                    }
                }
                Op::Fork(from, to, len) => {
                    let len = if len < slots[from].image { 0 } else { len };
                    cache.fork(from, to, len);
                    let mut copy = slots[from].clone();
                    copy.values.truncate(len);
                    slots[to] = if copy.values.is_empty() { Written::default() } else { copy };
                }
                Op::Reuse(slot, which, behind) => {
                    cache.truncate(slot, 0);
                    slots[slot] = Written::default();
                    let last = remembered.len().checked_sub(which + 1);
                    if let Some(prefix) = last.and_then(|at| remembered.get(at)) {
                        let mut begun = prefix.clone();
                        begun.values.truncate(prefix.image + behind);
                        let mut other = begun.clone();
                        other.values.extend([u32::MAX; 3]);
                        let len = cache.recall(slot, &key(&other));
                        // The prefix may have been given up.
                        prop_assert!(len == 0 || len == begun.values.len());
                        if len > 0 {
                            slots[slot] = begun;
                        }
                    }
                }
            }
            for (slot, written) in slots.iter().enumerate() {
                prop_assert_eq!(cache.len(slot), written.values.len());
            }
        }
        // Nothing leaks: without sequences and prefixes, every block is free.
        (0..SLOTS).for_each(|slot| cache.truncate(slot, 0));
        while let Some(prefix) = cache.prefixes.pop_front() {
            cache.pool.release(&prefix.blocks);
        }
        let mut free = 0;
        while cache.pool.take().is_some() {
            free += 1;
        }
        prop_assert_eq!(free, cache.pool.len());
    }
}

#[test]
fn a_sequence_that_takes_the_whole_cache_goes_on_in_the_block_of_its_prefix() {
    let new = KvCache::new(SHAPE, 1, 2 * BLOCK, 2 * BLOCK, &Device::Cpu);
    let mut cache = new.unwrap().remembering(3);
    let written = Written {
        values: (0..2 * BLOCK as u32).collect(),
        image: BLOCK + 3,
    };
    let (image, rest) = written.values.split_at(written.image);
    append(&mut cache, &[span(0, 0, image.len(), image.len())], image).unwrap();
    let prefix = Written {
        values: image.to_vec(),
        ..written
    };
    cache.remember(0, key(&prefix));
    let row = span(0, image.len(), rest.len(), image.len());
    let got = append(&mut cache, &[row], rest).unwrap();
    assert_eq!(got, fresh(&written, rest.len()));
    cache.truncate(0, 0);
    assert_eq!(cache.recall(0, &key(&prefix)), 0, "it was given up");
}

#[test]
fn what_two_prompts_have_in_common_is_reused_with_whole_images_alone() {
    let key = |tokens: &[u32], images: &[(Range<usize>, u8)]| PrefixKey {
        tokens: tokens.to_vec(),
        images: images
            .iter()
            .map(|(range, id)| (range.clone(), ImageId([*id; 32]), 0..range.len()))
            .collect(),
    };
    let one = key(&[1, 0, 0, 2, 3, 4], &[(1..3, 7)]);
    for (tokens, images, common) in [
        (&[1, 0, 0, 2, 3, 4, 5][..], &[(1..3, 7)][..], 6),
        (&[1, 0, 0, 2, 9], &[(1..3, 7)], 4),
        (&[1, 0, 0], &[(1..3, 7)], 3),
        // Another image, another beginning, another place, none.
        (&[1, 0, 0, 2, 3, 4], &[(1..3, 8)], 0),
        (&[9, 0, 0, 2, 3, 4], &[(1..3, 7)], 0),
        (&[1, 0, 0, 2, 3, 4], &[(0..2, 7)], 0),
        (&[1, 0, 0, 2, 3, 4], &[], 0),
        // A second image begins where the other prompt has text.
        (&[1, 0, 0, 2, 3, 4, 5], &[(1..3, 7), (4..6, 7)], 4),
    ] {
        let other = key(tokens, images);
        assert_eq!(one.common(&other), common, "{other:?}");
        assert_eq!(other.common(&one), common, "{other:?}");
    }
}

#[test]
fn forks_share_blocks_until_one_writes() {
    let mut cache = KvCache::new(SHAPE, 3, 64, 3 * 64, &Device::Cpu).unwrap();
    let values: Vec<u32> = (0..40).collect();
    append(&mut cache, &[span(0, 0, 40, 0)], &values).unwrap();
    let before = cache.pool.free();
    cache.fork(0, 1, 40);
    cache.fork(0, 2, 24);
    assert_eq!(cache.pool.free(), before);
    append(&mut cache, &[span(1, 40, 1, 0)], &[100]).unwrap();
    // One block for the copy of the last, partly filled one.
    assert_eq!(cache.pool.free(), before - 1);
    append(&mut cache, &[span(0, 40, 1, 0)], &[101]).unwrap();
    assert_eq!(cache.pool.free(), before - 1);
}
