//! Detection of edits that turn out to be paraphrases.

use super::{PerturbationKind, Perturbed, Source};
use crate::{
    eval::objects,
    lexicon::{Lexicon, Support},
};

/// Returns `true` if a caption of the image supports the edit after all: by a synonym or hypernym,
/// by the same color or number of the same object, or by an identical sentence.
pub(super) fn is_paraphrase(lexicon: &Lexicon, perturbed: &Perturbed, source: &Source<'_>) -> bool {
    let text = perturbed.text.as_str();
    let wrong = |range: &std::ops::Range<usize>| {
        perturbed
            .bad
            .iter()
            .any(|bad| range.start < bad.end && bad.start < range.end)
    };
    if source
        .texts
        .iter()
        .any(|other| other.eq_ignore_ascii_case(text))
    {
        return true;
    }
    match perturbed.kind {
        PerturbationKind::Object
        | PerturbationKind::SmallObject
        | PerturbationKind::Phrase
        | PerturbationKind::Person => {
            let mut mentions = lexicon
                .mentions(text)
                .into_iter()
                .filter(|m| wrong(&m.range))
                .peekable();
            // A replacement that does not parse as an object mention is no wrong object.
            mentions.peek().is_none()
                || mentions.any(|m| source.references.supports(&m) != Support::None)
        }
        PerturbationKind::Attribute | PerturbationKind::Count | PerturbationKind::Binding => {
            let judgment = objects::judge(lexicon, text, source.texts);
            judgment
                .colors
                .iter()
                .chain(&judgment.counts)
                .any(|(range, right)| *right && wrong(range))
        }
        // Drawn from what no caption says about the object.
        PerturbationKind::Action | PerturbationKind::Relation => false,
    }
}
