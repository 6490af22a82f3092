//! Value head: expected return, predicted from the policy's last hidden state before each token.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// Perceptron with one hidden layer. Its input is detached: the value loss does not change the
/// policy.
pub(super) struct ValueHead {
    inner: (Tensor, Tensor),
    outer: (Tensor, Tensor),
}

impl ValueHead {
    /// Loads `value.inner` and `value.outer`; a new head predicts 0.
    pub(super) fn load(width: usize, hidden: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let init = Init::Randn {
            mean: 0.0,
            stdev: (width as f64).powf(-0.5),
        };
        let (inner, outer) = (vb.pp("inner"), vb.pp("outer"));
        Ok(Self {
            inner: (
                inner.get_with_hints((hidden, width), "weight", init)?,
                inner.get_with_hints(hidden, "bias", Init::Const(0.0))?,
            ),
            outer: (
                outer.get_with_hints((1, hidden), "weight", Init::Const(0.0))?,
                outer.get_with_hints(1, "bias", Init::Const(0.0))?,
            ),
        })
    }

    /// Values of hidden states, `(n, width)` to `(n)`.
    pub(super) fn values(&self, states: &Tensor) -> Result<Tensor> {
        let inner = states
            .detach()
            .matmul(&self.inner.0.t()?)?
            .broadcast_add(&self.inner.1)?
            .silu()?;
        inner
            .matmul(&self.outer.0.t()?)?
            .broadcast_add(&self.outer.1)?
            .squeeze(1)
    }
}
