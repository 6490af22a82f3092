//! `POST /v1/score`: scores given texts for grounding in an image.
//!
//! Nothing is decoded: prompt and response are read in one forward pass, in batches of items, with
//! caches separate from the engine's. A response longer than the context is read in [`windows`].

pub(crate) mod request;
pub(crate) mod response;
mod windows;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use axum::{
    Json,
    extract::Request,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use self::{
    request::{Author, ScoreItem, ScoreJob, ScoreRequest, check},
    response::{ItemScores, ScoreResponse, token_scores},
    windows::{Refusal, ResponseTokenizer, ScoreWindows},
};
use super::{
    admission::{Admission, admit},
    app::blocking,
    auth,
    body::{self, ReceivedBody},
    chat::{guard_headers, too_slow, unused_messages, warning_headers},
    error::ApiError,
    images::{encode_for_judge, estimate_prompt},
    limits::cost::{RequestCost, scoring_cost},
    openai::{
        check::ServedCapabilities,
        content::{NamedImage, RequestImage},
        request::read_supported,
        response::{CompletionHead, Usage, Warning},
    },
    responses::{ErrorResponses, ScoreResponses},
    served::RequestContext,
};
use crate::{
    config::GuardSection,
    engine::{EncodedImage, EngineError},
    guard::{
        abstain::{SHORT_ANSWER, WrittenAnswer},
        report::report,
    },
    reward::{
        answers::answer_gate,
        finish::WrittenBy,
        scorer::{TextRewards, TextWithImage},
    },
    util::time::unix_seconds,
    vlm::{
        processor::{ImageOptions, message},
        prompt::Prompt,
    },
};

/// Images of a request that are encoded concurrently; bounds the wait of other requests of the same
/// competitor.
const IMAGES_AT_ONCE: usize = 8;

/// Scores texts for grounding in an image.
#[utoipa::path(post, path = "/v1/score", tag = "score", request_body = ScoreRequest,
    responses(ScoreResponses, ErrorResponses))]
pub(crate) async fn score(context: RequestContext, request: Request) -> Result<Response, ApiError> {
    let app = &context.app;
    let (parts, body) = request.into_parts();
    let ReceivedBody { bytes, mut share } = body::read_json(app, &parts.headers, body).await?;
    let permit = app.admit()?;
    if app.is_draining() {
        return Err(EngineError::ShuttingDown.into());
    }
    let guard = auth::caller(app, &parts.extensions).guard;
    let seconds = app.config.server.request_timeout_s;
    let answer = async {
        let task = context.clone();
        let (job, texts, cost, warnings) =
            blocking(move || prepare(&task, &guard, &bytes)).await??;
        share.shrink(
            job.questions
                .iter()
                .map(|question| question.image.file_bytes())
                .sum(),
        );
        let context = context.clone().with_salt(job.cache_salt.clone());
        let admission = admit(&context, permit, cost)?;
        respond(&context, job, texts, warnings, admission).await
    };
    tokio::time::timeout(app.request_timeout(), answer)
        .await
        .unwrap_or_else(|_| Err(too_slow(seconds)))
}

/// Most positions computed per request: images, prompts and responses in all windows.
const POSITIONS: usize = 1 << 18;

/// A tokenized item.
struct Text {
    prompt: Prompt,
    response: ScoreWindows,
}

/// Validates the body of a score request, as the route does before any work.
///
/// # Errors
/// 404 for another model, otherwise 400.
pub fn check_score_request(body: &[u8], served: ServedCapabilities<'_>) -> Result<(), ApiError> {
    check(
        read_supported(body, "a request for scores")?,
        served,
        served.calibration,
    )
    .map(drop)
}

/// Parses and validates the request and tokenizes its items. Returns warnings for messages that the
/// prompts do not use.
fn prepare(
    context: &RequestContext,
    guard: &GuardSection,
    body: &[u8],
) -> Result<(ScoreJob, Vec<Text>, RequestCost, Vec<Warning>), ApiError> {
    let RequestContext { app, served, .. } = context;
    let capabilities = ServedCapabilities {
        model: &served.model,
        config: &app.config,
        guard,
        calibration: served.bundle.calibration.as_ref(),
        media: &served.media,
    };
    let job = check(
        read_supported(body, "a request for scores")?,
        capabilities,
        served
            .bundle
            .judge()
            .reader
            .as_ref()
            .map(|(_, calibration)| calibration),
    )?;
    let max_tokens = app.config.score.max_tokens;
    let texts = job
        .questions
        .iter()
        .map(|question| tokenize(context, question, max_tokens).map_err(|e| question.refuse(e)));
    let texts: Vec<Text> = texts.collect::<Result<_, _>>()?;
    let computed = |text: &Text| {
        text.response
            .windows
            .iter()
            .map(|w| text.prompt.tokens.len() + w.response.len())
            .sum::<usize>()
    };
    let positions: usize = texts.iter().map(computed).sum();
    if positions > POSITIONS {
        let message = format!(
            "the request needs {positions} tokens to score, including images and context that is \
             read again for long texts; at most {POSITIONS} are allowed: send fewer or shorter \
             texts"
        );
        return Err(ApiError::invalid("context_length_exceeded", message));
    }
    let mut warnings = Vec::new();
    for question in &job.questions {
        let unused = unused_messages(context, served.bundle.judge(), &question.messages)
            .map_err(|e| question.refuse(e))?;
        warnings.extend(
            unused
                .into_iter()
                .map(|warning| warning.with_prefix(question.path.as_deref())),
        );
    }
    let images: HashSet<&RequestImage> = job
        .questions
        .iter()
        .map(|question| &question.image)
        .collect();
    let cost = scoring_cost(images.len(), positions);
    Ok((job, texts, cost, warnings))
}

fn tokenize(
    context: &RequestContext,
    question: &ScoreItem,
    max_tokens: usize,
) -> Result<Text, ApiError> {
    let field = if question.image_field.starts_with("messages") {
        "messages"
    } else {
        "prompt"
    };
    let unreadable = |name: &str, why: String| {
        ApiError::param(
            name,
            "invalid_value",
            format!("'{name}' cannot be tokenized: {why}"),
        )
    };
    let judge = context.served.bundle.judge();
    let image = NamedImage {
        image: question.image.clone(),
        field: question.image_field.clone(),
    };
    let options = ImageOptions::default();
    let prompt = estimate_prompt(context, judge, &question.messages, &[image], &options)?;
    let positions = context.served.scoring_context;
    let too_long =
        |name: &str, message: String| ApiError::param(name, "context_length_exceeded", message);
    let writer = ResponseTokenizer {
        tokenizer: judge.tokenizer(),
        casing: judge.casing,
        room: positions.saturating_sub(prompt.tokens.len()),
        max_tokens,
    };
    let response = writer
        .windows(&question.response)
        .map_err(|refusal| match refusal {
            Refusal::Unreadable(why) => unreadable("response", why),
            Refusal::TooLong(tokens) => too_long(
                "response",
                format!(
                    "'response' has {tokens} tokens; at most {max_tokens} are \
                                          scored (score.max_tokens)"
                ),
            ),
            Refusal::NoRoom => too_long(
                field,
                format!(
                    "'{field}' leaves no room for 'response': the prompt has {} tokens, image \
                     included; the model's context is {positions}",
                    prompt.tokens.len()
                ),
            ),
        })?;
    Ok(Text { prompt, response })
}

async fn respond(
    context: &RequestContext,
    job: ScoreJob,
    texts: Vec<Text>,
    warnings: Vec<Warning>,
    mut admission: Admission,
) -> Result<Response, ApiError> {
    let id: Arc<str> = format!("score-{}", Uuid::new_v4().simple()).into();
    tracing::Span::current().record("completion_id", &*id);
    let RequestContext { app, served, .. } = context;
    let images = images(context, &job.questions).await?;
    let used = Arc::<AtomicU64>::default();
    admission.begin(Arc::clone(&used));
    let texts: Arc<[(EncodedImage, Text)]> = images.into_iter().zip(texts).collect();
    let mut phase = context.trace.phase("score");
    phase.set(
        "candor.texts",
        i64::try_from(texts.len()).unwrap_or(i64::MAX),
    );
    let scored = compute(context, job.author, &texts)
        .await
        .inspect_err(|error| phase.fail(error.reason().code))?;
    drop(phase);
    let writer = if job.author == Author::Model && served.bundle.scorer.is_none() {
        WrittenBy::Policy
    } else {
        WrittenBy::Others
    };
    let mut usage = Usage::default();
    let mut results = Vec::with_capacity(scored.len());
    for (index, ((question, (image, text)), mut scored)) in job
        .questions
        .into_iter()
        .zip(texts.iter())
        .zip(scored)
        .enumerate()
    {
        let response = question.response;
        let ScoreWindows { windows, ranges } = &text.response;
        let pieces = ranges
            .iter()
            .map(|range| &response.as_bytes()[range.clone()]);
        let finisher = served.bundle.finisher(image.evidence.as_ref(), writer);
        if let Some(finisher) = &finisher {
            finisher.finish_scored(pieces.clone(), &mut scored);
        }
        let thresholds = job
            .guard
            .with_image_threshold(finisher.as_deref())
            .thresholds;
        let mut guard = report(
            pieces,
            &scored.rewards,
            job.guard.mode,
            thresholds,
            job.render,
        );
        guard.familiarity = image.evidence.as_ref().map(|evidence| evidence.familiarity);
        if (1..=SHORT_ANSWER).contains(&ranges.len()) {
            let answer = WrittenAnswer {
                text: &response,
                score: guard.score,
                log_probability: scored.log_probabilities.iter().take(ranges.len()).sum(),
            };
            let evidence = served.bundle.judge().evidence.as_ref();
            let gate = evidence.zip(image.evidence.as_ref());
            let gate = gate.and_then(|(evidence, image)| {
                answer_gate(
                    evidence,
                    image,
                    &message::question(&question.messages).unwrap_or_default(),
                    0.0,
                )
            });
            guard.answer_probability = gate.map(|gate| gate.judge(&answer).0);
        }
        app.metrics.count_scored_text(guard.verdict);
        let before = text.prompt.tokens.len();
        usage.prompt_tokens += windows
            .iter()
            .map(|window| before + window.response.len() - window.scored)
            .sum::<usize>();
        usage.completion_tokens += ranges.len();
        let tokens = token_scores(&response, ranges, &scored);
        let windows = Some(windows.len()).filter(|&windows| windows > 1);
        results.push(ItemScores {
            index,
            response,
            guard,
            windows,
            tokens,
        });
    }
    usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
    used.store(usage.total_tokens as u64, Relaxed);
    let headers = guard_headers(results.iter().map(|result| &result.guard));
    let (model, system_fingerprint) = (Arc::clone(&served.model), Arc::clone(&served.fingerprint));
    let head = CompletionHead {
        id,
        object: "score",
        created: unix_seconds(),
        model,
        system_fingerprint,
    };
    Ok((
        headers,
        warning_headers(&warnings),
        Json(ScoreResponse {
            head,
            results,
            usage,
            warnings,
        }),
    )
        .into_response())
}

/// Returns the encoded image of each item; duplicates are encoded once.
async fn images(
    context: &RequestContext,
    questions: &[ScoreItem],
) -> Result<Vec<EncodedImage>, ApiError> {
    let mut first = HashMap::new();
    let firsts: Vec<usize> = questions
        .iter()
        .enumerate()
        .map(|(i, q)| *first.entry(&q.image).or_insert(i))
        .collect();
    let distinct: Vec<usize> = firsts
        .iter()
        .enumerate()
        .filter_map(|(i, &first)| (i == first).then_some(i))
        .collect();
    let encoding = stream::iter(distinct).map(|i| async move {
        let question = &questions[i];
        let image = encode_for_judge(context, question.image.clone(), &question.image_field)
            .await
            .map_err(|e| question.refuse(e))?;
        Ok::<_, ApiError>((i, image))
    });
    let encoded: HashMap<usize, EncodedImage> =
        encoding.buffered(IMAGES_AT_ONCE).try_collect().await?;
    // Every distinct image has been encoded.
    Ok(firsts
        .iter()
        .filter_map(|first| encoded.get(first).cloned())
        .collect())
}

/// Scores all texts in batches of windows. Between batches others take their turns, and a
/// disconnected client's request stops.
async fn compute(
    context: &RequestContext,
    author: Author,
    texts: &Arc<[(EncodedImage, Text)]>,
) -> Result<Vec<TextRewards>, ApiError> {
    let scorer = match author {
        Author::Model => &context.served.own_scorer,
        Author::Other => &context.served.reader,
    };
    let Some(scorer) = scorer else {
        return Err(ApiError::internal());
    };
    let numbered = |(i, (_, text)): (usize, &(EncodedImage, Text))| {
        (0..text.response.windows.len()).map(move |number| (i, number))
    };
    let windows: Arc<[(usize, usize)]> = texts.iter().enumerate().flat_map(numbered).collect();
    let length = |&(text, number): &(usize, usize)| {
        let text = &texts[text].1;
        text.prompt.tokens.len() + text.response.windows[number].response.len()
    };
    let lengths: Vec<usize> = windows.iter().map(length).collect();
    let mut all: Vec<TextRewards> = texts
        .iter()
        .map(|_| TextRewards {
            rewards: Vec::new(),
            log_probabilities: Vec::new(),
        })
        .collect();
    for group in scorer.groups(&lengths) {
        let turn = context
            .served
            .scoring
            .take(
                &context.share,
                lengths[group.clone()]
                    .iter()
                    .map(|&length| length as u64)
                    .sum(),
            )
            .await;
        let (scorer, shared, shared_windows) =
            (Arc::clone(scorer), Arc::clone(texts), Arc::clone(&windows));
        let range = group.clone();
        let work = move || {
            // Held until the work ends, even if the request was canceled.
            let _turn = turn;
            let windows = shared_windows[range].iter().map(|&(text, number)| {
                let (encoded, text) = &shared[text];
                let response = &text.response.windows[number].response;
                (
                    std::slice::from_ref(&encoded.image),
                    &text.prompt,
                    [&text.prompt.tokens[..], response].concat(),
                )
            });
            let windows: Vec<_> = windows.collect();
            let given: Vec<TextWithImage<'_>> = windows
                .iter()
                .map(|(images, prompt, tokens)| TextWithImage {
                    images,
                    spans: &prompt.images,
                    tokens,
                    prompt: prompt.tokens.len(),
                })
                .collect();
            scorer.score(&given)
        };
        let (scored, took) = blocking(work).await?.map_err(|error| {
            tracing::error!(%error, "a text could not be scored");
            ApiError::internal()
        })?;
        context
            .app
            .metrics
            .count_scored_tokens(scored.iter().map(|window| window.rewards.len()).sum(), took);
        for (&(text, number), window) in windows[group].iter().zip(scored) {
            let seen = window.rewards.len() - texts[text].1.response.windows[number].scored;
            all[text].rewards.extend(&window.rewards[seen..]);
            all[text]
                .log_probabilities
                .extend(&window.log_probabilities[seen..]);
        }
    }
    Ok(all)
}
