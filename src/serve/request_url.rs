//! URLs as clients write them: slashes too many are dropped, and what no route can have is refused before one sees it.

use axum::{
    extract::Request,
    http::{Uri, uri::PathAndQuery},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use percent_encoding::percent_decode_str;

use super::error::ApiError;

/// The mark of a request whose path had a slash at its end.
#[derive(Debug, Clone, Copy)]
struct SlashAtEnd;

/// Takes doubled slashes and those at the end out of a request's path.
pub(crate) fn normalize(mut request: Request) -> Request {
    let path = request.uri().path();
    if !path.contains("//") && (path.len() < 2 || !path.ends_with('/')) {
        return request;
    }
    let slash_at_end = path.ends_with('/');
    let mut plain: String = path.split('/').filter(|part| !part.is_empty()).flat_map(|part| ["/", part]).collect();
    if plain.is_empty() {
        plain.push('/');
    }
    if let Some(query) = request.uri().query() {
        plain.push('?');
        plain.push_str(query);
    }
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(plain).ok();
    // A path of pieces of a path is one.
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    if slash_at_end {
        request.extensions_mut().insert(SlashAtEnd);
    }
    request
}

/// The middleware: refuses URLs that stand for no text, or for one with a NUL character, which databases do not take.
pub(crate) async fn check(request: Request, next: Next) -> Response {
    let uri = request.uri();
    // A page's links are relative to it.
    if uri.path() == "/docs" && request.extensions().get::<SlashAtEnd>().is_some() {
        return Redirect::permanent("../docs").into_response();
    }
    if let Some(what) = [uri.path(), uri.query().unwrap_or_default()].into_iter().find_map(refused) {
        return ApiError::invalid("invalid_url", format!("the URL {what}")).into_response();
    }
    next.run(request).await
}

fn refused(part: &str) -> Option<&'static str> {
    match percent_decode_str(part).decode_utf8() {
        Err(_) => Some("is not valid UTF-8 where its percent signs are read"),
        Ok(text) if text.contains('\0') => Some("has a NUL character (%00)"),
        Ok(_) => None,
    }
}
