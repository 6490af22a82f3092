//! Data-parallel gradients on the CPU: one shard of the batch per core.
//!
//! The operations of a small network are too short to split across cores, whole shards are not.
//! Gradients are summed in the shards' order, so the result does not depend on timing.

use candle_core::{Result, Tensor, Var, bail};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Pool of workers, each with a single thread, so that matrix products stay on its core.
pub struct Workers {
    pools: Vec<ThreadPool>,
}

impl Workers {
    /// Creates `count` workers, at least one.
    ///
    /// # Errors
    /// When the system cannot create threads.
    pub fn new(count: usize) -> Result<Self> {
        let pools = (0..count.max(1)).map(|_| {
            ThreadPoolBuilder::new()
                .num_threads(1)
                .build()
                .map_err(candle_core::Error::wrap)
        });
        Ok(Self {
            pools: pools.collect::<Result<_>>()?,
        })
    }

    /// Number of workers.
    pub fn count(&self) -> usize {
        self.pools.len()
    }

    /// Applies `f` to every item, dealt round-robin to the workers, and returns the results in
    /// order.
    ///
    /// # Errors
    /// The first error in the items' order.
    pub fn map<T: Sync, R: Send>(
        &self,
        items: &[T],
        f: impl Fn(&T) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let mut out: Vec<Option<Result<R>>> = (0..items.len()).map(|_| None).collect();
        let f = &f;
        std::thread::scope(|scope| {
            let handles: Vec<_> = self
                .pools
                .iter()
                .enumerate()
                .map(|(w, pool)| {
                    let share = items.iter().enumerate().skip(w).step_by(self.pools.len());
                    scope.spawn(move || {
                        pool.install(|| share.map(|(i, item)| (i, f(item))).collect::<Vec<_>>())
                    })
                })
                .collect();
            for handle in handles {
                if let Ok(results) = handle.join() {
                    results.into_iter().for_each(|(i, r)| out[i] = Some(r));
                }
            }
        });
        out.into_iter()
            .map(|r| r.unwrap_or_else(|| bail!("a worker panicked")))
            .collect()
    }

    /// Sum of the shards' losses and its gradient for every variable (zeros for an unused
    /// variable).
    ///
    /// # Errors
    /// When a shard fails.
    pub fn gradients<S: Sync>(
        &self,
        shards: &[S],
        vars: &[Var],
        loss: impl Fn(&S) -> Result<Tensor> + Sync,
    ) -> Result<(f64, Vec<Vec<f32>>)> {
        let parts = self.map(shards, |shard| {
            let loss = loss(shard)?;
            let mut grads = loss.backward()?;
            let grads = vars.iter().map(|v| {
                grads
                    .remove(v)
                    .map(|g| g.flatten_all()?.to_vec1::<f32>())
                    .transpose()
            });
            Ok((
                f64::from(loss.to_scalar::<f32>()?),
                grads.collect::<Result<Vec<_>>>()?,
            ))
        })?;
        let mut total = 0.0;
        let mut sum: Vec<Vec<f32>> = vars.iter().map(|v| vec![0.0; v.elem_count()]).collect();
        for (loss, grads) in parts {
            total += loss;
            for (sum, grad) in sum.iter_mut().zip(grads) {
                if let Some(grad) = grad {
                    sum.iter_mut().zip(&grad).for_each(|(s, g)| *s += g);
                }
            }
        }
        Ok((total, sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn gradients_of_shards_equal_the_gradient_of_the_batch() {
        let w = Var::new(&[1f32, 2.0, 3.0], &Device::Cpu).unwrap();
        let shards: Vec<Tensor> = (0..5)
            .map(|i| Tensor::new(&[i as f32, 1.0, -1.0], &Device::Cpu).unwrap())
            .collect();
        let f = |x: &Tensor| (x * w.as_tensor())?.sqr()?.sum_all();
        let (one, g1) = Workers::new(1)
            .unwrap()
            .gradients(&shards, std::slice::from_ref(&w), f)
            .unwrap();
        let (three, g3) = Workers::new(3)
            .unwrap()
            .gradients(&shards, std::slice::from_ref(&w), f)
            .unwrap();
        assert_eq!((one, &g1), (three, &g3));
        assert_eq!(g1[0], vec![2.0 * 30.0, 2.0 * 2.0 * 5.0, 2.0 * 3.0 * 5.0]);
    }
}
