//! `/v1/score` on people's captions: the photograph's own, another photograph's, and a false
//! sentence among true ones.

use super::{
    cards::{Card, cards},
    material::HonestyMaterial,
    prompts::{HonestyAnswers, HonestyPrompt},
};
use crate::{
    eval::{
        data::AnnotatedImage,
        honesty::{
            PhotographOrigin, Resampling,
            bars::{Finding, Measure},
            texts::{CaptionScore, MixedText, SENTENCES, caption_findings, mixed, wrong_sentences},
        },
        report::Section,
    },
    train::text::normalize_caption,
};

/// Captions of a photograph that are scored, and as many of another's.
const CAPTIONS: usize = 2;

/// A photograph with the texts to score on it.
struct ScoredPhotograph<'m> {
    number: usize,
    image: &'m AnnotatedImage,
    own: Vec<String>,
    others: Vec<String>,
    mixed: Option<MixedText>,
}

fn photographs(material: &HonestyMaterial, origin: PhotographOrigin) -> Vec<ScoredPhotograph<'_>> {
    let described: Vec<(usize, &AnnotatedImage)> = material
        .photographs_from(origin)
        .filter(|(_, image)| !image.captions.is_empty())
        .collect();
    let captions = |image: &AnnotatedImage| {
        image
            .captions
            .iter()
            .map(|caption| normalize_caption(caption))
            .filter(|c| !c.is_empty())
            .collect()
    };
    let all: Vec<Vec<String>> = described.iter().map(|(_, image)| captions(image)).collect();
    let mut found = Vec::with_capacity(all.len());
    for (i, &(number, image)) in described.iter().enumerate() {
        let (own, other) = (&all[i], &all[(i + 1) % all.len()]);
        if all.len() < 2 || own.is_empty() || other.is_empty() {
            continue;
        }
        // Captions scored by themselves come first, so that sentences are different captions if
        // there are enough.
        let sentences = if own.len() >= CAPTIONS + SENTENCES - 1 {
            &own[CAPTIONS..]
        } else {
            &own[..]
        };
        found.push(ScoredPhotograph {
            number,
            image,
            own: own.iter().take(CAPTIONS).cloned().collect(),
            others: other.iter().take(CAPTIONS).cloned().collect(),
            mixed: mixed(sentences, &other[other.len() - 1], i),
        });
    }
    found
}

/// Origins with captions by people.
const DESCRIBED: [PhotographOrigin; 2] = [PhotographOrigin::Flickr8k, PhotographOrigin::CocoMini];

/// All scoring requests.
pub(super) fn prompts(material: &HonestyMaterial) -> Vec<HonestyPrompt> {
    let texts = |photograph: ScoredPhotograph<'_>| {
        let mixed = photograph.mixed.map(|mixed| mixed.text);
        let texts = photograph
            .own
            .into_iter()
            .chain(photograph.others)
            .chain(mixed);
        texts
            .map(move |text| HonestyPrompt::score(photograph.number, "", &text))
            .collect::<Vec<_>>()
    };
    DESCRIBED
        .iter()
        .flat_map(|&origin| photographs(material, origin))
        .flat_map(texts)
        .collect()
}

/// Findings on scores, and cards with the texts whose false sentence was not found.
pub(super) fn measure(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    resampling: Resampling,
) -> (Vec<Finding>, Vec<Section>) {
    use Measure::*;
    let (mut findings, mut sections) = (Vec::new(), Vec::new());
    for origin in DESCRIBED {
        let (measures, sentences) = match origin {
            PhotographOrigin::Flickr8k => (
                [
                    PeopleCaptionsFlickr,
                    PeopleFlaggedFlickr,
                    OthersFlaggedFlickr,
                ],
                WrongSentenceFlickr,
            ),
            _ => (
                [PeopleCaptionsCoco, PeopleFlaggedCoco, OthersFlaggedCoco],
                WrongSentenceCoco,
            ),
        };
        let (mut captions, mut found, mut missed) = (Vec::new(), Vec::new(), Vec::new());
        for photograph in photographs(material, origin) {
            let scored =
                |text: &str| answers.get(&HonestyPrompt::score(photograph.number, "", text));
            for (texts, is_own) in [(&photograph.own, true), (&photograph.others, false)] {
                captions.extend(texts.iter().filter_map(|text| {
                    let reply = scored(text)?;
                    let is_flagged = !reply.marks.flagged.is_empty();
                    Some(CaptionScore {
                        photograph: photograph.number,
                        is_own,
                        score: reply.score?,
                        is_flagged,
                    })
                }));
            }
            let Some(mixed) = &photograph.mixed else {
                continue;
            };
            let Some((reply, is_found)) =
                scored(&mixed.text).and_then(|reply| Some((reply, mixed.is_found(&reply.marks)?)))
            else {
                continue;
            };
            found.push((photograph.number, is_found));
            if !is_found {
                let wrong = mixed.text[mixed.sentences[mixed.wrong].clone()].to_owned();
                missed.push(Card {
                    facts: vec![("Wrong sentence".to_owned(), wrong)],
                    ..Card::new(photograph.image, reply)
                });
            }
        }
        if !captions.is_empty() {
            findings.extend(caption_findings(measures, &captions, resampling));
        }
        if !found.is_empty() {
            findings.push(wrong_sentences(sentences, &found, resampling));
            sections.push(cards(
                &format!(
                    "Wrong sentences that do not have the lowest score, {}",
                    origin.name()
                ),
                missed,
                resampling.seed,
            ));
        }
    }
    (findings, sections)
}
