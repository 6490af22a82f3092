//! Layers of a mobile network for `f32` on the CPU, in a blocked layout.
//!
//! A map is stored in blocks of 16 channels: `(batch, blocks, side, side, 16)`, padded with zero
//! channels; packed weights are `(blocks, lines, 16)`. A depthwise convolution is thus 16 lanes
//! wide everywhere, a pointwise one reads its input in order, and one task expands and convolves a
//! block of channels by itself: the expanded map, six times the size of the narrow ones, never
//! leaves the core's cache. The inner loops are plain arrays that the compiler vectorizes.

use std::cell::RefCell;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail,
};
use rayon::prelude::*;

use super::kernels::{Kernels, PointwiseActivation, SameWindow};
use crate::vlm::nn::fma;

const LANES: usize = 16;
type Lanes = [f32; LANES];

/// Pixels that the pointwise kernel keeps in registers: with 16 lanes each, 12 of AVX2's 16
/// registers.
const TILE: usize = 6;
/// Pixels per parallel task of a pointwise convolution.
const GRAIN: usize = 32 * TILE;
/// Pixels of the expanded map computed ahead of the depthwise kernel.
const STRIP: usize = 240;
/// Adjacent pixels that the depthwise kernel computes together.
const RUN: usize = 4;

thread_local! {
    /// Buffer for one block of the expanded map, reused between calls.
    static WIDE: RefCell<Vec<Lanes>> = const { RefCell::new(Vec::new()) };
}

/// Kernels in the blocked layout; see the module documentation.
#[derive(Debug)]
pub(super) struct Blocked;

impl Kernels for Blocked {
    fn pack(&self, lines: &Tensor) -> Result<Tensor> {
        let (n, channels) = lines.dims2()?;
        let blocks = channels.div_ceil(LANES);
        let padded = lines.pad_with_zeros(1, 0, blocks * LANES - channels)?;
        padded
            .reshape((n, blocks, LANES))?
            .transpose(0, 1)?
            .contiguous()
    }

    fn patches(&self, pixels: &Tensor, window: SameWindow) -> Result<Tensor> {
        pixels.contiguous()?.apply_op1_no_bwd(&Patches(window))
    }

    fn pointwise(
        &self,
        x: &Tensor,
        conv: &Tensor,
        then: PointwiseActivation<'_>,
    ) -> Result<Tensor> {
        match then {
            PointwiseActivation::Relu6 => x.apply_op2_no_bwd(conv, &Pointwise { relu6: true }),
            PointwiseActivation::Linear => x.apply_op2_no_bwd(conv, &Pointwise { relu6: false }),
            PointwiseActivation::Add(other) => {
                x.apply_op3_no_bwd(conv, other, &Pointwise { relu6: false })
            }
        }
    }

    fn widen(
        &self,
        x: &Tensor,
        expand: Option<&Tensor>,
        depthwise: &Tensor,
        window: SameWindow,
    ) -> Result<Tensor> {
        match expand {
            Some(expand) => x.apply_op3_no_bwd(expand, depthwise, &Widen(window)),
            None => x.apply_op2_no_bwd(depthwise, &Widen(window)),
        }
    }

    fn cells(&self, map: &Tensor, channels: usize) -> Result<Tensor> {
        let (batch, _, side, _, _) = map.dims5()?;
        map.permute((0, 2, 3, 1, 4))?
            .reshape((batch, side, side, ()))?
            .narrow(3, 0, channels)
    }
}

/// Contiguous lanes of a tensor.
fn lanes<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [Lanes]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(storage.as_slice::<f32>()?[from..to].as_chunks().0),
        None => bail!("the kernel needs contiguous input, got {layout:?}"),
    }
}

/// Map of several images in the blocked layout.
#[derive(Clone, Copy)]
struct Map<'a> {
    data: &'a [Lanes],
    batch: usize,
    side: usize,
}

impl<'a> Map<'a> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let (batch, _, side, _, _) = layout.shape().dims5()?;
        Ok(Self {
            data: lanes(storage, layout)?,
            batch,
            side,
        })
    }

    fn pixels(self) -> usize {
        self.side * self.side
    }

    /// All blocks of one image.
    fn image(self, image: usize) -> &'a [Lanes] {
        let len = self.data.len() / self.batch;
        &self.data[image * len..][..len]
    }
}

/// Packed weights: one slice of lines per block of channels.
#[derive(Clone, Copy)]
struct Packed<'a> {
    data: &'a [Lanes],
    blocks: usize,
    lines: usize,
}

impl<'a> Packed<'a> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let (blocks, lines, _) = layout.shape().dims3()?;
        Ok(Self {
            data: lanes(storage, layout)?,
            blocks,
            lines,
        })
    }

    fn block(self, block: usize) -> &'a [Lanes] {
        &self.data[block * self.lines..][..self.lines]
    }
}

/// Builds a map in parallel, one block of channels of one image per task: `fill(image, block,
/// pixels of the block)`.
fn build_map(
    batch: usize,
    blocks: usize,
    side: usize,
    fill: impl Fn(usize, usize, &mut [Lanes]) + Sync,
) -> (CpuStorage, Shape) {
    let mut out = vec![0f32; batch * blocks * side * side * LANES];
    let each = |(i, block): (usize, &mut [Lanes])| fill(i / blocks, i % blocks, block);
    out.as_chunks_mut()
        .0
        .par_chunks_mut(side * side)
        .enumerate()
        .for_each(each);
    (
        CpuStorage::F32(out),
        (batch, blocks, side, side, LANES).into(),
    )
}

/// Operation behind [`Kernels::pointwise`].
struct Pointwise {
    relu6: bool,
}

impl CustomOp2 for Pointwise {
    fn name(&self) -> &'static str {
        "pointwise"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(self.run(Map::new(x, xl)?, Packed::new(w, wl)?, None))
    }
}

impl CustomOp3 for Pointwise {
    fn name(&self) -> &'static str {
        "pointwise-add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        add: &CpuStorage,
        al: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(self.run(
            Map::new(x, xl)?,
            Packed::new(w, wl)?,
            Some(Map::new(add, al)?),
        ))
    }
}

impl Pointwise {
    fn run(&self, x: Map<'_>, w: Packed<'_>, add: Option<Map<'_>>) -> (CpuStorage, Shape) {
        build_map(x.batch, w.blocks, x.side, |image, block, out| {
            out.par_chunks_mut(GRAIN).enumerate().for_each(|(i, out)| {
                matmul(
                    w.block(block),
                    x.image(image),
                    x.pixels(),
                    i * GRAIN,
                    self.relu6,
                    out,
                );
                if let Some(add) = add {
                    let add = &add.image(image)[block * x.pixels() + i * GRAIN..];
                    out.iter_mut()
                        .zip(add)
                        .for_each(|(out, add)| out.iter_mut().zip(add).for_each(|(o, a)| *o += a));
                }
            });
        })
    }
}

/// Computes one block of output channels for `out.len()` pixels from `from` on. `x` holds all
/// blocks of an image.
fn matmul(w: &[Lanes], x: &[Lanes], pixels: usize, from: usize, relu6: bool, out: &mut [Lanes]) {
    let Some((bias, w)) = w.split_last() else {
        return;
    };
    let bias = *bias;
    for (i, out) in out.chunks_mut(TILE).enumerate() {
        let x = &x[from + i * TILE..];
        match out.len() {
            6 => tile::<6>(w, bias, x, pixels, relu6, out),
            5 => tile::<5>(w, bias, x, pixels, relu6, out),
            4 => tile::<4>(w, bias, x, pixels, relu6, out),
            3 => tile::<3>(w, bias, x, pixels, relu6, out),
            2 => tile::<2>(w, bias, x, pixels, relu6, out),
            _ => tile::<1>(w, bias, x, pixels, relu6, out),
        }
    }
}

/// Computes the first `N` pixels of `x`, whose blocks are `stride` apart.
fn tile<const N: usize>(
    w: &[Lanes],
    bias: Lanes,
    x: &[Lanes],
    stride: usize,
    relu6: bool,
    out: &mut [Lanes],
) {
    let mut sum = [bias; N];
    for (w, x) in w.chunks(LANES).zip(x.chunks(stride)) {
        let Some(x) = x.first_chunk::<N>() else {
            return;
        };
        for (channel, w) in w.iter().enumerate().take(LANES) {
            for (sum, x) in sum.iter_mut().zip(x) {
                multiply_add(sum, x[channel], w);
            }
        }
    }
    for (out, sum) in out.iter_mut().zip(sum) {
        *out = if relu6 {
            sum.map(|v| v.clamp(0., 6.))
        } else {
            sum
        };
    }
}

#[inline(always)]
fn multiply_add(sum: &mut Lanes, x: f32, w: &Lanes) {
    for (sum, w) in sum.iter_mut().zip(w) {
        *sum = fma(x, *w, *sum);
    }
}

/// Operation behind [`Kernels::widen`].
struct Widen(SameWindow);

impl CustomOp2 for Widen {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (Map::new(x, xl)?, Packed::new(w, wl)?);
        let (side, _) = self.0.output(x.side);
        Ok(build_map(x.batch, w.blocks, side, |image, block, out| {
            let x = &x.image(image)[block * x.pixels()..][..x.pixels()];
            out.chunks_mut(side)
                .enumerate()
                .for_each(|(y, out)| self.row(x, w.block(block), y, out));
        }))
    }
}

impl CustomOp3 for Widen {
    fn name(&self) -> &'static str {
        "widen"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        expand: &CpuStorage,
        el: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, expand, w) = (
            Map::new(x, xl)?,
            Packed::new(expand, el)?,
            Packed::new(w, wl)?,
        );
        let (side, pad) = self.0.output(x.side);
        Ok(build_map(x.batch, w.blocks, side, |image, block, out| {
            // Taken instead of borrowed, since a waiting thread may run another task of this kind.
            let mut wide = WIDE.take();
            wide.resize(wide.len().max(x.pixels()), [0.; LANES]);
            let mut expanded = 0;
            for (y, out) in out.chunks_mut(side).enumerate() {
                let (_, top, rows) = self.0.taps(y, x.side, pad);
                while expanded < (top + rows) * x.side {
                    let next = (expanded + STRIP.next_multiple_of(x.side)).min(x.pixels());
                    matmul(
                        expand.block(block),
                        x.image(image),
                        x.pixels(),
                        expanded,
                        true,
                        &mut wide[expanded..next],
                    );
                    expanded = next;
                }
                self.row(&wide[..x.pixels()], w.block(block), y, out);
            }
            WIDE.set(wide);
        }))
    }
}

impl Widen {
    /// Row `y` of the depthwise convolution of one block `x` of a square map.
    fn row(&self, x: &[Lanes], w: &[Lanes], y: usize, out: &mut [Lanes]) {
        let (SameWindow { kernel, stride }, Some((bias, w))) = (self.0, w.split_last()) else {
            return;
        };
        let side = x.len().isqrt();
        let (_, pad) = self.0.output(side);
        let (first, top, rows) = self.0.taps(y, side, pad);
        let (x, w) = (
            &x[top * side..(top + rows) * side],
            &w[first * kernel..(first + rows) * kernel],
        );
        let mut done = 0;
        while done < out.len() {
            let (first, at, columns) = self.0.taps(done, side, pad);
            let inside = columns == kernel && at + (RUN - 1) * stride + kernel <= side;
            let rows = || {
                x.chunks_exact(side)
                    .map(|row| &row[at..])
                    .zip(w.chunks_exact(kernel))
            };
            match (out[done..].first_chunk_mut::<RUN>(), kernel, stride) {
                (Some(out), 3, 1) if inside => run::<3, 1>(rows(), *bias, out),
                (Some(out), 3, 2) if inside => run::<3, 2>(rows(), *bias, out),
                (Some(out), 5, 1) if inside => run::<5, 1>(rows(), *bias, out),
                (Some(out), 5, 2) if inside => run::<5, 2>(rows(), *bias, out),
                _ => {
                    out[done] = pixel(
                        rows().map(|(x, w)| x.iter().zip(&w[first..]).take(columns)),
                        *bias,
                    );
                    done += 1;
                    continue;
                }
            }
            done += RUN;
        }
    }
}

/// One output pixel from the taps inside the map, row by row.
fn pixel<'a>(
    rows: impl Iterator<Item = impl Iterator<Item = (&'a Lanes, &'a Lanes)>>,
    bias: Lanes,
) -> Lanes {
    let mut sum = bias;
    for (x, w) in rows.flatten() {
        multiply_add_lanes(&mut sum, x, w);
    }
    sum.map(|v| v.clamp(0., 6.))
}

/// `RUN` adjacent output pixels whose windows lie inside the map. Each row of `x` begins at the
/// first tap of the first pixel.
#[inline(always)]
fn run<'a, const K: usize, const STRIDE: usize>(
    rows: impl Iterator<Item = (&'a [Lanes], &'a [Lanes])>,
    bias: Lanes,
    out: &mut [Lanes; RUN],
) {
    let mut sum = [bias; RUN];
    for (x, w) in rows {
        let (Some(w), Some(x)) = (w.first_chunk::<K>(), x.get(..(RUN - 1) * STRIDE + K)) else {
            return;
        };
        for (tap, w) in w.iter().enumerate() {
            for (i, sum) in sum.iter_mut().enumerate() {
                multiply_add_lanes(sum, &x[i * STRIDE + tap], w);
            }
        }
    }
    *out = sum.map(|lanes| lanes.map(|v| v.clamp(0., 6.)));
}

#[inline(always)]
fn multiply_add_lanes(sum: &mut Lanes, x: &Lanes, w: &Lanes) {
    for i in 0..LANES {
        sum[i] = fma(x[i], w[i], sum[i]);
    }
}

/// Operation behind [`Kernels::patches`].
struct Patches(SameWindow);

impl CustomOp1 for Patches {
    fn name(&self) -> &'static str {
        "patches"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, channels, side, width) = xl.shape().dims4()?;
        let Some((from, to)) = xl.contiguous_offsets().filter(|_| side == width) else {
            bail!("expected square pixels, got {xl:?}")
        };
        let x = &x.as_slice::<f32>()?[from..to];
        let SameWindow { kernel, stride } = self.0;
        let (out_side, pad) = self.0.output(side);
        let blocks = (kernel * kernel * channels).div_ceil(LANES);
        Ok(build_map(batch, blocks, out_side, |image, block, out| {
            let image = &x[image * channels * side * side..][..channels * side * side];
            let taps = (block * LANES..(kernel * kernel * channels).min((block + 1) * LANES))
                .map(|i| (i / channels, i % channels));
            out.par_chunks_mut(out_side)
                .enumerate()
                .for_each(|(oy, out)| {
                    for (lane, (tap, channel)) in taps.clone().enumerate() {
                        // Positions before the first row or element wrap to huge numbers, which are
                        // outside like those after the last.
                        let y = (oy * stride + tap / kernel).wrapping_sub(pad);
                        let Some(line) = image[channel * side * side..][..side * side]
                            .chunks_exact(side)
                            .nth(y)
                        else {
                            continue;
                        };
                        for (ox, out) in out.iter_mut().enumerate() {
                            if let Some(&value) =
                                line.get((ox * stride + tap % kernel).wrapping_sub(pad))
                            {
                                out[lane] = value;
                            }
                        }
                    }
                });
        }))
    }
}
