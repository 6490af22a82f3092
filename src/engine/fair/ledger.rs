//! Weighted fair queuing by work done (the virtual token counter of Sheng et al., "Fairness in
//! Serving Large Language Models", 2024).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::Share;

/// Fixed-point scale of virtual work.
const SCALE: u64 = 1000;

/// Most inactive competitors that are remembered.
const REMEMBERED: usize = 4096;

#[derive(Debug, Default)]
struct Account {
    /// Work done, divided by weight.
    virtual_work: u64,
    present: bool,
}

/// Work done for each competitor, divided by its weight. The competitor with the least is served
/// next.
///
/// A returning competitor is raised to the minimum of the active ones: unused share cannot be saved
/// up, and a short absence does not cancel work already received.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: HashMap<Arc<str>, Account>,
    /// Highest minimum of the active competitors' virtual work so far.
    floor: u64,
}

impl Ledger {
    /// Sets the competitors that have waiting or running work. Call after a change and before
    /// [`Self::next`].
    pub(crate) fn set_active<'a>(&mut self, present: impl Iterator<Item = &'a Share>) {
        let present: HashSet<&Arc<str>> = present.map(|share| &share.competitor).collect();
        if present.is_empty() {
            return self.accounts.clear();
        }
        let were_there = || self.accounts.iter().filter(|(_, account)| account.present);
        let staying = were_there()
            .filter(|(name, _)| present.contains(name))
            .map(|(_, account)| account.virtual_work)
            .min();
        // If nobody stays active, the last active competitors define the floor.
        let last = || were_there().map(|(_, account)| account.virtual_work).min();
        self.floor = staying.or_else(last).unwrap_or(0).max(self.floor);
        self.accounts
            .iter_mut()
            .for_each(|(name, account)| account.present &= present.contains(name));
        for name in present {
            let account = self.accounts.entry(Arc::clone(name)).or_default();
            if !account.present {
                *account = Account {
                    virtual_work: account.virtual_work.max(self.floor),
                    present: true,
                };
            }
        }
        let floor = self.floor;
        self.accounts
            .retain(|_, account| account.present || account.virtual_work > floor);
        if self.accounts.len() > REMEMBERED {
            self.accounts.retain(|_, account| account.present);
        }
    }

    /// Adds work done for a competitor.
    pub(crate) fn charge(&mut self, share: &Share, work: u64) {
        if let Some(account) = self.accounts.get_mut(&share.competitor) {
            let by_weight = work.saturating_mul(SCALE) / u64::from(share.weight.max(1));
            account.virtual_work = account.virtual_work.saturating_add(by_weight);
        }
    }

    /// Returns the index of the next entry: that of the competitor with the least virtual work,
    /// then the smallest key.
    pub(crate) fn next<'a>(
        &self,
        waiting: impl Iterator<Item = (&'a Share, u64)>,
    ) -> Option<usize> {
        let had = |share: &Share| {
            self.accounts
                .get(&share.competitor)
                .map_or(self.floor, |account| account.virtual_work)
        };
        let rank = |(share, key)| (had(share), key);
        waiting
            .map(rank)
            .enumerate()
            .min_by(|(_, a), (_, b)| a.cmp(b))
            .map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Most work of one item.
    const MOST: u64 = 40;

    /// Simulates a sequential server and returns the work done, in order, as `(start, competitor,
    /// work)`; `arrivals` are `(arrival, competitor, work)`.
    fn serve(weights: &[u32], arrivals: &[(u64, usize, u64)]) -> Vec<(u64, usize, u64)> {
        let share = |who: usize| Share::new(format!("{who}"), weights[who]);
        let (mut ledger, mut done, mut now, mut came) = (Ledger::default(), Vec::new(), 0, 0);
        let mut coming: Vec<(usize, (u64, usize, u64))> =
            arrivals.iter().copied().enumerate().collect();
        coming.sort_by_key(|(i, (at, ..))| (*at, *i));
        let mut coming = coming.into_iter().peekable();
        let mut waiting: Vec<(Share, u64, (u64, usize, u64))> = Vec::new();
        loop {
            while let Some((_, job)) = coming.next_if(|(_, (at, ..))| *at <= now) {
                came += 1;
                waiting.push((share(job.1), came, job));
            }
            ledger.set_active(waiting.iter().map(|(share, ..)| share));
            let Some(next) = ledger.next(waiting.iter().map(|(share, i, _)| (share, *i))) else {
                match coming.peek() {
                    Some((_, (at, ..))) => now = *at,
                    None => return done,
                }
                continue;
            };
            let (share, _, job) = waiting.remove(next);
            ledger.set_active(waiting.iter().map(|(share, ..)| share).chain([&share]));
            ledger.charge(&share, job.2);
            done.push((now, job.1, job.2));
            now += job.2;
        }
    }

    proptest! {
        #[test]
        fn waiting_competitors_are_served_in_order_within_a_bound(
            weights in proptest::collection::vec(1u32..5, 2..5),
            mut arrivals in proptest::collection::vec((0u64..300, 0usize..4, 1..=MOST), 1..80),
        ) {
            arrivals.iter_mut().for_each(|job| job.1 %= weights.len());
            let done = serve(&weights, &arrivals);
            for who in 0..weights.len() {
                let mut own: Vec<(u64, u64)> = arrivals.iter().filter(|job| job.1 == who)
                    .map(|job| (job.0, job.2)).collect();
                own.sort_by_key(|job| job.0);
                let served: Vec<u64> = done.iter().filter(|job| job.1 == who).map(|job| job.2)
                    .collect();
                prop_assert_eq!(served, own.iter().map(|job| job.1).collect::<Vec<_>>());
                // While a competitor waits, no other gets more than two items' worth of work per
                // weight beyond it.
                let (mut had, mut served) = (vec![0.0; weights.len()], 0);
                for &(at, of, work) in &done {
                    if own.iter().filter(|job| job.0 <= at).count() == served {
                        had.fill(0.0);
                    } else {
                        had[of] += work as f64 / f64::from(weights[of]);
                        let most = had.iter().fold(0.0f64, |most, &had| most.max(had));
                        prop_assert!(most - had[who] <= 2.0 * MOST as f64 + 1.0, "{} of {:?}", who,
                            had);
                    }
                    served += usize::from(of == who);
                }
            }
            // The server is never idle while work waits.
            let mut free = 0;
            for &(at, _, work) in &done {
                let arrived: u64 = arrivals.iter().filter(|job| job.0 < at).map(|job| job.2).sum();
                let begun: u64 = done.iter().filter(|job| job.0 < at).map(|job| job.2).sum();
                prop_assert!(at == free || arrived <= begun);
                free = at + work;
            }
        }

        #[test]
        fn backlogged_competitors_are_served_by_weight(
            weights in proptest::collection::vec(1u32..6, 2..5),
            works in proptest::collection::vec(1..=MOST, 200),
        ) {
            // Every competitor has more work than is served.
            let arrivals: Vec<(u64, usize, u64)> =
                (0..weights.len()).flat_map(|who| works.iter().map(move |&work| (0, who, work)))
                    .collect();
            let done = serve(&weights, &arrivals);
            let mut had = vec![0.0; weights.len()];
            for (_, who, work) in done.iter().take(works.len()) {
                had[*who] += *work as f64 / f64::from(weights[*who]);
                let (least, most) = had.iter().fold((f64::MAX, 0.0f64), |(least, most),
                    &had| (least.min(had), most.max(had)));
                prop_assert!(most - least <= MOST as f64 + 0.5, "{:?}", had);
            }
        }
    }

    #[test]
    fn a_returning_competitor_neither_saves_up_nor_loses_debt() {
        let (a, b) = (Share::new("a", 1), Share::new("b", 1));
        let mut ledger = Ledger::default();
        ledger.set_active([&a].into_iter());
        ledger.charge(&a, 1000);
        ledger.set_active([&a, &b].into_iter());
        ledger.charge(&b, 1);
        assert_eq!(
            ledger.next([(&b, 0), (&a, 1)].into_iter()),
            Some(1),
            "b does not have 1000 in advance"
        );
        ledger.charge(&a, 50);
        // After a short absence it still counts as having received more.
        ledger.set_active([&b].into_iter());
        ledger.set_active([&a, &b].into_iter());
        assert_eq!(ledger.next([(&a, 0), (&b, 1)].into_iter()), Some(1));
    }

    #[test]
    fn alternating_competitors_leave_a_third_no_backlog() {
        let [a, b, c] = ["a", "b", "c"].map(|name| Share::new(name, 1));
        let mut ledger = Ledger::default();
        for turn in [&a, &b].into_iter().cycle().take(100) {
            ledger.set_active([turn].into_iter());
            ledger.charge(turn, 10);
        }
        ledger.set_active([&a, &c].into_iter());
        ledger.charge(&c, 11);
        assert_eq!(ledger.next([(&c, 0), (&a, 1)].into_iter()), Some(1));
    }

    #[test]
    fn inactive_competitors_are_forgotten() {
        let (mut ledger, stays) = (Ledger::default(), Share::new("stays", 1));
        for i in 0..3 * REMEMBERED {
            let passing = Share::new(i.to_string(), 1);
            ledger.set_active([&stays, &passing].into_iter());
            ledger.charge(&passing, 5);
        }
        assert!(ledger.accounts.len() <= REMEMBERED + 2);
        ledger.set_active([].into_iter());
        assert!(ledger.accounts.is_empty());
    }
}
