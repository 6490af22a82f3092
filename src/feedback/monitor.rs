//! Scorer monitor on recent answers and corrections: whether rewards have drifted, rank and mean
//! what they should, and whether the guard's flags agree with what people marked.

use std::collections::BTreeMap;

use super::{
    queue::words::token_words,
    record::{CharRange, Feedback, TokenLabel},
    store::{RecordPage, Store, StoreError},
};
use crate::{
    eval::tokens::{Ranking, ScoredToken},
    reward::drift::{Histogram, flag_agreement},
};

/// Receipts that are looked at, the newest.
const RECEIPTS: u32 = 500;
/// Records that are looked at, the newest.
const RECORDS: u32 = 1000;
/// Records of a page.
const PAGE: u32 = 250;
/// Bad words below which the scorer's figures say nothing.
const LEAST_BAD: usize = 20;

/// A word that people judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JudgedWord {
    /// Its lowest reward; absent where it was not scored.
    pub reward: Option<f32>,
    /// Indicates whether nobody marked it.
    pub good: bool,
    /// Indicates whether the guard flagged it; absent where it did not look.
    pub flagged: Option<bool>,
}

/// The words of a record that claim something and were judged as a whole.
pub fn judged_words(record: &Feedback) -> Vec<JudgedWord> {
    let overlaps =
        |extent: &CharRange, start: usize, end: usize| extent.start < end && start < extent.end;
    let words = token_words(&record.response, &record.tokens)
        .into_iter()
        .filter(|word| !word.function);
    words
        .filter_map(|word| {
            let own = record
                .tokens
                .iter()
                .filter(|t| t.start < word.chars.end && word.chars.start < t.end);
            let labels: Vec<TokenLabel> = own.map(|token| token.label).collect();
            let good = match labels.iter().max_by_key(|label| {
                [TokenLabel::Good, TokenLabel::None, TokenLabel::Bad]
                    .iter()
                    .position(|l| l == *label)
            })? {
                TokenLabel::Good => true,
                TokenLabel::Bad => false,
                TokenLabel::None => return None,
            };
            let flagged = record.doubted.as_ref().map(|doubted| {
                doubted
                    .iter()
                    .any(|d| overlaps(d, word.chars.start, word.chars.end))
            });
            Some(JudgedWord {
                reward: word.reward,
                good,
                flagged,
            })
        })
        .collect()
}

/// Figures of the monitor; absent where there was too little for them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MonitorFigures {
    /// Population stability index of the rewards.
    pub psi: Option<f64>,
    /// Area under the ROC curve of rewards on judged words.
    pub auroc: Option<f64>,
    /// Expected calibration error of rewards on judged words.
    pub ece: Option<f64>,
    /// Agreement of the guard's flags with what people marked.
    pub flag_agreement: Option<f64>,
}

impl MonitorFigures {
    /// Of judged words and the rewards of answers.
    pub fn of(words: &[JudgedWord], rewards: &Histogram, reference: Option<&Histogram>) -> Self {
        let scored = words.iter().filter_map(|word| {
            Some(ScoredToken {
                reward: word.reward?,
                good: word.good,
                image: 0,
            })
        });
        let ranking = Ranking::new(scored.collect());
        let enough = ranking.tokens().iter().filter(|word| !word.good).count() >= LEAST_BAD;
        let metrics = ranking.metrics(0.5);
        let figure = |value: f64| Some(value).filter(|value| enough && value.is_finite());
        let flags = || {
            words
                .iter()
                .filter_map(|word| Some((word.flagged?, !word.good)))
        };
        let marked = flags().filter(|(_, marked)| *marked).count() >= LEAST_BAD;
        Self {
            psi: reference.and_then(|reference| reference.psi(rewards)),
            auroc: figure(metrics.auroc),
            ece: figure(metrics.ece),
            flag_agreement: flag_agreement(flags()).filter(|_| marked),
        }
    }

    /// The figures that there are, by the names of their metrics.
    pub fn figures(&self) -> BTreeMap<String, f64> {
        let named = [
            ("reward_drift_psi", self.psi),
            ("reward_auroc", self.auroc),
            ("reward_ece", self.ece),
            ("flag_agreement_ratio", self.flag_agreement),
        ];
        named
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect()
    }
}

/// Looks at the newest answers and corrections of one version of the model. `reference` is how its
/// rewards were distributed when it was calibrated.
///
/// # Errors
/// The store's.
pub async fn look(
    store: &dyn Store,
    version: &str,
    reference: Option<&Histogram>,
) -> Result<MonitorFigures, StoreError> {
    let rewards = rewards(store, version).await?;
    let mut words = Vec::new();
    let mut page = RecordPage {
        limit: PAGE,
        newest_first: true,
        ..RecordPage::default()
    };
    for _ in 0..RECORDS / PAGE {
        let records = store.page(&page).await?;
        words.extend(
            records
                .iter()
                .filter(|r| r.versions.policy.as_deref() == Some(version))
                .flat_map(judged_words),
        );
        if records.len() < PAGE as usize {
            break;
        }
        page.after = records.last().map(|record| record.id.clone());
    }
    Ok(MonitorFigures::of(&words, &rewards, reference))
}

/// The rewards of the newest answers of one version.
///
/// # Errors
/// The store's.
pub async fn rewards(store: &dyn Store, version: &str) -> Result<Histogram, StoreError> {
    let receipts = store.receipts(RECEIPTS).await?;
    let own = receipts
        .iter()
        .filter(|receipt| receipt.versions.policy.as_deref() == Some(version));
    let tokens = own
        .flat_map(|receipt| &receipt.choices)
        .flat_map(|answer| &answer.tokens);
    Ok(Histogram::from_rewards(
        tokens.filter_map(|token| token.reward),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feedback::record::{
        FeedbackSource, ImageHash, JudgedPart, JudgmentKind, ResponseToken, Versions,
    };

    /// "A dog with a frisbee", a token a word, scored `rewards` and labelled.
    fn record(
        rewards: [f32; 5],
        labels: [TokenLabel; 5],
        doubted: Option<Vec<CharRange>>,
    ) -> Feedback {
        let places = [
            (0, 1, "A"),
            (1, 5, " dog"),
            (5, 10, " with"),
            (10, 12, " a"),
            (12, 20, " frisbee"),
        ];
        let token = |(i, &(start, end, text)): (usize, &(usize, usize, &str))| ResponseToken {
            id: i as u32,
            text: text.to_owned(),
            start,
            end,
            logprob: None,
            reward: Some(rewards[i]),
            label: labels[i],
        };
        Feedback {
            id: "fb_1".into(),
            created: 0,
            owner: String::new(),
            completion_id: None,
            choice: None,
            image: ImageHash::of(b""),
            prompt: String::new(),
            response: "A dog with a frisbee".into(),
            tokens: places.iter().enumerate().map(token).collect(),
            kind: JudgmentKind::Bad,
            scope: Some(JudgedPart::FirstError),
            errors: Vec::new(),
            missing: Vec::new(),
            doubted,
            versions: Versions::default(),
            unassisted: false,
            queued: None,
            annotator: None,
            annotator_owner: String::new(),
            user: None,
            comment: None,
            source: FeedbackSource::Human,
        }
    }

    #[test]
    fn words_that_claim_something_and_were_judged_count() {
        use TokenLabel::{Bad, Good, None as Unknown};
        let doubted = Some(vec![CharRange { start: 13, end: 20 }]);
        let words = judged_words(&record(
            [0.9, 0.8, 0.9, 0.9, 0.1],
            [Good, Good, Good, Good, Bad],
            doubted,
        ));
        let word = |reward, good, flagged| JudgedWord {
            reward: Some(reward),
            good,
            flagged: Some(flagged),
        };
        assert_eq!(
            words,
            [word(0.8, true, false), word(0.1, false, true)],
            "dog and frisbee"
        );
        let words = judged_words(&record(
            [0.9; 5],
            [Good, Bad, Unknown, Unknown, Unknown],
            None,
        ));
        assert_eq!(
            words,
            [JudgedWord {
                reward: Some(0.9),
                good: false,
                flagged: None
            }],
            "nobody looked behind the first error"
        );
    }

    #[test]
    fn few_words_say_nothing() {
        let word = |i: usize| JudgedWord {
            reward: Some(if i.is_multiple_of(4) { 0.2 } else { 0.8 }),
            good: !i.is_multiple_of(4),
            flagged: Some(i.is_multiple_of(8)),
        };
        let rewards = Histogram::from_rewards((0..1000).map(|i| i as f32 / 1000.0));
        let few: Vec<JudgedWord> = (0..40).map(word).collect();
        assert_eq!(
            MonitorFigures::of(&few, &rewards, None),
            MonitorFigures::default()
        );
        let many: Vec<JudgedWord> = (0..400).map(word).collect();
        let seen = MonitorFigures::of(&many, &rewards, Some(&rewards));
        assert_eq!(
            (seen.psi, seen.auroc, seen.flag_agreement),
            (Some(0.0), Some(1.0), Some(0.5))
        );
        assert!(
            (seen.ece.unwrap() - 0.2).abs() < 1e-6,
            "every word is .2 off: {seen:?}"
        );
        assert_eq!(seen.figures().len(), 4);
    }
}
