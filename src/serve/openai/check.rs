//! Validation of chat requests: ranges, defaults and unsupported combinations.

use std::{fmt::Display, ops::RangeInclusive, sync::Arc};

use super::{
    content::{ImageUrlLimits, NamedImage, flatten},
    lenient::{Object, TextOr},
    request::{ChatRequest, GuardRequest, ProcessorKwargs},
    response::Warning,
};
use crate::{
    config::{Config, GuardSection},
    engine::{GuardParams, Sampling},
    feedback::derive::check_name,
    guard::{
        Mode, OnExhausted, OnUnanswerable, Thresholds, policy,
        question::{Unanswerable, unanswerable_reason},
        render::RenderStyle,
    },
    reward::calibration::Calibration,
    serve::error::{ApiError, excerpt},
    vlm::processor::{
        ImageOptions,
        message::{Message, question},
    },
};

/// Longest stop string in bytes: the engine holds that much text back.
const STOP_BYTES: usize = 1024;

/// Most candidates per choice.
const CANDIDATES: i64 = 16;

/// A validated completion request.
#[derive(Debug, Clone)]
pub struct Completion {
    /// Messages.
    pub messages: Vec<Message>,
    /// End user, as named by the client.
    pub user: Option<String>,
    /// Images of the messages, in order.
    pub images: Vec<NamedImage>,
    /// Options for their processing.
    pub image_options: ImageOptions,
    /// Warnings about what the request asks for and does not get.
    pub warnings: Vec<Warning>,
    /// Number of choices.
    pub n: usize,
    /// Sampling parameters; choice `i` uses the seed `seed + i`.
    pub sampling: Sampling,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Stop strings.
    pub stop: Vec<String>,
    /// Alternatives to report per token; `None` reports no log-probabilities.
    pub top_logprobs: Option<usize>,
    /// Guard settings.
    pub guard: GuardParams,
    /// Candidates per choice, of which the one with the best rewards is returned.
    pub candidates: usize,
    /// Salt that replaces the owner as cache scope of the image.
    pub cache_salt: Option<Arc<str>>,
    /// Reason to abstain that follows from the question's text alone.
    pub unanswerable: Option<Unanswerable>,
    /// `true` to include a withheld answer in the report.
    pub show_withheld: bool,
    /// Rendering of flagged words in `guard.alt_text`.
    pub render: RenderStyle,
    /// `true` to stream the answer.
    pub stream: bool,
    /// `true` to end a stream with the token counts.
    pub include_usage: bool,
}

/// Properties of the served version that validation depends on.
#[derive(Debug, Clone, Copy)]
pub struct ServedCapabilities<'a> {
    /// Name of the served model.
    pub model: &'a str,
    /// Defaults and limits.
    pub config: &'a Config,
    /// Guard defaults of the caller.
    pub guard: &'a GuardSection,
    /// Calibration of the scorer; `None` without a scorer.
    pub calibration: Option<&'a Calibration>,
    /// Images that the model and its scorer take.
    pub media: &'a MediaLimits,
}

/// Numbers of images that a model and its scorer take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaLimits {
    /// Images that a request may have.
    pub images: RangeInclusive<usize>,
    /// `true` if the scorer judges texts about exactly one image.
    pub judges_one_image: bool,
}

impl ServedCapabilities<'_> {
    /// Checks that the requested model is the served one.
    ///
    /// # Errors
    /// 400 if none is named, 404 if it is another.
    pub fn check_model(&self, requested: Option<&str>) -> Result<(), ApiError> {
        match requested {
            None => Err(ApiError::param(
                "model",
                "missing_required_parameter",
                "'model' is missing",
            )),
            Some(model) if model != self.model => Err(ApiError::unknown_model(model, self.model)),
            Some(_) => Ok(()),
        }
    }
}

/// Validates a request.
///
/// # Errors
/// 404 for another model, otherwise 400 naming the field.
pub fn check(
    request: ChatRequest<'_>,
    served: ServedCapabilities<'_>,
) -> Result<Completion, ApiError> {
    served.check_model(request.model.as_deref())?;
    let Some(messages) = request.messages else {
        return Err(ApiError::param(
            "messages",
            "missing_required_parameter",
            "'messages' is missing",
        ));
    };
    let stream = request.stream.unwrap_or(false);
    if request.stream_options.is_some() && !stream {
        return Err(ApiError::param(
            "stream_options",
            "invalid_value",
            "'stream_options' is only allowed when 'stream' is true",
        ));
    }
    let Object(guard) = request.guard.unwrap_or_default();
    let config = served.config;
    let candidates =
        check_range("guard.candidates", guard.candidates, 1..=CANDIDATES)?.unwrap_or(1) as usize;
    let most_answers = most_answers(config);
    let n = check_range("n", request.n, 1..=most_answers)
        .map_err(|error| name_limit(error, config))?
        .unwrap_or(1) as usize;
    let sampling = Sampling {
        temperature: check_range("temperature", request.temperature, 0.0..=2.0)?
            .unwrap_or(config.generation.temperature),
        top_p: check_range("top_p", request.top_p, 0.0..=1.0)?.unwrap_or(1.0),
        // Other servers use 0 and -1 for all tokens.
        top_k: check_range("top_k", request.top_k, -1..=i64::from(u32::MAX))?
            .filter(|&k| k > 0)
            .map(|k| k as usize),
        // A negative seed is reinterpreted as unsigned.
        seed: request.seed.map_or_else(rand::random, |seed| seed as u64),
        presence_penalty: check_range("presence_penalty", request.presence_penalty, -2.0..=2.0)?
            .unwrap_or(0.0) as f32,
        frequency_penalty: check_range("frequency_penalty", request.frequency_penalty, -2.0..=2.0)?
            .unwrap_or(0.0) as f32,
    };
    let max_tokens = max_tokens(request.max_tokens, request.max_completion_tokens)?;
    let stop = stop(request.stop)?;
    // Many clients send an empty string for no user.
    let user = request.user.filter(|user| !user.is_empty());
    // Data is stored, and later deleted, under this name.
    user.as_deref()
        .map_or(Ok(()), |user| check_name("user", user))?;
    let cache_salt = cache_salt(request.cache_salt)?;
    let top_logprobs = top_logprobs(request.logprobs.unwrap_or(false), request.top_logprobs)?;
    let Object(kwargs) = request.mm_processor_kwargs.unwrap_or_default();
    let image_options = image_options(kwargs)?;
    let mut params = guard_params(&guard, served.guard, served.calibration)?;
    if candidates > 1 && !policy::scores(params.mode) {
        let message = "'guard.candidates': candidates are compared by their scores; 'guard.mode' \
                       must not be off";
        return Err(ApiError::param(
            "guard.candidates",
            "invalid_value",
            message,
        ));
    }
    if top_logprobs.is_some() && params.on_exhausted.rewrites().is_some() {
        let message = "'logprobs' cannot be combined with a 'guard.on_exhausted' that rewrites the \
                       answer";
        return Err(ApiError::param("logprobs", "invalid_value", message));
    }
    if (n * candidates) as i64 > most_answers {
        let message = format!(
            "'guard.candidates' times 'n' is {}; at most {most_answers} answers are written at \
             once",
            n * candidates
        );
        return Err(name_limit(
            ApiError::param("guard.candidates", "out_of_range", message),
            config,
        ));
    }
    // Last, because decoding the image is expensive.
    let limits = ImageUrlLimits::new(config);
    let (messages, images) = flatten(messages.0, limits, &served.media.images)?;
    let warnings = judge_images(&mut params, guard.mode, served.media, images.len())?;
    let abstains = params.on_unanswerable.abstains(params.mode);
    let unanswerable = question(&messages)
        .filter(|_| abstains)
        .and_then(|question| unanswerable_reason(&question));
    Ok(Completion {
        messages,
        user,
        images,
        image_options,
        warnings,
        n,
        sampling,
        max_tokens: max_tokens
            .or(config.generation.max_tokens.value())
            .unwrap_or(usize::MAX),
        stop,
        top_logprobs,
        guard: params,
        // All candidates would be the same abstention.
        candidates: if unanswerable.is_some() {
            1
        } else {
            candidates
        },
        cache_salt,
        unanswerable,
        show_withheld: guard.show_withheld.unwrap_or(false),
        render: guard.render.unwrap_or_default(),
        stream,
        include_usage: request
            .stream_options
            .and_then(|Object(o)| o.include_usage)
            .unwrap_or(false),
    })
}

/// Returns the options for the processing of images.
///
/// # Errors
/// 400 naming an option that no model has.
fn image_options(kwargs: ProcessorKwargs) -> Result<ImageOptions, ApiError> {
    if let Some(other) = kwargs.others.keys().next() {
        let message = format!(
            "'mm_processor_kwargs.{}' is not supported by this server; do_image_splitting and \
             size.longest_edge are",
            excerpt(other)
        );
        return Err(ApiError::unsupported("mm_processor_kwargs", message));
    }
    Ok(ImageOptions {
        do_image_splitting: kwargs.do_image_splitting,
        longest_edge: kwargs.size.and_then(|Object(size)| size.longest_edge),
    })
}

/// Turns the guard off where the scorer cannot judge a text about so many images.
///
/// # Errors
/// 400 if the request itself asks for a mode that scores, or the configured one blocks.
fn judge_images(
    params: &mut GuardParams,
    requested: Option<Mode>,
    media: &MediaLimits,
    images: usize,
) -> Result<Vec<Warning>, ApiError> {
    if !policy::scores(params.mode) || !media.judges_one_image || images == 1 {
        return Ok(Vec::new());
    }
    let why =
        format!("the scorer judges texts about exactly one image, and this one is about {images}");
    if requested.is_some() || params.mode == Mode::Block {
        return Err(ApiError::unsupported(
            "guard.mode",
            format!("'guard.mode': {why}; only off is possible"),
        ));
    }
    params.mode = Mode::Off;
    Ok(vec![Warning {
        code: "unscored",
        param: "messages".to_owned(),
        message: format!("the answer is not scored: {why}"),
    }])
}

/// Returns the most answers per request: the configured limit, capped at the engine's capacity.
pub(crate) fn most_answers(config: &Config) -> i64 {
    (config.engine.max_batch + config.engine.max_waiting).min(config.limits.max_choices) as i64
}

/// Adds the configuration key that set the limit to an error.
fn name_limit(mut error: ApiError, config: &Config) -> ApiError {
    if most_answers(config) == config.limits.max_choices as i64 {
        error.body.error.message += " (limits.max_choices)";
    }
    error
}

/// Longest cache salt in characters.
const SALT_CHARS: usize = 256;

/// Validates the cache salt.
///
/// # Errors
/// 400 if it is empty, as in vLLM, or too long.
pub(crate) fn cache_salt(salt: Option<String>) -> Result<Option<Arc<str>>, ApiError> {
    let Some(salt) = salt else { return Ok(None) };
    if !(1..=SALT_CHARS).contains(&salt.chars().count()) {
        let message = format!("'cache_salt' must have 1 to {SALT_CHARS} characters");
        return Err(ApiError::param("cache_salt", "invalid_value", message));
    }
    Ok(Some(salt.into()))
}

fn check_range<T: PartialOrd + Display>(
    name: &str,
    value: Option<T>,
    range: RangeInclusive<T>,
) -> Result<Option<T>, ApiError> {
    match value {
        Some(value) if !range.contains(&value) => {
            // A number beyond the type's range parses as infinity.
            let given = excerpt(&value.to_string()).replace("inf", "out of range");
            let message = format!(
                "'{name}' is {given}; it must be between {} and {}",
                range.start(),
                range.end()
            );
            Err(ApiError::param(name, "out_of_range", message))
        }
        value => Ok(value),
    }
}

fn max_tokens(old: Option<i64>, new: Option<i64>) -> Result<Option<usize>, ApiError> {
    if old.is_some() && new.is_some() {
        let message = "'max_tokens' and 'max_completion_tokens' cannot be given together";
        return Err(ApiError::param(
            "max_completion_tokens",
            "invalid_value",
            message,
        ));
    }
    let old = check_range("max_tokens", old, 1..=i64::from(u32::MAX))?;
    let new = check_range("max_completion_tokens", new, 1..=i64::from(u32::MAX))?;
    Ok(new.or(old).map(|tokens| tokens as usize))
}

fn stop(stop: Option<TextOr<'_, String, 4>>) -> Result<Vec<String>, ApiError> {
    let strings = match stop {
        None => Vec::new(),
        Some(TextOr::Text(text)) => vec![text.into_owned()],
        Some(TextOr::List(list)) => list,
    };
    if strings.iter().any(|s| s.is_empty() || s.len() > STOP_BYTES) {
        return Err(ApiError::param(
            "stop",
            "invalid_value",
            format!("'stop' has a string that is empty or longer than {STOP_BYTES} bytes"),
        ));
    }
    Ok(strings)
}

fn top_logprobs(logprobs: bool, top: Option<i64>) -> Result<Option<usize>, ApiError> {
    let top = check_range("top_logprobs", top, 0..=20)?;
    if top.is_some_and(|top| top > 0) && !logprobs {
        return Err(ApiError::param(
            "top_logprobs",
            "invalid_value",
            "'top_logprobs' is only allowed when 'logprobs' is true",
        ));
    }
    Ok(logprobs.then(|| top.unwrap_or(0) as usize))
}

/// Returns the guard settings of a request, with `defaults` for missing fields.
///
/// # Errors
/// 400 for settings that cannot be honored.
pub(crate) fn guard_params(
    request: &GuardRequest,
    defaults: &GuardSection,
    calibration: Option<&Calibration>,
) -> Result<GuardParams, ApiError> {
    let mode = request.mode.unwrap_or(defaults.mode);
    if policy::scores(mode) && calibration.is_none() {
        return Err(ApiError::unsupported(
            "guard.mode",
            "'guard.mode': the model has no scorer, so that only off is possible",
        ));
    }
    let may_flag = matches!(mode, Mode::Flag | Mode::Regenerate);
    if !may_flag && request.on_exhausted.is_some_and(|o| o != OnExhausted::Flag) {
        let message = "'guard.on_exhausted': only the modes flag and regenerate leave flagged \
                       words to hedge or leave out";
        return Err(ApiError::param(
            "guard.on_exhausted",
            "invalid_value",
            message,
        ));
    }
    let on_unanswerable = request.on_unanswerable.unwrap_or(defaults.on_unanswerable);
    if request.on_unanswerable == Some(OnUnanswerable::Abstain) && !OnUnanswerable::applies_in(mode)
    {
        let message = "'guard.on_unanswerable': only the modes flag, regenerate and block change \
                       what is answered";
        return Err(ApiError::param(
            "guard.on_unanswerable",
            "invalid_value",
            message,
        ));
    }
    let max_attempts = check_range("guard.max_attempts", request.max_attempts, 0..=1_000_000)?
        .map(|most| most as usize);
    let window =
        check_range("guard.window", request.window, 0..=1_000_000)?.map(|window| window as usize);
    for (class, threshold) in request.thresholds.unwrap_or_default().entries() {
        check_range(&format!("guard.thresholds.{class}"), threshold, 0.0..=1.0)?;
    }
    if request.threshold.is_some() && request.target_fpr.is_some() {
        let message = "'guard.threshold' and 'guard.target_fpr' cannot be given together";
        return Err(ApiError::param(
            "guard.target_fpr",
            "invalid_value",
            message,
        ));
    }
    let threshold = check_range("guard.threshold", request.threshold, 0.0..=1.0)?;
    let target_fpr = check_range("guard.target_fpr", request.target_fpr, 0.0..=1.0)?;
    let has_own_threshold = threshold.is_some() || target_fpr.is_some();
    let (threshold, target_fpr) = if has_own_threshold {
        (threshold, target_fpr)
    } else {
        (defaults.threshold.value(), defaults.target_fpr.value())
    };
    let threshold_of = |c: &Calibration| {
        threshold
            .or(target_fpr.map(|fpr| c.threshold_for_fpr(f64::from(fpr))))
            .unwrap_or(c.default_threshold)
    };
    let by_class = request.thresholds.unwrap_or_default();
    let target_fpr = target_fpr.filter(|_| threshold.is_none());
    Ok(GuardParams {
        mode,
        thresholds: Thresholds {
            common: calibration.map_or(0.0, threshold_of),
            yes_no: calibration
                .and_then(|c| c.yes_no.as_deref())
                .map(threshold_of),
            by_class: if has_own_threshold {
                by_class
            } else {
                by_class.with_fallback(defaults.thresholds.into())
            },
        },
        target_fpr,
        on_exhausted: if may_flag {
            request.on_exhausted.unwrap_or(defaults.on_exhausted)
        } else {
            OnExhausted::Flag
        },
        on_unanswerable,
        abstain_below: defaults.abstain_below,
        max_attempts: max_attempts.unwrap_or(defaults.max_attempts),
        // The same with and without streaming, so that both give the same answer.
        window: window.unwrap_or(defaults.window),
    })
}
