//! OpenAPI 3.1 document, generated from the request and response types.
//!
//! Each handler describes its own operation (`utoipa::path`); effects of the middleware are added
//! here to every operation.

use std::{collections::HashSet, sync::LazyLock};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use utoipa::{OpenApi, ToSchema};

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

/// A small image, so that the examples can be sent as they are.
const EXAMPLE: &[u8] = include_bytes!("docs/example.jpg");

/// All routes of [`super::ROUTES`] and [`super::METRICS`]; a test compares them.
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
        (name = "chat", description = "Captions, and answers to questions about images"),
        (name = "score", description = "Scores of given texts"),
        (name = "feedback", description = "Corrections and judgments of answers"),
        (name = "queue", description = "Annotation queue, and agreement between annotators"),
        (name = "models", description = "The served model and the request's key"),
        (name = "admin", description = "Model versions: promotion and rollback"),
        (name = "operation", description = "Health probes and metrics"),
        (name = "documentation", description = "API description"),
        (name = "page", description = "Web pages"),
    )
)]
struct Api;

/// Returns the document with this server's limits, access rules and examples.
pub(super) fn document(app: &App) -> Value {
    // The document consists of JSON types only, so serialization cannot fail.
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
        "description": "API key, if the server requires one. Its scopes determine what it may \
                        do." });
    let access = app.access();
    for (path, operations) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            let needs =
                routes::route_permission(&method.to_uppercase(), path).unwrap_or(Permission::Open);
            add_security(operation, needs, access.is_open(needs));
            add_request_id(operation);
        }
    }
    for (path, example) in examples(&app.served().model) {
        document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"] =
            example;
    }
    document
}

/// Names of all fields and parameters in the document.
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

/// Returns a field path that is safe to log: names that are not in the document, and so may be
/// client input, become `?`, and very long paths are cut.
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

/// Adds the required scopes and the responses to missing or wrong keys to an operation.
fn add_security(operation: &mut Value, needs: Permission, open: bool) {
    let scopes = needs.scopes();
    let any = [json!({ "key": [] })]
        .into_iter()
        .filter(|_| scopes.is_empty());
    let one_of = scopes.iter().map(|scope| json!({ "key": [scope.name()] }));
    // An empty requirement means that no key is needed.
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
            "The API key is missing or unknown.".to_owned(),
            needs != Permission::Open,
        ),
        (
            "403",
            format!("The key lacks the scope {}.", names.join(" or ")),
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
        let after = json!({ "schema": { "type": "integer" }, "description": "Seconds to wait \
                                                                             before retrying." });
        for status in ["429", "503"] {
            if !responses[status].is_null() {
                responses[status]["headers"]["retry-after"] = after.clone();
            }
        }
    }
}

/// Adds the request id to the parameters and responses of an operation.
fn add_request_id(operation: &mut Value) {
    let id = json!({ "type": "string" });
    let parameter = json!({ "name": "x-request-id", "in": "header", "required": false, "schema": id,
        "description": "Request id, returned in the response and logged; an unsafe id is \
                        replaced." });
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
            json!({ "required": true, "schema": id, "description": "Id of the request." });
    }
}

/// Returns example request bodies, by path, that can be sent as they are.
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
    fn undocumented_field_names_are_not_logged() {
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
