//! Responses that several operations share, as the OpenAPI document describes them.

use std::collections::BTreeMap;

use utoipa::{
    IntoResponses, PartialSchema, ToSchema,
    openapi::{
        ContentBuilder, Header, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response,
        ResponseBuilder,
        schema::{AnyOfBuilder, OneOfBuilder, Schema, Type},
    },
};

use super::{
    error::ErrorBody,
    openai::response::{ChatChunk, ChatCompletion},
    schema::guard::VerdictSchema,
    score::response::ScoreResponse,
};

/// Error responses of requests with a body: status and description.
const REFUSALS: &[(u16, &str)] = &[
    (
        400,
        "The body is not valid JSON, or a field is missing, invalid, out of range or not \
         supported; `param` names it.",
    ),
    (401, "The API key is missing or unknown."),
    (
        404,
        "The model, completion or queue item does not exist, or feedback is disabled.",
    ),
    (408, "The body arrived too late or too slowly."),
    (413, "The body is too large."),
    (
        415,
        "The body is not `application/json`, or its compression is not supported.",
    ),
    (
        429,
        "The server is at capacity, or a rate limit is reached.",
    ),
    (500, "Internal error; the server's log has the details."),
    (
        503,
        "The answer took too long, the scorer failed, or the server is shutting down.",
    ),
];

/// [`REFUSALS`] as responses.
pub(super) struct ErrorResponses;

impl IntoResponses for ErrorResponses {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let response = |&(status, when): &(u16, &str)| {
            let mut response = ResponseBuilder::new()
                .description(when)
                .content("application/json", schema_of::<ErrorBody>());
            if status == 429 {
                response = response.header(
                    "retry-after",
                    header(
                        "Seconds to wait before retrying.",
                        type_schema(Type::Integer),
                    ),
                );
                response = with_rate_headers(response);
            }
            (status.to_string(), response.build().into())
        };
        REFUSALS.iter().map(response).collect()
    }
}

/// Responses of a completion, whole or streamed.
pub(super) struct CompletionResponses;

impl IntoResponses for CompletionResponses {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let events = ContentBuilder::new().schema(Some(events()));
        guarded_response(
            "The completion. Streams lack the headers with the guard's results.",
            ResponseBuilder::new()
                .content("application/json", schema_of::<ChatCompletion>())
                .content("text/event-stream", events.build()),
        )
    }
}

/// Responses of scoring.
pub(super) struct ScoreResponses;

impl IntoResponses for ScoreResponses {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        guarded_response(
            "The scores, in the order of the items.",
            ResponseBuilder::new().content("application/json", schema_of::<ScoreResponse>()),
        )
    }
}

/// Returns the 200 response with the guard's headers.
fn guarded_response(
    description: &str,
    response: ResponseBuilder,
) -> BTreeMap<String, RefOr<Response>> {
    let response = response
        .description(description)
        .header(
            "x-candor-verdict",
            header(
                "Worst verdict of all answers.",
                Ref::from_schema_name(VerdictSchema::name()),
            ),
        )
        .header(
            "x-candor-score",
            header(
                "Lowest score of all answers, if any was scored.",
                type_schema(Type::Number),
            ),
        )
        .header(
            "x-candor-warnings",
            header(
                "Number of `warnings`, if there are any; also on streams.",
                type_schema(Type::Integer),
            ),
        )
        .header(
            "x-candor-flagged-spans",
            header(
                "Number of flagged spans in all answers.",
                type_schema(Type::Integer),
            ),
        );
    [("200".to_owned(), with_rate_headers(response).build().into())].into()
}

/// Adds the rate limit headers.
fn with_rate_headers(response: ResponseBuilder) -> ResponseBuilder {
    let headers = [
        (
            "x-ratelimit-limit-requests",
            "Requests per minute, if limited.",
            Type::Integer,
        ),
        (
            "x-ratelimit-remaining-requests",
            "Remaining amount.",
            Type::Integer,
        ),
        (
            "x-ratelimit-reset-requests",
            "Time until the full amount is available again, such as `20ms`, `1s` or `6m0s`.",
            Type::String,
        ),
        (
            "x-ratelimit-limit-tokens",
            "Tokens per minute, if limited.",
            Type::Integer,
        ),
        (
            "x-ratelimit-remaining-tokens",
            "Remaining amount.",
            Type::Integer,
        ),
        (
            "x-ratelimit-reset-tokens",
            "Time until the full amount is available again.",
            Type::String,
        ),
    ];
    headers
        .into_iter()
        .fold(response, |response, (name, description, of_type)| {
            response.header(name, header(description, type_schema(of_type)))
        })
}

/// Returns the schema of a stream. OpenAPI 3.1 cannot describe server-sent events; tools read this
/// as the schema of one event's fields.
fn events() -> Schema {
    let json = OneOfBuilder::new()
        .item(Ref::from_schema_name(ChatChunk::name()))
        .item(Ref::from_schema_name(ErrorBody::name()));
    let string = || ObjectBuilder::new().schema_type(Type::String);
    let chunk = string()
        .content_media_type("application/json")
        .content_schema(Some(Schema::from(json.build())));
    let data = AnyOfBuilder::new()
        .item(string().enum_values(Some(["[DONE]"])))
        .item(chunk);
    ObjectBuilder::new()
        .description(Some(
            "With `stream`: server-sent events with `ChatChunk` objects as data, and `[DONE]` \
             at the end. An event named `error` has an `ErrorBody` and ends the stream early.",
        ))
        .property("event", string())
        .property("data", data)
        .required("data")
        .into()
}

fn type_schema(kind: Type) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(kind).into()
}

fn header(description: &str, schema: impl Into<RefOr<Schema>>) -> Header {
    HeaderBuilder::new()
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

fn schema_of<T: ToSchema + PartialSchema>() -> utoipa::openapi::Content {
    ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(T::name())))
        .build()
}
