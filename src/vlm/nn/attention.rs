//! Attention of a ragged batch of new tokens over the cached keys and values of each sequence.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, bail};

use super::{dot, elements, exp, fma, for_lines};

/// Queries of one row and the range of positions that they attend to.
#[derive(Debug, Clone, Copy)]
pub struct RaggedRow {
    /// First row of the slot in the cache.
    pub line: usize,
    /// Position of the row's first query.
    pub start: usize,
    /// Number of queries.
    pub len: usize,
    /// Number of leading positions that all queries attend to, including later ones (the image).
    pub prefix: usize,
}

/// Geometry of one step: rows of queries in the order of the flat query tensor, and the heads.
#[derive(Debug, Clone)]
pub struct Ragged {
    /// One entry per sequence.
    pub rows: Vec<RaggedRow>,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key/value heads; `heads / kv_heads` query heads share one (grouped-query
    /// attention).
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl Ragged {
    /// First cache row and number of attended positions of every query.
    fn views(&self) -> Vec<(usize, usize)> {
        self.rows
            .iter()
            .flat_map(|r| (0..r.len).map(move |i| (r.line, (r.start + i + 1).max(r.prefix))))
            .collect()
    }
}

/// Attention of `q` `(tokens, heads * head_dim)` over `k` and `v` `(lines, kv_heads * head_dim)`,
/// the cache with this step's keys and values already written. Returns `(tokens, heads *
/// head_dim)`. Has no backward pass: training attends over whole sequences instead.
pub fn ragged_attention(q: &Tensor, k: &Tensor, v: &Tensor, ragged: &Ragged) -> Result<Tensor> {
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
    composed(q, k, v, ragged)
}

struct Fused<'a>(&'a Ragged);

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
        for_lines(&mut out, d, |i, line| {
            let (first, seen) = views[i / heads];
            let offset = first * kv_width + (i % heads) / (heads / kv_heads) * d;
            let range = |p: usize| offset + p * kv_width..offset + p * kv_width + d;
            let q = &q[i * d..(i + 1) * d];
            let mut scores: Vec<f32> = (0..seen).map(|p| dot(q, &k[range(p)]) * scale).collect();
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|s| *s = exp(*s - max));
            let norm = 1.0 / scores.iter().sum::<f32>();
            for (p, s) in scores.iter().enumerate() {
                let share = s * norm;
                line.iter_mut()
                    .zip(&v[range(p)])
                    .for_each(|(o, v)| *o = fma(share, *v, *o));
            }
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

/// Composition of candle's basic operations for other devices, padded to the longest row.
fn composed(q: &Tensor, k: &Tensor, v: &Tensor, ragged: &Ragged) -> Result<Tensor> {
    let Ragged {
        rows,
        heads,
        kv_heads,
        head_dim: d,
    } = ragged;
    let (n, device) = (rows.len(), q.device());
    let max_over = |f: fn(&RaggedRow) -> usize| rows.iter().map(f).max().unwrap_or(0);
    let (queries, keys) = (max_over(|r| r.len), max_over(|r| r.start + r.len));
    let mut gather_q = vec![0u32; n * queries];
    let mut gather_kv = vec![0u32; n * keys];
    let mut mask = vec![f32::NEG_INFINITY; n * queries * keys];
    let mut scatter = Vec::new();
    let mut first = 0;
    for (b, row) in rows.iter().enumerate() {
        for p in 0..keys {
            gather_kv[b * keys + p] = (row.line + p.min(row.start + row.len - 1)) as u32;
        }
        for i in 0..queries {
            let real = i < row.len;
            gather_q[b * queries + i] = (first + if real { i } else { 0 }) as u32;
            let seen = if real {
                (row.start + i + 1).max(row.prefix)
            } else {
                1
            };
            mask[(b * queries + i) * keys..][..seen].fill(0.0);
            if real {
                scatter.push((b * queries + i) as u32);
            }
        }
        first += row.len;
    }
    let index = |v: Vec<u32>| {
        let len = v.len();
        Tensor::from_vec(v, len, device)
    };
    let q = q
        .index_select(&index(gather_q)?, 0)?
        .reshape((n, queries, *heads, *d))?
        .transpose(1, 2)?
        .contiguous()?;
    let gather_kv = index(gather_kv)?;
    let spread = |t: &Tensor| -> Result<Tensor> {
        let t = t
            .index_select(&gather_kv, 0)?
            .reshape((n, keys, *kv_heads, 1, *d))?;
        t.broadcast_as((n, keys, *kv_heads, heads / kv_heads, *d))?
            .reshape((n, keys, *heads, *d))?
            .transpose(1, 2)?
            .contiguous()
    };
    let mask = Tensor::from_vec(mask, (n, 1, queries, keys), device)?;
    let scores =
        (q.matmul(&spread(k)?.t()?)? * (1.0 / (*d as f64).sqrt()))?.broadcast_add(&mask)?;
    let e = scores
        .broadcast_sub(&scores.max_keepdim(D::Minus1)?)?
        .exp()?;
    let out = e
        .broadcast_div(&e.sum_keepdim(D::Minus1)?)?
        .matmul(&spread(v)?)?;
    out.transpose(1, 2)?
        .reshape((n * queries, heads * d))?
        .index_select(&index(scatter)?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::nn::tests::var;

    #[test]
    fn ragged_attention_fused_equals_composed() {
        let ragged = Ragged {
            rows: vec![
                RaggedRow {
                    line: 0,
                    start: 0,
                    len: 5,
                    prefix: 3,
                },
                RaggedRow {
                    line: 20,
                    start: 7,
                    len: 1,
                    prefix: 3,
                },
                RaggedRow {
                    line: 10,
                    start: 2,
                    len: 2,
                    prefix: 0,
                },
            ],
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
        };
        let (q, k, v) = (
            var(8 * 32, (8, 32), 1),
            var(30 * 16, (30, 16), 2),
            var(30 * 16, (30, 16), 3),
        );
        let fused = ragged_attention(&q, &k, &v, &ragged)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        let plain = composed(&q, &k, &v, &ragged)
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
