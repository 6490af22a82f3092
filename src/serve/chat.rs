//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::{
    Json,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};
use futures_util::future::try_join_all;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    admission::{Admission, admit},
    app::blocking,
    auth,
    body::{self, ReceivedBody},
    connections::ClientLink,
    error::ApiError,
    images::{IllustratedPrompt, estimate_prompt, illustrate},
    limits::cost::GenerationCost,
    openai::{
        check::{Completion, ServedCapabilities, check},
        request::{ChatRequest, parse},
        response::{
            AnswerMessage, ChatCompletion, Choice, CompletionHead, Logprobs, Usage, Warning,
            finish_reason,
        },
    },
    receipts::{CompletionSubject, ReceiptDraft},
    responses::{CompletionResponses, ErrorResponses},
    served::{self, RequestContext},
    shadow::{self, ShadowRequest},
    stream,
};
use crate::{
    bundle::Bundle,
    config::{GuardSection, OnUnsupported},
    engine::{self, EngineError, Event, EventStream, FinishReason, GeneratedToken, GuardParams},
    guard::{
        Action, Candidate, GuardReport, Span, Verdict,
        abstain::AnswerGate,
        policy,
        question::Unanswerable,
        render::{RenderStyle, alt_text},
    },
    reward::{
        answers::{answer_gate, is_too_unfamiliar},
        evidence::ImageEvidence,
    },
    telemetry::{AnswerEnd, AnswerMeter, RequestTrace, verdict_name},
    util::time::unix_seconds,
    vlm::{
        processor::{
            ProcessorError,
            message::{Message, question},
        },
        prompt::Prompt,
    },
};

/// Creates a chat completion.
///
/// Describes an image or answers a question about it.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "chat", request_body = ChatRequest,
    responses(CompletionResponses, ErrorResponses))]
pub(crate) async fn completions(
    context: RequestContext,
    request: Request,
) -> Result<Response, ApiError> {
    let app = Arc::clone(&context.app);
    let (parts, body) = request.into_parts();
    let ReceivedBody { bytes, mut share } = body::read_json(&app, &parts.headers, body).await?;
    let permit = app.admit()?;
    let deadline = Instant::now() + app.request_timeout();
    let answer = async {
        let caller = auth::caller(&app, &parts.extensions);
        let (completion, prompt, warnings) =
            prepare(context.clone(), Arc::clone(&caller.guard), bytes).await?;
        share.shrink(completion.images.iter().map(|i| i.image.file_bytes()).sum());
        let context = context.with_salt(completion.cache_salt.clone());
        let mut admission = admit(
            &context,
            permit,
            generation_cost(&context, &completion, &prompt).cost(),
        )?;
        let mut running = begin(&context, completion, prompt, true).await?;
        running.receipt = running
            .receipt
            .map(|receipt| receipt.with_owner(&caller.owner));
        let headers = warning_headers(&warnings);
        let meter = AnswerMeter::new(&app.metrics, running.answers.len());
        admission.begin(meter.used());
        let response = if running.stream {
            let client = parts.extensions.get::<ClientLink>().cloned();
            stream::respond(
                &app,
                running,
                meter,
                warnings,
                (admission, share),
                deadline,
                client,
            )
        } else {
            finish(running, meter, warnings, admission).await?
        };
        Ok((headers, response).into_response())
    };
    tokio::time::timeout_at(deadline, answer)
        .await
        .unwrap_or_else(|_| Err(too_slow(app.config.server.request_timeout_s)))
}

pub(super) fn too_slow(seconds: u64) -> ApiError {
    ApiError::unavailable(
        "request_timeout",
        format!("the answer was not complete within {seconds} s"),
    )
}

/// Returns the work of a completion, for rate limits.
fn generation_cost(
    context: &RequestContext,
    completion: &Completion,
    prompt: &Prompt,
) -> GenerationCost {
    let engine = &context.served.engine;
    let prompt = prompt.tokens.len();
    let Completion {
        max_tokens,
        n,
        candidates,
        ..
    } = *completion;
    GenerationCost {
        context: engine.context_len(),
        images: completion.images.len(),
        prompt,
        max_tokens,
        choices: n,
        candidates,
    }
}

/// Parses and validates the request and tokenizes its prompt. Returns warnings for messages that
/// the prompt does not use.
async fn prepare(
    context: RequestContext,
    guard: Arc<GuardSection>,
    body: Vec<u8>,
) -> Result<(Completion, Prompt, Vec<Warning>), ApiError> {
    blocking(move || {
        let request = parse(&body)?;
        let RequestContext { app, served, .. } = &context;
        let capabilities = ServedCapabilities {
            model: &served.model,
            config: &app.config,
            guard: &guard,
            calibration: served.bundle.calibration.as_ref(),
            media: &served.media,
        };
        let mut completion = check(request, capabilities)?;
        let prompt = estimate_prompt(
            &context,
            &served.bundle,
            &completion.messages,
            &completion.images,
            &completion.image_options,
        )?;
        let mut warnings = unused_messages(&context, &served.bundle, &completion.messages)?;
        warnings.append(&mut completion.warnings);
        Ok((completion, prompt, warnings))
    })
    .await?
}

/// Returns a warning for each message that the prompt template does not use.
///
/// # Errors
/// 400 for the first such message with `server.on_unsupported = "reject"`.
pub(super) fn unused_messages(
    context: &RequestContext,
    bundle: &Bundle,
    messages: &[Message],
) -> Result<Vec<Warning>, ApiError> {
    let failed = |why: ProcessorError| {
        ApiError::param(
            "messages",
            "invalid_value",
            format!("'messages' cannot be turned into a prompt: {why}"),
        )
    };
    let unused = bundle.processor.unused(messages).map_err(failed)?;
    let warning = |i: usize| {
        let (param, role) = (
            format!("messages[{i}]"),
            messages.get(i).map_or("", |message| message.role.as_str()),
        );
        let message = format!(
            "'{param}' is ignored: the model's prompt template does not use this {role} message"
        );
        Warning {
            code: "ignored",
            param,
            message,
        }
    };
    let warnings: Vec<Warning> = unused.into_iter().map(warning).collect();
    match (context.app.config.server.on_unsupported, warnings.first()) {
        (OnUnsupported::Reject, Some(Warning { param, .. })) => {
            let message = format!(
                "'{param}' is not supported: the model's prompt template does not use it \
                 (server.on_unsupported is reject)"
            );
            Err(ApiError::unsupported(param.as_str(), message))
        }
        _ => Ok(warnings),
    }
}

/// Returns the header with the number of warnings, if there are any.
pub(super) fn warning_headers(warnings: &[Warning]) -> HeaderMap {
    let count = (!warnings.is_empty()).then(|| {
        (
            HeaderName::from_static("x-candor-warnings"),
            HeaderValue::from(warnings.len()),
        )
    });
    count.into_iter().collect()
}

/// Minimum sampling temperature of additional candidates.
const CANDIDATES_TEMPERATURE: f64 = 0.7;

/// Answers of a completion in progress.
pub(super) struct RunningAnswers {
    /// Keeps the version loaded until the answers are complete.
    pub(super) served: Arc<served::ServedVersion>,
    pub(super) head: CompletionHead,
    /// Event streams of each choice's candidates, one of which is returned.
    pub(super) answers: Vec<Vec<EventStream>>,
    pub(super) form: AnswerForm,
    stream: bool,
    /// Receipt, if receipts are enabled.
    pub(super) receipt: Option<ReceiptDraft>,
    /// Shadow request about the first answer, if it was sampled.
    pub(super) shadow_request: Option<ShadowRequest>,
    /// Trace of the request.
    pub(super) trace: RequestTrace,
}

/// Presentation of answers in the response.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerForm {
    pub(super) guard: GuardParams,
    pub(super) show_withheld: bool,
    pub(super) render: RenderStyle,
    pub(super) logprobs: bool,
    pub(super) include_usage: bool,
    /// Familiarity of the image, if the model can estimate it.
    pub(super) familiarity: Option<f32>,
}

impl AnswerForm {
    /// Returns the guard report of a response. In mode `off`, in which the engine returns none, its
    /// verdict is `unscored`.
    pub(super) fn report(&self, report: Option<GuardReport>, text: &str) -> GuardReport {
        let mut report =
            report.unwrap_or_else(|| GuardReport::new(self.guard.mode, self.guard.thresholds));
        report.withheld = report.withheld.filter(|_| self.show_withheld);
        report.familiarity = self.familiarity;
        if report.alt_text.is_some() && self.render != RenderStyle::Hedged {
            let unhedged: Vec<Span> = report
                .spans
                .iter()
                .filter(|span| span.is_unhedged())
                .cloned()
                .collect();
            report.alt_text = Some(alt_text(text, &unhedged, self.render));
        }
        report
    }
}

/// Reserves engine capacity, obtains and encodes the image, and submits the answers. If `for_user`,
/// the request may be sampled for the shadow.
pub(super) async fn begin(
    context: &RequestContext,
    completion: Completion,
    prompt: Prompt,
    for_user: bool,
) -> Result<RunningAnswers, ApiError> {
    let RequestContext {
        app,
        served,
        share,
        trace,
        ..
    } = context;
    let id: Arc<str> = format!("chatcmpl-{}", Uuid::new_v4().simple()).into();
    tracing::Span::current().record("completion_id", &*id);
    trace.set("gen_ai.operation.name", || "chat".into());
    trace.set("gen_ai.response.id", || Arc::clone(&id).into());
    trace.set("gen_ai.response.model", || Arc::clone(&served.model).into());
    trace.set("candor.version", || Arc::clone(&served.version).into());
    // Before any work on the image, so that the engine's queue limit covers it too.
    let candidates = completion.candidates;
    let reservations = (0..completion.n * candidates)
        .map(|_| served.engine.reserve(share))
        .collect::<Result<Vec<_>, _>>();
    let reservations =
        reservations.inspect_err(|error| app.metrics.answers.count_failure(error))?;
    let IllustratedPrompt {
        prompt,
        images,
        reader,
        evidence,
        files,
    } = illustrate(
        context,
        &completion.messages,
        completion.images,
        completion.image_options,
        prompt,
        policy::scores(completion.guard.mode),
    )
    .await?;
    let finisher = served
        .bundle
        .finisher(evidence.as_ref(), served.bundle.written_by());
    let guard = completion.guard.with_image_threshold(finisher.as_deref());
    let (unfamiliar, gate) = abstention(served, guard, &completion.messages, evidence.as_ref());
    let unanswerable = completion.unanswerable.or(unfamiliar);
    // Receipts store log-probabilities, whether requested or not.
    let top_logprobs = completion
        .top_logprobs
        .or_else(|| ReceiptDraft::is_enabled(app).then_some(0));
    let mut answers: Vec<Vec<EventStream>> = Vec::with_capacity(completion.n);
    for (i, reservation) in reservations.into_iter().enumerate() {
        let mut sampling = completion.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(i as u64);
        if i % candidates > 0 {
            // The first candidate is sampled as requested; the others have to differ.
            sampling.temperature = sampling.temperature.max(CANDIDATES_TEMPERATURE);
        }
        if i % candidates == 0 {
            answers.push(Vec::with_capacity(candidates));
        }
        let Some(choice) = answers
            .last_mut()
            .filter(|choice| unanswerable.is_none() || choice.is_empty())
        else {
            continue;
        };
        let submitted = reservation.submit(engine::Request {
            id: Arc::clone(&id),
            share: share.clone(),
            rank: i,
            images: images.clone(),
            finisher: finisher.clone(),
            prompt: Arc::clone(&prompt),
            reader: reader.clone(),
            max_tokens: completion.max_tokens,
            stop: completion.stop.clone(),
            sampling,
            top_logprobs,
            guard,
            unanswerable,
            gate: gate.clone(),
            observer: trace.answer_observer(),
        });
        choice.push(submitted.inspect_err(|error| app.metrics.answers.count_failure(error))?);
    }
    let (model, system_fingerprint) = (Arc::clone(&served.model), Arc::clone(&served.fingerprint));
    let head = CompletionHead {
        id,
        object: "chat.completion",
        created: unix_seconds(),
        model,
        system_fingerprint,
    };
    let Completion {
        messages,
        user,
        show_withheld,
        render,
        top_logprobs,
        include_usage,
        stream,
        n,
        max_tokens,
        stop,
        ..
    } = completion;
    // Shadows and corrections are about one image.
    let file = match files.as_slice() {
        [file] => Some(Arc::clone(file)),
        _ => None,
    };
    let shadow_request = file
        .clone()
        .filter(|_| for_user && unanswerable.is_none())
        .and_then(|file| {
            let user_question = || shadow::ShadowQuestion {
                file,
                scope: context.scope.clone(),
                messages: messages.clone(),
                max_tokens,
                stop,
            };
            app.shadow.sample(app, served, user_question)
        });
    let receipt = file.and_then(|file| {
        let subject = CompletionSubject {
            head: &head,
            messages: &messages,
            user,
            mode: guard.mode,
            file,
            choices: n,
        };
        ReceiptDraft::new(context, subject)
    });
    let familiarity = evidence.map(|evidence| evidence.familiarity);
    let form = AnswerForm {
        guard,
        show_withheld,
        render,
        logprobs: top_logprobs.is_some(),
        include_usage,
        familiarity,
    };
    Ok(RunningAnswers {
        served: Arc::clone(served),
        head,
        answers,
        form,
        stream,
        receipt,
        shadow_request,
        trace: trace.clone(),
    })
}

/// Returns a reason to abstain about an unfamiliar image, if the guard may abstain, and the gate
/// that judges short answers.
fn abstention(
    served: &served::ServedVersion,
    guard: GuardParams,
    messages: &[Message],
    image: Option<&ImageEvidence>,
) -> (Option<Unanswerable>, Option<Arc<AnswerGate>>) {
    let abstains = guard.on_unanswerable.abstains(guard.mode);
    let scores = policy::scores(guard.mode);
    let Some((evidence, image)) = served
        .bundle
        .judge()
        .evidence
        .as_ref()
        .zip(image)
        .filter(|_| scores)
    else {
        return (None, None);
    };
    let question = question(messages).unwrap_or_default();
    let unfamiliar = (abstains && is_too_unfamiliar(evidence, image, &question))
        .then_some(Unanswerable::Unfamiliar);
    (
        unfamiliar,
        answer_gate(
            evidence,
            image,
            &question,
            if abstains { guard.abstain_below } else { 0.0 },
        ),
    )
}

/// Waits for all answers and builds the response.
async fn finish(
    running: RunningAnswers,
    mut meter: AnswerMeter,
    warnings: Vec<Warning>,
    _admission: Admission,
) -> Result<Response, ApiError> {
    let RunningAnswers {
        served: _served,
        head,
        answers,
        form,
        mut receipt,
        shadow_request,
        ..
    } = running;
    let (mut choices, mut usage) = (Vec::with_capacity(answers.len()), Usage::default());
    let answers = try_join_all(answers.into_iter().map(|candidates| best(candidates, form))).await;
    for (index, answer) in answers
        .inspect_err(|error| meter.count_failure(error))?
        .into_iter()
        .enumerate()
    {
        let FinishedAnswer {
            text,
            tokens,
            flagged_tokens,
            begun,
            ended,
            reason,
            prompt_tokens,
            completion_tokens,
            guard,
        } = answer;
        if let Some(begun) = begun {
            meter.count_delta(index, begun, &tokens, flagged_tokens, &guard.spans);
        }
        meter.count_end(
            index,
            ended,
            AnswerEnd {
                reason,
                prompt_tokens,
                completion_tokens,
                guard: &guard,
            },
        );
        usage.add(prompt_tokens, completion_tokens);
        if let Some(receipt) = &mut receipt {
            receipt.add_tokens(index, &tokens);
            receipt.complete(index, &text, &guard);
        }
        let message = AnswerMessage {
            role: "assistant",
            content: text,
            refusal: None,
        };
        let logprobs = form.logprobs.then(|| Logprobs::from_tokens(tokens));
        choices.push(Choice {
            index,
            message,
            logprobs,
            finish_reason: finish_reason(reason),
            guard,
        });
    }
    if let Some(receipt) = receipt {
        receipt.store().await;
    }
    // An abstention is not the policy's text.
    let given = choices
        .first()
        .filter(|choice| choice.guard.verdict != Verdict::Abstained);
    if let Some((shadow_request, first)) = shadow_request.zip(given) {
        shadow_request.submit_answer(&first.message.content);
    }
    let headers = guard_headers(choices.iter().map(|choice| &choice.guard));
    Ok((
        headers,
        Json(ChatCompletion {
            head,
            choices,
            usage,
            warnings,
        }),
    )
        .into_response())
}

/// A complete answer.
#[derive(Debug)]
pub(super) struct FinishedAnswer {
    pub(super) text: String,
    pub(super) tokens: Vec<GeneratedToken>,
    /// Number of tokens in low-reward words.
    pub(super) flagged_tokens: usize,
    /// Time of the first text; `None` without text.
    pub(super) begun: Option<std::time::Instant>,
    pub(super) ended: std::time::Instant,
    pub(super) reason: FinishReason,
    pub(super) prompt_tokens: usize,
    pub(super) completion_tokens: usize,
    pub(super) guard: GuardReport,
}

/// Returns the best of a choice's candidates, with the token counts of all of them.
pub(super) async fn best(
    answers: Vec<EventStream>,
    form: AnswerForm,
) -> Result<FinishedAnswer, EngineError> {
    let mut candidates =
        try_join_all(answers.into_iter().map(|answer| collect(answer, form))).await?;
    let score = |candidate: &FinishedAnswer| candidate.guard.mean_score.unwrap_or(0.0);
    // Stable sort: the first of equals wins.
    candidates.sort_by(|a, b| score(b).total_cmp(&score(a)));
    let mut candidates = candidates.into_iter();
    let mut best = candidates.next().ok_or(EngineError::ShuttingDown)?;
    if candidates.len() > 0 {
        // The answer was not known before all candidates were complete.
        best.ended = std::time::Instant::now();
        best.begun = best.begun.and(Some(best.ended));
    }
    for other in candidates {
        // Work on rejected candidates.
        best.guard.extra_tokens += other.guard.extra_tokens + other.completion_tokens as u32;
        best.prompt_tokens += other.prompt_tokens;
        best.completion_tokens += other.completion_tokens;
        // Neither a withheld answer nor the abstention in its place is a candidate.
        if other.guard.verdict == Verdict::Abstained {
            continue;
        }
        best.guard.candidates.push(Candidate {
            text: other.text,
            score: other.guard.mean_score,
        });
    }
    Ok(best)
}

pub(super) async fn collect(
    mut answer: EventStream,
    form: AnswerForm,
) -> Result<FinishedAnswer, EngineError> {
    let (mut content, mut written, mut flagged, mut begun) = (String::new(), Vec::new(), 0, None);
    while let Some(event) = answer.next().await {
        match event {
            Event::Delta {
                text,
                tokens,
                flagged_tokens,
                ..
            } => {
                begun = begun.or_else(|| Some(std::time::Instant::now()));
                flagged += flagged_tokens;
                content.push_str(&text);
                written.extend(tokens);
            }
            Event::Finished {
                reason,
                prompt_tokens,
                completion_tokens,
                guard,
            } => {
                let guard = form.report(guard, &content);
                return Ok(FinishedAnswer {
                    text: content,
                    tokens: written,
                    flagged_tokens: flagged,
                    begun,
                    ended: std::time::Instant::now(),
                    reason,
                    prompt_tokens,
                    completion_tokens,
                    guard,
                });
            }
            Event::Failed(error) => return Err(error),
        }
    }
    Err(EngineError::ShuttingDown)
}

/// Returns headers with the worst verdict, the lowest score and the number of flagged spans.
pub(super) fn guard_headers<'a>(
    reports: impl Iterator<Item = &'a GuardReport> + Clone,
) -> HeaderMap {
    let severity = |v: Verdict| match v {
        Verdict::Clean => 0,
        Verdict::Repaired => 1,
        Verdict::Abstained => 2,
        Verdict::Unscored => 3,
        Verdict::Flagged => 4,
        Verdict::Blocked => 5,
    };
    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    if let Some(verdict) = reports
        .clone()
        .map(|report| report.verdict)
        .max_by_key(|&v| severity(v))
    {
        put("x-candor-verdict", verdict_name(verdict).to_owned());
    }
    if let Some(score) = reports
        .clone()
        .filter_map(|report| report.score)
        .min_by(f32::total_cmp)
    {
        put("x-candor-score", score.to_string());
    }
    let flagged = reports
        .flat_map(|report| &report.spans)
        .filter(|span| !matches!(span.action, Action::Regenerated | Action::Omitted))
        .count();
    put("x-candor-flagged-spans", flagged.to_string());
    headers
}
