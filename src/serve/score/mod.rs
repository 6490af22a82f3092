//! `POST /v1/score`: how far the words of a text are grounded in an image, whoever wrote it.
//!
//! Nothing is decoded: prompt and response are read in one step, many items at once, by networks
//! with caches of their own beside the engine's batch. A response that is longer than the context
//! is read in [`windows`].

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
    app::blocking,
    auth,
    body::{self, ReceivedBody},
    chat::{encode, guard_headers, too_slow, unused_messages, warning_headers},
    error::ApiError,
    limits::{
        Admission, admit,
        cost::{RequestCost, reading},
    },
    openai::{
        check::ServedCapabilities,
        content::RequestImage,
        request::read_supported,
        response::{CompletionHead, Usage, Warning},
    },
    openapi::{ErrorResponses, ScoreResponses},
    served::{self, RequestContext},
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
    vlm::template,
};

/// Images of a request that are waited for at once: others of the same competitor wait for so many
/// at most.
const IMAGES_AT_ONCE: usize = 8;

/// Scores texts that others wrote.
#[utoipa::path(post, path = "/v1/score", tag = "score", request_body = ScoreRequest,
    responses(ScoreResponses, ErrorResponses))]
pub(crate) async fn score(turn: RequestContext, request: Request) -> Result<Response, ApiError> {
    let app = &turn.app;
    let (parts, body) = request.into_parts();
    let ReceivedBody { bytes, mut share } = body::read_json(app, &parts.headers, body).await?;
    let place = app.admit()?;
    if app.is_draining() {
        return Err(EngineError::ShuttingDown.into());
    }
    let guard = auth::caller(app, &parts.extensions).guard;
    let seconds = app.config.server.request_timeout_s;
    let answer = async {
        let task = turn.clone();
        let (order, texts, cost, warnings) =
            blocking(move || prepare(&task, &guard, &bytes)).await??;
        share.shrink(
            order
                .questions
                .iter()
                .map(|question| question.image.file_bytes())
                .sum(),
        );
        let turn = turn.clone().salted(order.cache_salt.clone());
        let admission = admit(&turn, place, cost)?;
        respond(&turn, order, texts, warnings, admission).await
    };
    tokio::time::timeout(app.request_timeout(), answer)
        .await
        .unwrap_or_else(|_| Err(too_slow(seconds)))
}

/// Most positions that a request may have computed: images, prompts and responses, in all windows
/// together.
const POSITIONS: usize = 1 << 18;

/// A question and its answer in tokens.
struct Text {
    prompt: Vec<u32>,
    response: ScoreWindows,
}

/// Checks the body of a request for scores alone, as the route does before it does anything else.
///
/// # Errors
/// What the route answers: 404 for another model, 400 for everything else.
pub fn check_score_request(body: &[u8], served: ServedCapabilities<'_>) -> Result<(), ApiError> {
    check(
        read_supported(body, "a request for scores")?,
        served,
        served.calibration,
    )
    .map(drop)
}

/// Parses and checks the request, and tokenizes its items; warns of messages that have no place in
/// the prompts.
fn prepare(
    turn: &RequestContext,
    guard: &GuardSection,
    body: &[u8],
) -> Result<(ScoreJob, Vec<Text>, RequestCost, Vec<Warning>), ApiError> {
    let RequestContext { app, served, .. } = turn;
    let asked = ServedCapabilities {
        model: &served.model,
        config: &app.config,
        guard,
        calibration: served.bundle.calibration.as_ref(),
    };
    let order = check(
        read_supported(body, "a request for scores")?,
        asked,
        served
            .bundle
            .reader
            .as_ref()
            .map(|(_, calibration)| calibration),
    )?;
    let most = app.config.score.max_tokens;
    let texts = order
        .questions
        .iter()
        .map(|question| tokenize(served, question, most).map_err(|e| question.refuse(e)));
    let texts: Vec<Text> = texts.collect::<Result<_, _>>()?;
    let image = served.bundle.vlm.spec().image_tokens;
    let computed = |text: &Text| {
        text.response
            .windows
            .iter()
            .map(|w| image + text.prompt.len() + w.response.len())
            .sum::<usize>()
    };
    let positions: usize = texts.iter().map(computed).sum();
    if positions > POSITIONS {
        let message = format!(
            "the request takes {positions} tokens to score, images and what is read again for long \
             texts included; at most {POSITIONS} are \
             computed at once: send fewer or shorter texts"
        );
        return Err(ApiError::invalid("context_length_exceeded", message));
    }
    let mut warnings = Vec::new();
    for question in &order.questions {
        let unused = unused_messages(turn, &question.messages).map_err(|e| question.refuse(e))?;
        warnings.extend(
            unused
                .into_iter()
                .map(|warning| warning.within(question.path.as_deref())),
        );
    }
    let images: HashSet<&RequestImage> = order
        .questions
        .iter()
        .map(|question| &question.image)
        .collect();
    let cost = reading(images.len(), positions);
    Ok((order, texts, cost, warnings))
}

fn tokenize(
    served: &served::ServedVersion,
    question: &ScoreItem,
    most: usize,
) -> Result<Text, ApiError> {
    let asked = if question.image_field.starts_with("messages") {
        "messages"
    } else {
        "prompt"
    };
    let unreadable = |field: &str, why: String| {
        ApiError::param(
            field,
            "invalid_value",
            format!("'{field}' cannot be read: {why}"),
        )
    };
    let prompt = served
        .bundle
        .prompt(&question.messages)
        .map_err(|why| unreadable(asked, why))?;
    let (image, context) = (
        served.bundle.vlm.spec().image_tokens,
        served.engine.context_len(),
    );
    let too_long =
        |field: &str, message: String| ApiError::param(field, "context_length_exceeded", message);
    let writer = ResponseTokenizer {
        tokenizer: &served.bundle.tokenizer,
        casing: served.bundle.config.casing,
        room: context.saturating_sub(image + prompt.len()),
        most,
    };
    let response = writer
        .windows(&question.response)
        .map_err(|refusal| match refusal {
            Refusal::Unreadable(why) => unreadable("response", why),
            Refusal::TooLong(tokens) => too_long(
                "response",
                format!(
                    "'response' has {tokens} tokens; at most {most} are \
                                          scored (score.max_tokens)"
                ),
            ),
            Refusal::NoRoom => too_long(
                asked,
                format!(
                    "'{asked}' leaves no room for 'response': the image has {image} tokens and the \
                 prompt {}; the model's context is {context}",
                    prompt.len()
                ),
            ),
        })?;
    Ok(Text { prompt, response })
}

async fn respond(
    turn: &RequestContext,
    order: ScoreJob,
    texts: Vec<Text>,
    warnings: Vec<Warning>,
    mut admission: Admission,
) -> Result<Response, ApiError> {
    let id: Arc<str> = format!("score-{}", Uuid::new_v4().simple()).into();
    tracing::Span::current().record("completion", &*id);
    let RequestContext { app, served, .. } = turn;
    let images = images(turn, &order.questions).await?;
    let used = Arc::<AtomicU64>::default();
    admission.begin(Arc::clone(&used));
    let texts: Arc<[(EncodedImage, Text)]> = images.into_iter().zip(texts).collect();
    let scored = compute(turn, order.author, &texts).await?;
    let writer = if order.author == Author::Model {
        WrittenBy::Policy
    } else {
        WrittenBy::Others
    };
    let mut usage = Usage::default();
    let mut results = Vec::with_capacity(scored.len());
    for (index, ((question, (image, text)), mut scored)) in order
        .questions
        .into_iter()
        .zip(texts.iter())
        .zip(scored)
        .enumerate()
    {
        let response = question.response;
        let ScoreWindows { windows, places } = &text.response;
        let pieces = places
            .iter()
            .map(|place| &response.as_bytes()[place.clone()]);
        let finisher = served.bundle.finisher(image.evidence.as_ref(), writer);
        if let Some(finisher) = &finisher {
            finisher.finish_scored(pieces.clone(), &mut scored);
        }
        let thresholds = order.guard.about(finisher.as_deref()).thresholds;
        let mut guard = report(
            pieces,
            &scored.rewards,
            order.guard.mode,
            thresholds,
            order.render,
        );
        guard.familiarity = image.evidence.as_ref().map(|evidence| evidence.familiarity);
        if (1..=SHORT_ANSWER).contains(&places.len()) {
            let answer = WrittenAnswer {
                text: &response,
                score: guard.score,
                log_probability: scored.log_probabilities.iter().take(places.len()).sum(),
            };
            let gate = served.bundle.evidence.as_ref().zip(image.evidence.as_ref());
            let gate = gate.and_then(|(evidence, image)| {
                answer_gate(
                    evidence,
                    image,
                    template::question(&question.messages).unwrap_or_default(),
                    0.0,
                )
            });
            guard.answer_probability = gate.map(|gate| gate.judge(&answer).0);
        }
        app.metrics.scored_text(guard.verdict);
        let before = served.bundle.vlm.spec().image_tokens + text.prompt.len();
        usage.prompt_tokens += windows
            .iter()
            .map(|window| before + window.response.len() - window.scored)
            .sum::<usize>();
        usage.completion_tokens += places.len();
        let tokens = token_scores(&response, places, &scored);
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

/// The encoded image of every question; one that several have is encoded once.
async fn images(
    turn: &RequestContext,
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
        let image = encode(turn, question.image.clone(), &question.image_field)
            .await
            .map_err(|e| question.refuse(e))?;
        Ok::<_, ApiError>((i, image))
    });
    let encoded: HashMap<usize, EncodedImage> =
        encoding.buffered(IMAGES_AT_ONCE).try_collect().await?;
    // Every first one is there.
    Ok(firsts
        .iter()
        .filter_map(|first| encoded.get(first).cloned())
        .collect())
}

/// Scores all texts, a group of windows at a time: when the client has left, no further group is
/// begun, and others have their turn between two.
async fn compute(
    turn: &RequestContext,
    author: Author,
    texts: &Arc<[(EncodedImage, Text)]>,
) -> Result<Vec<TextRewards>, ApiError> {
    let scorer = match author {
        Author::Model => &turn.served.own_scorer,
        Author::Other => &turn.served.reader,
    };
    let Some(scorer) = scorer else {
        return Err(ApiError::internal());
    };
    let numbered = |(i, (_, text)): (usize, &(EncodedImage, Text))| {
        (0..text.response.windows.len()).map(move |number| (i, number))
    };
    let places: Arc<[(usize, usize)]> = texts.iter().enumerate().flat_map(numbered).collect();
    let length = |&(text, number): &(usize, usize)| {
        let text = &texts[text].1;
        text.prompt.len() + text.response.windows[number].response.len()
    };
    let lengths: Vec<usize> = places.iter().map(length).collect();
    let mut all: Vec<TextRewards> = texts
        .iter()
        .map(|_| TextRewards {
            rewards: Vec::new(),
            log_probabilities: Vec::new(),
        })
        .collect();
    for group in scorer.groups(&lengths) {
        let place = turn
            .served
            .scoring
            .take(
                &turn.share,
                lengths[group.clone()]
                    .iter()
                    .map(|&length| length as u64)
                    .sum(),
            )
            .await;
        let (scorer, shared, these) = (Arc::clone(scorer), Arc::clone(texts), Arc::clone(&places));
        let range = group.clone();
        let work = move || {
            // Held until the work ends, also when nobody waits for it any more.
            let _place = place;
            let windows = these[range].iter().map(|&(text, number)| {
                let (EncodedImage { image, .. }, text) = &shared[text];
                (
                    image,
                    text.prompt.len(),
                    [&text.prompt[..], &text.response.windows[number].response].concat(),
                )
            });
            let windows: Vec<_> = windows.collect();
            let given: Vec<TextWithImage<'_>> = windows
                .iter()
                .map(|(image, prompt, tokens)| TextWithImage {
                    image,
                    tokens,
                    prompt: *prompt,
                })
                .collect();
            scorer.score(&given)
        };
        let (scored, took) = blocking(work).await?.map_err(|error| {
            tracing::error!(%error, "a text could not be scored");
            ApiError::internal()
        })?;
        turn.app
            .metrics
            .scored_tokens(scored.iter().map(|window| window.rewards.len()).sum(), took);
        for (&(text, number), window) in places[group].iter().zip(scored) {
            let seen = window.rewards.len() - texts[text].1.response.windows[number].scored;
            all[text].rewards.extend(&window.rewards[seen..]);
            all[text]
                .log_probabilities
                .extend(&window.log_probabilities[seen..]);
        }
    }
    Ok(all)
}
