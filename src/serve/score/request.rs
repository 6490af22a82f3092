//! Score requests and their validation.

use std::sync::Arc;

use serde::Deserialize;

use utoipa::{
    ToSchema,
    openapi::{
        ObjectBuilder, Ref,
        schema::{OneOfBuilder, Schema, Type},
    },
};

use crate::{
    config::MOST_ITEMS,
    engine::GuardParams,
    guard::{Mode, OnExhausted, OnUnanswerable, render::RenderStyle},
    reward::calibration::Calibration,
    serve::{
        error::ApiError,
        openai::{
            check::{ServedCapabilities, cache_salt, guard_params},
            content::{ImageUrlLimits, NamedImage, RequestImage, flatten, parse_image_url},
            lenient::{BoundedList, FieldRequest, Object, variant},
            request::{ChatMessage, GuardRequest, ImageField, ImageUrl, MESSAGES},
            schema,
        },
    },
    vlm::processor::message::{Message, PromptPart},
};

/// Most bytes of text in all items together.
const TEXT_BYTES: usize = 256 * 1024;

/// One text to score, or a list of them.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ScoreRequest<'a> {
    /// Name of the served model.
    #[schema(required, nullable = false)]
    model: Option<String>,
    /// Restricts reuse of the images' cached encodings to requests with the same salt, as in chat
    /// completion requests.
    #[schema(min_length = 1, max_length = 256)]
    cache_salt: Option<String>,
    /// Author of the texts.
    #[serde(default, deserialize_with = "variant")]
    author: Option<Author>,
    /// Guard settings for all items; only the modes `score` and `flag` are supported.
    #[schema(value_type = Option<GuardRequest>)]
    guard: Option<Object<GuardRequest>>,
    /// Several texts, instead of the fields below.
    #[serde(borrow)]
    #[schema(value_type = Option<Vec<Item<'a>>>, min_items = 1)]
    items: Option<BoundedList<Object<Item<'a>>, MOST_ITEMS>>,
    /// The image, instead of `messages`.
    #[serde(borrow)]
    #[schema(schema_with = link)]
    image_url: Option<ImageField<'a>>,
    /// Conversation that the response answers, with exactly one image, as in chat completion
    /// requests.
    #[serde(borrow)]
    #[schema(value_type = Option<Vec<ChatMessage<'a>>>, min_items = 1, max_items = 256)]
    messages: Option<BoundedList<Object<ChatMessage<'a>>, MESSAGES>>,
    /// Question about the image; requires `image_url`.
    prompt: Option<String>,
    /// Text to score.
    #[schema(min_length = 1)]
    response: Option<String>,
    #[serde(default)]
    #[schema(schema_with = schema::unsupported)]
    mm_processor_kwargs: FieldRequest,
}

/// Author of a text. Low probability under the served model is evidence of an error in its own
/// texts only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Author {
    /// The served model: rewards equal those of its chat completions.
    Model,
    /// Another model, or a person.
    #[default]
    Other,
}

/// One text of a list.
#[derive(Debug, Deserialize, ToSchema)]
struct Item<'a> {
    /// The image, instead of `messages`.
    #[serde(borrow)]
    #[schema(schema_with = link)]
    image_url: Option<ImageField<'a>>,
    /// Conversation that the response answers, with exactly one image.
    #[serde(borrow)]
    #[schema(value_type = Option<Vec<ChatMessage<'a>>>, min_items = 1, max_items = 256)]
    messages: Option<BoundedList<Object<ChatMessage<'a>>, MESSAGES>>,
    /// Question about the image; requires `image_url`.
    prompt: Option<String>,
    /// Text to score.
    #[schema(required, nullable = false, min_length = 1)]
    response: Option<String>,
    #[serde(default)]
    #[schema(schema_with = schema::unsupported)]
    guard: FieldRequest,
}

/// Returns the schema of [`ImageField`].
fn link() -> Schema {
    let url = ObjectBuilder::new().schema_type(Type::String);
    let null = ObjectBuilder::new().schema_type(Type::Null);
    OneOfBuilder::new()
        .description(Some("A `data:` or `https:` URL."))
        .item(url)
        .item(Ref::from_schema_name(ImageUrl::name()))
        .item(null)
        .into()
}

/// A validated request.
#[derive(Debug)]
pub(super) struct ScoreJob {
    pub(super) author: Author,
    pub(super) cache_salt: Option<Arc<str>>,
    pub(super) guard: GuardParams,
    pub(super) render: RenderStyle,
    pub(super) questions: Vec<ScoreItem>,
}

/// An image, a question about it, and the response to score.
#[derive(Debug)]
pub(super) struct ScoreItem {
    /// Prefix in errors: `items[3]`, or `None` without a list.
    pub(super) path: Option<String>,
    pub(super) messages: Vec<Message>,
    /// Field of the image, for errors.
    pub(super) image_field: String,
    pub(super) image: RequestImage,
    pub(super) response: String,
}

impl ScoreItem {
    /// Adds the item to an error.
    pub(super) fn refuse(&self, error: ApiError) -> ApiError {
        error.with_prefix(self.path.as_deref())
    }
}

/// Validates a request; `other_calibration` is the calibration for texts of other authors.
///
/// # Errors
/// 404 for another model, otherwise 400 naming the item and the field.
pub(super) fn check(
    request: ScoreRequest<'_>,
    served: ServedCapabilities<'_>,
    other_calibration: Option<&Calibration>,
) -> Result<ScoreJob, ApiError> {
    served.check_model(request.model.as_deref())?;
    let author = request.author.unwrap_or_default();
    let cache_salt = cache_salt(request.cache_salt)?;
    let Object(mut guard) = request.guard.unwrap_or_default();
    guard.mode = Some(scoring_mode(guard.mode, served.guard.mode)?);
    if guard.on_exhausted.is_some_and(|o| o != OnExhausted::Flag) {
        return Err(ApiError::unsupported(
            "guard.on_exhausted",
            "'guard.on_exhausted': scoring never rewrites the text; 'guard.render' controls \
             'alt_text'",
        ));
    }
    if request.mm_processor_kwargs != FieldRequest::Nothing {
        return Err(ApiError::unsupported(
            "mm_processor_kwargs",
            "'mm_processor_kwargs' is not supported here: the scorer processes images in one way",
        ));
    }
    if guard.candidates.is_some() {
        return Err(ApiError::unsupported(
            "guard.candidates",
            "'guard.candidates': scoring generates no answers to choose from",
        ));
    }
    let unsupported = [
        (
            "guard.on_unanswerable",
            guard
                .on_unanswerable
                .is_some_and(|o| o != OnUnanswerable::Answer),
        ),
        ("guard.show_withheld", guard.show_withheld == Some(true)),
    ];
    if let Some((field, _)) = unsupported.into_iter().find(|(_, is_set)| *is_set) {
        return Err(ApiError::unsupported(
            field,
            format!("'{field}': scoring never withholds the text"),
        ));
    }
    let params = guard_params(
        &guard,
        served.guard,
        if author == Author::Model {
            served.calibration
        } else {
            other_calibration
        },
    )?;
    let alone = Item {
        image_url: request.image_url,
        messages: request.messages,
        prompt: request.prompt,
        response: request.response,
        guard: FieldRequest::Nothing,
    };
    let items = match request.items {
        None => vec![(None, alone)],
        Some(BoundedList(items)) => read_list(items, &alone, served.config.score.max_items)?,
    };
    let limits = ImageUrlLimits::new(served.config);
    let questions: Vec<ScoreItem> = items
        .into_iter()
        .map(|(path, item)| question(item, limits, path))
        .collect::<Result<_, _>>()?;
    let length = |q: &ScoreItem| {
        q.response.len() + q.messages.iter().map(Message::text_bytes).sum::<usize>()
    };
    if questions.iter().map(length).sum::<usize>() > TEXT_BYTES {
        let message = format!("the request has more than the {TEXT_BYTES} bytes of text allowed");
        return Err(ApiError::invalid("context_length_exceeded", message));
    }
    Ok(ScoreJob {
        author,
        cache_salt,
        guard: params,
        render: guard.render.unwrap_or_default(),
        questions,
    })
}

/// Returns the guard mode: a given text can be scored and flagged, not repaired.
fn scoring_mode(asked: Option<Mode>, default: Mode) -> Result<Mode, ApiError> {
    match asked {
        Some(mode @ (Mode::Score | Mode::Flag)) => Ok(mode),
        Some(_) => Err(ApiError::unsupported(
            "guard.mode",
            "'guard.mode': scoring supports only score and flag",
        )),
        None if default == Mode::Score => Ok(default),
        None => Ok(Mode::Flag),
    }
}

/// Returns the items of a list with their prefixes for errors.
fn read_list<'a>(
    items: Vec<Object<Item<'a>>>,
    top_level: &Item<'_>,
    most: usize,
) -> Result<Vec<(Option<String>, Item<'a>)>, ApiError> {
    let fields = [
        ("image_url", top_level.image_url.is_some()),
        ("messages", top_level.messages.is_some()),
        ("prompt", top_level.prompt.is_some()),
        ("response", top_level.response.is_some()),
    ];
    if let Some((field, _)) = fields.into_iter().find(|(_, given)| *given) {
        return Err(ApiError::param(
            field,
            "invalid_value",
            format!("'{field}' cannot be given together with 'items'; it belongs in each item"),
        ));
    }
    if items.is_empty() {
        return Err(ApiError::param("items", "empty_array", "'items' is empty"));
    }
    if items.len() > most {
        let message = format!(
            "'items' has {}; at most {most} are scored at once (score.max_items)",
            items.len()
        );
        return Err(ApiError::param("items", "invalid_value", message));
    }
    Ok(items
        .into_iter()
        .enumerate()
        .map(|(i, Object(item))| (Some(format!("items[{i}]")), item))
        .collect())
}

fn question(
    item: Item<'_>,
    limits: ImageUrlLimits,
    path: Option<String>,
) -> Result<ScoreItem, ApiError> {
    match read(item, limits) {
        Ok((messages, image_field, image, response)) => Ok(ScoreItem {
            path,
            messages,
            image_field,
            image,
            response,
        }),
        Err(error) => Err(error.with_prefix(path.as_deref())),
    }
}

type Read = (Vec<Message>, String, RequestImage, String);

fn read(item: Item<'_>, limits: ImageUrlLimits) -> Result<Read, ApiError> {
    let invalid = |field: &str, what: &str| {
        Err(ApiError::param(
            field,
            "invalid_value",
            format!("'{field}' {what}"),
        ))
    };
    let missing = |field: &str| {
        Err(ApiError::param(
            field,
            "missing_required_parameter",
            format!("'{field}' is missing"),
        ))
    };
    if item.guard != FieldRequest::Nothing {
        return Err(ApiError::unsupported(
            "guard",
            "'guard' applies to all items; give it next to 'items'",
        ));
    }
    let Some(response) = item.response else {
        return missing("response");
    };
    if response.trim().is_empty() {
        return invalid("response", "is empty; there is nothing to score");
    }
    match (item.messages, item.image_url) {
        (Some(_), Some(_)) => invalid("messages", "cannot be given together with 'image_url'"),
        (Some(_), None) if item.prompt.is_some() => {
            invalid("prompt", "cannot be given together with 'messages'")
        }
        (Some(messages), None) => {
            let (messages, mut images) = flatten(messages.0, limits, &(1..=1))?;
            match images.pop() {
                Some(NamedImage { image, field }) => Ok((messages, field, image, response)),
                None => missing("image_url"),
            }
        }
        (None, Some(image)) => {
            let url = image.into_url();
            let mut message = Message::text("user", item.prompt.unwrap_or_default());
            message.content.insert(0, PromptPart::Image);
            Ok((
                vec![message],
                "image_url".to_owned(),
                parse_image_url(&url, "image_url".to_owned(), limits)?,
                response,
            ))
        }
        (None, None) => missing("image_url"),
    }
}
