//! Cards of the report's page: captions and answers beside their photographs.

use rand::{SeedableRng, rngs::SmallRng, seq::index};

use crate::{
    cli::eval::answering::AnswerWithCost,
    eval::{
        data::AnnotatedImage,
        report::{CaptionCard, CardWord, Photo, Section},
    },
    lexicon::words,
};

/// Number of cards per section.
const SHOWN: usize = 12;

/// One answer or text to show beside its photograph.
pub(super) struct Card<'a> {
    pub(super) image: &'a AnnotatedImage,
    pub(super) title: String,
    pub(super) reply: &'a AnswerWithCost,
    pub(super) facts: Vec<(String, String)>,
}

impl<'a> Card<'a> {
    pub(super) fn new(image: &'a AnnotatedImage, reply: &'a AnswerWithCost) -> Self {
        Self {
            image,
            title: String::new(),
            reply,
            facts: Vec::new(),
        }
    }

    fn shown(self) -> CaptionCard {
        let Self {
            image,
            title,
            reply,
            mut facts,
        } = self;
        if title.is_empty() {
            let objects = image
                .objects
                .iter()
                .flatten()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            facts.extend((!objects.is_empty()).then(|| ("Annotated objects".to_owned(), objects)));
        }
        facts.extend(
            reply
                .score
                .map(|score| ("Score".to_owned(), format!("{score:.2}"))),
        );
        facts.extend(
            (!reply.verdict.is_empty()).then(|| ("Verdict".to_owned(), reply.verdict.clone())),
        );
        CaptionCard {
            id: image.name().to_owned(),
            photo: image.photo.as_deref().and_then(Photo::thumbnail),
            words: marked_words(reply),
            references: if title.is_empty() {
                image.captions.clone()
            } else {
                Vec::new()
            },
            title,
            facts,
            ..CaptionCard::default()
        }
    }
}

/// Words of an answer with scores and flags.
fn marked_words(reply: &AnswerWithCost) -> Vec<CardWord> {
    let text = reply.text.as_str();
    if text.trim().is_empty() {
        return vec![CardWord {
            text: "(no answer)".to_owned(),
            ..CardWord::default()
        }];
    }
    let (mut from, mut shown) = (0, Vec::new());
    for range in words(text).into_iter().map(|word| word.range) {
        shown.push(CardWord {
            text: text[from..range.end].to_owned(),
            reward: reply.marks.score(&range),
            flagged: reply.marks.flags(&range),
            ..CardWord::default()
        });
        from = range.end;
    }
    if from < text.len() {
        shown.push(CardWord {
            text: text[from..].to_owned(),
            ..CardWord::default()
        });
    }
    shown
}

/// Section of cards; if there are too many, the seed draws some.
pub(super) fn cards(title: &str, all: Vec<Card<'_>>, seed: u64) -> Section {
    let count = all.len();
    let mut drawn =
        index::sample(&mut SmallRng::seed_from_u64(seed), count, count.min(SHOWN)).into_vec();
    drawn.sort_unstable();
    let text = match count {
        0 => "None.".to_owned(),
        n if n > SHOWN => format!("{SHOWN} of {n}, drawn with seed {seed}."),
        n => format!("All {n}."),
    };
    let mut all: Vec<Option<Card<'_>>> = all.into_iter().map(Some).collect();
    Section {
        title: title.to_owned(),
        text: vec![text],
        cards: drawn
            .into_iter()
            .filter_map(|i| all.get_mut(i).and_then(Option::take))
            .map(Card::shown)
            .collect(),
        ..Section::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::captions::flags::GuardMarks;

    #[test]
    fn card_of_a_reply_has_scored_and_flagged_words() {
        let image = AnnotatedImage {
            id: "1.jpg".into(),
            captions: vec!["A pizza.".into()],
            objects: Some(["pizza".to_owned()].into()),
            ..AnnotatedImage::default()
        };
        let reply = AnswerWithCost {
            text: "A man eats.".into(),
            score: Some(0.25),
            verdict: "flagged".into(),
            marks: GuardMarks {
                flagged: std::iter::once(2..5).collect(),
                scores: vec![(2..5, 0.25), (6..10, 0.75)],
            },
            ..AnswerWithCost::default()
        };
        let section = cards(
            "People",
            (0..20).map(|_| Card::new(&image, &reply)).collect(),
            1,
        );
        assert_eq!(
            (section.cards.len(), section.text[0].as_str()),
            (SHOWN, "12 of 20, drawn with seed 1.")
        );
        let card = &section.cards[0];
        let words: Vec<(&str, Option<f32>, bool)> = card
            .words
            .iter()
            .map(|w| (w.text.as_str(), w.reward, w.flagged))
            .collect();
        assert_eq!(
            words,
            [
                ("A", None, false),
                (" man", Some(0.25), true),
                (" eats", Some(0.75), false),
                (".", None, false)
            ]
        );
        assert_eq!(card.references, ["A pizza."]);
        let facts: Vec<(&str, &str)> = card
            .facts
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            facts,
            [
                ("Annotated objects", "pizza"),
                ("Score", "0.25"),
                ("Verdict", "flagged")
            ]
        );
        let question = Card {
            title: "Is there a man?".into(),
            ..Card::new(&image, &reply)
        };
        let section = cards("Questions", vec![question], 1);
        assert!(section.cards[0].references.is_empty() && section.text == ["All 1."]);
        assert_eq!(cards("None", Vec::new(), 1).text, ["None."]);
    }
}
