//! Attention over the cache by candle's operations, for other devices than the CPU.
//!
//! Places and masks depend on a step's rows alone: they are copied to the device once for all
//! layers. Every operation is a launch, so that rows are attended together where little is padded.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

use super::{Ragged, RaggedRow};

/// Fewest positions, one behind the other in the cache, that are written by an operation of their
/// own.
const RUN: usize = 16;

/// Places and masks of a step on a device.
#[derive(Debug)]
pub struct DeviceAttention {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Long runs of new positions: first token, first line of the cache, and number.
    runs: Vec<(usize, usize, usize)>,
    /// Tokens of the other new positions, and their lines, `(tokens, kv_heads * head_dim)`.
    scattered: Option<[Tensor; 2]>,
    groups: Vec<RowGroup>,
    /// Place of every token among the groups' outputs; `None` if they are in order.
    order: Option<Tensor>,
}

/// Rows that are attended together.
#[derive(Debug)]
struct RowGroup {
    rows: usize,
    /// Queries of each row.
    queries: usize,
    /// Keys of each row; those beyond its own are padding.
    keys: usize,
    /// Tokens of the queries.
    tokens: Tensor,
    /// Heads of lines of the cache, `rows * kv_heads * keys`.
    places: Tensor,
    /// Minus infinity at the keys that a query does not see, `(rows, 1, 1, queries, keys)`; `None`
    /// if all see all.
    mask: Option<Tensor>,
}

impl DeviceAttention {
    /// Copies the places and masks of a step's rows to `device`.
    ///
    /// # Errors
    /// When the device lacks memory.
    pub fn new(ragged: &Ragged<'_>, device: &Device) -> Result<Self> {
        let &Ragged {
            block,
            kv_heads,
            head_dim,
            ..
        } = ragged;
        let indices = |values: Vec<u32>| {
            let len = values.len();
            Tensor::from_vec(values, len, device)
        };
        // Single queries are padded to at most twice their keys, and prompts not at all.
        let mut groups: BTreeMap<(usize, usize), Vec<(usize, &RaggedRow<'_>)>> = BTreeMap::new();
        let mut written = Vec::new();
        let mut first = 0;
        for row in &ragged.rows {
            let end = row.start + row.len;
            let kind = match row.len {
                1 => (0, end.next_power_of_two()),
                _ => (1 + groups.len(), 0),
            };
            groups.entry(kind).or_default().push((first, row));
            written.extend((row.start..end).map(|p| line(row, p, block)));
            first += row.len;
        }
        let groups: Vec<_> = groups.into_values().collect();
        let mut order = vec![0u32; written.len()];
        let tokens = groups.iter().flatten();
        let tokens = tokens.flat_map(|(first, row)| *first..first + row.len);
        for (place, token) in tokens.enumerate() {
            order[token] = place as u32;
        }
        let order = match order.is_sorted() {
            true => None,
            false => Some(indices(order)?),
        };
        let (runs, others) = split_runs(&written);
        let scattered = match others.is_empty() {
            true => None,
            false => {
                let (tokens, lines): (Vec<u32>, Vec<u32>) = others.into_iter().unzip();
                let shape = (lines.len(), kv_heads * head_dim);
                let lines = indices(lines)?.unsqueeze(1)?;
                let lines = lines.broadcast_as(shape)?.contiguous()?;
                Some([indices(tokens)?, lines])
            }
        };
        let groups = groups
            .iter()
            .map(|rows| RowGroup::new(rows, block, kv_heads, device));
        Ok(Self {
            heads: ragged.heads,
            kv_heads,
            head_dim,
            runs,
            scattered,
            groups: groups.collect::<Result<_>>()?,
            order,
        })
    }

    /// Writes the tokens' keys or values, `(tokens, kv_heads * head_dim)`, to those of the cache,
    /// `(lines, kv_heads * head_dim)`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn write(&self, cache: &Tensor, new: &Tensor) -> Result<()> {
        for &(first, line, len) in &self.runs {
            cache.slice_set(&new.narrow(0, first, len)?, 0, line)?;
        }
        if let Some([tokens, lines]) = &self.scattered {
            cache.scatter_set(lines, &new.index_select(tokens, 0)?, 0)?;
        }
        Ok(())
    }

    /// Attends `q` `(tokens, heads * head_dim)` over the cache's `k` and `v`, with the new ones
    /// written. Returns `(tokens, heads * head_dim)`. Has no backward pass.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (heads, d) = (self.heads, self.head_dim);
        let (kv_heads, shared) = (self.kv_heads, heads / self.kv_heads);
        let q = (q * (1.0 / (d as f64).sqrt()))?;
        let by_head = |cache: &Tensor| cache.reshape((cache.dim(0)? * kv_heads, d));
        let (k, v) = (by_head(k)?, by_head(v)?);
        let outputs = self.groups.iter().map(|group| {
            let &RowGroup {
                rows,
                queries,
                keys,
                ..
            } = group;
            // The query heads of a key head lie side by side, so that keys are not repeated.
            let q = match self.order {
                None if self.groups.len() == 1 => q.clone(),
                _ => q.index_select(&group.tokens, 0)?,
            };
            let q = q
                .reshape((rows, queries, kv_heads, shared, d))?
                .permute((0, 2, 3, 1, 4))?
                .contiguous()?
                .reshape((rows * kv_heads, shared * queries, d))?;
            let read = |cache: &Tensor| {
                let read = cache.index_select(&group.places, 0)?;
                read.reshape((rows * kv_heads, keys, d))
            };
            let scores = q.matmul(&read(&k)?.t()?)?;
            let scores = match &group.mask {
                None => scores,
                Some(mask) => scores
                    .reshape((rows, kv_heads, shared, queries, keys))?
                    .broadcast_add(mask)?
                    .reshape((rows * kv_heads, shared * queries, keys))?,
            };
            softmax_last_dim(&scores)?
                .matmul(&read(&v)?)?
                .reshape((rows, kv_heads, shared, queries, d))?
                .permute((0, 3, 1, 2, 4))?
                .reshape((rows * queries, heads * d))
        });
        let outputs: Vec<Tensor> = outputs.collect::<Result<_>>()?;
        let output = match outputs.as_slice() {
            [one] => one.clone(),
            several => Tensor::cat(several, 0)?,
        };
        match &self.order {
            None => Ok(output),
            Some(order) => output.index_select(order, 0),
        }
    }
}

impl RowGroup {
    /// Copies what is needed of rows, each with its first token, to `device`.
    fn new(
        rows: &[(usize, &RaggedRow<'_>)],
        block: usize,
        kv_heads: usize,
        device: &Device,
    ) -> Result<Self> {
        let most = |f: fn(&RaggedRow<'_>) -> usize| rows.iter().map(|(_, row)| f(row)).max();
        let queries = most(|row| row.len).unwrap_or(0);
        let keys = most(|row| row.start + row.len).unwrap_or(0);
        let (mut tokens, mut lines) = (Vec::new(), Vec::with_capacity(rows.len() * keys));
        let mut mask = vec![f32::NEG_INFINITY; rows.len() * queries * keys];
        let mut masks = mask.chunks_exact_mut(keys.max(1));
        for (first, row) in rows {
            tokens.extend((*first..first + row.len).map(|token| token as u32));
            let last = row.start + row.len - 1;
            lines.extend((0..keys).map(|p| line(row, p.min(last), block) * kv_heads as u32));
            for (position, mask) in (row.start..=last).zip(&mut masks) {
                mask[..row.seen(position)].fill(0.0);
            }
        }
        let masks = (rows.len(), 1, 1, queries, keys);
        let mask = match mask.iter().all(|&value| value == 0.0) {
            true => None,
            false => Some(Tensor::from_vec(mask, masks, device)?),
        };
        let lines = Tensor::from_vec(lines, (rows.len(), 1, keys), device)?;
        let heads = Tensor::arange(0, kv_heads as u32, device)?.reshape((1, kv_heads, 1))?;
        let queried = tokens.len();
        Ok(Self {
            rows: rows.len(),
            queries,
            keys,
            tokens: Tensor::from_vec(tokens, queried, device)?,
            places: lines.broadcast_add(&heads)?.flatten_all()?,
            mask,
        })
    }
}

/// Returns the line of the cache at a position of a row.
fn line(row: &RaggedRow<'_>, position: usize, block: usize) -> u32 {
    row.blocks[position / block] * block as u32 + (position % block) as u32
}

/// Long runs of tokens as first token, first line and number, and the other tokens with their
/// lines.
type WrittenLines = (Vec<(usize, usize, usize)>, Vec<(u32, u32)>);

/// Splits the lines of a step's tokens into long runs of one behind the other, and the rest.
fn split_runs(lines: &[u32]) -> WrittenLines {
    let (mut runs, mut others) = (Vec::new(), Vec::new());
    let mut first = 0;
    for run in lines.chunk_by(|a, b| a + 1 == *b) {
        if run.len() < RUN {
            let tokens = (first as u32..).zip(run.iter().copied());
            others.extend(tokens);
        } else {
            runs.push((first, run[0] as usize, run.len()));
        }
        first += run.len();
    }
    (runs, others)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::nn::{ragged_attention, tests::var};

    fn row<'a>(blocks: &'a [u32], start: usize, len: usize) -> RaggedRow<'a> {
        RaggedRow {
            blocks,
            start,
            len,
            full: &[],
        }
    }

    /// Rows over blocks of four positions, for two key heads of eight numbers and four queries.
    fn ragged(rows: Vec<RaggedRow<'_>>) -> Ragged<'_> {
        Ragged {
            rows,
            block: 4,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
        }
    }

    fn check(rows: Vec<RaggedRow<'_>>, groups: usize) {
        let ragged = ragged(rows);
        let tokens: usize = ragged.rows.iter().map(|row| row.len).sum();
        let (q, k, v) = (
            var(tokens * 32, (tokens, 32), 1),
            var(64 * 16, (64, 16), 2),
            var(64 * 16, (64, 16), 3),
        );
        let want = ragged_attention(&q, &k, &v, &ragged).unwrap();
        let step = DeviceAttention::new(&ragged, &Device::Cpu).unwrap();
        assert_eq!(step.groups.len(), groups);
        let got = step.attend(&q, &k, &v).unwrap();
        let [got, want] = [got, want].map(|t| t.to_vec2::<f32>().unwrap());
        let pairs = got.iter().flatten().zip(want.iter().flatten());
        pairs.for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} {b}"));
    }

    #[test]
    fn single_queries_are_attended_together_by_their_lengths() {
        check(vec![row(&[3, 9], 6, 1)], 1);
        check(vec![row(&[3, 9], 6, 1), row(&[1, 0], 6, 1)], 1);
        let long = [12, 2, 5, 6];
        let rows = vec![
            row(&[3], 1, 1),
            row(&long, 14, 1),
            row(&[4], 0, 1),
            row(&[1, 7], 5, 1),
            row(&[8, 11, 10], 8, 1),
        ];
        check(rows, 4);
    }

    #[test]
    fn prompts_are_attended_alone_and_outputs_are_in_order() {
        let image = std::slice::from_ref(&(1..4));
        let rows = vec![
            row(&[3, 9], 6, 1),
            RaggedRow {
                full: image,
                ..row(&[0, 5], 0, 7)
            },
            row(&[1, 2], 4, 1),
            row(&[8, 6, 7], 9, 2),
        ];
        check(rows, 3);
        let prompt = RaggedRow {
            full: image,
            ..row(&[0, 5], 0, 7)
        };
        check(vec![prompt], 1);
    }

    #[test]
    fn new_positions_are_written_to_their_lines() {
        // A run over consecutive blocks, one that is cut, and single tokens.
        let rows = vec![
            row(&[3], 2, 1),
            row(&[4, 5, 6, 7, 8], 1, 18),
            row(&[9, 0], 3, 3),
            row(&[2], 0, 1),
        ];
        let (ragged, block) = (ragged(rows), 4);
        let new = var(23 * 16, (23, 16), 1).as_detached_tensor();
        let [got, want] =
            [1, 2].map(|_| Tensor::zeros((64, 16), candle_core::DType::F32, &Device::Cpu).unwrap());
        let mut first = 0;
        for row in &ragged.rows {
            for position in row.start..row.start + row.len {
                let line = line(row, position, block) as usize;
                let token = new.narrow(0, first, 1).unwrap();
                want.slice_set(&token, 0, line).unwrap();
                first += 1;
            }
        }
        let step = DeviceAttention::new(&ragged, &Device::Cpu).unwrap();
        assert_eq!(step.runs, [(1, 17, 18)]);
        step.write(&got, &new).unwrap();
        let [got, want] = [got, want].map(|t| t.to_vec2::<f32>().unwrap());
        assert_eq!(got, want);
    }
}
