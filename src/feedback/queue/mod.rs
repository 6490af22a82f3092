//! The annotation queue: which answers people look at next, so that their minutes go where a
//! correction teaches most.
//!
//! Every answer that is remembered gets its place in the queue when its receipt is written:
//! [`priority`] ranks it, [`novelty`] knows which things corrections have been about, and the store
//! ([`crate::feedback::store::queue`]) hands out the first with a lease. Chance has two parts in
//! it: some answers are shown without marks, for an unbiased estimate of the guard's recall, and
//! some are shown to two people, to see how far they agree. From what came of those, [`ratings`]
//! and [`agreement`] (pure) make the figures.

pub mod agreement;
mod desk;
pub mod item;
pub mod novelty;
pub mod priority;
pub mod ratings;
pub(super) mod words;

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

pub use item::{QueueItem, QueueWord};
pub use priority::PriorityWeights;

use self::{novelty::Novelty, priority::draws};
use super::{
    record::{Feedback, Receipt, item_digest},
    store::queue::QueueEntry,
};
use crate::guard::Verdict;

/// Settings by which the queue is filled and worked on: `[queue]` of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// Indicates whether answers are put in the queue.
    pub enabled: bool,
    /// Share of the answers shown to annotators that is drawn by chance and shown without marks, 0
    /// to 1.
    pub unassisted_share: f64,
    /// Share of the answers that two annotators get, 0 to 1.
    pub overlap_share: f64,
    /// Seconds that an annotator has for an answer before somebody else may get it.
    pub lease_s: u64,
    /// An answer that this many annotators have skipped is shown to nobody any more.
    pub max_skips: u32,
    /// Weights of the parts of the order.
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

/// Ranks receipts, and learns from feedback what is no longer new.
pub struct Ranker {
    /// The configuration.
    pub queue: QueueSettings,
    novelty: Mutex<Novelty>,
}

impl Ranker {
    /// To which everything is new.
    pub fn new(queue: QueueSettings) -> Self {
        Self {
            queue,
            novelty: Mutex::default(),
        }
    }

    /// Takes note of what a record is about.
    pub fn learn(&self, record: &Feedback) {
        self.novelty().learn(record);
    }

    /// The places of a receipt's answers in the queue; empty answers and abstentions, which say
    /// nothing of the photograph, have none.
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
                priority::priority(answer, &self.queue.weights, |thing| {
                    novelty.of(&receipt.owner, thing)
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
