//! Aggregated results of a shadow.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::registry::ShadowVersion;

/// A pair indexed by [`SERVED`] and [`CANDIDATE`].
pub(super) type PerVersion<T> = [T; 2];
pub(super) const SERVED: usize = 0;
pub(super) const CANDIDATE: usize = 1;
const NAMES: PerVersion<&str> = ["served", "candidate"];

/// One scorer's result for an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ShadowScore {
    /// Mean reward of the words, as the guard's `mean_score`.
    pub(super) reward: f64,
    /// Number of flagged spans.
    pub(super) flagged: usize,
}

/// Both answers to one request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ComparedAnswers {
    pub(super) equal: bool,
    /// Word counts of the answers.
    pub(super) words: PerVersion<usize>,
    /// Scores by author of the answer, then by scorer; `None` if that version has no scorer.
    pub(super) judged: PerVersion<PerVersion<Option<ShadowScore>>>,
}

/// State of the shadow.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum ShadowProgress {
    /// The version is loading.
    #[default]
    Loading,
    /// The version answers requests.
    Comparing,
    /// The version could not be loaded.
    Failed {
        /// Explanation.
        reason: String,
    },
}

/// Comparison of the shadow with the served version.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Comparison {
    /// Id of the shadow version.
    id: String,
    /// Share of requests that are compared.
    share: f64,
    /// State of the shadow.
    #[serde(flatten)]
    progress: ShadowProgress,
    /// Served version that it was compared with; `null` before the first comparison.
    #[schema(required)]
    against: Option<String>,
    /// Number of compared answers.
    compared: u64,
    /// Number of answers dropped because too many were waiting.
    dropped: u64,
    /// Number of answers whose comparison failed.
    failed: u64,
    /// Share of compared answers that were identical; `null` before the first.
    #[schema(required)]
    equal: Option<f64>,
    /// Answers of the served version.
    served: Answers,
    /// Answers of the shadow.
    candidate: Answers,
}

/// Statistics of one version's answers.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
struct Answers {
    /// Mean number of words.
    #[schema(required)]
    words: Option<f64>,
    /// Mean reward of the words.
    reward: ByScorer,
    /// Mean number of flagged spans.
    flagged_spans: ByScorer,
}

/// A mean by each version's scorer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
struct ByScorer {
    /// By the served version's scorer; `null` if it has none.
    #[schema(required)]
    served: Option<f64>,
    /// By the shadow's scorer; `null` if it has none.
    #[schema(required)]
    candidate: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    total: f64,
    count: u64,
}

impl Sum {
    fn add(&mut self, value: f64) {
        self.total += value;
        self.count += 1;
    }

    fn mean(self) -> Option<f64> {
        (self.count > 0).then(|| self.total / self.count as f64)
    }
}

/// Sums over all compared answers.
#[derive(Debug, Default)]
pub(super) struct ShadowTotals {
    pub(super) progress: ShadowProgress,
    pub(super) failed: u64,
    against: Option<Arc<str>>,
    equal: Sum,
    words: PerVersion<Sum>,
    reward: PerVersion<PerVersion<Sum>>,
    flagged: PerVersion<PerVersion<Sum>>,
}

impl ShadowTotals {
    /// Adds a comparison; one with another served version starts over.
    pub(super) fn add(&mut self, served: &Arc<str>, compared: &ComparedAnswers) {
        if self.against.as_ref() != Some(served) {
            *self = Self {
                progress: self.progress.clone(),
                failed: self.failed,
                against: Some(Arc::clone(served)),
                ..Self::default()
            };
        }
        self.equal.add(f64::from(u8::from(compared.equal)));
        for who in [SERVED, CANDIDATE] {
            self.words[who].add(compared.words[who] as f64);
            for scorer in [SERVED, CANDIDATE] {
                if let Some(judged) = compared.judged[who][scorer] {
                    self.reward[who][scorer].add(judged.reward);
                    self.flagged[who][scorer].add(judged.flagged as f64);
                }
            }
        }
    }

    /// Returns mean reward and flagged spans by author of the answer and scorer.
    pub(super) fn means(&self) -> impl Iterator<Item = ([&'static str; 2], f64, f64)> {
        let cells = [
            (SERVED, SERVED),
            (SERVED, CANDIDATE),
            (CANDIDATE, SERVED),
            (CANDIDATE, CANDIDATE),
        ];
        cells.into_iter().filter_map(|(who, scorer)| {
            Some((
                [NAMES[who], NAMES[scorer]],
                self.reward[who][scorer].mean()?,
                self.flagged[who][scorer].mean()?,
            ))
        })
    }

    pub(super) fn comparison(&self, shadow: &ShadowVersion, dropped: u64) -> Comparison {
        let means_by_scorer = |sums: &PerVersion<Sum>| ByScorer {
            served: sums[SERVED].mean(),
            candidate: sums[CANDIDATE].mean(),
        };
        let answers = |who: usize| Answers {
            words: self.words[who].mean(),
            reward: means_by_scorer(&self.reward[who]),
            flagged_spans: means_by_scorer(&self.flagged[who]),
        };
        Comparison {
            id: shadow.id.clone(),
            share: shadow.share,
            progress: self.progress.clone(),
            against: self.against.as_deref().map(str::to_owned),
            compared: self.equal.count,
            dropped,
            failed: self.failed,
            equal: self.equal.mean(),
            served: answers(SERVED),
            candidate: answers(CANDIDATE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_restart_with_another_served_version() {
        let judged = |reward, flagged| Some(ShadowScore { reward, flagged });
        let one = ComparedAnswers {
            equal: true,
            words: [4, 6],
            judged: [[judged(0.5, 2), judged(0.25, 1)], [judged(0.75, 0), None]],
        };
        let other = ComparedAnswers {
            equal: false,
            words: [8, 6],
            judged: [[judged(1.0, 0), None], [judged(0.25, 1), None]],
        };
        let (mut totals, shadow) = (
            ShadowTotals::default(),
            ShadowVersion {
                id: "b".to_owned(),
                share: 0.5,
            },
        );
        totals.add(&"old".into(), &other);
        totals.add(&"a".into(), &one);
        totals.add(&"a".into(), &other);
        let comparison = totals.comparison(&shadow, 3);
        assert_eq!(
            (
                comparison.against.as_deref(),
                comparison.compared,
                comparison.dropped,
                comparison.equal
            ),
            (Some("a"), 2, 3, Some(0.5))
        );
        assert_eq!(
            (comparison.served.words, comparison.candidate.words),
            (Some(6.0), Some(6.0))
        );
        assert_eq!(
            comparison.served.reward,
            ByScorer {
                served: Some(0.75),
                candidate: Some(0.25)
            }
        );
        assert_eq!(
            comparison.candidate.reward,
            ByScorer {
                served: Some(0.5),
                candidate: None
            }
        );
        assert_eq!(comparison.candidate.flagged_spans.served, Some(0.5));
        let means: Vec<_> = totals.means().collect();
        assert_eq!(means[0], (["served", "served"], 0.75, 1.0));
        assert_eq!(means.len(), 3);
    }
}
