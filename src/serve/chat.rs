//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::{
    Json,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};
use futures_util::future::try_join_all;
use tokio::{runtime::Handle, time::Instant};
use uuid::Uuid;

use super::{
    app::{App, blocking},
    auth,
    body::{self, ReceivedBody},
    connections::ClientLink,
    error::ApiError,
    feedback::{CompletionSubject, ReceiptDraft},
    fetch::HttpsUrl,
    limits::{Admission, admit, cost::GenerationCost},
    openai::{
        check::{Completion, ServedCapabilities, check},
        content::RequestImage,
        request::{ChatRequest, parse},
        response::{
            AnswerMessage, ChatCompletion, Choice, CompletionHead, Logprobs, Usage, Warning,
            finish_reason,
        },
    },
    openapi::{CompletionResponses, ErrorResponses},
    served::{self, RequestContext},
    shadow::{self, ShadowRequest},
    stream,
};
use crate::{
    config::{GuardSection, OnUnsupported},
    engine::{
        self, EncodedImage, EncodingError, EngineError, Event, EventStream, FinishReason,
        GeneratedToken, GuardParams, fair::Share,
    },
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
        finish::WrittenBy,
    },
    telemetry::{AnswerEnd, AnswerMeter, verdict_name},
    util::time::unix_seconds,
    vlm::{
        preprocess,
        template::{Message, question},
    },
};

/// Describes a photograph or answers a question about it.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "chat", request_body = ChatRequest,
    responses(CompletionResponses, ErrorResponses))]
pub(crate) async fn completions(
    turn: RequestContext,
    request: Request,
) -> Result<Response, ApiError> {
    let app = Arc::clone(&turn.app);
    let (parts, body) = request.into_parts();
    let ReceivedBody { bytes, mut share } = body::read_json(&app, &parts.headers, body).await?;
    let place = app.admit()?;
    let deadline = Instant::now() + app.request_timeout();
    let answer = async {
        let caller = auth::caller(&app, &parts.extensions);
        let (completion, prompt, warnings) =
            prepare(turn.clone(), Arc::clone(&caller.guard), bytes).await?;
        share.shrink(completion.image.file_bytes());
        let turn = turn.salted(completion.cache_salt.clone());
        let mut admission = admit(&turn, place, answers(&turn, &completion, &prompt).cost())?;
        let mut begun = begin(&turn, completion, prompt, true).await?;
        begun.draft = begun.draft.map(|draft| draft.owned_by(&caller.owner));
        let headers = warning_headers(&warnings);
        let meter = AnswerMeter::new(&app.metrics, begun.answers.len());
        admission.begin(meter.used());
        let response = if begun.stream {
            let client = parts.extensions.get::<ClientLink>().cloned();
            stream::respond(
                &app,
                begun,
                meter,
                warnings,
                (admission, share),
                deadline,
                client,
            )
        } else {
            finish(begun, meter, warnings, admission).await?
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

/// Returns what a completion has written.
fn answers(turn: &RequestContext, completion: &Completion, prompt: &[u32]) -> GenerationCost {
    let engine = &turn.served.engine;
    let prompt = turn.served.bundle.vlm.spec().image_tokens + prompt.len();
    let Completion {
        max_tokens,
        n,
        candidates,
        ..
    } = *completion;
    GenerationCost {
        context: engine.context_len(),
        prompt,
        max_tokens,
        choices: n,
        candidates,
    }
}

/// Parses and checks the request, and tokenizes its prompt; warns of what has no place in it.
async fn prepare(
    turn: RequestContext,
    guard: Arc<GuardSection>,
    body: Vec<u8>,
) -> Result<(Completion, Vec<u32>, Vec<Warning>), ApiError> {
    blocking(move || {
        let request = parse(&body)?;
        let RequestContext { app, served, .. } = &turn;
        let asked = ServedCapabilities {
            model: &served.model,
            config: &app.config,
            guard: &guard,
            calibration: served.bundle.calibration.as_ref(),
        };
        let completion = check(request, asked)?;
        let refused = |why| {
            ApiError::param(
                "messages",
                "invalid_value",
                format!("'messages' do not make a prompt: {why}"),
            )
        };
        let prompt = served
            .bundle
            .prompt(&completion.messages)
            .map_err(refused)?;
        let warnings = unused_messages(&turn, &completion.messages)?;
        Ok((completion, prompt, warnings))
    })
    .await?
}

/// A warning for each message that has no place in the prompt.
///
/// # Errors
/// 400 for the first of them, where the configuration wants that.
pub(super) fn unused_messages(
    turn: &RequestContext,
    messages: &[Message],
) -> Result<Vec<Warning>, ApiError> {
    let failed = |why| {
        ApiError::param(
            "messages",
            "invalid_value",
            format!("'messages' do not make a prompt: {why}"),
        )
    };
    let unused = turn
        .served
        .bundle
        .unused_messages(messages)
        .map_err(failed)?;
    let warning = |i: usize| {
        let (param, role) = (
            format!("messages[{i}]"),
            messages.get(i).map_or("", |message| message.role.as_str()),
        );
        let message = format!(
            "'{param}' is ignored: the model's prompt has no place for this message of role {role}"
        );
        Warning {
            code: "ignored",
            param,
            message,
        }
    };
    let warnings: Vec<Warning> = unused.into_iter().map(warning).collect();
    match (turn.app.config.server.on_unsupported, warnings.first()) {
        (OnUnsupported::Reject, Some(Warning { param, .. })) => {
            let message = format!(
                "'{param}' cannot be used: the model's prompt has no place for it, and this server \
                 ignores no messages"
            );
            Err(ApiError::unsupported(param.as_str(), message))
        }
        _ => Ok(warnings),
    }
}

/// The number of warnings, where there are any.
pub(super) fn warning_headers(warnings: &[Warning]) -> HeaderMap {
    let count = (!warnings.is_empty()).then(|| {
        (
            HeaderName::from_static("x-candor-warnings"),
            HeaderValue::from(warnings.len()),
        )
    });
    count.into_iter().collect()
}

/// The temperature at which candidates are sampled, at least.
const CANDIDATES_TEMPERATURE: f64 = 0.7;

/// Answers that are being written.
pub(super) struct RunningAnswers {
    /// Whoever writes them stays until they are complete.
    pub(super) held: Arc<served::ServedVersion>,
    pub(super) head: CompletionHead,
    /// For every choice, the answers of which one is given.
    pub(super) answers: Vec<Vec<EventStream>>,
    pub(super) how: AnswerForm,
    stream: bool,
    /// What is remembered, where anything is.
    pub(super) draft: Option<ReceiptDraft>,
    /// What the shadow is asked too, where it is; about the first answer.
    pub(super) drawn: Option<ShadowRequest>,
}

/// How answers are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerForm {
    pub(super) guard: GuardParams,
    pub(super) show_withheld: bool,
    pub(super) render: RenderStyle,
    pub(super) logprobs: bool,
    pub(super) include_usage: bool,
    /// Of the photograph, where the model can tell.
    pub(super) familiarity: Option<f32>,
}

impl AnswerForm {
    /// The guard's report as it is shown. In mode `off` the engine gives none; then the answer says
    /// that nobody looked.
    pub(super) fn report(&self, report: Option<GuardReport>, text: &str) -> GuardReport {
        let mut report =
            report.unwrap_or_else(|| GuardReport::new(self.guard.mode, self.guard.thresholds));
        report.withheld = report.withheld.filter(|_| self.show_withheld);
        report.familiarity = self.familiarity;
        if report.alt_text.is_some() && self.render != RenderStyle::Hedged {
            let doubted: Vec<Span> = report
                .spans
                .iter()
                .filter(|span| span.is_unsaid())
                .cloned()
                .collect();
            report.alt_text = Some(alt_text(text, &doubted, self.render));
        }
        report
    }
}

/// Takes places in the queue, gets and encodes the image and hands the answers in. Where
/// `for_user`, the shadow may be asked too.
pub(super) async fn begin(
    turn: &RequestContext,
    completion: Completion,
    prompt: Vec<u32>,
    for_user: bool,
) -> Result<RunningAnswers, ApiError> {
    let RequestContext {
        app, served, share, ..
    } = turn;
    let id: Arc<str> = format!("chatcmpl-{}", Uuid::new_v4().simple()).into();
    tracing::Span::current().record("completion", &*id);
    // Before the work on the image, so that the engine's bound holds for it too.
    let candidates = completion.candidates;
    let places = (0..completion.n * candidates)
        .map(|_| served.engine.reserve(share))
        .collect::<Result<Vec<_>, _>>();
    let places = places.inspect_err(|error| app.metrics.answers.count_failure(error))?;
    let file = file(app, share, completion.image).await?;
    let EncodedImage {
        image,
        evidence,
        hash,
        ..
    } = encode_counted(turn, &file, &completion.image_field).await?;
    let finisher = served.bundle.finisher(evidence.as_ref(), WrittenBy::Policy);
    let guard = completion.guard.about(finisher.as_deref());
    let (unfamiliar, gate) = doubts(served, guard, &completion.messages, evidence.as_ref());
    let unanswerable = completion.unanswerable.or(unfamiliar);
    // Receipts have log-probabilities, whether the request asked for them or not.
    let top_logprobs = completion
        .top_logprobs
        .or_else(|| ReceiptDraft::wanted(app).then_some(0));
    let mut answers: Vec<Vec<EventStream>> = Vec::with_capacity(completion.n);
    for (i, place) in places.into_iter().enumerate() {
        let mut sampling = completion.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(i as u64);
        if i % candidates > 0 {
            // The likeliest answer is one of the candidates, where that is what was asked for; the
            // others have to differ.
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
        let submitted = place.submit(engine::Request {
            id: Arc::clone(&id),
            share: share.clone(),
            rank: i,
            image: image.clone(),
            finisher: finisher.clone(),
            prompt: prompt.clone(),
            max_tokens: completion.max_tokens,
            stop: completion.stop.clone(),
            sampling,
            top_logprobs,
            guard,
            unanswerable,
            gate: gate.clone(),
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
    let asked = || shadow::ShadowQuestion {
        file: Arc::clone(&file),
        scope: turn.scope.clone(),
        messages: messages.clone(),
        max_tokens,
        stop,
    };
    let drawn = if for_user && unanswerable.is_none() {
        app.shadow.draw(app, served, asked)
    } else {
        None
    };
    let draft = ReceiptDraft::new(
        turn,
        CompletionSubject {
            head: &head,
            messages: &messages,
            user,
            mode: guard.mode,
            file,
            hash,
            choices: n,
        },
    );
    let familiarity = evidence.map(|evidence| evidence.familiarity);
    let how = AnswerForm {
        guard,
        show_withheld,
        render,
        logprobs: top_logprobs.is_some(),
        include_usage,
        familiarity,
    };
    Ok(RunningAnswers {
        held: Arc::clone(served),
        head,
        answers,
        how,
        stream,
        draft,
        drawn,
    })
}

/// Why a photograph is not asked about, where the guard may abstain; and what says how likely a
/// short answer about it is right and decides whether it is given.
fn doubts(
    served: &served::ServedVersion,
    guard: GuardParams,
    messages: &[Message],
    image: Option<&ImageEvidence>,
) -> (Option<Unanswerable>, Option<Arc<AnswerGate>>) {
    let abstains = guard.on_unanswerable.abstains(guard.mode);
    let scores = policy::scores(guard.mode);
    let Some((evidence, image)) = served
        .bundle
        .evidence
        .as_ref()
        .zip(image)
        .filter(|_| scores)
    else {
        return (None, None);
    };
    let question = question(messages).unwrap_or_default();
    let unfamiliar = (abstains && is_too_unfamiliar(evidence, image, question))
        .then_some(Unanswerable::Unfamiliar);
    (
        unfamiliar,
        answer_gate(
            evidence,
            image,
            question,
            if abstains { guard.abstain_below } else { 0.0 },
        ),
    )
}

/// The encoded image, fetched first where it is elsewhere; `field` is what errors call its file.
pub(super) async fn encode(
    turn: &RequestContext,
    picture: RequestImage,
    field: &str,
) -> Result<EncodedImage, ApiError> {
    encode_counted(turn, &file(&turn.app, &turn.share, picture).await?, field).await
}

/// The image's file, fetched where it is elsewhere, without what programs leave behind the image's
/// end: its hash, and what is kept, are the image's alone.
pub(super) async fn file(
    app: &App,
    share: &Share,
    picture: RequestImage,
) -> Result<Arc<[u8]>, ApiError> {
    let mut file = match picture {
        RequestImage::File(file) => file,
        RequestImage::Remote { link, path } => fetch(app, share, link, &path).await?,
    };
    file.truncate(preprocess::image_length(&file));
    Ok(file.into())
}

async fn fetch(app: &App, share: &Share, link: HttpsUrl, path: &str) -> Result<Vec<u8>, ApiError> {
    let Some(fetcher) = &app.fetcher else {
        return Err(ApiError::fetch_disabled(path));
    };
    let fetched = fetcher.fetch(share, link).await;
    app.metrics.fetch(
        fetched
            .as_ref()
            .map_or_else(|error| error.outcome(), |_| "fetched"),
    );
    fetched.map_err(|error| error.at(path))
}

async fn encode_counted(
    turn: &RequestContext,
    file: &Arc<[u8]>,
    field: &str,
) -> Result<EncodedImage, ApiError> {
    let encoded = encode_file(turn, file, field).await?;
    turn.app.metrics.image(encoded.hit);
    Ok(encoded)
}

/// The encoding of an image's file; `field` is what errors call it.
pub(super) async fn encode_file(
    turn: &RequestContext,
    file: &Arc<[u8]>,
    field: &str,
) -> Result<EncodedImage, ApiError> {
    let (task, bytes) = (turn.clone(), Arc::clone(file));
    turn.served
        .images
        .get(file, &turn.scope, &turn.share, move || {
            pixels(&task, &bytes)
        })
        .await
        .map_err(|error| match &*error {
            EncodingError::Pixels(Unreadable::File(why)) => {
                ApiError::param(field, "invalid_image", format!("'{field}': {why}"))
            }
            EncodingError::Pixels(Unreadable::Inner) => ApiError::internal(),
            EncodingError::Model(what) => {
                tracing::error!(what, "the image encoder failed");
                ApiError::internal()
            }
        })
}

/// Why a file gives no pixels. Requests that have the same file share it.
enum Unreadable {
    File(preprocess::ImageError),
    Inner,
}

/// Runs on a blocking thread, which waits for the memory.
fn pixels(turn: &RequestContext, file: &[u8]) -> Result<candle_core::Tensor, Unreadable> {
    let (limits, bundle) = (turn.app.image_limits(), &turn.served.bundle);
    let header = preprocess::inspect(file, &limits).map_err(Unreadable::File)?;
    let _held = Handle::current().block_on(
        turn.app
            .decode_memory
            .hold(header.memory(bundle.image_size())),
    );
    let image =
        preprocess::decode_resized(file, &limits, bundle.image_size()).map_err(Unreadable::File)?;
    bundle.pixels(&image).map_err(|error| {
        tracing::error!(%error, "an image could not be resized");
        Unreadable::Inner
    })
}

/// Waits for all answers.
async fn finish(
    begun: RunningAnswers,
    mut meter: AnswerMeter,
    warnings: Vec<Warning>,
    _admission: Admission,
) -> Result<Response, ApiError> {
    let RunningAnswers {
        held: _held,
        head,
        answers,
        how,
        mut draft,
        drawn,
        ..
    } = begun;
    let (mut choices, mut usage) = (Vec::with_capacity(answers.len()), Usage::default());
    let answers = try_join_all(answers.into_iter().map(|candidates| best(candidates, how))).await;
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
        if let Some(draft) = &mut draft {
            draft.wrote(index, &tokens);
            draft.complete(index, &text, &guard);
        }
        let message = AnswerMessage {
            role: "assistant",
            content: text,
            refusal: None,
        };
        let logprobs = how.logprobs.then(|| Logprobs::of(tokens));
        choices.push(Choice {
            index,
            message,
            logprobs,
            finish_reason: finish_reason(reason),
            guard,
        });
    }
    if let Some(draft) = draft {
        draft.keep().await;
    }
    // What stands for an answer that is withheld is not the policy's.
    let given = choices
        .first()
        .filter(|choice| choice.guard.verdict != Verdict::Abstained);
    if let Some((drawn, first)) = drawn.zip(given) {
        drawn.answered(&first.message.content);
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
    /// Tokens of low-reward words.
    pub(super) flagged_tokens: usize,
    /// When its first text could be shown; `None` where there is none.
    pub(super) begun: Option<std::time::Instant>,
    pub(super) ended: std::time::Instant,
    pub(super) reason: FinishReason,
    pub(super) prompt_tokens: usize,
    pub(super) completion_tokens: usize,
    pub(super) guard: GuardReport,
}

/// The best of a choice's candidates; the number of its tokens is that of all together.
pub(super) async fn best(
    answers: Vec<EventStream>,
    how: AnswerForm,
) -> Result<FinishedAnswer, EngineError> {
    let mut candidates =
        try_join_all(answers.into_iter().map(|answer| collect(answer, how))).await?;
    let score = |candidate: &FinishedAnswer| candidate.guard.mean_score.unwrap_or(0.0);
    // Stable: of equals, the first.
    candidates.sort_by(|a, b| score(b).total_cmp(&score(a)));
    let mut candidates = candidates.into_iter();
    let mut best = candidates.next().ok_or(EngineError::ShuttingDown)?;
    if candidates.len() > 0 {
        // Which one is the answer was not known before.
        best.ended = std::time::Instant::now();
        best.begun = best.begun.and(Some(best.ended));
    }
    for other in candidates {
        // What was written for nothing.
        best.guard.extra_tokens += other.guard.extra_tokens + other.completion_tokens as u32;
        best.prompt_tokens += other.prompt_tokens;
        best.completion_tokens += other.completion_tokens;
        // What is withheld is no candidate, nor is what is said in its place.
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
    how: AnswerForm,
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
                let guard = how.report(guard, &content);
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

/// The worst verdict, the lowest score and the number of doubted spans of all answers.
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
