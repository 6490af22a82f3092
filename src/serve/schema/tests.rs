//! Each schema has the fields or variants of the type that it describes.

use std::{collections::BTreeSet, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Visitor},
    forward_to_deserialize_any,
};
use serde_json::Value;
use utoipa::PartialSchema;

use super::{feedback::*, guard::*, queue::*, registry::*};
use crate::{
    engine::FinishReason,
    feedback::{
        queue::{
            QueueItem, QueueWord,
            agreement::AgreementFigures,
            ratings::{Agreement, AnnotatorFigures, GuardRecall, PairFigures},
        },
        record::{
            Correction, Feedback, FeedbackSource, ImageHash, JudgedPart, JudgmentKind,
            QueueDetails, ResponseToken, TokenLabel, Versions,
        },
        store::{
            RemovalCounts,
            queue::{AnnotatorProgress, QueueLength},
        },
        submission::{ErrorSpan, Judgment, Submission},
    },
    guard::{
        Action, Candidate, ClassThresholds, GuardReport, Mode, OnExhausted, OnUnanswerable, Span,
        Verdict, question::Unanswerable, render::RenderStyle,
    },
    registry::{FileFacts, PromotionDecision, Version},
    serve::openai::response::finish_reason,
    util::offsets::CharRange,
};

type Names = BTreeSet<String>;

/// Names of a struct's fields or an enum's variants, handed out as the error of reading it.
#[derive(Debug)]
struct FoundNames(&'static [&'static str]);

impl fmt::Display for FoundNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for FoundNames {}

impl de::Error for FoundNames {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}

struct NameReader;

impl<'de> Deserializer<'de> for NameReader {
    type Error = FoundNames;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, FoundNames> {
        Err(FoundNames(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, FoundNames> {
        Err(FoundNames(fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, FoundNames> {
        Err(FoundNames(variants))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// Returns the names that a type reads from JSON.
fn read_names<'de, T: Deserialize<'de>>() -> Names {
    let found = T::deserialize(NameReader).err().unwrap();
    found.0.iter().map(|name| (*name).to_owned()).collect()
}

/// Returns the names that a value is written with.
fn written_names(value: &impl Serialize) -> Names {
    let value = serde_json::to_value(value).unwrap();
    value.as_object().unwrap().keys().cloned().collect()
}

fn texts(list: &Value) -> Names {
    let list = list.as_array().into_iter().flatten();
    list.map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Returns the properties of a schema, or its values, and those properties that it requires.
fn described(schema: &Value) -> (Names, Names) {
    if schema["$ref"] == "#/components/schemas/AgreementFigures" {
        return described_by::<AgreementFiguresSchema>();
    }
    let (mut names, mut required) = (texts(&schema["enum"]), texts(&schema["required"]));
    if let Some(properties) = schema["properties"].as_object() {
        names.extend(properties.keys().cloned());
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        let (more, more_required) = described(part);
        names.extend(more);
        required.extend(more_required);
    }
    (names, required)
}

fn described_by<S: PartialSchema>() -> (Names, Names) {
    described(&serde_json::to_value(S::schema()).unwrap())
}

macro_rules! assert_read_as_described {
    ($($real:ty => $schema:ty),* $(,)?) => {$(
        let (names, required) = described_by::<$schema>();
        assert!(!names.is_empty() && required.is_subset(&names), stringify!($schema));
        assert_eq!(names, read_names::<$real>(), stringify!($schema));
    )*};
}

#[test]
fn types_that_are_read_have_the_names_of_their_schemas() {
    assert_read_as_described! {
        Mode => ModeSchema,
        OnExhausted => OnExhaustedSchema,
        OnUnanswerable => OnUnanswerableSchema,
        Verdict => VerdictSchema,
        Action => ActionSchema,
        Span => SpanSchema,
        Candidate => CandidateSchema,
        GuardReport => GuardReportSchema,
        Unanswerable => UnanswerableSchema,
        RenderStyle => RenderStyleSchema,
        ClassThresholds => ClassThresholdsSchema,
        Versions => VersionsSchema,
        TokenLabel => TokenLabelSchema,
        ResponseToken => ResponseTokenSchema,
        JudgmentKind => JudgmentKindSchema,
        JudgedPart => JudgedPartSchema,
        FeedbackSource => FeedbackSourceSchema,
        Correction => CorrectionSchema,
        CharRange => CharRangeSchema,
        QueueDetails => QueueDetailsSchema,
        Feedback => FeedbackSchema,
        Submission => SubmissionSchema,
        Judgment => JudgmentSchema,
        ErrorSpan => ErrorSpanSchema,
        Version => VersionSchema,
        PromotionDecision => PromotionDecisionSchema,
        FileFacts => FileFactsSchema,
    }
}

/// Asserts that `S` describes a value with every field, and requires what `least` has.
fn assert_written_as_described<S: PartialSchema>(all: &impl Serialize, least: &impl Serialize) {
    let (names, required) = described_by::<S>();
    assert_eq!(names, written_names(all));
    assert_eq!(required, written_names(least));
}

#[test]
fn types_that_are_written_have_the_names_of_their_schemas() {
    let removed = RemovalCounts::default();
    assert_written_as_described::<RemovalCountsSchema>(&removed, &removed);
    let length = QueueLength::default();
    assert_written_as_described::<QueueLengthSchema>(&length, &length);
    let progress = AnnotatorProgress::default();
    assert_written_as_described::<AnnotatorProgressSchema>(&progress, &progress);

    let (none, figures) = (
        AgreementFigures::default(),
        AgreementFigures {
            units: 2,
            observed: Some(0.5),
            kappa: Some(0.5),
            alpha: Some(0.5),
        },
    );
    assert_written_as_described::<AgreementFiguresSchema>(&figures, &none);
    let of_annotator = |figures| AnnotatorFigures {
        annotator: "annotator 1".to_owned(),
        items: 2,
        figures,
    };
    assert_written_as_described::<AnnotatorFiguresSchema>(
        &of_annotator(figures),
        &of_annotator(none),
    );
    let of_pair = |figures| PairFigures {
        annotators: ["annotator 1".to_owned(), "annotator 2".to_owned()],
        figures,
    };
    assert_written_as_described::<PairFiguresSchema>(&of_pair(figures), &of_pair(none));
    let recall = GuardRecall {
        answers: 2,
        errors: 2,
        flagged: 1,
        recall: Some(0.5),
        interval: Some([0.1, 0.9]),
    };
    assert_written_as_described::<GuardRecallSchema>(&recall, &GuardRecall::default());
    let agreement = Agreement::default();
    assert_written_as_described::<AgreementSchema>(&agreement, &agreement);

    let word = |known: bool| QueueWord {
        start: 0,
        end: 3,
        text: "dog".to_owned(),
        reward: known.then_some(0.9),
        flagged: known.then_some(false),
    };
    assert_written_as_described::<QueueWordSchema>(&word(true), &word(false));
    let item = |known: bool| QueueItem {
        id: "q".to_owned(),
        completion_id: "c".to_owned(),
        choice: 0,
        created: 0,
        image: String::new(),
        prompt: String::new(),
        response: "dog".to_owned(),
        words: vec![word(known)],
        unassisted: !known,
        spans: Vec::new(),
        verdict: known.then_some(Verdict::Clean),
        threshold: known.then_some(0.5),
        lease_expires: 0,
    };
    assert_written_as_described::<QueueItemSchema>(&item(true), &item(false));
}

#[test]
fn texts_are_described_as_they_are_written() {
    let reasons = [
        FinishReason::Stop,
        FinishReason::Length,
        FinishReason::ContentFilter,
    ];
    let names = reasons.map(|reason| finish_reason(reason).to_owned());
    assert_eq!(described_by::<FinishReasonSchema>().0, Names::from(names));
    let schema = serde_json::to_value(ImageHashSchema::schema()).unwrap();
    let written = serde_json::to_value(ImageHash::digest(b"image")).unwrap();
    assert!(schema["type"] == "string" && written.is_string());
}
