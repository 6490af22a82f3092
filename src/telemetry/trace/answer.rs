//! Spans of an answer's phases in the engine.

use std::sync::Arc;

use opentelemetry::{
    Array, KeyValue, Value,
    trace::{SpanKind, Status},
};

use super::{RequestTrace, request::Recorder};
use crate::{
    engine::{AnswerObserver, AnswerOutcome, AnswerPhases},
    telemetry::register::{ending_name, failure_name, verdict_name},
};

impl RequestTrace {
    /// Returns the receiver of an answer's phases; `None` if the request is not sampled.
    pub(crate) fn answer_observer(&self) -> Option<Arc<dyn AnswerObserver>> {
        let recorder = self.recorder()?;
        Some(Arc::new(AnswerSpans(Arc::clone(recorder))))
    }
}

/// Makes spans of an answer's phases: one of the answer, and its phases below it.
#[derive(Debug)]
struct AnswerSpans(Arc<Recorder>);

impl AnswerObserver for AnswerSpans {
    fn ended(&self, phases: &AnswerPhases) {
        let &AnswerPhases {
            rank,
            submitted,
            joined,
            prefilled,
            ended,
            prompt_tokens,
            cached_tokens,
            prefill_steps,
            decode_steps,
            completion_tokens,
            ref scoring,
            ref repairs,
            ref outcome,
        } = phases;
        let internal = SpanKind::Internal;
        let mut attributes = vec![
            number("candor.answer.index", rank),
            number("gen_ai.usage.input_tokens", prompt_tokens),
            number("gen_ai.usage.output_tokens", completion_tokens),
        ];
        let mut status = Status::Unset;
        match outcome {
            AnswerOutcome::Finished { reason, verdict } => {
                let reasons = Array::String(vec![ending_name(*reason).into()]);
                attributes.push(KeyValue::new(
                    "gen_ai.response.finish_reasons",
                    Value::Array(reasons),
                ));
                attributes.extend(
                    verdict.map(|verdict| KeyValue::new("candor.verdict", verdict_name(verdict))),
                );
            }
            AnswerOutcome::Failed(error) => {
                attributes.push(KeyValue::new("error.type", failure_name(error)));
                status = Status::error(failure_name(error));
            }
            AnswerOutcome::Canceled => attributes.push(KeyValue::new("candor.canceled", true)),
        }
        let request = self.0.span_id();
        let times = submitted..ended;
        let answer = self
            .0
            .descendant(request, "answer", internal, times, attributes, status);
        let below = |name: &'static str, times, attributes| {
            let (kind, status) = (SpanKind::Internal, Status::Unset);
            self.0
                .descendant(answer, name, kind, times, attributes, status);
        };
        below("queue", submitted..joined.unwrap_or(ended), Vec::new());
        if let Some(joined) = joined {
            let attributes = vec![
                number("candor.prompt_tokens", prompt_tokens),
                number("candor.cached_tokens", cached_tokens),
                number("candor.steps", prefill_steps),
            ];
            below("prefill", joined..prefilled.unwrap_or(ended), attributes);
        }
        if let Some(prefilled) = prefilled {
            let attributes = vec![
                number("candor.tokens", completion_tokens),
                number("candor.steps", decode_steps),
            ];
            below("decode", prefilled..ended, attributes);
        }
        if let Some(scoring) = scoring {
            let busy = KeyValue::new("candor.busy_ms", scoring.busy.as_secs_f64() * 1e3);
            let attributes = vec![busy, number("candor.steps", scoring.steps)];
            below("score", scoring.began..scoring.ended, attributes);
        }
        for repair in repairs {
            let attributes = vec![number("candor.tokens", repair.tokens)];
            below("repair", repair.began..repair.ended, attributes);
        }
    }
}

fn number(key: &'static str, value: usize) -> KeyValue {
    KeyValue::new(key, i64::try_from(value).unwrap_or(i64::MAX))
}
