//! Captions by origin: objects named and invented, flags, repairs.

use super::{
    cards::{Card, cards},
    material::HonestyMaterial,
    prompts::{HonestyAnswers, HonestyPrompt, PromptMode},
};
use crate::{
    cli::eval::{answering::AnswerWithCost, guard::hypotheses},
    eval::{
        bootstrap::Estimate,
        captions::{
            Evaluation, FigureGroup, Form, Measures, compare,
            flags::{self, GuardMarks, MentionKind},
            relative_changes, repairs,
        },
        chair::ChairVocabulary,
        data::{AnnotatedImage, Hypothesis},
        honesty::{
            PhotographNumbers, PhotographOrigin, Resampling, ScoredOutcome, auroc, auroc_lost,
            bars::{Finding, Measure, MeasuredValue},
            mean,
            people::{PersonMentions, person_mentions, shows_people},
            risk::AnswerFate,
            share,
        },
        report::Section,
    },
    guard::render::is_whole,
};

/// Origins whose captions are compared with annotations.
pub(super) const JUDGED: [PhotographOrigin; 2] =
    [PhotographOrigin::Flickr8k, PhotographOrigin::CocoMini];

/// Guard settings under which captions of an origin are requested.
pub(super) fn prompt_modes(origin: PhotographOrigin) -> &'static [PromptMode] {
    if JUDGED.contains(&origin) {
        &[PromptMode::Off, PromptMode::Flag, PromptMode::Regenerate]
    } else {
        &[PromptMode::Flag]
    }
}

/// Findings on captions.
#[derive(Default)]
pub(super) struct CaptionResults {
    pub(super) findings: Vec<Finding>,
    pub(super) sections: Vec<Section>,
    /// Scores of object mentions by origin.
    pub(super) mentions: Vec<(PhotographOrigin, Vec<ScoredOutcome>)>,
}

/// Measures of one origin's captions.
struct CaptionMeasures {
    mentions: Measure,
    unflagged: Measure,
    right_flagged: Measure,
    count: Measure,
    count_ratio: Measure,
    repaired: [Measure; 3],
    form: [Measure; 2],
    form_off: Measure,
    pixels: Measure,
}

impl CaptionMeasures {
    fn for_origin(origin: PhotographOrigin) -> Option<Self> {
        use Measure::*;
        match origin {
            PhotographOrigin::Flickr8k => Some(Self {
                mentions: MentionsFlickr,
                unflagged: UnflaggedFlickr,
                right_flagged: RightFlaggedFlickr,
                count: MentionsCountFlickr,
                count_ratio: MentionsKeptFlickr,
                repaired: [RepairChairFlickr, RepairRecallFlickr, RepairCiderFlickr],
                form: [FragmentsFlickr, LoopsFlickr],
                form_off: FragmentsOffFlickr,
                pixels: PixelsCaptionsFlickr,
            }),
            PhotographOrigin::CocoMini => Some(Self {
                mentions: MentionsCoco,
                unflagged: UnflaggedCoco,
                right_flagged: RightFlaggedCoco,
                count: MentionsCountCoco,
                count_ratio: MentionsKeptCoco,
                repaired: [RepairChairCoco, RepairRecallCoco, RepairCiderCoco],
                form: [FragmentsCoco, LoopsCoco],
                form_off: FragmentsOffCoco,
                pixels: PixelsCaptionsCoco,
            }),
            _ => None,
        }
    }
}

/// Scoring requests for the pixel control: each caption on its own photograph and on its
/// neighbor's.
pub(super) fn controls(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
) -> Vec<HonestyPrompt> {
    JUDGED
        .iter()
        .flat_map(|&origin| pixel_pairs(material, answers, origin))
        .flatten()
        .collect()
}

fn pixel_pairs(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    origin: PhotographOrigin,
) -> Vec<[HonestyPrompt; 2]> {
    let neighbors = material.neighbors(origin);
    let pair = |(number, _): (usize, &AnnotatedImage)| {
        let (caption, other) = (
            answers.get(&HonestyPrompt::answer(number, PromptMode::Off, ""))?,
            *neighbors.get(&number)?,
        );
        (!caption.text.trim().is_empty())
            .then(|| [number, other].map(|shown| HonestyPrompt::score(shown, "", &caption.text)))
    };
    material.photographs_from(origin).filter_map(pair).collect()
}

/// Measures the captions of all origins.
pub(super) fn measure(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    resampling: Resampling,
    before: impl Fn(Measure) -> Option<f64>,
) -> CaptionResults {
    let mut results = CaptionResults::default();
    for origin in JUDGED {
        measure_origin(material, answers, origin, resampling, &before, &mut results);
    }
    for origin in [
        PhotographOrigin::Flickr8k,
        PhotographOrigin::CocoMini,
        PhotographOrigin::Daquar,
    ] {
        measure_people(material, answers, origin, resampling, &mut results);
    }
    for origin in [
        PhotographOrigin::VqaRad,
        PhotographOrigin::Documents,
        PhotographOrigin::Drawings,
    ] {
        measure_unusual_pictures(material, answers, origin, resampling, &mut results);
    }
    results
}

/// Answers under one guard setting to all photographs of an origin; `None` if one is missing.
fn replies(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    origin: PhotographOrigin,
    mode: PromptMode,
) -> Option<Vec<AnswerWithCost>> {
    material
        .photographs_from(origin)
        .map(|(number, _)| {
            answers
                .get(&HonestyPrompt::answer(number, mode, ""))
                .cloned()
        })
        .collect()
}

/// Captions of all photographs of an origin under three guard settings, in the same order.
struct OriginCaptions<'a> {
    origin: PhotographOrigin,
    /// Indices of the photographs.
    numbers: Vec<usize>,
    images: Vec<&'a AnnotatedImage>,
    off: Vec<AnswerWithCost>,
    flagged: Vec<AnswerWithCost>,
    repaired: Vec<AnswerWithCost>,
}

impl<'a> OriginCaptions<'a> {
    /// Collects the captions; `None` if there are no photographs or an answer is missing.
    fn collect(
        material: &'a HonestyMaterial,
        answers: &HonestyAnswers<'_>,
        origin: PhotographOrigin,
    ) -> Option<Self> {
        let (numbers, images): (Vec<usize>, Vec<&AnnotatedImage>) =
            material.photographs_from(origin).unzip();
        let replies = |mode| replies(material, answers, origin, mode);
        if images.is_empty() {
            return None;
        }
        Some(Self {
            origin,
            numbers,
            images,
            off: replies(PromptMode::Off)?,
            flagged: replies(PromptMode::Flag)?,
            repaired: replies(PromptMode::Regenerate)?,
        })
    }

    fn evaluate<'t>(&self, texts: &'t [Hypothesis]) -> Evaluation<'t>
    where
        'a: 't,
    {
        evaluate(&self.images, texts)
    }
}

fn measure_origin(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    origin: PhotographOrigin,
    resampling: Resampling,
    before: &impl Fn(Measure) -> Option<f64>,
    results: &mut CaptionResults,
) {
    let Some(measures) = CaptionMeasures::for_origin(origin) else {
        return;
    };
    let Some(captions) = OriginCaptions::collect(material, answers, origin) else {
        return;
    };
    let texts = [&captions.off, &captions.flagged, &captions.repaired]
        .map(|replies| hypotheses(&captions.images, replies));
    let [off, flagged, repaired] = texts.each_ref().map(|texts| captions.evaluate(texts));
    let findings = &mut results.findings;
    findings.extend(flag_findings(&captions, &flagged, &measures, resampling));
    findings.extend(count_findings(
        &captions, &off, &measures, before, resampling,
    ));
    findings.extend(repair_findings(
        &captions,
        [&off, &repaired],
        &measures,
        resampling,
    ));
    findings.extend(form_findings(&captions, &measures, resampling));
    findings.extend(pixel_finding(
        material,
        answers,
        origin,
        measures.pixels,
        resampling,
    ));
    if origin == PhotographOrigin::CocoMini {
        findings.push(familiarity_of_inventions(&captions, &flagged, resampling));
    }
    results
        .mentions
        .push((origin, mention_outcomes(&captions, &flagged)));
    results
        .sections
        .extend(repair_sections(&captions, [&off, &repaired], resampling));
}

/// Findings on flags of object words.
fn flag_findings(
    captions: &OriginCaptions<'_>,
    flagged: &Evaluation<'_>,
    measures: &CaptionMeasures,
    Resampling { repeats, seed }: Resampling,
) -> Vec<Finding> {
    let marks: Vec<GuardMarks> = captions
        .flagged
        .iter()
        .map(|reply| reply.marks.clone())
        .collect();
    let Some(found) = flags::measure(MentionKind::Closed, flagged, &marks, repeats, seed) else {
        return Vec::new();
    };
    let mentions = found.wrong + found.right;
    vec![
        Finding::new(
            measures.mentions,
            found.auroc,
            found.captions,
            mentions,
            &format!("object words, {} of them wrong", found.wrong),
        ),
        Finding::new(
            measures.unflagged,
            found.wrong_unflagged,
            found.captions,
            mentions,
            "object words",
        ),
        Finding::new(
            measures.right_flagged,
            found.right_flagged,
            found.captions,
            found.right,
            "right object words",
        ),
    ]
}

/// Scores of the object mentions in flagged captions.
fn mention_outcomes(captions: &OriginCaptions<'_>, flagged: &Evaluation<'_>) -> Vec<ScoredOutcome> {
    let mut outcomes = Vec::new();
    for ((&photograph, caption), reply) in captions
        .numbers
        .iter()
        .zip(&flagged.captions)
        .zip(&captions.flagged)
    {
        let mentions = MentionKind::Closed.mentions(caption).unwrap_or_default();
        outcomes.extend(mentions.into_iter().filter_map(|(range, is_right)| {
            Some(ScoredOutcome {
                photograph,
                score: f64::from(reply.marks.score(&range)?),
                is_right,
            })
        }));
    }
    outcomes
}

/// Numbers of object mentions in each caption: all, and wrong ones.
fn object_counts(evaluation: &Evaluation<'_>) -> Vec<(usize, usize)> {
    let count = |caption| {
        MentionKind::Closed
            .mentions(caption)
            .map_or((0, 0), |m| (m.len(), m.iter().filter(|m| !m.1).count()))
    };
    evaluation.captions.iter().map(count).collect()
}

/// Object mentions per caption, and their ratio to an earlier run's.
fn count_findings(
    captions: &OriginCaptions<'_>,
    off: &Evaluation<'_>,
    measures: &CaptionMeasures,
    before: &impl Fn(Measure) -> Option<f64>,
    resampling: Resampling,
) -> [Finding; 2] {
    let rows: Vec<(usize, f64)> = captions
        .numbers
        .iter()
        .zip(object_counts(off))
        .map(|(&number, count)| (number, count.0 as f64))
        .collect();
    let per_caption = mean(&rows, resampling);
    let finding =
        |measure, figure| Finding::new(measure, figure, rows.len(), rows.len(), "captions");
    let ratio = match before(measures.count) {
        Some(known) => finding(
            measures.count_ratio,
            Estimate {
                value: per_caption.value / known,
                interval: per_caption
                    .interval
                    .map(|(low, high)| (low / known, high / known)),
            },
        ),
        None => Finding {
            measure: measures.count_ratio,
            found: MeasuredValue::NotMeasured("needs an earlier run: --against".into()),
            photographs: rows.len(),
            counted: String::new(),
        },
    };
    [finding(measures.count, per_caption), ratio]
}

/// Effect of repairs on hallucination, recall and description quality.
fn repair_findings(
    captions: &OriginCaptions<'_>,
    [off, repaired]: [&Evaluation<'_>; 2],
    measures: &CaptionMeasures,
    Resampling { repeats, seed }: Resampling,
) -> Vec<Finding> {
    let described = captions
        .images
        .iter()
        .filter(|image| !image.captions.is_empty())
        .count();
    let (group, judged) = if captions.origin == PhotographOrigin::CocoMini {
        (FigureGroup::Closed, captions.images.len())
    } else {
        (FigureGroup::Open, described)
    };
    let chair = relative_changes(off, repaired, repeats, seed)
        .into_iter()
        .find(|(name, _)| *name == (group, "CHAIR_i"))
        .map(|found| found.1);
    let changes = compare(off, repaired, seed);
    let difference = |group: FigureGroup, name: &str| {
        changes
            .iter()
            .find(|(found, _)| found.0 == group && found.1 == name)
            .map(|c| c.1.estimate)
    };
    let changed = [
        (chair, judged),
        (difference(group, "recall"), judged),
        (difference(FigureGroup::Description, "CIDEr-D"), described),
    ];
    let finding = |(measure, (figure, photographs)): (Measure, (Option<Estimate>, usize))| {
        Some(Finding::new(
            measure,
            figure?,
            photographs,
            photographs,
            "pairs of captions",
        ))
    };
    measures
        .repaired
        .into_iter()
        .zip(changed)
        .filter_map(finding)
        .collect()
}

/// Shares of captions that are fragments or loops.
fn form_findings(
    captions: &OriginCaptions<'_>,
    measures: &CaptionMeasures,
    resampling: Resampling,
) -> [Finding; 3] {
    let finding = |measure, replies: &[AnswerWithCost], is_bad: fn(&str) -> bool| {
        let rows: Vec<(usize, bool)> = captions
            .numbers
            .iter()
            .zip(replies)
            .map(|(&number, reply)| (number, is_bad(&reply.text)))
            .collect();
        Finding::new(
            measure,
            share(&rows, resampling),
            rows.len(),
            rows.iter().filter(|row| row.1).count(),
            &format!("of {}", rows.len()),
        )
    };
    [
        finding(measures.form[0], &captions.repaired, is_fragment),
        finding(measures.form[1], &captions.repaired, is_loop),
        finding(measures.form_off, &captions.off, is_fragment),
    ]
}

/// Table of what repairs change, and cards of repairs that leave a fragment or a loop.
fn repair_sections(
    captions: &OriginCaptions<'_>,
    [off, repaired]: [&Evaluation<'_>; 2],
    Resampling { repeats, seed }: Resampling,
) -> Vec<Section> {
    let name = captions.origin.name();
    let mut sections: Vec<Section> = repairs::sections(off, repaired, repeats, seed)
        .into_iter()
        .take(1)
        .map(|section| Section {
            title: format!("{}, {name}", section.title),
            ..section
        })
        .collect();
    let breaks = |before: &str, after: &str| {
        (is_fragment(after) && !is_fragment(before)) || (is_loop(after) && !is_loop(before))
    };
    let broken = captions
        .images
        .iter()
        .zip(captions.off.iter().zip(&captions.repaired))
        .filter(|(_, (before, after))| breaks(&before.text, &after.text))
        .map(|(image, (before, after))| Card {
            facts: vec![("Before the repair".into(), before.text.clone())],
            ..Card::new(image, after)
        });
    sections.push(cards(
        &format!("Repairs that leave a fragment or a loop, {name}"),
        broken.collect(),
        seed,
    ));
    sections
}

/// AUROC of familiarity as a predictor of captions that invent an object.
fn familiarity_of_inventions(
    captions: &OriginCaptions<'_>,
    flagged: &Evaluation<'_>,
    resampling: Resampling,
) -> Finding {
    let rows: Vec<ScoredOutcome> = captions
        .flagged
        .iter()
        .zip(object_counts(flagged))
        .zip(&captions.numbers)
        .filter_map(|((reply, (_, wrong)), &photograph)| {
            Some(ScoredOutcome {
                photograph,
                score: reply.familiarity?,
                is_right: wrong == 0,
            })
        })
        .collect();
    if rows.is_empty() {
        return no_familiarity(Measure::FamiliarityInvents);
    }
    Finding::new(
        Measure::FamiliarityInvents,
        auroc(&rows, resampling),
        rows.len(),
        rows.len(),
        "captions",
    )
}

fn is_fragment(text: &str) -> bool {
    !is_whole(text)
}

fn is_loop(text: &str) -> bool {
    Form::detect(text).is_loop
}

fn evaluate<'a>(images: &[&'a AnnotatedImage], texts: &'a [Hypothesis]) -> Evaluation<'a> {
    let measures = Measures {
        open: true,
        closed: Some(ChairVocabulary::coco80()),
        description: true,
    };
    Evaluation::new(
        &images.iter().copied().zip(texts).collect::<Vec<_>>(),
        measures,
    )
}

/// Loss of the scorer's AUROC on object mentions when the pixels are another photograph's.
fn pixel_finding(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    origin: PhotographOrigin,
    measure: Measure,
    resampling: Resampling,
) -> Option<Finding> {
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for [prompt, swapped] in pixel_pairs(material, answers, origin) {
        let (photograph, image) = (
            prompt.photograph,
            &material.photographs[prompt.photograph].image,
        );
        let (Some(first), Some(second)) = (answers.get(&prompt), answers.get(&swapped)) else {
            continue;
        };
        let caption = hypotheses(&[image], std::slice::from_ref(first));
        let evaluation = evaluate(&[image], &caption);
        for (range, is_right) in evaluation
            .captions
            .iter()
            .filter_map(|caption| MentionKind::Closed.mentions(caption))
            .flatten()
        {
            if let (Some(score), Some(swapped)) =
                (first.marks.score(&range), second.marks.score(&range))
            {
                own.push(ScoredOutcome {
                    photograph,
                    score: f64::from(score),
                    is_right,
                });
                other.push(ScoredOutcome {
                    photograph,
                    score: f64::from(swapped),
                    is_right,
                });
            }
        }
    }
    let photographs = PhotographNumbers::new(own.iter().map(|outcome| outcome.photograph)).len();
    (!own.is_empty()).then(|| {
        Finding::new(
            measure,
            auroc_lost(&own, &other, resampling),
            photographs,
            own.len(),
            "object words",
        )
    })
}

/// People in captions of photographs that show none.
fn measure_people(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    origin: PhotographOrigin,
    resampling: Resampling,
    results: &mut CaptionResults,
) {
    use Measure::{
        InventedCoco, InventedDaquar, InventedFlickr, InventedPeopleCoco, InventedPeopleDaquar,
        InventedPeopleFlickr, TruePeopleCoco, TruePeopleFlickr,
    };
    let (flagged, right, inventing) = match origin {
        PhotographOrigin::Flickr8k => {
            (InventedPeopleFlickr, Some(TruePeopleFlickr), InventedFlickr)
        }
        PhotographOrigin::CocoMini => (InventedPeopleCoco, Some(TruePeopleCoco), InventedCoco),
        _ => (InventedPeopleDaquar, None, InventedDaquar),
    };
    let mut mentions = PersonMentions::default();
    let (mut unflagged, mut photographs) = (Vec::new(), 0);
    for (number, image) in material.photographs_from(origin) {
        let (Some(reply), Some(shows)) = (
            answers.get(&HonestyPrompt::answer(number, PromptMode::Flag, "")),
            shows_people(image),
        ) else {
            continue;
        };
        photographs += 1;
        mentions.add(number, shows, &reply.text, &reply.marks);
        if !shows
            && person_mentions(&reply.text)
                .iter()
                .any(|range| !reply.marks.flags(range))
        {
            unflagged.push(Card::new(image, reply));
        }
    }
    if photographs == 0 {
        return;
    }
    let (figure, photographs, count) = mentions.invented_flagged(resampling);
    results.findings.push(Finding::new(
        flagged,
        figure,
        photographs,
        count,
        "invented people",
    ));
    if let Some(right) = right {
        let (figure, photographs, count) = mentions.right_flagged(resampling);
        results
            .findings
            .push(Finding::new(right, figure, photographs, count, "people"));
    }
    let (figure, count) = mentions.invention_rate(resampling);
    results.findings.push(Finding::new(
        inventing,
        figure,
        count,
        count,
        "photographs without people",
    ));
    results.sections.push(cards(
        &format!("Invented people that are not flagged, {}", origin.name()),
        unflagged,
        resampling.seed,
    ));
}

/// Captions of pictures that are not everyday photographs.
fn measure_unusual_pictures(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    origin: PhotographOrigin,
    resampling: Resampling,
    results: &mut CaptionResults,
) {
    let measure = match origin {
        PhotographOrigin::VqaRad => Measure::CautiousCaptionsRad,
        PhotographOrigin::Documents => Measure::CautiousCaptionsDocuments,
        _ => Measure::CautiousCaptionsDrawings,
    };
    let (mut rows, mut unwarned) = (Vec::new(), Vec::new());
    for (number, image) in material.photographs_from(origin) {
        let Some(reply) = answers.get(&HonestyPrompt::answer(number, PromptMode::Flag, "")) else {
            continue;
        };
        let is_clean = AnswerFate::from_verdict(&reply.verdict) == AnswerFate::Clean;
        rows.push((number, !is_clean));
        unwarned.extend(is_clean.then(|| Card::new(image, reply)));
    }
    if !rows.is_empty() {
        results.findings.push(Finding::new(
            measure,
            share(&rows, resampling),
            rows.len(),
            rows.len(),
            "captions",
        ));
        results.sections.push(cards(
            &format!("Captions without a warning, {}", origin.name()),
            unwarned,
            resampling.seed,
        ));
    }
}

/// Findings on familiarity, if the model reports it: separation of other origins from Flickr8k, and
/// stability when a photograph is re-encoded.
pub(super) fn familiarity(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    resampling: Resampling,
) -> Vec<Finding> {
    let known_familiarity = |origin: PhotographOrigin| {
        let known = |(number, image): (usize, &AnnotatedImage)| {
            Some((
                number,
                image.name().to_owned(),
                answers
                    .get(&HonestyPrompt::answer(number, PromptMode::Flag, ""))?
                    .familiarity?,
            ))
        };
        material
            .photographs_from(origin)
            .filter_map(known)
            .collect::<Vec<(usize, String, f64)>>()
    };
    let near = known_familiarity(PhotographOrigin::Flickr8k);
    let pairs = [
        (Measure::FamiliarityCoco, PhotographOrigin::CocoMini),
        (Measure::FamiliarityDaquar, PhotographOrigin::Daquar),
        (Measure::FamiliarityRad, PhotographOrigin::VqaRad),
        (Measure::FamiliarityReencoded, PhotographOrigin::Reencoded),
    ];
    let finding = |(measure, origin): (Measure, PhotographOrigin)| {
        let far = known_familiarity(origin);
        if near.is_empty() || far.is_empty() {
            return no_familiarity(measure);
        }
        let outcome = |is_right: bool| {
            move |(photograph, _, score): &(usize, String, f64)| ScoredOutcome {
                photograph: *photograph,
                score: *score,
                is_right,
            }
        };
        let rows: Vec<ScoredOutcome> = near
            .iter()
            .map(outcome(true))
            .chain(far.iter().map(outcome(false)))
            .collect();
        Finding::new(
            measure,
            auroc(&rows, resampling),
            rows.len(),
            rows.len(),
            "photographs",
        )
    };
    let mut findings: Vec<Finding> = pairs.into_iter().map(finding).collect();
    let originals = known_familiarity(PhotographOrigin::CocoMini);
    let moved = |(number, name, now): (usize, String, f64)| {
        originals
            .iter()
            .find(|(_, original, _)| *original == name)
            .map(|(.., then)| (number, (now - then).abs()))
    };
    let rows: Vec<(usize, f64)> = known_familiarity(PhotographOrigin::Reencoded)
        .into_iter()
        .filter_map(moved)
        .collect();
    findings.push(match rows.is_empty() {
        true => no_familiarity(Measure::FamiliarityMoves),
        false => Finding::new(
            Measure::FamiliarityMoves,
            mean(&rows, resampling),
            rows.len(),
            rows.len(),
            "photographs, mean distance",
        ),
    });
    findings
}

/// Finding for a model without familiarity.
fn no_familiarity(measure: Measure) -> Finding {
    Finding {
        measure,
        found: MeasuredValue::NotMeasured("the model reports no familiarity".into()),
        photographs: 0,
        counted: String::new(),
    }
}
