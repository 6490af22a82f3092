//! Hand-written OpenAPI schemas of fields that accept several shapes.

use utoipa::{
    ToSchema,
    openapi::{
        RefOr,
        schema::{
            Array, ArrayBuilder, ObjectBuilder, OneOfBuilder, Ref, Schema, SchemaFormat,
            SchemaType, Type,
        },
    },
};

use super::request::{ImageUrl, PARTS};

/// Author of a message.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(
    dead_code,
    reason = "a schema only; the reader takes a string and answers better than serde would"
)]
pub(super) enum Role {
    System,
    Developer,
    User,
    Assistant,
}

/// A part of a message's content.
#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(
    dead_code,
    reason = "a schema only; the reader is `Part`, which keeps the path to a mistake"
)]
pub(crate) enum ContentPart<'a> {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// Text, in the notation of OpenAI's Responses API.
    InputText {
        /// The text.
        text: String,
    },
    /// Text of an earlier answer, in the notation of OpenAI's Responses API.
    OutputText {
        /// The text.
        text: String,
    },
    /// Refusal of an earlier answer.
    Refusal {
        /// The text.
        refusal: String,
    },
    /// An image.
    ImageUrl {
        /// URL of the image.
        #[schema(schema_with = image)]
        image_url: ImageUrl<'a>,
    },
    /// An image, in the notation of OpenAI's Responses API.
    InputImage {
        /// URL of the image.
        #[schema(schema_with = image)]
        image_url: ImageUrl<'a>,
    },
    /// An image, in the notation of Hugging Face's chat templates.
    Image {
        /// URL of the image.
        #[schema(schema_with = image)]
        image: ImageUrl<'a>,
    },
}

/// Returns the schema of an image: a URL, plain or in an object.
fn image() -> Schema {
    OneOfBuilder::new()
        .description(Some("A `data:` or `https:` URL, alone or in an object."))
        .item(string().format(Some(SchemaFormat::Custom("image-data-url".to_owned()))))
        .item(Ref::from_schema_name(ImageUrl::name()))
        .build()
        .into()
}

fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// Returns the schema of a string or a list, and of `null` if `or_null`.
fn text_or(what: &str, text: ObjectBuilder, list: Array, or_null: bool) -> Schema {
    let either = OneOfBuilder::new()
        .item(text)
        .item(list)
        .description(Some(what));
    if or_null {
        either.item(ObjectBuilder::new().schema_type(Type::Null))
    } else {
        either
    }
    .build()
    .into()
}

/// Returns the schema of `stop`.
pub(super) fn stop() -> Schema {
    let one = || string().min_length(Some(1)).max_length(Some(1024));
    let what = "Strings that end an answer, of at most 1024 bytes.";
    text_or(
        what,
        one(),
        ArrayBuilder::new().items(one()).max_items(Some(4)).build(),
        true,
    )
}

/// Returns the schema of a message's content.
pub(super) fn content() -> Schema {
    let part: RefOr<Schema> = Ref::from_schema_name(ContentPart::name()).into();
    let what = "Text, or parts of which one may be the image; `null` if an earlier answer was a \
                refusal.";
    text_or(
        what,
        string(),
        ArrayBuilder::new()
            .items(part)
            .max_items(Some(PARTS))
            .build(),
        true,
    )
}

/// Returns the schema of an unsupported field, which accepts only neutral values.
pub(crate) fn unsupported() -> Schema {
    let what = "Not supported: only `null`, `false` and empty values are accepted.";
    ObjectBuilder::new()
        .schema_type(SchemaType::AnyValue)
        .description(Some(what))
        .build()
        .into()
}
