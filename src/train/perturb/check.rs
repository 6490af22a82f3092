//! Edits that turn out to say what people said in other words.

use super::{PerturbationKind, Perturbed, Source};
use crate::{
    eval::objects,
    lexicon::{Lexicon, Support},
};

/// Whether what an edit wrote is supported by a caption of the image after all: a synonym or a more
/// general word, the same colour or number of the same thing, or the very sentence.
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
            let mut things = lexicon
                .mentions(text)
                .into_iter()
                .filter(|m| wrong(&m.range))
                .peekable();
            // A replacement that is not read as a thing any more is no wrong thing.
            things.peek().is_none()
                || things.any(|m| source.references.supports(&m) != Support::None)
        }
        PerturbationKind::Attribute | PerturbationKind::Count | PerturbationKind::Binding => {
            let judgment = objects::judge(lexicon, text, source.texts);
            judgment
                .colors
                .iter()
                .chain(&judgment.counts)
                .any(|(range, right)| *right && wrong(range))
        }
        // Drawn among what no caption says of the thing.
        PerturbationKind::Action | PerturbationKind::Relation => false,
    }
}
