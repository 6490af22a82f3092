//! Token sampling of one sequence.

use std::collections::HashMap;

use candle_core::{Device, Result, Tensor, bail};
use candle_transformers::generation::{LogitsProcessor, Sampling as Strategy};

use super::Sampling;

/// Tokens less likely than the best by more than a factor of `e` to this power are left out of the
/// draw: together they have a probability below 1e-4 in a vocabulary of 50,000, and softmax and
/// sort are much faster without them.
const NEGLIGIBLE: f64 = 20.0;

/// Random generator and penalties of one sequence: samples depend on its own seed, logits and
/// history only, never on the rest of the batch.
pub(crate) struct Sampler {
    /// `None` for greedy decoding.
    random: Option<LogitsProcessor>,
    temperature: f64,
    presence: f32,
    frequency: f32,
    written: HashMap<u32, u32>,
}

impl Sampler {
    pub(crate) fn new(params: &Sampling) -> Self {
        let random = strategy(params).map(|s| LogitsProcessor::from_sampling(params.seed, s));
        Self {
            random,
            temperature: params.temperature,
            presence: params.presence_penalty,
            frequency: params.frequency_penalty,
            written: HashMap::new(),
        }
    }

    /// Creates a sampler for the continuation of `written`.
    pub(crate) fn with_history(params: &Sampling, written: impl Iterator<Item = u32>) -> Self {
        let mut sampler = Self::new(params);
        written.for_each(|id| sampler.record(id));
        sampler
    }

    /// Counts a written token for the penalties.
    pub(crate) fn record(&mut self, id: u32) {
        if self.presence != 0.0 || self.frequency != 0.0 {
            *self.written.entry(id).or_default() += 1;
        }
    }

    /// Samples the next token. Modifies `logits`: excludes `masked` tokens and applies penalties.
    pub(crate) fn choose(&mut self, logits: &mut [f32], masked: &[u32]) -> Result<u32> {
        for &id in masked {
            logits[id as usize] = f32::NEG_INFINITY;
        }
        for (&id, &times) in &self.written {
            logits[id as usize] -= self.presence + self.frequency * times as f32;
        }
        let best = argmax(logits)?;
        let id = match &mut self.random {
            None => best,
            Some(random) => {
                let floor = logits[best as usize] - (NEGLIGIBLE * self.temperature) as f32;
                let likely = logits.iter().zip(0u32..).filter(|(l, _)| **l >= floor);
                // Relative to the best, so that a small temperature cannot overflow.
                let top = logits[best as usize];
                let (logits_kept, ids): (Vec<f32>, Vec<u32>) =
                    likely.map(|(&l, id)| (l - top, id)).unzip();
                let count = logits_kept.len();
                ids[random.sample(&Tensor::from_vec(logits_kept, count, &Device::Cpu)?)? as usize]
            }
        };
        self.record(id);
        Ok(id)
    }
}

/// Smallest useful `top_p`: below it the best token alone suffices for any vocabulary, and candle,
/// which sums probabilities in `f32`, would keep no token.
const LEAST_TOP_P: f64 = f32::EPSILON as f64;

/// Returns candle's sampling strategy; `None` for greedy decoding, which needs neither softmax nor
/// sort.
fn strategy(params: &Sampling) -> Option<Strategy> {
    let (temperature, p) = (params.temperature, params.top_p);
    let top_k = params.top_k.filter(|&k| k > 0);
    if temperature < 1e-7 || p < LEAST_TOP_P || top_k == Some(1) {
        return None;
    }
    Some(match (top_k, p < 1.0) {
        (None, false) => Strategy::All { temperature },
        (None, true) => Strategy::TopP { p, temperature },
        (Some(k), false) => Strategy::TopK { k, temperature },
        (Some(k), true) => Strategy::TopKThenTopP { k, p, temperature },
    })
}

/// Returns the first of the highest logits. Two vectorizable passes, because this runs for every
/// token.
fn argmax(logits: &[f32]) -> Result<u32> {
    let max = highest(logits);
    match logits.iter().position(|&l| l == max) {
        Some(id) if max.is_finite() => Ok(id as u32),
        _ => bail!("the logits are not finite"),
    }
}

fn highest(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &l) in lanes.iter_mut().zip(chunk) {
            *lane = if l > *lane { l } else { *lane };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
}

/// Returns the `k` tokens with the highest logits, best first, without `masked`, which is sorted.
pub(crate) fn top_k(logits: &[f32], k: usize, masked: &[u32]) -> Vec<u32> {
    if k == 0 {
        return Vec::new();
    }
    let by_logit = |&a: &u32, &b: &u32| {
        logits[b as usize]
            .total_cmp(&logits[a as usize])
            .then(a.cmp(&b))
    };
    let mut ids: Vec<u32> = (0..logits.len() as u32)
        .filter(|id| masked.binary_search(id).is_err())
        .collect();
    if k < ids.len() {
        ids.select_nth_unstable_by(k, by_logit);
        ids.truncate(k);
    }
    ids.sort_unstable_by(by_logit);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::nn::log_sum_exp;
    use proptest::prelude::*;

    fn draw(params: &Sampling, logits: &[f32], masked: &[u32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(params);
        (0..n)
            .map(|_| sampler.choose(&mut logits.to_vec(), masked).unwrap())
            .collect()
    }

    #[test]
    fn greedy_sampling_returns_the_best_unmasked_token() {
        assert_eq!(
            draw(&Sampling::default(), &[0.0, 3.0, 2.0, 3.0], &[1], 2),
            [3, 3]
        );
        assert_eq!(
            draw(
                &Sampling {
                    temperature: 1.0,
                    top_p: 0.0,
                    ..Sampling::default()
                },
                &[0.0, 3.0, 2.0],
                &[],
                1
            ),
            [1]
        );
    }

    #[test]
    fn non_finite_logits_are_an_error() {
        for temperature in [0.0, 1.0] {
            let mut sampler = Sampler::new(&Sampling {
                temperature,
                ..Sampling::default()
            });
            assert!(sampler.choose(&mut [f32::NAN, f32::NAN], &[]).is_err());
            assert!(sampler.choose(&mut [1.0, f32::INFINITY], &[]).is_err());
            assert!(sampler.choose(&mut [1.0, 2.0], &[0, 1]).is_err());
        }
    }

    #[test]
    fn penalties_count_written_tokens() {
        let presence = Sampling {
            presence_penalty: 2.0,
            ..Sampling::default()
        };
        assert_eq!(draw(&presence, &[3.0, 2.0, 0.5], &[], 4), [0, 1, 0, 0]);
        let frequency = Sampling {
            frequency_penalty: 0.75,
            ..Sampling::default()
        };
        assert_eq!(draw(&frequency, &[3.0, 2.0, 0.5], &[], 5), [0, 0, 1, 0, 1]);
    }

    #[test]
    fn a_seed_repeats_its_samples_at_the_right_rates() {
        let params = Sampling {
            temperature: 1.0,
            seed: 7,
            ..Sampling::default()
        };
        let logits = [0.7f32.ln(), 0.2f32.ln(), 0.1f32.ln()];
        let sampled = draw(&params, &logits, &[], 4000);
        assert_eq!(sampled, draw(&params, &logits, &[], 4000));
        assert_ne!(
            sampled,
            draw(&Sampling { seed: 8, ..params }, &logits, &[], 4000)
        );
        let share = sampled.iter().filter(|&&id| id == 0).count() as f64 / 4000.0;
        assert!((share - 0.7).abs() < 0.04, "{share}");
    }

    #[test]
    fn top_p_and_top_k_exclude_unlikely_tokens() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
        let seen = |top_p, top_k| {
            let mut ids = draw(
                &Sampling {
                    temperature: 1.0,
                    top_p,
                    top_k,
                    seed: 1,
                    ..Sampling::default()
                },
                &logits,
                &[],
                500,
            );
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        assert_eq!(seen(0.7, None), [0, 1]);
        assert_eq!(seen(1.0, Some(3)), [0, 1, 2]);
        assert_eq!(seen(0.6, Some(3)), [0, 1]);
        assert_eq!(seen(1.0, Some(0)), [0, 1, 2, 3]);
    }

    #[test]
    fn negligible_tokens_are_excluded_and_ids_stay_right() {
        let logits = [-50.0, 0.0, -50.0, 0.5, f32::NEG_INFINITY, 0.2];
        let mut sampled = draw(
            &Sampling {
                temperature: 0.7,
                top_p: 0.99,
                seed: 2,
                ..Sampling::default()
            },
            &logits,
            &[],
            200,
        );
        sampled.sort_unstable();
        sampled.dedup();
        assert_eq!(sampled, [1, 3, 5]);
    }

    #[test]
    fn a_tiny_top_p_is_greedy() {
        for top_p in [
            0.0,
            5e-324,
            1e-320,
            1e-46,
            1e-45,
            f64::from(f32::MIN_POSITIVE),
            1e-30,
            1e-12,
            1e-8,
        ] {
            let params = Sampling {
                temperature: 2.0,
                top_p,
                ..Sampling::default()
            };
            assert_eq!(
                draw(&params, &[0.0, 3.0, 2.9, 3.0], &[], 40),
                [1; 40],
                "{top_p}"
            );
            assert_eq!(
                draw(
                    &Sampling {
                        top_k: Some(3),
                        ..params
                    },
                    &[0.0, 3.0, 2.9, 3.0],
                    &[],
                    40
                ),
                [1; 40],
                "{top_p}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_parameters_sample_an_allowed_token(
            temperature in prop_oneof![Just(0.0), Just(5e-324), Just(1e-45), Just(1e-30),
                Just(1e-7), Just(1.5e-7), 0.0..2.0f64, Just(2.0)],
            top_p in prop_oneof![Just(0.0), Just(5e-324), Just(1e-45), Just(1e-38), Just(1e-7),
                0.0..1.0f64, Just(1.0 - 1e-16), Just(1.0)],
            top_k in prop_oneof![Just(None), Just(Some(0)), Just(Some(1)), Just(Some(2)),
                Just(Some(7)), Just(Some(u32::MAX as usize))],
            penalties in (-2.0f32..2.0, -2.0f32..2.0), seed in any::<u64>(),
            first in -1e30f32..1e30,
            more in proptest::collection::vec(prop_oneof![-30.0f32..30.0, -1e30f32..1e30,
                Just(f32::NEG_INFINITY), Just(f32::NAN)], 0..40),
        ) {
            let (presence_penalty, frequency_penalty) = penalties;
            let params = Sampling { temperature, top_p, top_k, seed, presence_penalty,
                frequency_penalty };
            let logits: Vec<f32> = more.into_iter().chain([first]).collect();
            for id in draw(&params, &logits, &[], 8) {
                prop_assert!(logits[id as usize].is_finite(), "{:?} of {:?}", id, logits);
            }
        }

        #[test]
        fn probabilities_sum_to_one_and_top_k_is_sorted(
            logits in proptest::collection::vec(-30.0f32..30.0, 1..50), k in 0usize..8,
        ) {
            let lse = log_sum_exp(&logits);
            prop_assert!((logits.iter().map(|l| (l - lse).exp()).sum::<f32>() - 1.0).abs() < 1e-4);
            let best = top_k(&logits, k, &[0]);
            prop_assert_eq!(best.len(), k.min(logits.len() - 1));
            prop_assert!(best.is_sorted_by(|&a, &b| logits[a as usize] >= logits[b as usize])
                && !best.contains(&0));
            let last = best.last().map_or(f32::INFINITY, |&id| logits[id as usize]);
            prop_assert!(k == 0 || (1..logits.len() as u32).all(|id| best.contains(&id)
                || logits[id as usize] <= last));
        }
    }
}
