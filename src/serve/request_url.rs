//! Normalization and validation of request URLs before routing.

use axum::{
    extract::{MatchedPath, Request},
    http::{Uri, uri::PathAndQuery},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use percent_encoding::percent_decode_str;

use super::error::{ApiError, excerpt};

/// Marker of a request whose path had a trailing slash.
#[derive(Debug, Clone, Copy)]
struct SlashAtEnd;

/// Removes duplicate and trailing slashes from a request's path.
pub(crate) fn normalize(mut request: Request) -> Request {
    let path = request.uri().path();
    if !path.contains("//") && (path.len() < 2 || !path.ends_with('/')) {
        return request;
    }
    let slash_at_end = path.ends_with('/');
    let mut plain: String = path
        .split('/')
        .filter(|part| !part.is_empty())
        .flat_map(|part| ["/", part])
        .collect();
    if plain.is_empty() {
        plain.push('/');
    }
    if let Some(query) = request.uri().query() {
        plain.push('?');
        plain.push_str(query);
    }
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(plain).ok();
    // A path built from parts of a valid path is valid.
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    if slash_at_end {
        request.extensions_mut().insert(SlashAtEnd);
    }
    request
}

/// Middleware that rejects URLs with invalid UTF-8 or a NUL character, which databases do not
/// accept. The error names the parameter.
pub(crate) async fn check(request: Request, next: Next) -> Response {
    let uri = request.uri();
    // The page's links are relative to it.
    if uri.path() == "/docs" && request.extensions().get::<SlashAtEnd>().is_some() {
        return Redirect::permanent("../docs").into_response();
    }
    let refused =
        refused_parameter(uri.query().unwrap_or_default()).or_else(|| refused_path(&request));
    match refused {
        Some(error) => error.into_response(),
        None => next.run(request).await,
    }
}

fn refused_parameter(query: &str) -> Option<ApiError> {
    query.split('&').find_map(|pair| {
        let why = refusal(pair)?;
        let name = pair.split('=').next().unwrap_or_default();
        let known = refusal(name).is_none() && pair.contains('=');
        Some(if known {
            ApiError::param(name, "invalid_value", format!("'{}' {why}", excerpt(name)))
        } else {
            invalid(why)
        })
    })
}

fn refused_path(request: &Request) -> Option<ApiError> {
    let why = refusal(request.uri().path())?;
    let route = request.extensions().get::<MatchedPath>();
    let name = route.and_then(|route| Some(route.as_str().split_once('{')?.1.split_once('}')?.0));
    Some(name.map_or_else(
        || invalid(why),
        |name| ApiError::param(name, "invalid_value", format!("'{name}' {why}")),
    ))
}

fn invalid(why: &str) -> ApiError {
    ApiError::invalid("invalid_url", format!("the URL {why}"))
}

fn refusal(part: &str) -> Option<&'static str> {
    match percent_decode_str(part).decode_utf8() {
        Err(_) => Some("is not valid UTF-8 after percent-decoding"),
        Ok(text) if text.contains('\0') => Some("has a NUL character (%00)"),
        Ok(_) => None,
    }
}
