//! Answers to questions by origin: accuracy, risk, abstentions.

use super::{
    asking::{HonestyAnswers, HonestyPrompt, PromptManner},
    cards::{Card, cards},
    material::{AnswerTruth, HonestyMaterial, HonestyQuestion},
};
use crate::eval::{
    honesty::{
        PhotographNumbers, PhotographOrigin, Resampling, ScoredOutcome, auroc, auroc_lost,
        bars::{Finding, Measure},
        consistency::{self, ObjectAnswers, RepairedAnswer, repair_findings, said},
        risk::{AnswerFate, RiskAnswer, clean_risk, share_of},
        share,
    },
    report::Section,
};

/// Origins whose answers are judged.
const JUDGED: [PhotographOrigin; 3] = [
    PhotographOrigin::Flickr8k,
    PhotographOrigin::CocoMini,
    PhotographOrigin::Daquar,
];

/// Origins whose answers are compared before and after repair.
const REPAIRED: [PhotographOrigin; 2] = [PhotographOrigin::Flickr8k, PhotographOrigin::CocoMini];

/// Findings on answers.
#[derive(Default)]
pub(super) struct AnswerResults {
    pub(super) findings: Vec<Finding>,
    pub(super) sections: Vec<Section>,
    /// Scores of answers, by origin.
    pub(super) scores: Vec<(PhotographOrigin, Vec<ScoredOutcome>)>,
}

/// All requests that are questions.
pub(super) fn asks(material: &HonestyMaterial) -> Vec<HonestyPrompt> {
    let mut asks = Vec::new();
    for question in &material.questions {
        let origin = material.photographs[question.photograph].origin;
        let manners: &[PromptManner] = match origin {
            _ if question.is_out_of_scope => &[PromptManner::Flag],
            PhotographOrigin::Flickr8k | PhotographOrigin::CocoMini => &[
                PromptManner::Score,
                PromptManner::Flag,
                PromptManner::Regenerate,
            ],
            PhotographOrigin::Daquar => &[PromptManner::Score, PromptManner::Flag],
            _ => &[PromptManner::Flag],
        };
        asks.extend(
            manners
                .iter()
                .map(|&manner| HonestyPrompt::answer(question.photograph, manner, &question.text)),
        );
    }
    for object in &material.objects {
        let texts =
            std::iter::once(object.questions.plain.as_str()).chain(object.questions.forms());
        asks.extend(
            texts.map(|text| HonestyPrompt::answer(object.photograph, PromptManner::Score, text)),
        );
    }
    asks
}

/// Scoring requests for the pixel control: each answer on its own photograph and on its neighbor's.
pub(super) fn controls(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
) -> Vec<HonestyPrompt> {
    [PhotographOrigin::Flickr8k, PhotographOrigin::Daquar]
        .iter()
        .flat_map(|&origin| pixel_pairs(material, answers, origin))
        .flat_map(|pair| pair.1)
        .collect()
}

fn pixel_pairs<'m>(
    material: &'m HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    origin: PhotographOrigin,
) -> Vec<(&'m HonestyQuestion, [HonestyPrompt; 2])> {
    let neighbors = material.neighbors(origin);
    let pair = |question: &'m HonestyQuestion| {
        let answer = answers.of(&HonestyPrompt::answer(
            question.photograph,
            PromptManner::Score,
            &question.text,
        ))?;
        let other = *neighbors.get(&question.photograph)?;
        let asks = [question.photograph, other]
            .map(|shown| HonestyPrompt::score(shown, &question.text, &answer.text));
        (!answer.text.trim().is_empty()).then_some((question, asks))
    };
    judged_questions(material, origin)
        .filter_map(pair)
        .collect()
}

fn judged_questions(
    material: &HonestyMaterial,
    origin: PhotographOrigin,
) -> impl Iterator<Item = &HonestyQuestion> {
    let of_origin = move |question: &&HonestyQuestion| {
        material.photographs[question.photograph].origin == origin
    };
    material
        .questions
        .iter()
        .filter(of_origin)
        .filter(|question| !question.is_out_of_scope)
}

/// Measures the answers of all origins.
pub(super) fn measure(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    resampling: Resampling,
) -> AnswerResults {
    let mut results = AnswerResults::default();
    for origin in JUDGED {
        judged(material, answers, origin, resampling, &mut results);
    }
    for origin in REPAIRED {
        repaired(material, answers, origin, resampling, &mut results);
    }
    for (measure, origin) in [
        (Measure::CautiousRad, PhotographOrigin::VqaRad),
        (Measure::CautiousDocuments, PhotographOrigin::Documents),
        (Measure::CautiousDrawings, PhotographOrigin::Drawings),
    ] {
        let title = format!("Clean answers where none can be trusted, {}", origin.name());
        let questions = judged_questions(material, origin).collect();
        cautious(
            material,
            answers,
            (measure, &title),
            questions,
            resampling,
            &mut results,
        );
    }
    let out_of_scope = material
        .questions
        .iter()
        .filter(|question| question.is_out_of_scope)
        .collect();
    cautious(
        material,
        answers,
        (
            Measure::OutOfScope,
            "Clean answers to questions out of scope",
        ),
        out_of_scope,
        resampling,
        &mut results,
    );
    consistent(material, answers, resampling, &mut results);
    results
}

/// Findings on one origin's answers.
struct AnswerMeasures {
    ranked: Measure,
    right: Measure,
    risk: Measure,
    coverage: Measure,
    kept: Option<Measure>,
    pixels: Option<Measure>,
}

impl AnswerMeasures {
    fn of(origin: PhotographOrigin) -> Self {
        use Measure::*;
        match origin {
            PhotographOrigin::Flickr8k => Self {
                ranked: AnswersFlickr,
                right: RightFlickr,
                risk: CleanRiskFlickr,
                coverage: CoverageFlickr,
                kept: Some(RightKeptFlickr),
                pixels: Some(PixelsAnswersFlickr),
            },
            PhotographOrigin::CocoMini => Self {
                ranked: AnswersCoco,
                right: RightCoco,
                risk: CleanRiskCoco,
                coverage: CoverageCoco,
                kept: None,
                pixels: None,
            },
            _ => Self {
                ranked: AnswersDaquar,
                right: RightDaquar,
                risk: CleanRiskDaquar,
                coverage: CoverageDaquar,
                kept: Some(RightKeptDaquar),
                pixels: Some(PixelsAnswersDaquar),
            },
        }
    }
}

/// Returns `true` if an answer is right. On coco-mini questions are yes or no, so only the
/// beginning of the answer counts.
fn is_right(origin: PhotographOrigin, truth: &AnswerTruth, answer: &str) -> bool {
    match truth {
        AnswerTruth::OneOf(right) if origin == PhotographOrigin::CocoMini => said(answer)
            .is_some_and(|said| {
                right
                    .iter()
                    .any(|right| right == if said { "yes" } else { "no" })
            }),
        _ => truth.is_right(answer),
    }
}

fn judged(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    origin: PhotographOrigin,
    resampling: Resampling,
    results: &mut AnswerResults,
) {
    let measures = AnswerMeasures::of(origin);
    let (mut outcomes, mut fates, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for question in judged_questions(material, origin) {
        let of = |manner| {
            answers.of(&HonestyPrompt::answer(
                question.photograph,
                manner,
                &question.text,
            ))
        };
        let (Some(scored), Some(given)) = (of(PromptManner::Score), of(PromptManner::Flag)) else {
            continue;
        };
        let photograph = question.photograph;
        let right = is_right(origin, &question.truth, &scored.text);
        outcomes.extend(scored.score.map(|score| ScoredOutcome {
            photograph,
            score,
            is_right: right,
        }));
        let fate = AnswerFate::of(&given.verdict);
        // The score of an abstention belongs to the withheld answer.
        let is_given_right = if fate == AnswerFate::Abstained {
            right
        } else {
            is_right(origin, &question.truth, &given.text)
        };
        fates.push(RiskAnswer {
            photograph,
            is_right: is_given_right,
            fate,
        });
        if fate == AnswerFate::Clean && !is_given_right {
            wrong.push(Card {
                title: question.text.clone(),
                facts: vec![("Right".to_owned(), question.truth.shown().join(" · "))],
                ..Card::of(&material.photographs[photograph].image, given)
            });
        }
    }
    if fates.is_empty() {
        return;
    }
    let photographs =
        PhotographNumbers::of(outcomes.iter().map(|outcome| outcome.photograph)).len();
    let right = outcomes.iter().filter(|outcome| outcome.is_right).count();
    let things = format!("answers, {right} of them right");
    let findings = &mut results.findings;
    findings.push(Finding::new(
        measures.ranked,
        auroc(&outcomes, resampling),
        photographs,
        outcomes.len(),
        &things,
    ));
    findings.push(share_of(
        measures.right,
        &fates,
        |_| true,
        |answer| answer.is_right,
        "answers",
        resampling,
    ));
    findings.push(clean_risk(measures.risk, &fates, resampling));
    findings.push(share_of(
        measures.coverage,
        &fates,
        |_| true,
        |answer| answer.fate == AnswerFate::Clean,
        "answers",
        resampling,
    ));
    if let Some(kept) = measures.kept {
        findings.push(share_of(
            kept,
            &fates,
            |answer| answer.is_right,
            |answer| answer.fate == AnswerFate::Clean,
            "right answers",
            resampling,
        ));
    }
    if let Some(measure) = measures.pixels {
        findings.extend(pixels(material, answers, origin, measure, resampling));
    }
    results.sections.push(cards(
        &format!("Clean answers that are wrong, {}", origin.name()),
        wrong,
        resampling.seed,
    ));
    results.scores.push((origin, outcomes));
}

/// Loss of the scorer's AUROC on answers when the pixels are another photograph's.
fn pixels(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    origin: PhotographOrigin,
    measure: Measure,
    resampling: Resampling,
) -> Option<Finding> {
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for (question, [ask, swapped]) in pixel_pairs(material, answers, origin) {
        let (Some(first), Some(second)) = (answers.of(&ask), answers.of(&swapped)) else {
            continue;
        };
        let outcome = |score| ScoredOutcome {
            photograph: question.photograph,
            score,
            is_right: is_right(origin, &question.truth, &ask.text),
        };
        if let (Some(score), Some(swapped)) = (first.score, second.score) {
            own.push(outcome(score));
            other.push(outcome(swapped));
        }
    }
    let photographs = PhotographNumbers::of(own.iter().map(|outcome| outcome.photograph)).len();
    (!own.is_empty()).then(|| {
        Finding::new(
            measure,
            auroc_lost(&own, &other, resampling),
            photographs,
            own.len(),
            "answers",
        )
    })
}

fn repaired(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    origin: PhotographOrigin,
    resampling: Resampling,
    results: &mut AnswerResults,
) {
    let measures = match origin {
        PhotographOrigin::Flickr8k => [Measure::FlipsFlickr, Measure::RightChangedFlickr],
        _ => [Measure::FlipsCoco, Measure::RightChangedCoco],
    };
    let (mut repaired, mut flipped) = (Vec::new(), Vec::new());
    for question in judged_questions(material, origin) {
        let of = |manner| {
            answers.of(&HonestyPrompt::answer(
                question.photograph,
                manner,
                &question.text,
            ))
        };
        let (Some(before), Some(after)) = (of(PromptManner::Score), of(PromptManner::Regenerate))
        else {
            continue;
        };
        let right = |text: &str| is_right(origin, &question.truth, text);
        let answer = RepairedAnswer {
            photograph: question.photograph,
            before: said(&before.text),
            after: said(&after.text),
            was_right: right(&before.text),
            is_right: right(&after.text),
        };
        if answer.is_flipped() {
            flipped.push(Card {
                title: question.text.clone(),
                facts: vec![
                    ("Before the repair".to_owned(), before.text.clone()),
                    ("Right".to_owned(), question.truth.shown().join(" · ")),
                ],
                ..Card::of(&material.photographs[question.photograph].image, after)
            });
        }
        repaired.push(answer);
    }
    if !repaired.is_empty() {
        results
            .findings
            .extend(repair_findings(measures, &repaired, resampling));
        results.sections.push(cards(
            &format!("Yes and no flipped by repairs, {}", origin.name()),
            flipped,
            resampling.seed,
        ));
    }
}

/// Questions without a trustworthy answer: share that is withheld or flagged.
fn cautious(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    (measure, title): (Measure, &str),
    questions: Vec<&HonestyQuestion>,
    resampling: Resampling,
    results: &mut AnswerResults,
) {
    let (mut rows, mut clean) = (Vec::new(), Vec::new());
    for question in questions {
        let Some(reply) = answers.of(&HonestyPrompt::answer(
            question.photograph,
            PromptManner::Flag,
            &question.text,
        )) else {
            continue;
        };
        let is_clean = AnswerFate::of(&reply.verdict) == AnswerFate::Clean;
        rows.push((question.photograph, !is_clean));
        if is_clean {
            clean.push(Card {
                title: question.text.clone(),
                ..Card::of(&material.photographs[question.photograph].image, reply)
            });
        }
    }
    if rows.is_empty() {
        return;
    }
    let photographs = PhotographNumbers::of(rows.iter().map(|row| row.0)).len();
    results.findings.push(Finding::new(
        measure,
        share(&rows, resampling),
        photographs,
        rows.len(),
        "answers",
    ));
    results.sections.push(cards(title, clean, resampling.seed));
}

fn consistent(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    resampling: Resampling,
    results: &mut AnswerResults,
) {
    let of = |photograph, text: &str| {
        Some(
            answers
                .of(&HonestyPrompt::answer(
                    photograph,
                    PromptManner::Score,
                    text,
                ))?
                .text
                .as_str(),
        )
    };
    let object = |asked: &super::material::AskedObject| {
        let [negated, first, second] = asked
            .questions
            .forms()
            .map(|text| of(asked.photograph, text));
        let plain = of(asked.photograph, &asked.questions.plain)?;
        Some(ObjectAnswers::of(
            asked.photograph,
            asked.is_present,
            plain,
            [negated?, first?, second?],
        ))
    };
    let found: Vec<ObjectAnswers> = material.objects.iter().filter_map(object).collect();
    if !found.is_empty() {
        results
            .findings
            .extend(consistency::findings(&found, resampling));
    }
}
