//! The API's description as OpenAPI 3.1, generated from the types that read and write it.
//!
//! What belongs to one route stands at its handler (`utoipa::path`); what the middleware does to
//! every route is added here to every operation.

use std::{
    collections::{BTreeMap, HashSet},
    sync::LazyLock,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use utoipa::{
    IntoResponses, OpenApi, PartialSchema, ToSchema,
    openapi::{
        ContentBuilder, Header, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response,
        ResponseBuilder,
        schema::{AnyOfBuilder, OneOfBuilder, Schema, Type},
    },
};

use super::{
    admin,
    app::App,
    auth, chat, docs,
    error::ErrorBody,
    feedback, info,
    openai::{
        check::most_answers,
        request::ImageUrl,
        response::{ChatChunk, ChatCompletion},
        schema::ContentPart,
        unsupported::UNSUPPORTED,
    },
    permission::Permission,
    queue, routes,
    score::{self, response::ScoreResponse},
    ui,
};
use crate::serve::schema::guard::VerdictSchema;

/// A small photograph, so that examples can be tried as they stand.
const EXAMPLE: &[u8] = include_bytes!("docs/example.jpg");

/// Every route of [`super::ROUTES`] and [`super::METRICS`]; a test compares.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Candor",
        description = "Captions photographs and answers questions about them with OpenAI's API, \
                       and flags the words that the image may not support."
    ),
    servers((url = "/")),
    paths(
        chat::completions, score::score, feedback::submit, feedback::list, feedback::remove_user,
        feedback::export, feedback::one,
        feedback::remove, queue::length, queue::next, queue::release, queue::skip, queue::agreement,
        auth::key, info::models, info::model,
        admin::models, admin::promote, admin::rollback, info::live,
        info::ready, info::health, info::metrics, docs::openapi, ui::page, ui::docs, ui::about,
        ui::asset
    ),
    components(schemas(ChatCompletion, ChatChunk, ScoreResponse, ErrorBody, ContentPart, ImageUrl)),
    tags(
        (name = "chat", description = "Captions and answers"),
        (name = "score", description = "Texts that others wrote"),
        (name = "feedback", description = "Corrections"),
        (name = "queue", description = "What annotators look at next, and how far they agree"),
        (name = "models", description = "What is served"),
        (name = "admin", description = "Which version is served"),
        (name = "operation", description = "How it is doing"),
        (name = "documentation", description = "This description"),
        (name = "page", description = "A page for people"),
    )
)]
struct Api;

/// What can go wrong with a request that has a body: status and when.
const REFUSALS: &[(u16, &str)] = &[
    (
        400,
        "The body is no JSON, or a field is missing, wrong, out of range or not supported; `param` \
         names it.",
    ),
    (
        401,
        "The server has keys, and the request has none of them.",
    ),
    (
        404,
        "What is named is not here: the model, a completion, an item of the queue; or feedback is \
         off.",
    ),
    (408, "The body did not arrive in time."),
    (413, "The body is larger than the configuration allows."),
    (
        415,
        "The body is not `application/json`, or compressed in a way that is not known.",
    ),
    (
        429,
        "The server is at capacity, or the rate of the key is used up.",
    ),
    (500, "A fault of the server; its log has the details."),
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
                        "Seconds after which it is worth trying again.",
                        kind(Type::Integer),
                    ),
                );
                response = rated(response);
            }
            (status.to_string(), response.build().into())
        };
        REFUSALS.iter().map(response).collect()
    }
}

/// A completion, whole or streamed.
pub(super) struct CompletionResponses;

impl IntoResponses for CompletionResponses {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let events = ContentBuilder::new().schema(Some(events()));
        judged(
            "The answers. The headers are those of answers that are not streamed.",
            ResponseBuilder::new()
                .content("application/json", schema_of::<ChatCompletion>())
                .content("text/event-stream", events.build()),
        )
    }
}

/// Scores of texts.
pub(super) struct ScoreResponses;

impl IntoResponses for ScoreResponses {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        judged(
            "The scores, in the order of the items.",
            ResponseBuilder::new().content("application/json", schema_of::<ScoreResponse>()),
        )
    }
}

/// A response with the guard's headers.
fn judged(description: &str, response: ResponseBuilder) -> BTreeMap<String, RefOr<Response>> {
    let response = response
        .description(description)
        .header(
            "x-candor-verdict",
            header(
                "The worst verdict of all answers.",
                Ref::from_schema_name(VerdictSchema::name()),
            ),
        )
        .header(
            "x-candor-score",
            header(
                "The lowest score of all answers, where one was scored.",
                kind(Type::Number),
            ),
        )
        .header(
            "x-candor-warnings",
            header(
                "The number of `warnings`, where there are any; also of streams.",
                kind(Type::Integer),
            ),
        )
        .header(
            "x-candor-flagged-spans",
            header(
                "The number of flagged spans of all answers together.",
                kind(Type::Integer),
            ),
        );
    [("200".to_owned(), rated(response).build().into())].into()
}

/// The response with the headers of rates.
fn rated(response: ResponseBuilder) -> ResponseBuilder {
    let headers = [
        (
            "x-ratelimit-limit-requests",
            "Requests a minute, where they are limited.",
            Type::Integer,
        ),
        (
            "x-ratelimit-remaining-requests",
            "How many of them are left.",
            Type::Integer,
        ),
        (
            "x-ratelimit-reset-requests",
            "When all of them are there again, such as `20ms`, `1s` or `6m0s`.",
            Type::String,
        ),
        (
            "x-ratelimit-limit-tokens",
            "Tokens a minute, where they are limited.",
            Type::Integer,
        ),
        (
            "x-ratelimit-remaining-tokens",
            "How many of them are left.",
            Type::Integer,
        ),
        (
            "x-ratelimit-reset-tokens",
            "When all of them are there again.",
            Type::String,
        ),
    ];
    headers
        .into_iter()
        .fold(response, |response, (name, description, of)| {
            response.header(name, header(description, kind(of)))
        })
}

/// One event of a stream. OpenAPI 3.1 has no word for that; tools take the schema of such a type
/// for one of an event's fields.
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
            "With `stream`: server-sent events whose data are `ChatChunk` objects, and `[DONE]` at \
             the end. \
             An event of the name `error` carries an `ErrorBody` and ends the stream early.",
        ))
        .property("event", string())
        .property("data", data)
        .required("data")
        .into()
}

fn kind(kind: Type) -> RefOr<Schema> {
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

/// The document as this server fills it in.
pub(super) fn document(app: &App) -> Value {
    // Maps, lists, strings and finite numbers: there is nothing in it that JSON has not.
    let mut document = serde_json::to_value(Api::openapi()).unwrap_or_default();
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    document["components"]["schemas"]["ChatRequest"]["properties"]["n"]["maximum"] =
        json!(most_answers(&app.config));
    document["components"]["schemas"]["ScoreRequest"]["properties"]["items"]["maxItems"] =
        json!(app.config.score.max_items);
    for schema in ["ChatRequest", "ScoreRequest"] {
        for field in UNSUPPORTED
            .iter()
            .filter(|field| !field.name.ends_with('*'))
        {
            document["components"]["schemas"][schema]["properties"][field.name] =
                json!({ "description": field.description(), "enum": field.neutral() });
        }
    }
    document["components"]["securitySchemes"]["key"] = json!({ "type": "http", "scheme": "bearer",
        "description": "An API key, where the server has any. What a key may do is said by its \
                        scopes." });
    let access = app.access();
    for (path, operations) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            let needs = routes::needs(&method.to_uppercase(), path).unwrap_or(Permission::Open);
            secure(operation, needs, access.is_open(needs));
            traced(operation);
        }
    }
    for (path, example) in examples(&app.served().model) {
        document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"] =
            example;
    }
    document
}

/// Names that the description gives to fields and parameters.
static NAMES: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let mut names: HashSet<String> = UNSUPPORTED
        .iter()
        .map(|field| field.name.to_owned())
        .collect();
    collect_names(
        &serde_json::to_value(Api::openapi()).unwrap_or_default(),
        &mut names,
    );
    names
});

fn collect_names(value: &Value, names: &mut HashSet<String>) {
    let (mut inner, mut lists) = (None, None);
    match value {
        Value::Object(fields) => {
            names.extend(
                fields
                    .get("properties")
                    .and_then(Value::as_object)
                    .into_iter()
                    .flatten()
                    .map(|(name, _)| name.clone()),
            );
            names.extend(
                fields
                    .get("in")
                    .and(fields.get("name"))
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            );
            inner = Some(fields.values());
        }
        Value::Array(items) => lists = Some(items.iter()),
        _ => {}
    }
    inner
        .into_iter()
        .flatten()
        .chain(lists.into_iter().flatten())
        .for_each(|value| collect_names(value, names));
}

/// The path of a field, for logs: `?` stands for every name that a client may have made up, and the
/// end of an unlikely long path is left out.
pub(super) fn known_path(path: &str) -> String {
    let known = |part: &str| {
        let (name, index) = part.split_at(part.find('[').unwrap_or(part.len()));
        let is_index = index
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b"[]".contains(&byte));
        let name = if name.is_empty() || NAMES.contains(name) {
            name
        } else {
            "?"
        };
        format!("{name}{}", if is_index { index } else { "?" })
    };
    path.split('.')
        .take(8)
        .map(known)
        .collect::<Vec<_>>()
        .join(".")
}

/// Says which key an operation needs, and how it is refused without.
fn secure(operation: &mut Value, needs: Permission, open: bool) {
    let scopes = needs.scopes();
    let any = [json!({ "key": [] })]
        .into_iter()
        .filter(|_| scopes.is_empty());
    let one_of = scopes.iter().map(|scope| json!({ "key": [scope.name()] }));
    // An empty requirement: this server asks for none.
    let none = [json!({})].into_iter().filter(|_| open);
    operation["security"] = if needs == Permission::Open {
        json!([])
    } else {
        none.chain(any).chain(one_of).collect()
    };
    let names: Vec<_> = scopes
        .iter()
        .map(|scope| format!("`{}`", scope.name()))
        .collect();
    let refusals = [
        (
            "401",
            "The server has keys, and the request has none of them.".to_owned(),
            needs != Permission::Open,
        ),
        (
            "403",
            format!("The request's key lacks the scope {}.", names.join(" or ")),
            !scopes.is_empty(),
        ),
        (
            "429",
            "Too many wrong keys came from the client's address.".to_owned(),
            needs != Permission::Open,
        ),
    ];
    let responses = &mut operation["responses"];
    for (status, description, _) in refusals.into_iter().filter(|(.., possible)| *possible) {
        if responses[status].is_null() {
            let schema = json!({ "$ref": format!("#/components/schemas/{}", ErrorBody::name()) });
            responses[status] = json!({ "description": description,
                    "content": { "application/json": { "schema": schema } } });
        }
    }
    if needs != Permission::Open {
        let after = json!({ "schema": { "type": "integer" }, "description": "Seconds after which \
            it is worth trying again." });
        responses["429"]["headers"]["retry-after"] = after;
    }
}

/// Every request may have an id and every response has one.
fn traced(operation: &mut Value) {
    let id = json!({ "type": "string" });
    let parameter = json!({ "name": "x-request-id", "in": "header", "required": false, "schema": id,
        "description": "Comes back, and stands in the log; an odd one is replaced by a new one." });
    match &mut operation["parameters"] {
        Value::Array(parameters) => parameters.push(parameter),
        none => *none = json!([parameter]),
    }
    for response in operation["responses"]
        .as_object_mut()
        .into_iter()
        .flat_map(|responses| responses.values_mut())
    {
        response["headers"]["x-request-id"] =
            json!({ "required": true, "schema": id, "description": "The request's id." });
    }
}

/// Bodies of requests that can be sent as they stand, by path.
fn examples(model: &str) -> [(&'static str, Value); 2] {
    let url = format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(EXAMPLE));
    let chat = json!({
        "model": model,
        "messages": [{ "role": "user", "content": [
            { "type": "text", "text": "Describe this photograph." },
            { "type": "image_url", "image_url": { "url": url } },
        ]}],
        "guard": { "mode": "flag", "target_fpr": 0.05 },
    });
    let score = json!({ "model": model, "image_url": url, "response": "A cat is sitting next to a \
        Frisbee." });
    [("/v1/chat/completions", chat), ("/v1/score", score)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nobody_described_stand_in_no_log() {
        for path in [
            "temperature",
            "messages[0].content[1].image_url.url",
            "guard.mode",
            "items[3].response",
            "limit",
        ] {
            assert_eq!(known_path(path), path);
        }
        for (path, shown) in [
            ("sk-secret", "?"),
            ("guard.my secret", "guard.?"),
            ("messages[0].a dog[1]", "messages[0].?[1]"),
            ("messages[secret]", "messages?"),
            (&"secret.".repeat(99), "?.?.?.?.?.?.?.?"),
        ] {
            assert_eq!(known_path(path), shown, "{path}");
        }
    }
}
