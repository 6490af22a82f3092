//! Attention of a ragged batch of new tokens over the cached keys and values of each sequence.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::{
    DeviceAttention, elements, exp,
    rows::{FloatKind, row_products, weighted_sums},
};
use crate::util::team::for_items;

/// Queries of a head that attend together, so that keys and values are read once for all.
const QUERIES: usize = 16;

/// Products below which sharing them costs more than it saves.
const ALONE: usize = 1 << 16;

/// Queries of one row and the positions that they attend to.
#[derive(Debug, Clone, Copy)]
pub struct RaggedRow<'a> {
    /// Blocks of the sequence in order of its positions.
    pub blocks: &'a [u32],
    /// Position of the row's first query.
    pub start: usize,
    /// Number of queries.
    pub len: usize,
    /// Ranges of positions that all attend to each other, later ones included.
    pub full: &'a [Range<usize>],
}

impl RaggedRow<'_> {
    /// Number of leading positions that the query at `position` attends to.
    pub(super) fn seen(&self, position: usize) -> usize {
        let full = self.full.iter().find(|range| range.contains(&position));
        full.map_or(position + 1, |range| range.end)
    }
}

/// Geometry of one step: rows of queries in the order of the flat query tensor, and the heads.
#[derive(Debug, Clone)]
pub struct Ragged<'a> {
    /// One entry per sequence.
    pub rows: Vec<RaggedRow<'a>>,
    /// Positions of a block.
    pub block: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key/value heads; `heads / kv_heads` query heads share one (grouped-query
    /// attention).
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// Attention of `q` `(tokens, heads * head_dim)` over `k` and `v` `(blocks * block, kv_heads *
/// head_dim)`, the cache with this step's keys and values already written. Returns `(tokens,
/// heads * head_dim)`. Has no backward pass: training attends over whole sequences instead.
pub fn ragged_attention(q: &Tensor, k: &Tensor, v: &Tensor, ragged: &Ragged<'_>) -> Result<Tensor> {
    let tokens = ragged.rows.iter().map(|r| r.len).sum::<usize>();
    if q.dims() != [tokens, ragged.heads * ragged.head_dim] {
        bail!(
            "ragged_attention: queries {:?} do not fit {tokens} tokens of {} heads",
            q.dims(),
            ragged.heads
        );
    }
    if q.device().is_cpu() {
        return q.contiguous()?.apply_op3_no_bwd(k, v, &Fused(ragged));
    }
    DeviceAttention::new(ragged, q.device())?.attend(q, k, v)
}

struct Fused<'a>(&'a Ragged<'a>);

impl CustomOp3 for Fused<'_> {
    fn name(&self) -> &'static str {
        "ragged_attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let (q, k, v) = (
            elements(s1, l1, name)?,
            elements(s2, l2, name)?,
            elements(s3, l3, name)?,
        );
        let ragged = self.0;
        let mut out = vec![0f32; q.len()];
        let mut parts = ragged.parts(&mut out);
        let products: usize = parts.iter().map(|part| part.products(ragged)).sum();
        if products < ALONE {
            parts
                .iter_mut()
                .for_each(|part| part.attend(ragged, q, k, v));
        } else {
            for_items(&mut parts, |_, part| part.attend(ragged, q, k, v));
        }
        drop(parts);
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

/// Neighboring queries of one sequence in the heads that share keys and values.
struct Part<'a, 'b> {
    row: &'a RaggedRow<'a>,
    /// Position of the first query in its sequence.
    position: usize,
    /// Its index among all queries.
    token: usize,
    kv_head: usize,
    /// Outputs of every query, its heads side by side.
    out: Vec<&'b mut [f32]>,
}

impl Ragged<'_> {
    /// Query heads that share keys and values.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Splits the work and the output `(tokens, heads * head_dim)` into parts.
    fn parts<'b>(&self, out: &'b mut [f32]) -> Vec<Part<'_, 'b>> {
        let group = self.group();
        let together = (QUERIES / group).max(1);
        let mut lines = out.chunks_mut(self.head_dim);
        let (mut parts, mut token): (Vec<Part<'_, 'b>>, _) = (Vec::new(), 0);
        for row in &self.rows {
            for first in (0..row.len).step_by(together) {
                let count = together.min(row.len - first);
                let begin = parts.len();
                parts.extend((0..self.kv_heads).map(|kv_head| Part {
                    row,
                    position: row.start + first,
                    token,
                    kv_head,
                    out: Vec::with_capacity(count * group),
                }));
                for i in 0..count * self.heads {
                    let part = &mut parts[begin + i % self.heads / group];
                    part.out.extend(lines.next());
                }
                token += count;
            }
        }
        parts
    }
}

impl Part<'_, '_> {
    /// Positions that the queries attend to, at least the last of them.
    fn seen(&self, group: usize) -> usize {
        let queries = self.position..self.position + self.out.len() / group;
        queries.map(|p| self.row.seen(p)).max().unwrap_or(0)
    }

    fn products(&self, ragged: &Ragged<'_>) -> usize {
        2 * self.out.len() * self.seen(ragged.group()) * ragged.head_dim
    }

    fn attend(&mut self, ragged: &Ragged<'_>, q: &[f32], k: &[f32], v: &[f32]) {
        let (d, group, block) = (ragged.head_dim, ragged.group(), ragged.block);
        let seen = self.seen(group);
        let width = ragged.kv_heads * d;
        let lines: Vec<usize> = (0..seen)
            .map(|p| (self.row.blocks[p / block] as usize * block + p % block) * width)
            .map(|line| line + self.kv_head * d)
            .collect();
        let queries = self.out.len();
        let scale = 1.0 / (d as f32).sqrt();
        let scaled = (0..queries).flat_map(|i| {
            let head = self.kv_head * group + i % group;
            let at = ((self.token + i / group) * ragged.heads + head) * d;
            q[at..][..d].iter().map(|q| q * scale)
        });
        let scaled: Vec<f32> = scaled.collect();
        let mut shares = vec![0f32; queries * seen];
        let keys: Vec<&[u8]> = lines
            .iter()
            .map(|&at| bytemuck::cast_slice(&k[at..][..d]))
            .collect();
        let mut scores: Vec<&mut [f32]> = shares.chunks_mut(seen).collect();
        row_products(FloatKind::F32, &keys, d, &scaled, &mut scores);
        for (i, scores) in scores.into_iter().enumerate() {
            let (scores, later) = scores.split_at_mut(self.row.seen(self.position + i / group));
            later.fill(0.0);
            softmax(scores);
        }
        let values: Vec<&[f32]> = lines.iter().map(|&at| &v[at..][..d]).collect();
        weighted_sums(&values, &shares, &mut self.out);
    }
}

/// Turns scores into shares of their sum.
fn softmax(scores: &mut [f32]) {
    let mut most = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = scores.as_chunks::<16>();
    for chunk in chunks {
        for (most, score) in most.iter_mut().zip(chunk) {
            *most = if score > most { *score } else { *most };
        }
    }
    let most = most
        .iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    scores.iter_mut().for_each(|s| *s = exp(*s - most));
    let mut sums = [0f32; 16];
    let (chunks, rest) = scores.as_chunks::<16>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, s)| *sum += s);
    }
    let norm = 1.0 / (sums.iter().sum::<f32>() + rest.iter().sum::<f32>());
    scores.iter_mut().for_each(|s| *s *= norm);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::nn::tests::var;

    #[test]
    fn ragged_attention_fused_equals_composed() {
        let image = std::slice::from_ref(&(0..3));
        let row = |blocks, start, len, full| RaggedRow {
            blocks,
            start,
            len,
            full,
        };
        let ragged = Ragged {
            rows: vec![
                row(&[0, 5], 0, 5, image),
                row(&[7, 2], 7, 1, image),
                row(&[3], 2, 2, &[]),
            ],
            block: 4,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
        };
        let (q, k, v) = (
            var(8 * 32, (8, 32), 1),
            var(32 * 16, (32, 16), 2),
            var(32 * 16, (32, 16), 3),
        );
        let fused = ragged_attention(&q, &k, &v, &ragged)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        let plain = DeviceAttention::new(&ragged, q.device())
            .and_then(|step| step.attend(&q, &k, &v))
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        fused
            .iter()
            .flatten()
            .zip(plain.iter().flatten())
            .for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} {b}"));
    }
}
