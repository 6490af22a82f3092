//! How two versions compare so far.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::registry::ShadowVersion;

/// Whose: [`SERVED`] or [`CANDIDATE`].
pub(super) type PerVersion<T> = [T; 2];
pub(super) const SERVED: usize = 0;
pub(super) const CANDIDATE: usize = 1;
const NAMES: PerVersion<&str> = ["served", "candidate"];

/// What a scorer says about an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ShadowScore {
    /// Mean reward of its words, as the guard's `mean_score`.
    pub(super) reward: f64,
    /// Its flagged spans.
    pub(super) flagged: usize,
}

/// Both answers to one question.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ComparedAnswers {
    pub(super) equal: bool,
    /// Words of the answers.
    pub(super) words: PerVersion<usize>,
    /// The answers by the scorers: first whose answer, then whose scorer. `None` where that version
    /// has no scorer.
    pub(super) judged: PerVersion<PerVersion<Option<ShadowScore>>>,
}

/// Where it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum ShadowProgress {
    /// It is being loaded.
    #[default]
    Loading,
    /// It answers.
    Comparing,
    /// It cannot be loaded.
    Failed {
        /// Why not.
        reason: String,
    },
}

/// How a shadow compares with the version that is served.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Comparison {
    /// The shadow.
    id: String,
    /// Its share of the requests.
    share: f64,
    /// Where it is.
    #[serde(flatten)]
    progress: ShadowProgress,
    /// The version that it was compared with.
    #[schema(required)]
    against: Option<String>,
    /// Answers that were compared.
    compared: u64,
    /// Answers that there was no room for.
    dropped: u64,
    /// Answers that could not be compared.
    failed: u64,
    /// Share of the compared answers that were the same.
    #[schema(required)]
    equal: Option<f64>,
    /// The answers of the version that is served.
    served: Answers,
    /// The shadow's.
    candidate: Answers,
}

/// One version's answers.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
struct Answers {
    /// Words an answer.
    #[schema(required)]
    words: Option<f64>,
    /// Mean reward.
    reward: ByScorer,
    /// Flagged spans an answer.
    flagged_spans: ByScorer,
}

/// By the scorer of which version.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
struct ByScorer {
    /// Of the one that is served.
    #[schema(required)]
    served: Option<f64>,
    /// The shadow's.
    #[schema(required)]
    candidate: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    of: f64,
    count: u64,
}

impl Sum {
    fn add(&mut self, value: f64) {
        self.of += value;
        self.count += 1;
    }

    fn mean(self) -> Option<f64> {
        (self.count > 0).then(|| self.of / self.count as f64)
    }
}

/// Sums over all answers that were compared.
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
    /// Adds a comparison with this version; one with another begins anew.
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

    /// Mean reward and flagged spans, by whose answer and whose scorer.
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
        let by = |sums: &PerVersion<Sum>| ByScorer {
            served: sums[SERVED].mean(),
            candidate: sums[CANDIDATE].mean(),
        };
        let answers = |who: usize| Answers {
            words: self.words[who].mean(),
            reward: by(&self.reward[who]),
            flagged_spans: by(&self.flagged[who]),
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
    fn means_are_of_one_pair_of_versions() {
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
        let told = totals.comparison(&shadow, 3);
        assert_eq!(
            (
                told.against.as_deref(),
                told.compared,
                told.dropped,
                told.equal
            ),
            (Some("a"), 2, 3, Some(0.5))
        );
        assert_eq!(
            (told.served.words, told.candidate.words),
            (Some(6.0), Some(6.0))
        );
        assert_eq!(
            told.served.reward,
            ByScorer {
                served: Some(0.75),
                candidate: Some(0.25)
            }
        );
        assert_eq!(
            told.candidate.reward,
            ByScorer {
                served: Some(0.5),
                candidate: None
            }
        );
        assert_eq!(told.candidate.flagged_spans.served, Some(0.5));
        let means: Vec<_> = totals.means().collect();
        assert_eq!(means[0], (["served", "served"], 0.75, 1.0));
        assert_eq!(means.len(), 3);
    }
}
