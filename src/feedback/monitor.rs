//! Quality of the scorer on recent answers and corrections: drift of its rewards, ranking and
//! calibration on judged words, and agreement of the guard's flags with people's marks.

use std::collections::BTreeMap;

use super::{
    queue::item::token_words,
    record::{Feedback, TokenLabel},
    store::{RecordPage, Store, StoreError},
};
use crate::{
    eval::tokens::{Ranking, ScoredToken},
    reward::drift::{Histogram, flag_agreement},
};

/// Newest receipts that are read.
const RECEIPTS: u32 = 500;
/// Newest records that are read.
const RECORDS: u32 = 1000;
/// Records read at a time.
const PAGE: u32 = 250;
/// Fewest bad words for figures to be reported.
const LEAST_BAD: usize = 20;

/// Word that a person judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JudgedWord {
    /// Lowest reward of its tokens; `None` if it was not scored.
    pub reward: Option<f32>,
    /// `true` if the person marked no error in it.
    pub good: bool,
    /// `true` if the guard flagged it; `None` if the answer was not scored.
    pub flagged: Option<bool>,
}

/// Returns the content words of a record all of whose tokens were judged.
pub fn judged_words(record: &Feedback) -> Vec<JudgedWord> {
    let words = token_words(&record.response, &record.tokens)
        .into_iter()
        .filter(|word| !word.function);
    words
        .filter_map(|word| {
            let own = record
                .tokens
                .iter()
                .filter(|token| token.chars().overlaps(word.chars));
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
            let flagged = record
                .flagged
                .as_ref()
                .map(|spans| spans.iter().any(|span| span.overlaps(word.chars)));
            Some(JudgedWord {
                reward: word.reward,
                good,
                flagged,
            })
        })
        .collect()
}

/// Figures of the monitor; `None` where too little was judged.
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
    /// Computes the figures of judged words and of the rewards of answers.
    pub fn compute(
        words: &[JudgedWord],
        rewards: &Histogram,
        reference: Option<&Histogram>,
    ) -> Self {
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

    /// Returns the known figures by metric name.
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

/// Measures the newest answers and corrections of one policy version. `reference` is the
/// distribution of its rewards at calibration.
///
/// # Errors
/// The store's.
pub async fn measure(
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
    Ok(MonitorFigures::compute(&words, &rewards, reference))
}

/// Distribution of rewards in the newest answers of one policy version.
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
    use crate::{
        feedback::record::{
            FeedbackSource, ImageHash, JudgedPart, JudgmentKind, ResponseToken, Versions,
        },
        util::offsets::CharRange,
    };

    /// "A dog with a frisbee", a token a word, with these rewards and labels.
    fn record(
        rewards: [f32; 5],
        labels: [TokenLabel; 5],
        flagged: Option<Vec<CharRange>>,
    ) -> Feedback {
        let spans = [
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
            image: ImageHash::digest(b""),
            prompt: String::new(),
            response: "A dog with a frisbee".into(),
            tokens: spans.iter().enumerate().map(token).collect(),
            kind: JudgmentKind::Bad,
            scope: Some(JudgedPart::FirstError),
            errors: Vec::new(),
            missing: Vec::new(),
            flagged,
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
    fn judged_words_are_labeled_content_words() {
        use TokenLabel::{Bad, Good, None as Unknown};
        let flagged = Some(vec![CharRange { start: 13, end: 20 }]);
        let words = judged_words(&record(
            [0.9, 0.8, 0.9, 0.9, 0.1],
            [Good, Good, Good, Good, Bad],
            flagged,
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
    fn figures_of_few_words_are_absent() {
        let word = |i: usize| JudgedWord {
            reward: Some(if i.is_multiple_of(4) { 0.2 } else { 0.8 }),
            good: !i.is_multiple_of(4),
            flagged: Some(i.is_multiple_of(8)),
        };
        let rewards = Histogram::from_rewards((0..1000).map(|i| i as f32 / 1000.0));
        let few: Vec<JudgedWord> = (0..40).map(word).collect();
        assert_eq!(
            MonitorFigures::compute(&few, &rewards, None),
            MonitorFigures::default()
        );
        let many: Vec<JudgedWord> = (0..400).map(word).collect();
        let seen = MonitorFigures::compute(&many, &rewards, Some(&rewards));
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
