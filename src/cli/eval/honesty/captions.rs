//! Captions by origin: objects named and invented, flags, repairs.

use super::{
    asking::{HonestyAnswers, HonestyPrompt, PromptManner},
    cards::{Card, cards},
    material::HonestyMaterial,
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
            PhotographOrigin, Resampling, ScoredOutcome, auroc, auroc_lost,
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
pub(super) fn manners(origin: PhotographOrigin) -> &'static [PromptManner] {
    if JUDGED.contains(&origin) {
        &[
            PromptManner::Off,
            PromptManner::Flag,
            PromptManner::Regenerate,
        ]
    } else {
        &[PromptManner::Flag]
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

/// Findings on one origin's captions.
struct CaptionMeasures {
    mentions: Measure,
    unflagged: Measure,
    right_flagged: Measure,
    count: Measure,
    kept: Measure,
    repaired: [Measure; 3],
    form: [Measure; 2],
    form_off: Measure,
    pixels: Measure,
}

impl CaptionMeasures {
    fn of(origin: PhotographOrigin) -> Option<Self> {
        use Measure::*;
        match origin {
            PhotographOrigin::Flickr8k => Some(Self {
                mentions: MentionsFlickr,
                unflagged: UnflaggedFlickr,
                right_flagged: RightFlaggedFlickr,
                count: MentionsCountFlickr,
                kept: MentionsKeptFlickr,
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
                kept: MentionsKeptCoco,
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
            answers.of(&HonestyPrompt::answer(number, PromptManner::Off, ""))?,
            *neighbors.get(&number)?,
        );
        (!caption.text.trim().is_empty())
            .then(|| [number, other].map(|shown| HonestyPrompt::score(shown, "", &caption.text)))
    };
    material.of(origin).filter_map(pair).collect()
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
        judged(material, answers, origin, resampling, &before, &mut results);
    }
    for origin in [
        PhotographOrigin::Flickr8k,
        PhotographOrigin::CocoMini,
        PhotographOrigin::Daquar,
    ] {
        people(material, answers, origin, resampling, &mut results);
    }
    for origin in [
        PhotographOrigin::VqaRad,
        PhotographOrigin::Documents,
        PhotographOrigin::Drawings,
    ] {
        cautious(material, answers, origin, resampling, &mut results);
    }
    results
}

/// Answers under one guard setting to all photographs of an origin; `None` if one is missing.
fn replies(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    origin: PhotographOrigin,
    manner: PromptManner,
) -> Option<Vec<AnswerWithCost>> {
    material
        .of(origin)
        .map(|(number, _)| {
            answers
                .of(&HonestyPrompt::answer(number, manner, ""))
                .cloned()
        })
        .collect()
}

fn judged(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    origin: PhotographOrigin,
    resampling: Resampling,
    before: &impl Fn(Measure) -> Option<f64>,
    results: &mut CaptionResults,
) {
    let Some(measures) = CaptionMeasures::of(origin) else {
        return;
    };
    let (numbers, images): (Vec<usize>, Vec<&AnnotatedImage>) = material.of(origin).unzip();
    let [Some(off), Some(flagged), Some(repaired)] = [
        PromptManner::Off,
        PromptManner::Flag,
        PromptManner::Regenerate,
    ]
    .map(|manner| replies(material, answers, origin, manner)) else {
        return;
    };
    if images.is_empty() {
        return;
    }
    let Resampling { repeats, seed } = resampling;
    let texts = [&off, &flagged, &repaired].map(|replies| hypotheses(&images, replies));
    let judge = |texts: &'_ [Hypothesis]| -> Vec<(usize, usize)> {
        let evaluation = evaluate(&images, texts);
        let count = |caption| {
            MentionKind::Closed
                .mentions(caption)
                .map_or((0, 0), |m| (m.len(), m.iter().filter(|m| !m.1).count()))
        };
        evaluation.captions.iter().map(count).collect()
    };
    let findings = &mut results.findings;
    // Flags.
    let marks: Vec<GuardMarks> = flagged.iter().map(|reply| reply.marks.clone()).collect();
    let evaluation = evaluate(&images, &texts[1]);
    if let Some(found) = flags::measure(MentionKind::Closed, &evaluation, &marks, repeats, seed) {
        let mentions = found.wrong + found.right;
        findings.extend([
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
        ]);
    }
    let outcomes = numbers
        .iter()
        .zip(&evaluation.captions)
        .zip(&marks)
        .flat_map(|((&photograph, caption), marks)| {
            let mentions = MentionKind::Closed.mentions(caption).unwrap_or_default();
            let outcome = |(range, is_right)| {
                Some(ScoredOutcome {
                    photograph,
                    score: f64::from(marks.score(&range)?),
                    is_right,
                })
            };
            mentions.into_iter().filter_map(outcome).collect::<Vec<_>>()
        });
    results.mentions.push((origin, outcomes.collect()));
    // Objects named.
    let counted = judge(&texts[0]);
    let rows: Vec<(usize, f64)> = numbers
        .iter()
        .zip(&counted)
        .map(|(&number, count)| (number, count.0 as f64))
        .collect();
    let a_caption = mean(&rows, resampling);
    findings.push(Finding::new(
        measures.count,
        a_caption,
        numbers.len(),
        numbers.len(),
        "captions",
    ));
    findings.push(match before(measures.count) {
        Some(known) => {
            let ratio = Estimate {
                value: a_caption.value / known,
                interval: a_caption
                    .interval
                    .map(|(low, high)| (low / known, high / known)),
            };
            Finding::new(
                measures.kept,
                ratio,
                numbers.len(),
                numbers.len(),
                "captions",
            )
        }
        None => Finding {
            measure: measures.kept,
            found: MeasuredValue::NotMeasured("needs an earlier run: --against".into()),
            photographs: numbers.len(),
            counted: String::new(),
        },
    });
    // Effect of repairs.
    let (first, second) = (evaluate(&images, &texts[0]), evaluate(&images, &texts[2]));
    let group = if origin == PhotographOrigin::CocoMini {
        FigureGroup::Closed
    } else {
        FigureGroup::Open
    };
    let relative = relative_changes(&first, &second, repeats, seed);
    let changes = compare(&first, &second, seed);
    let chair = relative
        .iter()
        .find(|(name, _)| *name == (group, "CHAIR_i"))
        .map(|found| found.1);
    let difference = |group: FigureGroup, name: &str| {
        changes
            .iter()
            .find(|(found, _)| found.0 == group && found.1 == name)
            .map(|c| c.1.estimate)
    };
    let described = images
        .iter()
        .filter(|image| !image.captions.is_empty())
        .count();
    let judged_by = if group == FigureGroup::Open {
        described
    } else {
        images.len()
    };
    let changed = [
        (chair, judged_by),
        (difference(group, "recall"), judged_by),
        (difference(FigureGroup::Description, "CIDEr-D"), described),
    ];
    for (measure, (figure, photographs)) in measures.repaired.into_iter().zip(changed) {
        findings.extend(figure.map(|figure| {
            Finding::new(
                measure,
                figure,
                photographs,
                photographs,
                "pairs of captions",
            )
        }));
    }
    let shaped = |measure, replies: &[AnswerWithCost], is_bad: fn(&str) -> bool| {
        let rows: Vec<(usize, bool)> = numbers
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
    findings.extend([
        shaped(measures.form[0], &repaired, is_fragment),
        shaped(measures.form[1], &repaired, is_loop),
        shaped(measures.form_off, &off, is_fragment),
    ]);
    // Pixel control: does the scorer look at the photograph?
    findings.extend(pixels(
        material,
        answers,
        origin,
        measures.pixels,
        resampling,
    ));
    let name = origin.name();
    let mut changes: Vec<Section> = repairs::sections(&first, &second, repeats, seed)
        .into_iter()
        .take(1)
        .collect();
    changes
        .iter_mut()
        .for_each(|section| section.title = format!("{}, {name}", section.title));
    results.sections.extend(changes);
    let broken = images
        .iter()
        .zip(off.iter().zip(&repaired))
        .filter(|(_, (before, after))| {
            (is_fragment(&after.text) && !is_fragment(&before.text))
                || (is_loop(&after.text) && !is_loop(&before.text))
        });
    let broken = broken.map(|(image, (before, after))| Card {
        facts: vec![("Before the repair".into(), before.text.clone())],
        ..Card::of(image, after)
    });
    results.sections.push(cards(
        &format!("Repairs that leave a fragment or a loop, {name}"),
        broken.collect(),
        seed,
    ));
    if origin == PhotographOrigin::CocoMini {
        let invents = judge(&texts[1]);
        let rows = flagged.iter().zip(invents).zip(&numbers).filter_map(
            |((reply, (_, wrong)), &photograph)| {
                Some(ScoredOutcome {
                    photograph,
                    score: reply.familiarity?,
                    is_right: wrong == 0,
                })
            },
        );
        let rows: Vec<ScoredOutcome> = rows.collect();
        let figure = || {
            Finding::new(
                Measure::FamiliarityInvents,
                auroc(&rows, resampling),
                rows.len(),
                rows.len(),
                "captions",
            )
        };
        results.findings.push(if rows.is_empty() {
            unfamiliar(Measure::FamiliarityInvents)
        } else {
            figure()
        });
    }
}

fn is_fragment(text: &str) -> bool {
    !is_whole(text)
}

fn is_loop(text: &str) -> bool {
    Form::of(text).is_loop
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
fn pixels(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    origin: PhotographOrigin,
    measure: Measure,
    resampling: Resampling,
) -> Option<Finding> {
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for [ask, swapped] in pixel_pairs(material, answers, origin) {
        let (photograph, image) = (ask.photograph, &material.photographs[ask.photograph].image);
        let (Some(first), Some(second)) = (answers.of(&ask), answers.of(&swapped)) else {
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
    let photographs =
        crate::eval::honesty::PhotographNumbers::of(own.iter().map(|outcome| outcome.photograph))
            .len();
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
fn people(
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
    for (number, image) in material.of(origin) {
        let (Some(reply), Some(shows)) = (
            answers.of(&HonestyPrompt::answer(number, PromptManner::Flag, "")),
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
            unflagged.push(Card::of(image, reply));
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
    let (figure, count) = mentions.inventing(resampling);
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
fn cautious(
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
    for (number, image) in material.of(origin) {
        let Some(reply) = answers.of(&HonestyPrompt::answer(number, PromptManner::Flag, "")) else {
            continue;
        };
        let is_clean = AnswerFate::of(&reply.verdict) == AnswerFate::Clean;
        rows.push((number, !is_clean));
        unwarned.extend(is_clean.then(|| Card::of(image, reply)));
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

/// How well familiarity separates other origins from Flickr8k, and how little it changes when a
/// photograph is re-encoded, if the model reports it.
pub(super) fn familiarity(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    resampling: Resampling,
) -> Vec<Finding> {
    let of = |origin: PhotographOrigin| {
        let known = |(number, image): (usize, &AnnotatedImage)| {
            Some((
                number,
                image.name().to_owned(),
                answers
                    .of(&HonestyPrompt::answer(number, PromptManner::Flag, ""))?
                    .familiarity?,
            ))
        };
        material
            .of(origin)
            .filter_map(known)
            .collect::<Vec<(usize, String, f64)>>()
    };
    let near = of(PhotographOrigin::Flickr8k);
    let pairs = [
        (Measure::FamiliarityCoco, PhotographOrigin::CocoMini),
        (Measure::FamiliarityDaquar, PhotographOrigin::Daquar),
        (Measure::FamiliarityRad, PhotographOrigin::VqaRad),
        (Measure::FamiliarityReencoded, PhotographOrigin::Reencoded),
    ];
    let finding = |(measure, origin): (Measure, PhotographOrigin)| {
        let far = of(origin);
        if near.is_empty() || far.is_empty() {
            return unfamiliar(measure);
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
    let originals = of(PhotographOrigin::CocoMini);
    let moved = |(number, name, now): (usize, String, f64)| {
        originals
            .iter()
            .find(|(_, original, _)| *original == name)
            .map(|(.., then)| (number, (now - then).abs()))
    };
    let rows: Vec<(usize, f64)> = of(PhotographOrigin::Reencoded)
        .into_iter()
        .filter_map(moved)
        .collect();
    findings.push(match rows.is_empty() {
        true => unfamiliar(Measure::FamiliarityMoves),
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
fn unfamiliar(measure: Measure) -> Finding {
    Finding {
        measure,
        found: MeasuredValue::NotMeasured("the model reports no familiarity".into()),
        photographs: 0,
        counted: String::new(),
    }
}
