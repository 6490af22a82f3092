//! Convolutions of a mobile network, one trait with two implementations.
//!
//! [`Plain`] consists of ordinary tensor operations and runs on every device and type.
//! [`Blocked`](super::blocked::Blocked) is written for `f32` on the CPU; tests compare the two.
//! (candle runs a grouped convolution as one convolution per group, which for a depthwise layer is
//! hundreds.) Inference only: neither is differentiable.
//!
//! A convolution's weights are lines of output channels `(n + 1, channels)`: one line per input
//! channel (pointwise) or per tap of the window in reading order (depthwise), and the bias as the
//! last line.

use candle_core::{D, DType, Device, Result, Tensor, bail};

use super::blocked::Blocked;

/// Operation after a pointwise convolution.
#[derive(Clone, Copy)]
pub(super) enum PointwiseActivation<'a> {
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// None.
    Linear,
    /// Addition of this map, the block's input.
    Add(&'a Tensor),
}

/// Square window with the padding of TensorFlow's `SAME`: odd padding goes to the right and below.
#[derive(Debug, Clone, Copy)]
pub(super) struct SameWindow {
    /// Side of the kernel.
    pub(super) kernel: usize,
    /// Step between output positions.
    pub(super) stride: usize,
}

impl SameWindow {
    /// Output length and padding before the first element, for an input of length `len`.
    pub(super) fn output(self, len: usize) -> (usize, usize) {
        let out = len.div_ceil(self.stride);
        let total = ((out - 1) * self.stride + self.kernel).saturating_sub(len);
        (out, total / 2)
    }

    /// Taps of output position `o` that fall inside an input of length `len`: `(first tap, its
    /// input position, number of taps)`.
    pub(super) fn taps(self, o: usize, len: usize, pad: usize) -> (usize, usize, usize) {
        let first = pad.saturating_sub(o * self.stride);
        let at = o * self.stride + first - pad;
        (first, at, (self.kernel - first).min(len - at))
    }
}

/// Layers of the network. The memory layout of maps and packed weights is private to each
/// implementation.
pub(super) trait Kernels: std::fmt::Debug + Send + Sync {
    /// Packs a convolution's lines `(n + 1, channels)` for the other methods.
    fn pack(&self, lines: &Tensor) -> Result<Tensor>;

    /// Extracts every window of `pixels (batch, channels, side, side)` as one pixel of a map: taps
    /// in reading order, channels fastest.
    fn patches(&self, pixels: &Tensor, window: SameWindow) -> Result<Tensor>;

    /// 1x1 convolution.
    fn pointwise(&self, x: &Tensor, conv: &Tensor, then: PointwiseActivation<'_>)
    -> Result<Tensor>;

    /// Expands with a 1x1 convolution and relu6, if given, then applies a depthwise convolution and
    /// relu6.
    fn widen(
        &self,
        x: &Tensor,
        expand: Option<&Tensor>,
        depthwise: &Tensor,
        window: SameWindow,
    ) -> Result<Tensor>;

    /// First `channels` channels of a map: `(batch, side, side, channels)`.
    fn cells(&self, map: &Tensor, channels: usize) -> Result<Tensor>;
}

/// Fastest implementation for a device and type.
pub(super) fn kernels(device: &Device, dtype: DType) -> &'static dyn Kernels {
    if device.is_cpu() && dtype == DType::F32 {
        &Blocked
    } else {
        &Plain
    }
}

/// Ordinary tensor operations on maps `(batch, side, side, channels)`.
#[derive(Debug)]
pub(super) struct Plain;

impl Kernels for Plain {
    fn pack(&self, lines: &Tensor) -> Result<Tensor> {
        lines.contiguous()
    }

    fn patches(&self, pixels: &Tensor, window: SameWindow) -> Result<Tensor> {
        windows(&pixels.permute((0, 2, 3, 1))?, window)?.flatten_from(3)
    }

    fn pointwise(
        &self,
        x: &Tensor,
        conv: &Tensor,
        then: PointwiseActivation<'_>,
    ) -> Result<Tensor> {
        let (batch, side, _, input) = x.dims4()?;
        let y = x.reshape(((), input))?.matmul(&conv.narrow(0, 0, input)?)?;
        let y = y
            .broadcast_add(&conv.get(input)?)?
            .reshape((batch, side, side, ()))?;
        match then {
            PointwiseActivation::Relu6 => relu6(&y),
            PointwiseActivation::Linear => Ok(y),
            PointwiseActivation::Add(other) => y + other,
        }
    }

    fn widen(
        &self,
        x: &Tensor,
        expand: Option<&Tensor>,
        depthwise: &Tensor,
        window: SameWindow,
    ) -> Result<Tensor> {
        let wide = match expand {
            Some(expand) => self.pointwise(x, expand, PointwiseActivation::Relu6)?,
            None => x.clone(),
        };
        let taps = window.kernel * window.kernel;
        let sum = windows(&wide, window)?
            .broadcast_mul(&depthwise.narrow(0, 0, taps)?)?
            .sum(3)?;
        relu6(&sum.broadcast_add(&depthwise.get(taps)?)?)
    }

    fn cells(&self, map: &Tensor, channels: usize) -> Result<Tensor> {
        map.narrow(D::Minus1, 0, channels)
    }
}

/// Values under each tap of the window, in reading order, at all output positions: `(batch, out,
/// out, taps, channels)`. One selection gathers all of them: a GPU waits for every operation.
fn windows(x: &Tensor, window: SameWindow) -> Result<Tensor> {
    let SameWindow { kernel, stride } = window;
    let (batch, side, width, channels) = x.dims4()?;
    if side != width {
        bail!("expected a square map, got {:?}", x.shape());
    }
    let (out, pad) = window.output(side);
    let at = |o: usize, tap: usize| (o * stride + tap).checked_sub(pad).filter(|&at| at < side);
    // What lies outside is the line of zeros behind the map.
    let outside = side * side;
    let mut lines = Vec::with_capacity(out * out * kernel * kernel);
    for (y, x) in (0..out * out).map(|o| (o / out, o % out)) {
        for (down, right) in (0..kernel * kernel).map(|tap| (tap / kernel, tap % kernel)) {
            let inside = at(y, down).zip(at(x, right));
            let line = inside.map_or(outside, |(row, column)| row * side + column);
            lines.push(line as u32);
        }
    }
    let lines = Tensor::new(lines, x.device())?;
    x.reshape((batch, side * side, channels))?
        .pad_with_zeros(1, 0, 1)?
        .contiguous()?
        .index_select(&lines, 1)?
        .reshape((batch, out, out, kernel * kernel, channels))
}

/// Returns `min(max(x, 0), 6)`.
fn relu6(x: &Tensor) -> Result<Tensor> {
    x.relu()?.minimum(6.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1., shape, &Device::Cpu).unwrap()
    }

    fn assert_close(a: &Tensor, b: &Tensor, what: &str) {
        let (a, b) = (
            a.to_dtype(DType::F64).unwrap(),
            b.to_dtype(DType::F64).unwrap(),
        );
        assert_eq!(a.dims(), b.dims(), "{what}");
        let diff = (a - b)
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap();
        assert!(diff < 1e-4, "{what}: {diff}");
    }

    /// A map in the blocked layout, made by a pointwise convolution with the identity.
    fn blocked(x: &Tensor) -> Tensor {
        let window = SameWindow {
            kernel: 1,
            stride: 1,
        };
        Blocked
            .patches(
                &x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap(),
                window,
            )
            .unwrap()
    }

    #[test]
    fn plain_depthwise_equals_grouped_convolution() {
        let (x, lines) = (random(&[2, 6, 6, 4]), random(&[10, 4]));
        let ours = Plain
            .widen(
                &x,
                None,
                &lines,
                SameWindow {
                    kernel: 3,
                    stride: 1,
                },
            )
            .unwrap();
        let (w, b) = (
            lines
                .narrow(0, 0, 9)
                .unwrap()
                .t()
                .unwrap()
                .reshape((4, 1, 3, 3))
                .unwrap(),
            lines.get(9).unwrap(),
        );
        let theirs = x
            .permute((0, 3, 1, 2))
            .unwrap()
            .conv2d(&w, 1, 1, 1, 4)
            .unwrap()
            .permute((0, 2, 3, 1))
            .unwrap();
        assert_close(
            &ours,
            &theirs.broadcast_add(&b).unwrap().clamp(0., 6.).unwrap(),
            "depthwise",
        );
    }

    #[test]
    fn blocked_widen_equals_plain() {
        // Odd and even sides, both strides, kernels wider than the map, channels that do not fill a
        // block, maps of several strips.
        let cases = [
            (3, 1, 7, 16, 32),
            (3, 2, 8, 5, 40),
            (5, 1, 2, 17, 33),
            (5, 2, 13, 8, 24),
            (3, 2, 1, 3, 5),
            (5, 1, 40, 4, 18),
            (5, 2, 64, 3, 16),
        ];
        for (kernel, stride, side, input, wide) in cases {
            let window = SameWindow { kernel, stride };
            let (x, expand, depthwise) = (
                random(&[2, side, side, input]),
                random(&[input + 1, wide]),
                random(&[kernel * kernel + 1, wide]),
            );
            let plain = Plain.widen(&x, Some(&expand), &depthwise, window).unwrap();
            let (expand, depthwise) = (
                Blocked.pack(&expand).unwrap(),
                Blocked.pack(&depthwise).unwrap(),
            );
            let fast = Blocked
                .widen(&blocked(&x), Some(&expand), &depthwise, window)
                .unwrap();
            assert_close(
                &Blocked.cells(&fast, wide).unwrap(),
                &plain,
                &format!("{window:?} on {side}"),
            );
        }
    }

    #[test]
    fn blocked_depthwise_equals_plain() {
        let window = SameWindow {
            kernel: 3,
            stride: 2,
        };
        let (x, depthwise) = (random(&[1, 12, 12, 20]), random(&[10, 20]));
        let plain = Plain.widen(&x, None, &depthwise, window).unwrap();
        let fast = Blocked
            .widen(
                &blocked(&x),
                None,
                &Blocked.pack(&depthwise).unwrap(),
                window,
            )
            .unwrap();
        assert_close(&Blocked.cells(&fast, 20).unwrap(), &plain, "depthwise");
    }

    #[test]
    fn blocked_patches_equal_plain() {
        for (kernel, stride, side) in [(3, 2, 8), (3, 2, 7), (3, 1, 4), (1, 1, 5)] {
            let (x, window) = (random(&[2, 3, side, side]), SameWindow { kernel, stride });
            let fast = Blocked.patches(&x, window).unwrap();
            assert_close(
                &Blocked.cells(&fast, 3 * kernel * kernel).unwrap(),
                &Plain.patches(&x, window).unwrap(),
                &format!("{window:?}"),
            );
        }
    }

    #[test]
    fn blocked_pointwise_equals_plain() {
        // Numbers of pixels with every remainder of the kernel's tile.
        for side in [1, 2, 3, 4, 5, 7, 11, 33] {
            let (x, conv, other) = (
                random(&[2, side, side, 20]),
                random(&[21, 24]),
                random(&[2, side, side, 24]),
            );
            let (x_blocked, other_blocked, packed) =
                (blocked(&x), blocked(&other), Blocked.pack(&conv).unwrap());
            let thens = [
                (PointwiseActivation::Relu6, PointwiseActivation::Relu6),
                (PointwiseActivation::Linear, PointwiseActivation::Linear),
                (
                    PointwiseActivation::Add(&other_blocked),
                    PointwiseActivation::Add(&other),
                ),
            ];
            for (fast, plain) in thens {
                let (fast, plain) = (
                    Blocked.pointwise(&x_blocked, &packed, fast).unwrap(),
                    Plain.pointwise(&x, &conv, plain).unwrap(),
                );
                assert_close(
                    &Blocked.cells(&fast, 24).unwrap(),
                    &plain,
                    &format!("side {side}"),
                );
            }
        }
    }
}
