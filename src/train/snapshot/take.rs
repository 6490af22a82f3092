//! Taking a snapshot of a feedback store.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    ExclusionReason, FACTS, HELD_OUT, LEARNED, PHOTOGRAPHS, Snapshot, SnapshotManifest, digest,
    judgment::{AnnotatorJudgment, correction, settle_judgments},
};
use crate::{
    feedback::{
        images::ImageStore,
        record::{Feedback, FeedbackSource, ImageHash},
        store::{Owners, RecordPage, Store, StoreError},
    },
    train::{
        TrainError,
        corrections::{self, CorrectedAnswer},
        export::write_json,
    },
    util::digest::sha256_u64,
    util::private_files,
    vlm::preprocess::{self, ImageLimits},
};

/// Records read at a time.
const PAGE: u32 = 256;

/// Settings of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakeConfig {
    /// Share of the images that are held out, 0 to 1.
    pub held_out: f64,
    /// Largest number of records, the newest of the store.
    pub most: usize,
    /// Sources of records to include.
    pub sources: Vec<FeedbackSource>,
}

impl Snapshot {
    /// Takes a snapshot of a store into `dir`, or opens the snapshot that is there. Images in
    /// `never` are left out, because models are evaluated on them.
    ///
    /// # Errors
    /// When the store fails or a file cannot be written.
    pub async fn take(
        store: &dyn Store,
        images: &ImageStore,
        dir: &Path,
        config: &TakeConfig,
        never: &HashSet<ImageHash>,
    ) -> Result<Self, TrainError> {
        if dir.join(FACTS).exists() {
            return Self::open(dir);
        }
        let fresh = dir.with_extension("new");
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(TrainError::io(&fresh))?;
        }
        let photographs = fresh.join(PHOTOGRAPHS);
        private_files::create_dir(&photographs).map_err(TrainError::io(&photographs))?;
        let mut left_out = BTreeMap::new();
        let sources = store.stats(&Owners::All).await.map_err(failed)?.sources;
        let stored =
            |source: &FeedbackSource| sources.get(source.name()).map_or(0, |n| *n as usize);
        let (total, wanted): (usize, usize) = (
            sources.values().sum::<u64>() as usize,
            config.sources.iter().map(stored).sum(),
        );
        let records = newest(store, config).await.map_err(failed)?;
        let newest = records.last().map(|record| record.id.clone());
        count(
            &mut left_out,
            ExclusionReason::OtherSource,
            total.saturating_sub(wanted),
        );
        count(
            &mut left_out,
            ExclusionReason::TooOld,
            wanted.saturating_sub(records.len()),
        );
        let mut judgments = Vec::with_capacity(records.len());
        for record in &records {
            match correction(record) {
                Ok(_) if never.contains(&record.image) => {
                    count(&mut left_out, ExclusionReason::Evaluated, 1)
                }
                Ok(correction) => judgments.push(AnnotatorJudgment {
                    annotator: record.annotator.clone(),
                    correction,
                }),
                Err(reason) => count(&mut left_out, reason, 1),
            }
        }
        let mut usable: HashMap<String, Result<(), ExclusionReason>> = HashMap::new();
        let mut kept = Vec::new();
        for correction in settle_judgments(judgments, &mut left_out) {
            let found = match usable.get(&correction.image) {
                Some(found) => *found,
                None => {
                    let found = photograph(images, &correction.image, &photographs).await?;
                    *usable.entry(correction.image.clone()).or_insert(found)
                }
            };
            match found {
                Ok(()) => kept.push(correction),
                Err(reason) => count(&mut left_out, reason, 1),
            }
        }
        let (held_out, learnt): (Vec<CorrectedAnswer>, Vec<CorrectedAnswer>) = kept
            .into_iter()
            .partition(|c| is_held_out(&c.image, config.held_out));
        corrections::write(&fresh.join(LEARNED), &learnt)?;
        corrections::write(&fresh.join(HELD_OUT), &held_out)?;
        let facts = SnapshotManifest {
            format: 1,
            records: total,
            newest,
            learnt: learnt.len(),
            held_out: held_out.len(),
            held_out_share: config.held_out,
            photographs: usable.values().filter(|found| found.is_ok()).count(),
            left_out,
            sha256: digest(&fresh)?,
        };
        write_json(&fresh.join(FACTS), &facts)?;
        fs::rename(&fresh, dir).map_err(TrainError::io(dir))?;
        Self::open(dir)
    }
}

fn failed(error: StoreError) -> TrainError {
    TrainError::Run(error.to_string())
}

fn count(left_out: &mut BTreeMap<ExclusionReason, usize>, reason: ExclusionReason, n: usize) {
    if n > 0 {
        *left_out.entry(reason).or_default() += n;
    }
}

/// Returns the newest records of the configured sources, oldest first.
async fn newest(store: &dyn Store, config: &TakeConfig) -> Result<Vec<Feedback>, StoreError> {
    let mut page = RecordPage {
        limit: PAGE,
        newest_first: true,
        ..RecordPage::default()
    };
    let mut records = Vec::new();
    loop {
        let found = store.page(&page).await?;
        page.after = found.last().map(|record| record.id.clone());
        let last = found.len() < PAGE as usize;
        let room = config.most.saturating_sub(records.len());
        records.extend(
            found
                .into_iter()
                .filter(|record| config.sources.contains(&record.source))
                .take(room),
        );
        if last || records.len() >= config.most {
            records.reverse();
            return Ok(records);
        }
    }
}

/// Copies an image into `dir` if it is complete and can be decoded.
async fn photograph(
    images: &ImageStore,
    name: &str,
    dir: &Path,
) -> Result<Result<(), ExclusionReason>, TrainError> {
    let Ok(hash) = name.parse::<ImageHash>() else {
        return Ok(Err(ExclusionReason::NoImage));
    };
    let Some(bytes) = images.get(hash).await.map_err(failed)? else {
        return Ok(Err(ExclusionReason::NoImage));
    };
    if ImageHash::digest(&bytes) != hash
        || preprocess::check(&bytes, &ImageLimits::default()).is_err()
    {
        return Ok(Err(ExclusionReason::BadImage));
    }
    let file = dir.join(name);
    fs::write(&file, bytes).map_err(TrainError::io(&file))?;
    Ok(Ok(()))
}

/// Returns `true` if an image is held out, which its name alone decides.
fn is_held_out(image: &str, share: f64) -> bool {
    let draw = sha256_u64(format!("held out: {image}"));
    (draw as f64) < share * u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_out_image_stays_held_out_at_larger_shares() {
        let names: Vec<String> = (0..2000)
            .map(|i| ImageHash::digest(format!("{i}").as_bytes()).to_string())
            .collect();
        let held = |share: f64| {
            names
                .iter()
                .filter(|n| is_held_out(n, share))
                .collect::<HashSet<_>>()
        };
        let tenth = held(0.1);
        assert!((150..250).contains(&tenth.len()), "{}", tenth.len());
        assert!(tenth.is_subset(&held(0.2)));
        assert_eq!((held(0.0).len(), held(1.0).len()), (0, 2000));
    }
}
