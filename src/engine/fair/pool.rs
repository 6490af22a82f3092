//! Bounded resource that one competitor cannot exhaust for all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Share;

/// A bounded amount of a resource. A single competitor may use all of it. A reserve on top admits
/// competitors below their fair share when the pool is full; those above it get nothing more until
/// they are below it again.
#[derive(Debug)]
pub(crate) struct Pool {
    capacity: u64,
    reserve: u64,
    used: u64,
    held: HashMap<Arc<str>, Holding>,
    closed: bool,
}

#[derive(Debug)]
struct Holding {
    amount: u64,
    permits: usize,
    weight: u32,
}

/// Reasons for a refusal by a [`Pool`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolError {
    /// The pool, or this competitor's share of it, is used up.
    Full,
    /// The pool is closed.
    Closed,
}

impl Pool {
    /// Creates a pool of `capacity`, and a `reserve` on top for competitors below their share.
    pub(crate) fn new(capacity: u64, reserve: u64) -> Self {
        Self {
            capacity,
            reserve,
            used: 0,
            held: HashMap::new(),
            closed: false,
        }
    }

    /// Returns `true` if [`Self::take`] would succeed.
    pub(super) fn can_take(&self, share: &Share, amount: u64) -> bool {
        !self.closed
            && (self.used + amount <= self.capacity || self.within_fair_share(share, amount))
    }

    /// Takes an amount for a competitor and returns the amount charged, at most the pool's
    /// capacity.
    pub(crate) fn take(&mut self, share: &Share, amount: u64) -> Result<u64, PoolError> {
        let amount = amount.min(self.capacity);
        if !self.can_take(share, amount) {
            return Err(if self.closed {
                PoolError::Closed
            } else {
                PoolError::Full
            });
        }
        let new = Holding {
            amount: 0,
            permits: 0,
            weight: share.weight,
        };
        let holding = self
            .held
            .entry(Arc::clone(&share.competitor))
            .or_insert(new);
        holding.amount += amount;
        holding.permits += 1;
        self.used += amount;
        Ok(amount)
    }

    /// Returns `true` if the reserve may serve this competitor: it holds nothing yet, or stays
    /// within its fair share.
    fn within_fair_share(&self, share: &Share, amount: u64) -> bool {
        let others = self
            .held
            .iter()
            .filter(|(name, _)| **name != share.competitor)
            .map(|(_, holding)| u64::from(holding.weight));
        let (own, weight) = (
            self.held
                .get(&share.competitor)
                .map_or(0, |holding| holding.amount),
            u64::from(share.weight),
        );
        let fair = self.capacity * weight / (others.sum::<u64>() + weight);
        self.used + amount <= self.capacity + self.reserve && (own == 0 || own + amount <= fair)
    }

    /// Returns an amount to the pool.
    pub(super) fn release(&mut self, competitor: &Arc<str>, amount: u64) {
        self.used -= amount.min(self.used);
        if let Some(holding) = self.held.get_mut(competitor) {
            holding.amount -= amount.min(holding.amount);
            holding.permits -= holding.permits.min(1);
            if holding.permits == 0 {
                self.held.remove(competitor);
            }
        }
    }
}

/// Cloneable handle to a pool.
#[derive(Debug, Clone)]
pub(crate) struct SharedPool(Arc<Mutex<Pool>>);

impl SharedPool {
    pub(crate) fn new(pool: Pool) -> Self {
        Self(Arc::new(Mutex::new(pool)))
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an amount; dropping the permit returns it.
    pub(crate) fn take(&self, share: &Share, amount: u64) -> Result<PoolPermit, PoolError> {
        let amount = self.lock().take(share, amount)?;
        Ok(PoolPermit {
            pool: self.clone(),
            competitor: Arc::clone(&share.competitor),
            amount,
        })
    }

    /// Returns `true` if [`Self::take`] would succeed now.
    pub(crate) fn can_take(&self, share: &Share, amount: u64) -> bool {
        self.lock().can_take(share, amount)
    }

    /// Returns the amount in use.
    pub(crate) fn used(&self) -> u64 {
        self.lock().used
    }

    /// Refuses all further requests.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

/// An amount taken from a pool; returned on drop.
#[derive(Debug)]
pub struct PoolPermit {
    pool: SharedPool,
    competitor: Arc<str>,
    amount: u64,
}

impl Drop for PoolPermit {
    fn drop(&mut self) {
        self.pool.lock().release(&self.competitor, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(name: &str) -> Share {
        Share::new(name, 1)
    }

    #[test]
    fn a_late_competitor_is_admitted_from_the_reserve() {
        let pool = SharedPool::new(Pool::new(8, 3));
        let greedy: Vec<PoolPermit> = (0..8)
            .map(|_| pool.take(&share("greedy"), 1).unwrap())
            .collect();
        assert_eq!(pool.take(&share("greedy"), 1).unwrap_err(), PoolError::Full);
        let late: Vec<PoolPermit> = (0..3)
            .map(|_| pool.take(&share("late"), 1).unwrap())
            .collect();
        assert_eq!(
            pool.take(&share("late"), 1).unwrap_err(),
            PoolError::Full,
            "the reserve has an end"
        );
        drop(greedy);
        // Amounts in the reserve count like the rest.
        let rest: Vec<PoolPermit> = (0..5)
            .map(|_| pool.take(&share("late"), 1).unwrap())
            .collect();
        assert_eq!(
            (pool.used(), pool.take(&share("late"), 1).unwrap_err()),
            (8, PoolError::Full)
        );
        drop((late, rest));
        assert_eq!((pool.used(), pool.lock().held.len()), (0, 0));
        pool.close();
        assert_eq!(pool.take(&share("late"), 1).unwrap_err(), PoolError::Closed);
    }

    #[test]
    fn an_amount_above_the_capacity_is_admitted_alone() {
        let pool = SharedPool::new(Pool::new(10, 5));
        let large = pool.take(&share("a"), 1000).unwrap();
        assert_eq!(
            (pool.used(), pool.take(&share("a"), 1).unwrap_err()),
            (10, PoolError::Full)
        );
        assert!(pool.take(&share("b"), 1000).is_err());
        let small = pool.take(&share("b"), 5).unwrap();
        drop((large, small));
        assert!(pool.take(&share("b"), 1000).is_ok());
    }

    proptest! {
        #[test]
        fn a_permit_is_refused_only_by_a_full_reserve_or_above_the_share(
            asks in proptest::collection::vec((0usize..4, 1u64..6, any::<bool>()), 1..200),
            capacity in 4u64..40, reserve in 1u64..10,
        ) {
            let pool = SharedPool::new(Pool::new(capacity, reserve));
            let mut held: Vec<Vec<PoolPermit>> = (0..4).map(|_| Vec::new()).collect();
            for (who, amount, gives_back) in asks {
                if gives_back {
                    held[who].pop();
                    continue;
                }
                let own: u64 = held[who].iter().map(|permit| permit.amount).sum();
                let used: u64 = held.iter().flatten().map(|permit| permit.amount).sum();
                prop_assert_eq!(pool.used(), used);
                let others = held.iter().enumerate().filter(|(i, permits)| *i != who
                    && !permits.is_empty()).count() as u64;
                let amount = amount.min(capacity);
                match pool.take(&share(&who.to_string()), amount) {
                    Ok(permit) => held[who].push(permit),
                    Err(_) => {
                        prop_assert!(used + amount > capacity);
                        prop_assert!(own > 0 && own + amount > capacity / (others + 1)
                            || used + amount > capacity + reserve);
                    }
                }
                prop_assert!(pool.used() <= capacity + reserve);
            }
        }
    }
}
