//! `POST /v1/score`: how far the words of a text are grounded in an image, whoever wrote it.
//!
//! Nothing is decoded: prompt and response are read in one step, many items at once, by networks with caches of their own beside the engine's batch.

pub(crate) mod request;
pub(crate) mod response;

use std::{collections::HashMap, ops::Range, sync::Arc};

use axum::{
    Json,
    extract::Request,
    response::{IntoResponse, Response},
};
use candle_core::Tensor;
use futures_util::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use self::{
    request::{Author, Order, Question, ScoreRequest, check},
    response::{ItemScores, Scores, token_scores},
};
use super::{
    app::{blocking, unix_time},
    auth, body,
    chat::{encode, guard_headers, too_slow, unused_messages, warning_headers},
    error::ApiError,
    openai::{
        check::Served,
        request::read_supported,
        response::{Head, Usage, Warning},
    },
    openapi::{Judged, Refusals},
    served::{self, Turn},
};
use crate::{
    config::Guard,
    engine::EngineError,
    guard::report::report,
    reward::scorer::{Given, Scored},
};

/// Images of a request that are waited for at once.
const IMAGES_AT_ONCE: usize = 16;

/// Scores texts that others wrote.
#[utoipa::path(post, path = "/v1/score", tag = "score", request_body = ScoreRequest, responses(Judged, Refusals))]
pub(crate) async fn score(turn: Turn, request: Request) -> Result<Response, ApiError> {
    let app = &turn.app;
    let _place = app.admit()?;
    let (parts, body) = request.into_parts();
    let body = body::read_json(&parts.headers, body, app.config.server.max_body_bytes, app.read_timeout()).await?;
    if app.is_draining() {
        return Err(EngineError::ShuttingDown.into());
    }
    let guard = auth::guard(app, &parts.extensions);
    let seconds = app.config.server.request_timeout_s;
    let answer = async {
        let task = turn.clone();
        let (order, texts, warnings) = blocking(move || prepare(&task, &guard, &body)).await??;
        respond(&turn, order, texts, warnings).await
    };
    tokio::time::timeout(app.request_timeout(), answer).await.unwrap_or_else(|_| Err(too_slow(seconds)))
}

/// A question and its answer in tokens.
struct Text {
    /// Prompt and response.
    tokens: Vec<u32>,
    /// How many of them are the prompt.
    prompt: usize,
    /// Bytes of the response that each of its tokens stands for; the first has the white space before it too, which the model is not shown.
    places: Vec<Range<usize>>,
}

/// Parses and checks the request, and tokenizes its items; warns of messages that have no place in the prompts.
fn prepare(turn: &Turn, guard: &Guard, body: &[u8]) -> Result<(Order, Vec<Text>, Vec<Warning>), ApiError> {
    let Turn { app, served } = turn;
    let asked = Served { model: &served.model, config: &app.config, guard, calibration: served.bundle.calibration.as_ref() };
    let order =
        check(read_supported(body, "a request for scores")?, asked, served.bundle.reader.as_ref().map(|(_, calibration)| calibration))?;
    let texts =
        order.questions.iter().map(|question| tokenize(served, question).map_err(|e| question.refuse(e))).collect::<Result<_, _>>()?;
    let mut warnings = Vec::new();
    for question in &order.questions {
        let unused = unused_messages(turn, &question.messages).map_err(|e| question.refuse(e))?;
        warnings.extend(unused.into_iter().map(|warning| warning.within(question.path.as_deref())));
    }
    Ok((order, texts, warnings))
}

fn tokenize(served: &served::Served, question: &Question) -> Result<Text, ApiError> {
    let asked = if question.image_field == "messages" { "messages" } else { "prompt" };
    let refused = |field: &str, why: String| ApiError::param(field, "invalid_value", format!("'{field}' cannot be read: {why}"));
    let mut tokens = served.bundle.prompt(&question.messages).map_err(|why| refused(asked, why))?;
    let prompt = tokens.len();
    let lead = question.response.len() - question.response.trim_start().len();
    let response = served.bundle.response(&question.response[lead..]).map_err(|why| refused("response", why))?;
    let (image, context) = (served.bundle.vlm.spec().image_tokens, served.engine.context_len());
    let positions = image + prompt + response.len();
    if positions > context {
        let message = format!(
            "'response' does not fit: the image has {image} tokens, the prompt {prompt} and the response {}, together {positions}; \
             the model's context is {context}",
            response.len()
        );
        return Err(ApiError::param("response", "context_length_exceeded", message));
    }
    let mut end = lead;
    let mut places: Vec<Range<usize>> = Vec::with_capacity(response.len());
    for &id in &response {
        let start = places.last().map_or(0, |before| before.end);
        end += served.bundle.tokenizer.bytes(id).len();
        places.push(start..end);
    }
    tokens.extend(response);
    Ok(Text { tokens, prompt, places })
}

async fn respond(turn: &Turn, order: Order, texts: Vec<Text>, warnings: Vec<Warning>) -> Result<Response, ApiError> {
    let id: Arc<str> = format!("score-{}", Uuid::new_v4().simple()).into();
    tracing::Span::current().record("completion", &*id);
    let Turn { app, served } = turn;
    let images = images(turn, &order.questions).await?;
    let texts: Arc<[(Tensor, Text)]> = images.into_iter().zip(texts).collect();
    let scored = compute(turn, order.author, &texts).await?;
    let mut usage = Usage::default();
    let mut results = Vec::with_capacity(scored.len());
    for (index, ((question, (_, text)), scored)) in order.questions.into_iter().zip(texts.iter()).zip(&scored).enumerate() {
        let response = question.response;
        let pieces = text.places.iter().map(|place| &response.as_bytes()[place.clone()]);
        let guard = report(pieces, &scored.rewards, order.guard.mode, order.guard.thresholds, order.render);
        app.metrics.scored_text(guard.verdict);
        usage.prompt_tokens += served.bundle.vlm.spec().image_tokens + text.prompt;
        usage.completion_tokens += text.places.len();
        let tokens = token_scores(&response, &text.places, scored);
        results.push(ItemScores { index, response, guard, tokens });
    }
    usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
    let headers = guard_headers(results.iter().map(|result| &result.guard));
    let (model, system_fingerprint) = (Arc::clone(&served.model), Arc::clone(&served.fingerprint));
    let head = Head { id, object: "score", created: unix_time(), model, system_fingerprint };
    Ok((headers, warning_headers(&warnings), Json(Scores { head, results, usage, warnings })).into_response())
}

/// The encoded image of every question; one that several have is encoded once.
async fn images(turn: &Turn, questions: &[Question]) -> Result<Vec<Tensor>, ApiError> {
    let mut first = HashMap::new();
    let firsts: Vec<usize> = questions.iter().enumerate().map(|(i, q)| *first.entry(&q.image).or_insert(i)).collect();
    let distinct: Vec<usize> = firsts.iter().enumerate().filter_map(|(i, &first)| (i == first).then_some(i)).collect();
    let encoding = stream::iter(distinct).map(|i| async move {
        let question = &questions[i];
        let image = encode(turn, question.image.clone(), question.image_field).await.map_err(|e| question.refuse(e))?;
        Ok::<_, ApiError>((i, image))
    });
    let encoded: HashMap<usize, Tensor> = encoding.buffered(IMAGES_AT_ONCE).try_collect().await?;
    // Every first one is there.
    Ok(firsts.iter().filter_map(|first| encoded.get(first).cloned()).collect())
}

/// Scores all texts, a group at a time: when the client has left, no further group is begun.
async fn compute(turn: &Turn, author: Author, texts: &Arc<[(Tensor, Text)]>) -> Result<Vec<Scored>, ApiError> {
    let scorer = match author {
        Author::Model => &turn.served.own_scorer,
        Author::Other => &turn.served.reader,
    };
    let Some(scorer) = scorer else { return Err(ApiError::internal()) };
    let place = Arc::clone(&turn.served.scoring).acquire_owned().await.map_err(|_| EngineError::ShuttingDown)?;
    let place = Arc::new(place);
    let lengths: Vec<usize> = texts.iter().map(|(_, text)| text.tokens.len()).collect();
    let mut all = Vec::with_capacity(texts.len());
    for group in scorer.groups(&lengths) {
        let (scorer, texts, place) = (Arc::clone(scorer), Arc::clone(texts), Arc::clone(&place));
        let work = move || {
            // Held until the work ends, also when nobody waits for it any more.
            let _place = place;
            let given: Vec<Given<'_>> =
                texts[group].iter().map(|(image, text)| Given { image, tokens: &text.tokens, prompt: text.prompt }).collect();
            scorer.score(&given)
        };
        let (mut scored, took) = blocking(work).await?.map_err(|error| {
            tracing::error!(%error, "a text could not be scored");
            ApiError::internal()
        })?;
        turn.app.metrics.scored_tokens(scored.iter().map(|text| text.rewards.len()).sum(), took);
        all.append(&mut scored);
    }
    Ok(all)
}
