//! Rates: the generic cell rate algorithm, of which each account has one number a rate, the time at
//! which its bucket is full again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::duration::format_duration;
use crate::serve::error::ApiError;

/// What a bucket holds is what may be used in this time.
const PERIOD: Duration = Duration::from_secs(60);

/// Most accounts whose buckets are remembered.
const ACCOUNTS: usize = 1 << 14;

/// What a rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RateKind {
    Requests,
    Tokens,
}

impl RateKind {
    const ALL: [Self; 2] = [Self::Requests, Self::Tokens];

    /// As errors, headers and metrics have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }

    /// The headers that say the limit, what is left of it, and when all of it is there again.
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

/// Most of each in a minute; 0: any number.
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

/// More was asked for than is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RateExceeded {
    kind: RateKind,
    limit: u64,
    asked: u64,
    left: u64,
    wait: Duration,
}

impl From<RateExceeded> for ApiError {
    fn from(
        RateExceeded {
            kind,
            limit,
            asked,
            left,
            wait,
        }: RateExceeded,
    ) -> Self {
        let (name, wait_text) = (kind.name(), format_duration(wait));
        let message = format!(
            "rate limit reached: {limit} {name} per minute, of which {left} are left; this request \
             takes {asked}. Try again in {wait_text}."
        );
        let mut error = Self::busy(message, wait.as_millis().div_ceil(1000).max(1) as u64);
        error.body.error.kind = name;
        error
    }
}

/// When an account's buckets are full again, by [`RateKind`].
type Account = [Duration; 2];

/// The buckets of all accounts. What is not there is full.
#[derive(Debug, Default)]
pub(super) struct BucketTable {
    accounts: HashMap<Arc<str>, Account>,
}

/// The time in which so much comes back.
fn time(amount: u64, limit: u64) -> Duration {
    let nanos = PERIOD.as_nanos() * u128::from(amount) / u128::from(limit);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2))
}

/// Returns what is left of a bucket that is full again at `full`.
fn left(full: Duration, limit: u64, now: Duration) -> u64 {
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
            // Whoever has the least to wait for is forgotten first.
            let least = self
                .accounts
                .iter()
                .min_by_key(|(_, full)| full.iter().max().copied());
            if let (true, Some(name)) = (
                self.accounts.len() >= ACCOUNTS,
                least.map(|(name, _)| Arc::clone(name)),
            ) {
                self.accounts.remove(&name);
            }
        }
        self.accounts.entry(Arc::clone(account)).or_default()[kind as usize] = full;
    }

    /// Takes an amount and returns it, cut to the whole bucket: who asks for more than that waits
    /// until it is full.
    ///
    /// # Errors
    /// [`RateExceeded`] where less is left.
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
        let full = before.max(now) + time(amount, limit);
        if full > now + PERIOD {
            return Err(RateExceeded {
                kind,
                limit,
                asked: amount,
                left: left(before, limit, now),
                wait: full - now - PERIOD,
            });
        }
        self.set(account, kind, full, now);
        Ok(amount)
    }

    /// Makes what was taken another amount.
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
        let full = (self.full(account, kind).max(now) + time(amount, limit))
            .saturating_sub(time(taken, limit));
        self.set(account, kind, full, now);
    }

    /// Writes the headers of the rates that are limited.
    pub(super) fn show(
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
                left(full, limit, now).to_string(),
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

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_bucket_holds_a_minutes_worth_and_fills_evenly() {
        let (mut table, who) = (BucketTable::default(), Arc::<str>::from("a"));
        let rates = RateLimits {
            requests: 6,
            tokens: 0,
        };
        let mut take = |now| table.take(&who, rates, RateKind::Requests, 1, at(now));
        for _ in 0..6 {
            assert_eq!(take(100.0), Ok(1));
        }
        let exceeded = take(100.0).unwrap_err();
        assert_eq!((exceeded.left, exceeded.wait), (0, at(10.0)));
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
            table.take(&"b".into(), rates, RateKind::Requests, 1, at(117.5)),
            Ok(1),
            "another account has its own"
        );
        assert_eq!(
            table.take(&"b".into(), rates, RateKind::Tokens, 1 << 40, at(117.5)),
            Ok(1 << 40),
            "no limit"
        );
    }

    #[test]
    fn the_headers_say_what_is_left() {
        let (mut table, who) = (BucketTable::default(), Arc::<str>::from("a"));
        let rates = RateLimits {
            requests: 60,
            tokens: 6000,
        };
        let shown = |table: &BucketTable, now| {
            let mut headers = HeaderMap::new();
            table.show("a", rates, at(now), &mut headers);
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
            .take(&who, rates, RateKind::Requests, 1, at(5.0))
            .unwrap();
        table
            .take(&who, rates, RateKind::Tokens, 3000, at(5.0))
            .unwrap();
        assert_eq!(
            shown(&table, 5.0),
            [["60", "59", "1s"], ["6000", "3000", "30s"]]
        );
        assert_eq!(
            shown(&table, 15.0),
            [["60", "60", "0s"], ["6000", "4000", "20s"]]
        );
        // It was less, and then more.
        table.correct(&who, rates, RateKind::Tokens, 3000, 2000, at(15.0));
        assert_eq!(shown(&table, 15.0)[1], ["6000", "5000", "10s"]);
        table.correct(&who, rates, RateKind::Tokens, 2000, 8000, at(15.0));
        assert_eq!(shown(&table, 15.0)[1], ["6000", "0", "1m10s"]);
        let mut headers = HeaderMap::new();
        table.show("a", RateLimits::default(), at(15.0), &mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn more_than_a_minutes_worth_waits_for_a_full_bucket() {
        let (mut table, who) = (BucketTable::default(), Arc::<str>::from("a"));
        let rates = RateLimits {
            requests: 0,
            tokens: 100,
        };
        assert_eq!(
            table.take(&who, rates, RateKind::Tokens, 5000, at(0.0)),
            Ok(100)
        );
        assert_eq!(
            table
                .take(&who, rates, RateKind::Tokens, 5000, at(59.0))
                .unwrap_err()
                .wait,
            at(1.0)
        );
        assert_eq!(
            table.take(&who, rates, RateKind::Tokens, 5000, at(60.0)),
            Ok(100)
        );
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_has_the_least_to_wait_for() {
        let (mut table, greedy) = (BucketTable::default(), Arc::<str>::from("greedy"));
        let rates = RateLimits {
            requests: 10,
            tokens: 0,
        };
        for _ in 0..10 {
            table
                .take(&greedy, rates, RateKind::Requests, 1, at(0.0))
                .unwrap();
        }
        for i in 0..ACCOUNTS + 100 {
            table
                .take(&i.to_string().into(), rates, RateKind::Requests, 1, at(0.0))
                .unwrap();
        }
        assert_eq!(table.accounts.len(), ACCOUNTS);
        assert!(
            table
                .take(&greedy, rates, RateKind::Requests, 1, at(0.0))
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn no_minute_lets_more_than_two_buckets_through(
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
                        // It is told when to come back: then there is enough, and not sooner.
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
