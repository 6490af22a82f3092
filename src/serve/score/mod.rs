//! `POST /v1/score`: how far the words of a text are grounded in an image, whoever wrote it.
//!
//! Nothing is decoded: prompt and response are read in one step, many items at once, by networks with caches of their own beside the engine's batch.

pub(crate) mod request;
pub(crate) mod response;

use std::{collections::HashMap, ops::Range, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
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
    app::{App, blocking, unix_time},
    auth, body,
    chat::{encode, guard_headers, too_slow},
    error::ApiError,
    openai::{
        check::Served,
        request::read,
        response::{Head, Usage},
    },
    openapi::{Judged, Refusals},
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
pub(crate) async fn score(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let _place = app.admit()?;
    let (parts, body) = request.into_parts();
    let body = body::read_json(&parts.headers, body, app.config.server.max_body_bytes, app.read_timeout()).await?;
    if app.is_draining() {
        return Err(EngineError::ShuttingDown.into());
    }
    let guard = auth::guard(&app, &parts.extensions);
    let seconds = app.config.server.request_timeout_s;
    let answer = async {
        let task = Arc::clone(&app);
        let (order, texts) = blocking(move || prepare(&task, &guard, &body)).await??;
        respond(&app, order, texts).await
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

/// Parses and checks the request, and tokenizes its items.
fn prepare(app: &App, guard: &Guard, body: &[u8]) -> Result<(Order, Vec<Text>), ApiError> {
    let served = Served { model: &app.model, config: &app.config, guard, calibration: app.bundle.calibration.as_ref() };
    let order = check(read(body, "a request for scores")?, served, app.bundle.reader.as_ref().map(|(_, calibration)| calibration))?;
    let texts = order.questions.iter().map(|question| tokenize(app, question).map_err(|e| question.refuse(e))).collect::<Result<_, _>>()?;
    Ok((order, texts))
}

fn tokenize(app: &App, question: &Question) -> Result<Text, ApiError> {
    let asked = if question.image_field == "messages" { "messages" } else { "prompt" };
    let refused = |field: &str, why: String| ApiError::param(field, "invalid_value", format!("'{field}' cannot be read: {why}"));
    let mut tokens = app.bundle.prompt(&question.messages).map_err(|why| refused(asked, why))?;
    let prompt = tokens.len();
    let lead = question.response.len() - question.response.trim_start().len();
    let response = app.bundle.response(&question.response[lead..]).map_err(|why| refused("response", why))?;
    let (image, context) = (app.bundle.vlm.spec().image_tokens, app.engine.context_len());
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
        end += app.bundle.tokenizer.bytes(id).len();
        places.push(start..end);
    }
    tokens.extend(response);
    Ok(Text { tokens, prompt, places })
}

async fn respond(app: &Arc<App>, order: Order, texts: Vec<Text>) -> Result<Response, ApiError> {
    let id: Arc<str> = format!("score-{}", Uuid::new_v4().simple()).into();
    tracing::Span::current().record("completion", &*id);
    let images = images(app, &order.questions).await?;
    let texts: Arc<[(Tensor, Text)]> = images.into_iter().zip(texts).collect();
    let scored = compute(app, order.author, &texts).await?;
    let mut usage = Usage::default();
    let mut results = Vec::with_capacity(scored.len());
    for (index, ((question, (_, text)), scored)) in order.questions.into_iter().zip(texts.iter()).zip(&scored).enumerate() {
        let response = question.response;
        let pieces = text.places.iter().map(|place| &response.as_bytes()[place.clone()]);
        let guard = report(pieces, &scored.rewards, order.guard.mode, order.guard.thresholds, order.render);
        app.metrics.scored_text(guard.verdict);
        usage.prompt_tokens += app.bundle.vlm.spec().image_tokens + text.prompt;
        usage.completion_tokens += text.places.len();
        let tokens = token_scores(&response, &text.places, scored);
        results.push(ItemScores { index, response, guard, tokens });
    }
    usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
    let headers = guard_headers(results.iter().map(|result| &result.guard));
    let (model, system_fingerprint) = (Arc::clone(&app.model), Arc::clone(&app.fingerprint));
    let head = Head { id, object: "score", created: unix_time(), model, system_fingerprint };
    Ok((headers, Json(Scores { head, results, usage })).into_response())
}

/// The encoded image of every question; one that several have is encoded once.
async fn images(app: &Arc<App>, questions: &[Question]) -> Result<Vec<Tensor>, ApiError> {
    let mut first = HashMap::new();
    let firsts: Vec<usize> = questions.iter().enumerate().map(|(i, q)| *first.entry(&q.image).or_insert(i)).collect();
    let distinct: Vec<usize> = firsts.iter().enumerate().filter_map(|(i, &first)| (i == first).then_some(i)).collect();
    let encoding = stream::iter(distinct).map(|i| async move {
        let question = &questions[i];
        let image = encode(app, question.image.clone(), question.image_field).await.map_err(|e| question.refuse(e))?;
        Ok::<_, ApiError>((i, image))
    });
    let encoded: HashMap<usize, Tensor> = encoding.buffered(IMAGES_AT_ONCE).try_collect().await?;
    // Every first one is there.
    Ok(firsts.iter().filter_map(|first| encoded.get(first).cloned()).collect())
}

/// Scores all texts, a group at a time: when the client has left, no further group is begun.
async fn compute(app: &Arc<App>, author: Author, texts: &Arc<[(Tensor, Text)]>) -> Result<Vec<Scored>, ApiError> {
    let scorer = match author {
        Author::Model => &app.own_scorer,
        Author::Other => &app.reader,
    };
    let Some(scorer) = scorer else { return Err(ApiError::internal()) };
    let turn = Arc::clone(&app.scoring).acquire_owned().await.map_err(|_| EngineError::ShuttingDown)?;
    let turn = Arc::new(turn);
    let lengths: Vec<usize> = texts.iter().map(|(_, text)| text.tokens.len()).collect();
    let mut all = Vec::with_capacity(texts.len());
    for group in scorer.groups(&lengths) {
        let (scorer, texts, turn) = (Arc::clone(scorer), Arc::clone(texts), Arc::clone(&turn));
        let work = move || {
            // Held until the work ends, also when nobody waits for it any more.
            let _turn = turn;
            let given: Vec<Given<'_>> =
                texts[group].iter().map(|(image, text)| Given { image, tokens: &text.tokens, prompt: text.prompt }).collect();
            scorer.score(&given)
        };
        let (mut scored, took) = blocking(work).await?.map_err(|error| {
            tracing::error!(%error, "a text could not be scored");
            ApiError::internal()
        })?;
        app.metrics.scored_tokens(scored.iter().map(|text| text.rewards.len()).sum(), took);
        all.append(&mut scored);
    }
    Ok(all)
}
