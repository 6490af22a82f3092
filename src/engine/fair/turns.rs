//! Fair semaphore for async tasks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::{Ledger, Pool, Share};

/// Semaphore that serves competitors by weighted fair share, and the waiters of one competitor in
/// order.
///
/// The number of waiters is not bounded here: callers hold an admission permit already.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Turns in use.
    pool: Pool,
    running: Vec<(u64, Share)>,
    waiting: Vec<Waiter>,
    ledger: Ledger,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    share: Share,
    work: u64,
    granted: oneshot::Sender<FairTurn>,
}

impl Turns {
    /// Creates a semaphore of `max` turns, at least one.
    pub fn new(max: usize) -> Self {
        Self::with_reserve(max, 0)
    }

    /// Creates a semaphore of `max` turns, and a reserve for competitors below their share; useful
    /// where turns are long.
    pub fn with_reserve(max: usize, reserve: usize) -> Self {
        let pool = Pool::new(max.max(1) as u64, reserve as u64);
        let (running, waiting, ledger) = (Vec::new(), Vec::new(), Ledger::default());
        Self(Arc::new(Mutex::new(State {
            pool,
            running,
            waiting,
            ledger,
            arrivals: 0,
        })))
    }

    /// Waits for a turn for `work` units.
    pub async fn take(&self, share: &Share, work: u64) -> FairTurn {
        let (granted, turn) = oneshot::channel();
        self.lock().push(share.clone(), work, granted);
        self.grant();
        match turn.await {
            Ok(turn) => turn,
            // Unreachable: only the waiting task drops its waiter.
            Err(_) => FairTurn {
                turns: None,
                number: 0,
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grants free turns to waiters.
    fn grant(&self) {
        loop {
            let next = self.lock().pop();
            let Some(Waiter {
                number, granted, ..
            }) = next
            else {
                return;
            };
            // If the waiter is gone, `send` returns the turn, which is dropped here, outside the
            // lock, and frees it.
            let _ = granted.send(FairTurn {
                turns: Some(self.clone()),
                number,
            });
        }
    }
}

impl State {
    fn push(&mut self, share: Share, work: u64, granted: oneshot::Sender<FairTurn>) {
        self.arrivals += 1;
        self.waiting.push(Waiter {
            number: self.arrivals,
            share,
            work,
            granted,
        });
    }

    /// Removes the next waiter and starts its turn; `None` if nobody waits or no turn is free.
    fn pop(&mut self) -> Option<Waiter> {
        self.waiting.retain(|waiter| !waiter.granted.is_closed());
        let Self {
            pool,
            running,
            waiting,
            ledger,
            ..
        } = self;
        ledger.set_active(
            running
                .iter()
                .map(|(_, share)| share)
                .chain(waiting.iter().map(|waiter| &waiter.share)),
        );
        let open: Vec<usize> = (0..waiting.len())
            .filter(|&i| pool.can_take(&waiting[i].share, 1))
            .collect();
        let next = ledger.next(open.iter().map(|&i| (&waiting[i].share, waiting[i].number)))?;
        let waiter = waiting.remove(open[next]);
        pool.take(&waiter.share, 1).ok()?;
        ledger.charge(&waiter.share, waiter.work);
        running.push((waiter.number, waiter.share.clone()));
        Some(waiter)
    }

    fn end(&mut self, number: u64) {
        let Some(ended) = self
            .running
            .iter()
            .position(|(running, _)| *running == number)
        else {
            return;
        };
        let (_, share) = self.running.swap_remove(ended);
        self.pool.release(&share.competitor, 1);
    }
}

/// A turn; ends on drop.
#[derive(Debug)]
pub struct FairTurn {
    turns: Option<Turns>,
    number: u64,
}

impl Drop for FairTurn {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.lock().end(self.number);
            turns.grant();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Takes all turns one after the other and returns who had them, in order.
    fn order(turns: &Turns, asks: &[(&'static str, u64)]) -> Vec<&'static str> {
        let first = turns
            .take(&Share::new("first", 1), 1)
            .now_or_never()
            .unwrap();
        let mut waiting: Vec<_> = asks
            .iter()
            .map(|&(who, work)| {
                (
                    who,
                    Box::pin(async move { turns.take(&Share::new(who, 1), work).await }),
                )
            })
            .collect();
        waiting
            .iter_mut()
            .for_each(|(_, turn)| assert!(turn.as_mut().now_or_never().is_none()));
        let (mut held, mut served) = (Some(first), Vec::new());
        while !waiting.is_empty() {
            drop(held.take());
            let found = waiting
                .iter_mut()
                .enumerate()
                .find_map(|(i, (_, turn))| Some((i, turn.as_mut().now_or_never()?)));
            let (i, turn) = found.expect("whoever is next has the turn");
            served.push(waiting.remove(i).0);
            held = Some(turn);
        }
        served
    }

    #[test]
    fn turns_alternate_by_work_done() {
        let asks = [
            ("a", 10),
            ("a", 10),
            ("a", 10),
            ("b", 10),
            ("c", 10),
            ("b", 10),
        ];
        assert_eq!(order(&Turns::new(1), &asks), ["a", "b", "c", "a", "b", "a"]);
        let asks = [
            ("a", 30),
            ("a", 30),
            ("b", 10),
            ("b", 10),
            ("b", 10),
            ("b", 10),
        ];
        assert_eq!(order(&Turns::new(1), &asks), ["a", "b", "b", "b", "a", "b"]);
    }

    #[test]
    fn a_canceled_waiter_leaks_no_turn() {
        let turns = Turns::new(1);
        let share = Share::default();
        let held = turns.take(&share, 1).now_or_never().unwrap();
        let mut gone = Box::pin(turns.take(&share, 1));
        assert!(gone.as_mut().now_or_never().is_none());
        let mut granted = Box::pin(turns.take(&share, 1));
        assert!(granted.as_mut().now_or_never().is_none());
        drop(gone);
        drop(held);
        // The second waiter was granted the turn and is dropped without having polled.
        drop(granted);
        assert!(turns.take(&share, 1).now_or_never().is_some());
        assert!(turns.lock().running.is_empty());
    }

    #[test]
    fn the_reserve_is_left_to_other_competitors() {
        let turns = Turns::with_reserve(2, 1);
        let (greedy, polite) = (Share::new("greedy", 1), Share::new("polite", 1));
        let _held = [(); 2].map(|()| turns.take(&greedy, 1).now_or_never().unwrap());
        let mut third = Box::pin(turns.take(&greedy, 1));
        assert!(third.as_mut().now_or_never().is_none());
        let other = turns.take(&polite, 1).now_or_never().unwrap();
        assert!(turns.take(&polite, 1).now_or_never().is_none());
        drop(other);
        assert!(
            third.as_mut().now_or_never().is_none(),
            "the reserve is not for who has enough"
        );
    }

    #[test]
    fn concurrent_turns_are_bounded() {
        let (turns, share) = (Turns::new(2), Share::default());
        let [_one, two] = [(); 2].map(|()| turns.take(&share, 1).now_or_never().unwrap());
        let mut third = Box::pin(turns.take(&share, 1));
        assert!(third.as_mut().now_or_never().is_none());
        drop(two);
        assert!(third.as_mut().now_or_never().is_some());
    }
}
