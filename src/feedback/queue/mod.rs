//! Annotation queue: picks the answers whose correction would teach most.
//!
//! Every answer enters the queue when its receipt is written: [`priority`] ranks it, by novelty of
//! its concepts among other things, and the store ([`crate::feedback::store::queue`]) leases the
//! first. Two random samples are set aside: unassisted answers, shown without marks, estimate the
//! guard's recall without bias, and overlapping answers, shown to two annotators, measure
//! agreement. [`ratings`] and [`agreement`] (pure) compute the figures of both.

pub mod agreement;
mod desk;
pub mod item;
pub mod priority;
pub mod ratings;

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

pub use item::{QueueItem, QueueWord};
pub use priority::PriorityWeights;

use self::priority::{Novelty, draws};
use super::{
    record::{Feedback, Receipt, item_digest},
    store::queue::QueueEntry,
};
use crate::guard::Verdict;

/// Settings of the queue: `[queue]` in the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// `true` if answers enter the queue.
    pub enabled: bool,
    /// Share of the items that are unassisted: drawn at random and shown without marks, 0 to 1.
    pub unassisted_share: f64,
    /// Share of the answers that two annotators judge, 0 to 1.
    pub overlap_share: f64,
    /// Seconds of a lease.
    pub lease_s: u64,
    /// Skips after which an answer is shown to nobody.
    pub max_skips: u32,
    /// Weights of the components of an answer's priority.
    pub weights: PriorityWeights,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            unassisted_share: 0.1,
            overlap_share: 0.05,
            lease_s: 600,
            max_skips: 3,
            weights: PriorityWeights::default(),
        }
    }
}

/// Ranks answers, and learns from feedback which concepts are no longer new.
pub struct Ranker {
    /// Settings of the queue.
    pub queue: QueueSettings,
    novelty: Mutex<Novelty>,
}

impl Ranker {
    /// Ranker to which every concept is new.
    pub fn new(queue: QueueSettings) -> Self {
        Self {
            queue,
            novelty: Mutex::default(),
        }
    }

    /// Counts the concepts of a record.
    pub fn learn(&self, record: &Feedback) {
        self.novelty().learn(record);
    }

    /// Queue entries of a receipt's answers. Empty answers and abstentions have none, since they
    /// claim nothing about the photograph.
    pub fn entries(&self, receipt: &Receipt) -> Vec<QueueEntry> {
        if !self.queue.enabled {
            return Vec::new();
        }
        let novelty = self.novelty();
        let entry = |(choice, answer): (usize, &super::record::RecordedChoice)| {
            let draws = draws(&receipt.id, choice);
            let unassisted = draws.unassisted < self.queue.unassisted_share;
            let rank = if unassisted {
                draws.rank
            } else {
                priority::priority(answer, &self.queue.weights, |concept| {
                    novelty.bonus(&receipt.owner, concept)
                })
            };
            let digest = item_digest(
                &receipt.owner,
                receipt.image,
                &receipt.prompt,
                &answer.response,
            );
            let overlap = draws.overlap < self.queue.overlap_share;
            QueueEntry {
                completion_id: receipt.id.clone(),
                choice,
                unassisted,
                overlap,
                rank,
                digest,
            }
        };
        let says_something = |answer: &super::record::RecordedChoice| {
            answer.verdict != Verdict::Abstained && !answer.response.trim().is_empty()
        };
        let written = receipt
            .choices
            .iter()
            .enumerate()
            .filter(|(_, answer)| says_something(answer));
        written.map(entry).collect()
    }

    fn novelty(&self) -> std::sync::MutexGuard<'_, Novelty> {
        self.novelty
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
