//! Concurrency and rate limits.
//!
//! A request is admitted by its estimated [`cost`] once it has arrived and is valid. Work in
//! progress is bounded for all clients together and shared fairly among them. Rates apply to a key,
//! or to an address on a server without keys. All counters are in this process's memory: they are
//! not shared with other servers and restart from zero.

pub(super) mod cost;
mod duration;
mod layer;
mod rate;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::HeaderMap;

use self::rate::{BucketTable, RateKind, RateLimits};
use super::{caller::Caller, error::ApiError, strikes::Strikes};
use crate::{
    config::Config,
    engine::fair::{Pool, PoolPermit, Share, SharedPool},
    telemetry::Metrics,
};

pub(super) use layer::limit_rates;

/// Returns the share for fair scheduling of a caller's requests.
pub(super) fn share(caller: &Caller) -> Share {
    Share::new(caller.competitor(), caller.weight)
}

/// Returns the account that a caller's rates are charged to: the key or, without keys, the client's
/// network.
pub(super) fn account(caller: &Caller) -> Arc<str> {
    caller.name.clone().unwrap_or_else(|| caller.competitor())
}

/// Rejections that an account receives without delay.
const REFUSALS: u32 = 20;
/// Time in which one further rejection without delay becomes available.
const REFUSAL_INTERVAL: Duration = Duration::from_millis(250);

/// Concurrency and rate limits of the server.
pub(crate) struct RequestLimits {
    /// Requests in progress.
    requests: SharedPool,
    max_concurrent: usize,
    /// Work in progress.
    work: SharedPool,
    meter: Mutex<Meter>,
    /// Recent rejections by account.
    refused: Strikes<Arc<str>>,
    started: Instant,
    metrics: Arc<Metrics>,
}

/// Rate limits and their usage.
struct Meter {
    by_key: HashMap<Arc<str>, RateLimits>,
    /// Rates of accounts without rates of their own.
    common: RateLimits,
    table: BucketTable,
}

impl Meter {
    fn rates(&self, account: &str) -> RateLimits {
        self.by_key.get(account).copied().unwrap_or(self.common)
    }

    fn set_rates(&mut self, config: &Config) {
        let common = RateLimits {
            requests: config.limits.requests_per_minute,
            tokens: config.limits.tokens_per_minute,
        };
        let rates_of = |key: &crate::config::ApiKey| RateLimits {
            requests: key.requests_per_minute.value().unwrap_or(common.requests),
            tokens: key.tokens_per_minute.value().unwrap_or(common.tokens),
        };
        self.by_key = config
            .keys
            .iter()
            .map(|key| (Arc::from(key.name.as_str()), rates_of(key)))
            .collect();
        self.common = common;
    }
}

impl RequestLimits {
    /// Creates limits from the configuration; `answer` is the most work of one answer.
    pub(super) fn new(config: &Config, answer: u64, metrics: &Arc<Metrics>) -> Self {
        let max_concurrent = config.server.max_concurrent;
        // As much as the engine can hold, its reserve included; half as much again for competitors
        // below their share.
        let work = (2 * config.engine.max_batch + config.engine.max_waiting) as u64 * answer;
        let mut meter = Meter {
            by_key: HashMap::new(),
            common: RateLimits::default(),
            table: BucketTable::default(),
        };
        meter.set_rates(config);
        Self {
            requests: SharedPool::new(Pool::new(
                max_concurrent as u64,
                max_concurrent.div_ceil(4) as u64,
            )),
            max_concurrent,
            work: SharedPool::new(Pool::new(work, work / 2)),
            meter: Mutex::new(meter),
            refused: Strikes::new(REFUSALS, REFUSAL_INTERVAL),
            started: Instant::now(),
            metrics: Arc::clone(metrics),
        }
    }

    /// Replaces the rates; usage is kept.
    pub(super) fn set_rates(&self, config: &Config) {
        self.meter().set_rates(config);
    }

    /// Charges tokens in advance and returns their number, 0 without a limit.
    ///
    /// # Errors
    /// 429 if the rate is used up.
    pub(super) fn charge_tokens(&self, account: &Arc<str>, tokens: u64) -> Result<u64, ApiError> {
        self.charge(account, RateKind::Tokens, tokens)
    }

    /// Corrects an advance charge of tokens to the number that stays.
    pub(super) fn settle(&self, account: &Arc<str>, charged: u64, stays: u64) {
        let mut meter = self.meter();
        let rates = meter.rates(account);
        meter
            .table
            .correct(account, rates, RateKind::Tokens, charged, stays, self.now());
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Counts a request.
    ///
    /// # Errors
    /// 429 above the rate.
    fn count_request(&self, account: &Arc<str>) -> Result<(), ApiError> {
        self.charge(account, RateKind::Requests, 1).map(|_| ())
    }

    /// Counts a rejected request; returns `true` if the account has had too many recently.
    fn is_retrying_too_fast(&self, account: &Arc<str>) -> bool {
        self.refused
            .count(Arc::clone(account), Instant::now())
            .is_err()
    }

    /// Charges a rate and returns the amount, capped at the whole bucket.
    fn charge(&self, account: &Arc<str>, kind: RateKind, amount: u64) -> Result<u64, ApiError> {
        let mut meter = self.meter();
        let rates = meter.rates(account);
        meter
            .table
            .take(account, rates, kind, amount, self.now())
            .map_err(|exceeded| {
                self.metrics.count_limited(kind.name());
                exceeded.into()
            })
    }

    /// Writes the account's rate headers.
    fn write_headers(&self, account: &str, headers: &mut HeaderMap) {
        let meter = self.meter();
        meter
            .table
            .write_headers(account, meter.rates(account), self.now(), headers);
    }

    /// Admits work of a competitor.
    pub(super) fn admit_work(&self, share: &Share, work: u64) -> Result<WorkPermit, ApiError> {
        let busy = |limit, message| {
            self.metrics.count_limited(limit);
            ApiError::busy(message, 1)
        };
        let permit = self.requests.take(share, 1);
        let permit = permit.map_err(|_| {
            let max_requests = self.max_concurrent;
            busy(
                "concurrency",
                format!(
                    "the server is at capacity ({max_requests} requests at once, shared by all \
                     clients); retry in 1 s"
                ),
            )
        })?;
        let work = self.work.take(share, work);
        let work = work.map_err(|_| {
            let message =
                "the server is at capacity (images, candidates and tokens of the requests in \
                 progress); retry in 1 s, or send smaller ones";
            busy("work", message.to_owned())
        })?;
        self.metrics.count_admitted(1);
        Ok(WorkPermit {
            _held: [permit, work],
            metrics: Arc::clone(&self.metrics),
        })
    }
}

/// Admitted work; released on drop.
pub(super) struct WorkPermit {
    _held: [PoolPermit; 2],
    metrics: Arc<Metrics>,
}

impl Drop for WorkPermit {
    fn drop(&mut self) {
        self.metrics.count_admitted(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ApiKey, Auto};

    fn key(name: &str, requests_per_minute: Auto<u64>) -> ApiKey {
        ApiKey {
            name: name.to_owned(),
            requests_per_minute,
            ..ApiKey::default()
        }
    }

    #[test]
    fn changed_rates_take_effect_and_keep_usage() {
        let mut config = Config {
            keys: vec![key("a", Auto::Value(1)), key("b", Auto::Auto)],
            ..Config::default()
        };
        let limits = RequestLimits::new(&config, 1000, &Arc::new(Metrics::new().unwrap()));
        let count = |name: &str| limits.count_request(&name.into()).is_ok();
        assert_eq!(
            (count("a"), count("a"), count("b"), count("b")),
            (true, false, true, true)
        );
        config.limits.requests_per_minute = 1;
        config.keys.push(key("c", Auto::Value(0)));
        limits.set_rates(&config);
        assert_eq!(
            (count("a"), count("b"), count("b"), count("c"), count("c")),
            (false, true, false, true, true)
        );
        config.keys[0].requests_per_minute = Auto::Value(0);
        limits.set_rates(&config);
        assert!(count("a") && count("a"));
    }

    #[test]
    fn work_in_progress_is_bounded_and_shared() {
        let mut config = Config::default();
        (
            config.engine.max_batch,
            config.engine.max_waiting,
            config.server.max_concurrent,
        ) = (4, 0, 4);
        let limits = RequestLimits::new(&config, 1000, &Arc::new(Metrics::new().unwrap()));
        let (greedy, polite) = (Share::new("greedy", 1), Share::new("polite", 1));
        let large = limits.admit_work(&greedy, 1 << 40).unwrap();
        let refused = limits.admit_work(&greedy, 10).err().unwrap();
        assert_eq!(
            (refused.status.as_u16(), refused.retry_after_s),
            (429, Some(1))
        );
        let other = limits.admit_work(&polite, 500).unwrap();
        drop((large, other));
        let many: Vec<_> = (0..4)
            .map(|_| limits.admit_work(&greedy, 1).unwrap())
            .collect();
        assert!(limits.admit_work(&greedy, 1).is_err() && limits.admit_work(&polite, 1).is_ok());
        drop(many);
        assert!(limits.admit_work(&greedy, 1 << 40).is_ok());
    }
}
