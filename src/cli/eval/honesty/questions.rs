//! Answers to questions by origin: accuracy, risk, abstentions.

use super::{
    cards::{Card, cards},
    material::{AnswerTruth, HonestyMaterial, HonestyObject, HonestyQuestion},
    prompts::{HonestyAnswers, HonestyPrompt, PromptMode},
};
use crate::eval::{
    honesty::{
        PhotographNumbers, PhotographOrigin, Resampling, ScoredOutcome, auroc, auroc_lost,
        bars::{Finding, Measure},
        consistency::{self, ObjectAnswers, RepairedAnswer, parse_yes_no, repair_findings},
        risk::{AnswerFate, RiskAnswer, clean_risk, share_among},
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
pub(super) fn prompts(material: &HonestyMaterial) -> Vec<HonestyPrompt> {
    let mut prompts = Vec::new();
    for question in &material.questions {
        let origin = material.photographs[question.photograph].origin;
        let modes: &[PromptMode] = match origin {
            _ if question.is_out_of_scope => &[PromptMode::Flag],
            PhotographOrigin::Flickr8k | PhotographOrigin::CocoMini => {
                &[PromptMode::Score, PromptMode::Flag, PromptMode::Regenerate]
            }
            PhotographOrigin::Daquar => &[PromptMode::Score, PromptMode::Flag],
            _ => &[PromptMode::Flag],
        };
        prompts.extend(
            modes
                .iter()
                .map(|&mode| HonestyPrompt::answer(question.photograph, mode, &question.text)),
        );
    }
    for object in &material.objects {
        let texts =
            std::iter::once(object.questions.plain.as_str()).chain(object.questions.forms());
        prompts.extend(
            texts.map(|text| HonestyPrompt::answer(object.photograph, PromptMode::Score, text)),
        );
    }
    prompts
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
        let answer = answers.get(&HonestyPrompt::answer(
            question.photograph,
            PromptMode::Score,
            &question.text,
        ))?;
        let other = *neighbors.get(&question.photograph)?;
        let prompts = [question.photograph, other]
            .map(|shown| HonestyPrompt::score(shown, &question.text, &answer.text));
        (!answer.text.trim().is_empty()).then_some((question, prompts))
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
        measure_origin(material, answers, origin, resampling, &mut results);
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
        measure_untrustworthy(
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
    measure_untrustworthy(
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
    measure_consistency(material, answers, resampling, &mut results);
    results
}

/// Measures of one origin's answers.
struct AnswerMeasures {
    ranked: Measure,
    right: Measure,
    risk: Measure,
    coverage: Measure,
    clean_right: Option<Measure>,
    pixels: Option<Measure>,
}

impl AnswerMeasures {
    fn for_origin(origin: PhotographOrigin) -> Self {
        use Measure::*;
        match origin {
            PhotographOrigin::Flickr8k => Self {
                ranked: AnswersFlickr,
                right: RightFlickr,
                risk: CleanRiskFlickr,
                coverage: CoverageFlickr,
                clean_right: Some(RightKeptFlickr),
                pixels: Some(PixelsAnswersFlickr),
            },
            PhotographOrigin::CocoMini => Self {
                ranked: AnswersCoco,
                right: RightCoco,
                risk: CleanRiskCoco,
                coverage: CoverageCoco,
                clean_right: None,
                pixels: None,
            },
            _ => Self {
                ranked: AnswersDaquar,
                right: RightDaquar,
                risk: CleanRiskDaquar,
                coverage: CoverageDaquar,
                clean_right: Some(RightKeptDaquar),
                pixels: Some(PixelsAnswersDaquar),
            },
        }
    }
}

/// Returns `true` if an answer is right. On coco-mini questions are yes or no, so only the
/// beginning of the answer counts.
fn is_right(origin: PhotographOrigin, truth: &AnswerTruth, answer: &str) -> bool {
    match truth {
        AnswerTruth::OneOf(right) if origin == PhotographOrigin::CocoMini => parse_yes_no(answer)
            .is_some_and(|yes| {
                right
                    .iter()
                    .any(|right| right == if yes { "yes" } else { "no" })
            }),
        _ => truth.is_right(answer),
    }
}

/// Answers to the judged questions of an origin.
#[derive(Default)]
struct OriginAnswers<'a> {
    /// Answers in mode score, with their scores.
    outcomes: Vec<ScoredOutcome>,
    /// Answers under the guard's defaults.
    given: Vec<RiskAnswer>,
    /// Cards of wrong answers without a warning.
    wrong: Vec<Card<'a>>,
}

impl<'a> OriginAnswers<'a> {
    fn collect(
        material: &'a HonestyMaterial,
        answers: &'a HonestyAnswers<'_>,
        origin: PhotographOrigin,
    ) -> Self {
        let mut collected = Self::default();
        for question in judged_questions(material, origin) {
            let photograph = question.photograph;
            let answer_in =
                |mode| answers.get(&HonestyPrompt::answer(photograph, mode, &question.text));
            let (Some(scored), Some(given)) =
                (answer_in(PromptMode::Score), answer_in(PromptMode::Flag))
            else {
                continue;
            };
            let is_scored_right = is_right(origin, &question.truth, &scored.text);
            collected
                .outcomes
                .extend(scored.score.map(|score| ScoredOutcome {
                    photograph,
                    score,
                    is_right: is_scored_right,
                }));
            let fate = AnswerFate::from_verdict(&given.verdict);
            // The score of an abstention belongs to the withheld answer.
            let is_right = if fate == AnswerFate::Abstained {
                is_scored_right
            } else {
                is_right(origin, &question.truth, &given.text)
            };
            collected.given.push(RiskAnswer {
                photograph,
                is_right,
                fate,
            });
            if fate == AnswerFate::Clean && !is_right {
                let right = question.truth.right_answers().join(" · ");
                collected.wrong.push(Card {
                    title: question.text.clone(),
                    facts: vec![("Right".to_owned(), right)],
                    ..Card::new(&material.photographs[photograph].image, given)
                });
            }
        }
        collected
    }
}

fn measure_origin(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    origin: PhotographOrigin,
    resampling: Resampling,
    results: &mut AnswerResults,
) {
    let measures = AnswerMeasures::for_origin(origin);
    let OriginAnswers {
        outcomes,
        given,
        wrong,
    } = OriginAnswers::collect(material, answers, origin);
    if given.is_empty() {
        return;
    }
    let photographs =
        PhotographNumbers::new(outcomes.iter().map(|outcome| outcome.photograph)).len();
    let right = outcomes.iter().filter(|outcome| outcome.is_right).count();
    let is_clean = |answer: &RiskAnswer| answer.fate == AnswerFate::Clean;
    let findings = &mut results.findings;
    findings.push(Finding::new(
        measures.ranked,
        auroc(&outcomes, resampling),
        photographs,
        outcomes.len(),
        &format!("answers, {right} of them right"),
    ));
    findings.push(share_among(
        measures.right,
        &given,
        |_| true,
        |answer| answer.is_right,
        "answers",
        resampling,
    ));
    findings.push(clean_risk(measures.risk, &given, resampling));
    findings.push(share_among(
        measures.coverage,
        &given,
        |_| true,
        is_clean,
        "answers",
        resampling,
    ));
    findings.extend(measures.clean_right.map(|measure| {
        share_among(
            measure,
            &given,
            |answer| answer.is_right,
            is_clean,
            "right answers",
            resampling,
        )
    }));
    findings.extend(
        measures
            .pixels
            .and_then(|measure| pixel_finding(material, answers, origin, measure, resampling)),
    );
    results.sections.push(cards(
        &format!("Clean answers that are wrong, {}", origin.name()),
        wrong,
        resampling.seed,
    ));
    results.scores.push((origin, outcomes));
}

/// Loss of the scorer's AUROC on answers when the pixels are another photograph's.
fn pixel_finding(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    origin: PhotographOrigin,
    measure: Measure,
    resampling: Resampling,
) -> Option<Finding> {
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for (question, [prompt, swapped]) in pixel_pairs(material, answers, origin) {
        let (Some(first), Some(second)) = (answers.get(&prompt), answers.get(&swapped)) else {
            continue;
        };
        let outcome = |score| ScoredOutcome {
            photograph: question.photograph,
            score,
            is_right: is_right(origin, &question.truth, &prompt.text),
        };
        if let (Some(score), Some(swapped)) = (first.score, second.score) {
            own.push(outcome(score));
            other.push(outcome(swapped));
        }
    }
    let photographs = PhotographNumbers::new(own.iter().map(|outcome| outcome.photograph)).len();
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
        let answer_in = |mode| {
            answers.get(&HonestyPrompt::answer(
                question.photograph,
                mode,
                &question.text,
            ))
        };
        let (Some(before), Some(after)) = (
            answer_in(PromptMode::Score),
            answer_in(PromptMode::Regenerate),
        ) else {
            continue;
        };
        let right = |text: &str| is_right(origin, &question.truth, text);
        let answer = RepairedAnswer {
            photograph: question.photograph,
            before: parse_yes_no(&before.text),
            after: parse_yes_no(&after.text),
            was_right: right(&before.text),
            is_right: right(&after.text),
        };
        if answer.is_flipped() {
            flipped.push(Card {
                title: question.text.clone(),
                facts: vec![
                    ("Before the repair".to_owned(), before.text.clone()),
                    (
                        "Right".to_owned(),
                        question.truth.right_answers().join(" · "),
                    ),
                ],
                ..Card::new(&material.photographs[question.photograph].image, after)
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
fn measure_untrustworthy(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    (measure, title): (Measure, &str),
    questions: Vec<&HonestyQuestion>,
    resampling: Resampling,
    results: &mut AnswerResults,
) {
    let (mut rows, mut clean) = (Vec::new(), Vec::new());
    for question in questions {
        let Some(reply) = answers.get(&HonestyPrompt::answer(
            question.photograph,
            PromptMode::Flag,
            &question.text,
        )) else {
            continue;
        };
        let is_clean = AnswerFate::from_verdict(&reply.verdict) == AnswerFate::Clean;
        rows.push((question.photograph, !is_clean));
        if is_clean {
            clean.push(Card {
                title: question.text.clone(),
                ..Card::new(&material.photographs[question.photograph].image, reply)
            });
        }
    }
    if rows.is_empty() {
        return;
    }
    let photographs = PhotographNumbers::new(rows.iter().map(|row| row.0)).len();
    results.findings.push(Finding::new(
        measure,
        share(&rows, resampling),
        photographs,
        rows.len(),
        "answers",
    ));
    results.sections.push(cards(title, clean, resampling.seed));
}

fn measure_consistency(
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    resampling: Resampling,
    results: &mut AnswerResults,
) {
    let answer_text = |photograph, text: &str| {
        Some(
            answers
                .get(&HonestyPrompt::answer(photograph, PromptMode::Score, text))?
                .text
                .as_str(),
        )
    };
    let parse = |object: &HonestyObject| {
        let [negated, first, second] = object
            .questions
            .forms()
            .map(|text| answer_text(object.photograph, text));
        let plain = answer_text(object.photograph, &object.questions.plain)?;
        Some(ObjectAnswers::parse(
            object.photograph,
            object.is_present,
            plain,
            [negated?, first?, second?],
        ))
    };
    let found: Vec<ObjectAnswers> = material.objects.iter().filter_map(parse).collect();
    if !found.is_empty() {
        results
            .findings
            .extend(consistency::findings(&found, resampling));
    }
}
