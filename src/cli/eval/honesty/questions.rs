//! What answers to questions are worth, by origin.

use super::{
    asking::{Answers, Ask, Manner},
    cards::{Card, cards},
    material::{Material, Question, Truth},
};
use crate::eval::{
    honesty::{
        Numbers, Origin, Outcome, Resampling, auroc, auroc_lost,
        bars::{Finding, Measure},
        consistency::{self, ObjectAnswers, RepairedAnswer, repair_findings, said},
        risk::{Fate, JudgedAnswer, clean_risk, share_of},
        share,
    },
    report::Section,
};

/// The origins whose answers are judged.
const JUDGED: [Origin; 3] = [Origin::Flickr8k, Origin::CocoMini, Origin::Daquar];

/// The origins whose repaired answers are compared with those before.
const REPAIRED: [Origin; 2] = [Origin::Flickr8k, Origin::CocoMini];

/// What was found.
#[derive(Default)]
pub(super) struct AnswerResults {
    pub(super) findings: Vec<Finding>,
    pub(super) sections: Vec<Section>,
    /// Scores of answers, by origin.
    pub(super) scores: Vec<(Origin, Vec<Outcome>)>,
}

/// Everything that is asked in words.
pub(super) fn asks(material: &Material) -> Vec<Ask> {
    let mut asks = Vec::new();
    for question in &material.questions {
        let origin = material.photographs[question.photograph].origin;
        let manners: &[Manner] = match origin {
            _ if question.is_out_of_scope => &[Manner::Flag],
            Origin::Flickr8k | Origin::CocoMini => {
                &[Manner::Score, Manner::Flag, Manner::Regenerate]
            }
            Origin::Daquar => &[Manner::Score, Manner::Flag],
            _ => &[Manner::Flag],
        };
        asks.extend(
            manners
                .iter()
                .map(|&manner| Ask::answer(question.photograph, manner, &question.text)),
        );
    }
    for object in &material.objects {
        let texts =
            std::iter::once(object.questions.plain.as_str()).chain(object.questions.forms());
        asks.extend(texts.map(|text| Ask::answer(object.photograph, Manner::Score, text)));
    }
    asks
}

/// The scorings by which own pixels are compared with another photograph's: each answer on its
/// photograph and on the next one of its origin.
pub(super) fn controls(material: &Material, answers: &Answers<'_>) -> Vec<Ask> {
    [Origin::Flickr8k, Origin::Daquar]
        .iter()
        .flat_map(|&origin| pixel_pairs(material, answers, origin))
        .flat_map(|pair| pair.1)
        .collect()
}

fn pixel_pairs<'m>(
    material: &'m Material,
    answers: &Answers<'_>,
    origin: Origin,
) -> Vec<(&'m Question, [Ask; 2])> {
    let neighbors = material.neighbors(origin);
    let pair = |question: &'m Question| {
        let answer = answers.of(&Ask::answer(
            question.photograph,
            Manner::Score,
            &question.text,
        ))?;
        let other = *neighbors.get(&question.photograph)?;
        let asks = [question.photograph, other]
            .map(|shown| Ask::score(shown, &question.text, &answer.text));
        (!answer.text.trim().is_empty()).then_some((question, asks))
    };
    judged_questions(material, origin)
        .filter_map(pair)
        .collect()
}

fn judged_questions(material: &Material, origin: Origin) -> impl Iterator<Item = &Question> {
    let of_origin =
        move |question: &&Question| material.photographs[question.photograph].origin == origin;
    material
        .questions
        .iter()
        .filter(of_origin)
        .filter(|question| !question.is_out_of_scope)
}

/// Measures the answers of all origins.
pub(super) fn measure(
    material: &Material,
    answers: &Answers<'_>,
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
        (Measure::CautiousRad, Origin::VqaRad),
        (Measure::CautiousDocuments, Origin::Documents),
        (Measure::CautiousDrawings, Origin::Drawings),
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

/// The measures of one origin's answers.
struct AnswerMeasures {
    ranked: Measure,
    right: Measure,
    risk: Measure,
    coverage: Measure,
    kept: Option<Measure>,
    pixels: Option<Measure>,
}

impl AnswerMeasures {
    fn of(origin: Origin) -> Self {
        use Measure::*;
        match origin {
            Origin::Flickr8k => Self {
                ranked: AnswersFlickr,
                right: RightFlickr,
                risk: CleanRiskFlickr,
                coverage: CoverageFlickr,
                kept: Some(RightKeptFlickr),
                pixels: Some(PixelsAnswersFlickr),
            },
            Origin::CocoMini => Self {
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

/// Returns `true` if an answer to a question is right. On coco-mini yes and no are all that is
/// asked for: what begins with the right one is right.
fn is_right(origin: Origin, truth: &Truth, answer: &str) -> bool {
    match truth {
        Truth::OneOf(right) if origin == Origin::CocoMini => said(answer).is_some_and(|said| {
            right
                .iter()
                .any(|right| right == if said { "yes" } else { "no" })
        }),
        _ => truth.is_right(answer),
    }
}

fn judged(
    material: &Material,
    answers: &Answers<'_>,
    origin: Origin,
    resampling: Resampling,
    results: &mut AnswerResults,
) {
    let measures = AnswerMeasures::of(origin);
    let (mut outcomes, mut fates, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for question in judged_questions(material, origin) {
        let of = |manner| answers.of(&Ask::answer(question.photograph, manner, &question.text));
        let (Some(scored), Some(given)) = (of(Manner::Score), of(Manner::Flag)) else {
            continue;
        };
        let photograph = question.photograph;
        let right = is_right(origin, &question.truth, &scored.text);
        outcomes.extend(scored.score.map(|score| Outcome {
            photograph,
            score,
            is_right: right,
        }));
        let fate = Fate::of(&given.verdict);
        // An abstention is no answer; what it withholds is what was scored.
        let is_given_right = if fate == Fate::Abstained {
            right
        } else {
            is_right(origin, &question.truth, &given.text)
        };
        fates.push(JudgedAnswer {
            photograph,
            is_right: is_given_right,
            fate,
        });
        if fate == Fate::Clean && !is_given_right {
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
    let photographs = Numbers::of(outcomes.iter().map(|outcome| outcome.photograph)).len();
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
        |answer| answer.fate == Fate::Clean,
        "answers",
        resampling,
    ));
    if let Some(kept) = measures.kept {
        findings.push(share_of(
            kept,
            &fates,
            |answer| answer.is_right,
            |answer| answer.fate == Fate::Clean,
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

/// How much worse the scorer tells wrong answers with another photograph's pixels.
fn pixels(
    material: &Material,
    answers: &Answers<'_>,
    origin: Origin,
    measure: Measure,
    resampling: Resampling,
) -> Option<Finding> {
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for (question, [ask, swapped]) in pixel_pairs(material, answers, origin) {
        let (Some(first), Some(second)) = (answers.of(&ask), answers.of(&swapped)) else {
            continue;
        };
        let outcome = |score| Outcome {
            photograph: question.photograph,
            score,
            is_right: is_right(origin, &question.truth, &ask.text),
        };
        if let (Some(score), Some(swapped)) = (first.score, second.score) {
            own.push(outcome(score));
            other.push(outcome(swapped));
        }
    }
    let photographs = Numbers::of(own.iter().map(|outcome| outcome.photograph)).len();
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
    material: &Material,
    answers: &Answers<'_>,
    origin: Origin,
    resampling: Resampling,
    results: &mut AnswerResults,
) {
    let measures = match origin {
        Origin::Flickr8k => [Measure::FlipsFlickr, Measure::RightChangedFlickr],
        _ => [Measure::FlipsCoco, Measure::RightChangedCoco],
    };
    let (mut repaired, mut flipped) = (Vec::new(), Vec::new());
    for question in judged_questions(material, origin) {
        let of = |manner| answers.of(&Ask::answer(question.photograph, manner, &question.text));
        let (Some(before), Some(after)) = (of(Manner::Score), of(Manner::Regenerate)) else {
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

/// Questions to which no answer can be trusted: how many are withheld or flagged.
fn cautious(
    material: &Material,
    answers: &Answers<'_>,
    (measure, title): (Measure, &str),
    questions: Vec<&Question>,
    resampling: Resampling,
    results: &mut AnswerResults,
) {
    let (mut rows, mut clean) = (Vec::new(), Vec::new());
    for question in questions {
        let Some(reply) = answers.of(&Ask::answer(
            question.photograph,
            Manner::Flag,
            &question.text,
        )) else {
            continue;
        };
        let is_clean = Fate::of(&reply.verdict) == Fate::Clean;
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
    let photographs = Numbers::of(rows.iter().map(|row| row.0)).len();
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
    material: &Material,
    answers: &Answers<'_>,
    resampling: Resampling,
    results: &mut AnswerResults,
) {
    let of = |photograph, text: &str| {
        Some(
            answers
                .of(&Ask::answer(photograph, Manner::Score, text))?
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
