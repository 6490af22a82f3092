//! Rate limits by the generic cell rate algorithm: for each account and rate, one number, the time
//! at which its bucket is full again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::duration::format_duration;
use crate::serve::error::ApiError;

/// Time in which a full bucket refills.
const PERIOD: Duration = Duration::from_secs(60);

/// Most accounts that are remembered.
const ACCOUNTS: usize = 1 << 14;

/// Unit of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RateKind {
    Requests,
    Tokens,
}

impl RateKind {
    const ALL: [Self; 2] = [Self::Requests, Self::Tokens];

    /// Returns the name in errors, headers and metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }

    /// Returns the headers of the limit, the remaining amount, and the time until it is full again.
    fn headers(self) -> [HeaderName; 3] {
        let [limit, remaining, reset] = match self {
            Self::Requests => [
                "x-ratelimit-limit-requests",
                "x-ratelimit-remaining-requests",
                "x-ratelimit-reset-requests",
            ],
            Self::Tokens => [
                "x-ratelimit-limit-tokens",
                "x-ratelimit-remaining-tokens",
                "x-ratelimit-reset-tokens",
            ],
        };
        [limit, remaining, reset].map(HeaderName::from_static)
    }
}

/// Limits per minute; 0 is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RateLimits {
    pub(super) requests: u64,
    pub(super) tokens: u64,
}

impl RateLimits {
    fn limit(self, kind: RateKind) -> Option<u64> {
        let limit = match kind {
            RateKind::Requests => self.requests,
            RateKind::Tokens => self.tokens,
        };
        (limit > 0).then_some(limit)
    }
}

/// The request exceeds the remaining amount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RateExceeded {
    kind: RateKind,
    limit: u64,
    requested: u64,
    remaining: u64,
    wait: Duration,
}

impl From<RateExceeded> for ApiError {
    fn from(
        RateExceeded {
            kind,
            limit,
            requested,
            remaining,
            wait,
        }: RateExceeded,
    ) -> Self {
        let (name, wait_text) = (kind.name(), format_duration(wait));
        let message = format!(
            "rate limit reached: {limit} {name} per minute, of which {remaining} are left; this \
             request takes {requested}. Try again in {wait_text}."
        );
        let mut error = Self::busy(message, wait.as_millis().div_ceil(1000).max(1) as u64);
        error.body.error.kind = name;
        error
    }
}

/// Times at which an account's buckets are full again, by [`RateKind`].
type Account = [Duration; 2];

/// Buckets of all accounts; missing ones are full.
#[derive(Debug, Default)]
pub(super) struct BucketTable {
    accounts: HashMap<Arc<str>, Account>,
}

/// Returns the time in which `amount` refills.
fn refill_time(amount: u64, limit: u64) -> Duration {
    let nanos = PERIOD.as_nanos() * u128::from(amount) / u128::from(limit);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2))
}

/// Returns the amount remaining in a bucket that is full again at `full`.
fn remaining(full: Duration, limit: u64, now: Duration) -> u64 {
    let room = PERIOD.saturating_sub(full.saturating_sub(now));
    (room.as_nanos() * u128::from(limit) / PERIOD.as_nanos()) as u64
}

impl BucketTable {
    fn full(&self, account: &str, kind: RateKind) -> Duration {
        self.accounts
            .get(account)
            .map_or(Duration::ZERO, |full| full[kind as usize])
    }

    fn set(&mut self, account: &Arc<str>, kind: RateKind, full: Duration, now: Duration) {
        if self.accounts.len() >= ACCOUNTS && !self.accounts.contains_key(account) {
            self.accounts
                .retain(|_, full| full.iter().any(|full| *full > now));
            // The account that is full again soonest is forgotten first.
            let soonest = self
                .accounts
                .iter()
                .min_by_key(|(_, full)| full.iter().max().copied());
            if let (true, Some(name)) = (
                self.accounts.len() >= ACCOUNTS,
                soonest.map(|(name, _)| Arc::clone(name)),
            ) {
                self.accounts.remove(&name);
            }
        }
        self.accounts.entry(Arc::clone(account)).or_default()[kind as usize] = full;
    }

    /// Takes an amount and returns it, capped at the whole bucket: a larger request waits until the
    /// bucket is full.
    ///
    /// # Errors
    /// [`RateExceeded`] if less remains.
    pub(super) fn take(
        &mut self,
        account: &Arc<str>,
        rates: RateLimits,
        kind: RateKind,
        amount: u64,
        now: Duration,
    ) -> Result<u64, RateExceeded> {
        let Some(limit) = rates.limit(kind) else {
            return Ok(amount);
        };
        let (amount, before) = (amount.min(limit), self.full(account, kind));
        let full = before.max(now) + refill_time(amount, limit);
        if full > now + PERIOD {
            return Err(RateExceeded {
                kind,
                limit,
                requested: amount,
                remaining: remaining(before, limit, now),
                wait: full - now - PERIOD,
            });
        }
        self.set(account, kind, full, now);
        Ok(amount)
    }

    /// Replaces an amount taken earlier with another.
    pub(super) fn correct(
        &mut self,
        account: &Arc<str>,
        rates: RateLimits,
        kind: RateKind,
        taken: u64,
        amount: u64,
        now: Duration,
    ) {
        let Some(limit) = rates.limit(kind).filter(|_| taken != amount) else {
            return;
        };
        let full = (self.full(account, kind).max(now) + refill_time(amount, limit))
            .saturating_sub(refill_time(taken, limit));
        self.set(account, kind, full, now);
    }

    /// Writes the headers of limited rates.
    pub(super) fn write_headers(
        &self,
        account: &str,
        rates: RateLimits,
        now: Duration,
        headers: &mut HeaderMap,
    ) {
        for (kind, limit) in RateKind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind, rates.limit(kind)?)))
        {
            let full = self.full(account, kind);
            let values = [
                limit.to_string(),
                remaining(full, limit, now).to_string(),
                format_duration(full.saturating_sub(now)),
            ];
            for (name, value) in kind.headers().into_iter().zip(values) {
                headers.extend(HeaderValue::try_from(value).ok().map(|value| (name, value)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time_at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_bucket_holds_one_minute_and_refills_evenly() {
        let (mut table, who) = (BucketTable::default(), Arc::<str>::from("a"));
        let rates = RateLimits {
            requests: 6,
            tokens: 0,
        };
        let mut take = |now| table.take(&who, rates, RateKind::Requests, 1, time_at(now));
        for _ in 0..6 {
            assert_eq!(take(100.0), Ok(1));
        }
        let exceeded = take(100.0).unwrap_err();
        assert_eq!((exceeded.remaining, exceeded.wait), (0, time_at(10.0)));
        assert!(take(109.0).is_err());
        assert_eq!(take(110.0), Ok(1));
        let error = ApiError::from(take(117.5).unwrap_err());
        assert_eq!(
            (
                error.status.as_u16(),
                error.retry_after_s,
                error.body.error.kind
            ),
            (429, Some(3), "requests")
        );
        assert_eq!(error.body.error.code, Some("rate_limit_exceeded"));
        assert_eq!(
            table.take(&"b".into(), rates, RateKind::Requests, 1, time_at(117.5)),
            Ok(1),
            "another account has its own"
        );
        assert_eq!(
            table.take(
                &"b".into(),
                rates,
                RateKind::Tokens,
                1 << 40,
                time_at(117.5)
            ),
            Ok(1 << 40),
            "no limit"
        );
    }

    #[test]
    fn the_headers_report_the_remaining_amount() {
        let (mut table, who) = (BucketTable::default(), Arc::<str>::from("a"));
        let rates = RateLimits {
            requests: 60,
            tokens: 6000,
        };
        let shown = |table: &BucketTable, now| {
            let mut headers = HeaderMap::new();
            table.write_headers("a", rates, time_at(now), &mut headers);
            RateKind::ALL.map(|kind| {
                kind.headers()
                    .map(|name| headers[name].to_str().unwrap().to_owned())
            })
        };
        assert_eq!(
            shown(&table, 5.0),
            [["60", "60", "0s"], ["6000", "6000", "0s"]]
        );
        table
            .take(&who, rates, RateKind::Requests, 1, time_at(5.0))
            .unwrap();
        table
            .take(&who, rates, RateKind::Tokens, 3000, time_at(5.0))
            .unwrap();
        assert_eq!(
            shown(&table, 5.0),
            [["60", "59", "1s"], ["6000", "3000", "30s"]]
        );
        assert_eq!(
            shown(&table, 15.0),
            [["60", "60", "0s"], ["6000", "4000", "20s"]]
        );
        // Settled at less, then at more than charged.
        table.correct(&who, rates, RateKind::Tokens, 3000, 2000, time_at(15.0));
        assert_eq!(shown(&table, 15.0)[1], ["6000", "5000", "10s"]);
        table.correct(&who, rates, RateKind::Tokens, 2000, 8000, time_at(15.0));
        assert_eq!(shown(&table, 15.0)[1], ["6000", "0", "1m10s"]);
        let mut headers = HeaderMap::new();
        table.write_headers("a", RateLimits::default(), time_at(15.0), &mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn an_amount_above_the_bucket_waits_until_it_is_full() {
        let (mut table, who) = (BucketTable::default(), Arc::<str>::from("a"));
        let rates = RateLimits {
            requests: 0,
            tokens: 100,
        };
        assert_eq!(
            table.take(&who, rates, RateKind::Tokens, 5000, time_at(0.0)),
            Ok(100)
        );
        assert_eq!(
            table
                .take(&who, rates, RateKind::Tokens, 5000, time_at(59.0))
                .unwrap_err()
                .wait,
            time_at(1.0)
        );
        assert_eq!(
            table.take(&who, rates, RateKind::Tokens, 5000, time_at(60.0)),
            Ok(100)
        );
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_fullest_buckets() {
        let (mut table, greedy) = (BucketTable::default(), Arc::<str>::from("greedy"));
        let rates = RateLimits {
            requests: 10,
            tokens: 0,
        };
        for _ in 0..10 {
            table
                .take(&greedy, rates, RateKind::Requests, 1, time_at(0.0))
                .unwrap();
        }
        for i in 0..ACCOUNTS + 100 {
            table
                .take(
                    &i.to_string().into(),
                    rates,
                    RateKind::Requests,
                    1,
                    time_at(0.0),
                )
                .unwrap();
        }
        assert_eq!(table.accounts.len(), ACCOUNTS);
        assert!(
            table
                .take(&greedy, rates, RateKind::Requests, 1, time_at(0.0))
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn any_minute_admits_at_most_two_buckets(
            steps in proptest::collection::vec((0u64..20_000, 1u64..50), 1..100),
            limit in 1u64..200,
        ) {
            let (mut table, who) = (BucketTable::default(), Arc::<str>::from("a"));
            let rates = RateLimits { requests: 0, tokens: limit };
            let (mut now, mut taken) = (Duration::ZERO, Vec::new());
            for (pause, amount) in steps {
                now += Duration::from_millis(pause);
                match table.take(&who, rates, RateKind::Tokens, amount, now) {
                    Ok(amount) => taken.push((now, amount)),
                    Err(exceeded) => {
                        // The announced wait is exact: enough refills by then, and not sooner.
                        let (wait, mut then) = (exceeded.wait,
                            BucketTable { accounts: table.accounts.clone() });
                        prop_assert!(wait > Duration::ZERO && wait <= PERIOD);
                        let sooner = now + wait - Duration::from_nanos(1);
                        prop_assert!(then.take(&who, rates, RateKind::Tokens, amount, sooner)
                            .is_err());
                        prop_assert!(then.take(&who, rates, RateKind::Tokens, amount, now + wait)
                            .is_ok());
                    }
                }
                let recent = taken.iter().filter(|(at, _)| now - *at < PERIOD)
                    .map(|(_, amount)| amount).sum::<u64>();
                prop_assert!(recent <= 2 * limit);
            }
        }
    }
}
