//! Schemas of what the request takes in more than one shape, written by hand beside the types that read it.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{Array, ArrayBuilder, ObjectBuilder, OneOfBuilder, Ref, Schema, SchemaType, Type},
    },
};

use super::request::{ImageUrl, PARTS};

/// Who speaks.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "a schema only; the reader takes a string and answers better than serde would")]
pub(super) enum Role {
    System,
    Developer,
    User,
    Assistant,
}

/// How closely an image is looked at.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "a schema only")]
pub(super) enum Detail {
    Auto,
    Low,
    High,
}

/// The one kind of answers.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "a schema only")]
pub(super) enum TextOnly {
    Text,
}

/// One part of a message.
#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(dead_code, reason = "a schema only; the reader is `Part`, which keeps the path to a mistake")]
pub(crate) enum ContentPart<'a> {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// The image.
    ImageUrl {
        /// Where it is.
        #[schema(inline = false)]
        image_url: ImageUrl<'a>,
    },
}

fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// A string, a list, or if `or_null` nothing.
fn text_or(what: &str, text: ObjectBuilder, list: Array, or_null: bool) -> Schema {
    let either = OneOfBuilder::new().item(text).item(list).description(Some(what));
    if or_null { either.item(ObjectBuilder::new().schema_type(Type::Null)) } else { either }.build().into()
}

/// Of `stop`.
pub(super) fn stop() -> Schema {
    let one = || string().min_length(Some(1)).max_length(Some(1024));
    let what = "Strings that end an answer, of at most 1024 bytes.";
    text_or(what, one(), ArrayBuilder::new().items(one()).max_items(Some(4)).build(), true)
}

/// Of a message's content.
pub(super) fn content() -> Schema {
    let part: RefOr<Schema> = Ref::from_schema_name(ContentPart::name()).into();
    let what = "What is said: text, or parts of which one may be the image.";
    text_or(what, string(), ArrayBuilder::new().items(part).max_items(Some(PARTS)).build(), false)
}

/// Of `modalities`.
pub(super) fn modalities() -> Schema {
    let list = ArrayBuilder::new().items(TextOnly::schema()).max_items(Some(8));
    OneOfBuilder::new()
        .description(Some("`text` is the only one."))
        .item(list)
        .item(ObjectBuilder::new().schema_type(Type::Null))
        .build()
        .into()
}

fn any(what: &str) -> Schema {
    ObjectBuilder::new().schema_type(SchemaType::AnyValue).description(Some(what)).build().into()
}

/// Of a field that is not supported: its value only matters if it asks for something.
pub(crate) fn refused() -> Schema {
    any("Not supported: `null`, `false`, an empty value and, for a choice, `none` are taken; all else is refused.")
}

/// Of a field that asks for something even if it is empty.
pub(super) fn refused_outright() -> Schema {
    any("Not supported: `null` alone is taken.")
}
