//! Attention of a ragged batch of new tokens over the cached keys and values of each sequence.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::{DeviceAttention, dot, elements, exp, fma, for_lines};

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

impl Ragged<'_> {
    /// Blocks and number of attended positions of every query.
    fn views(&self) -> Vec<(&[u32], usize)> {
        self.rows
            .iter()
            .flat_map(|r| (r.start..r.start + r.len).map(move |p| (r.blocks, r.seen(p))))
            .collect()
    }
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
        let Ragged {
            heads,
            kv_heads,
            head_dim: d,
            ..
        } = *self.0;
        let (scale, kv_width, views) = (1.0 / (d as f32).sqrt(), kv_heads * d, self.0.views());
        let mut out = vec![0f32; q.len()];
        let block = self.0.block;
        for_lines(&mut out, d, |i, line| {
            let (blocks, seen) = views[i / heads];
            let head = (i % heads) / (heads / kv_heads) * d;
            // Runs of positions that lie one behind the other, as the offset of the first.
            let runs = blocks.iter().zip((0..seen).step_by(block));
            let runs = runs.map(|(&at, first)| {
                let offset = at as usize * block * kv_width + head;
                (offset, first..(first + block).min(seen))
            });
            let range = |offset: usize, p: usize| {
                let at = offset + p % block * kv_width;
                at..at + d
            };
            let q = &q[i * d..(i + 1) * d];
            let mut scores: Vec<f32> = Vec::with_capacity(seen);
            for (offset, run) in runs.clone() {
                scores.extend(run.map(|p| dot(q, &k[range(offset, p)]) * scale));
            }
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|s| *s = exp(*s - max));
            let norm = 1.0 / scores.iter().sum::<f32>();
            for (offset, run) in runs {
                for p in run {
                    let share = scores[p] * norm;
                    line.iter_mut()
                        .zip(&v[range(offset, p)])
                        .for_each(|(o, v)| *o = fma(share, *v, *o));
                }
            }
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
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
