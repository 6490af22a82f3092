//! Web pages at `/` (try, correct, watch) and `/docs`. They are compiled in, load nothing from
//! other hosts, and contain no inline script or style.

mod about;

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{HeaderName, Method, Uri, header},
    response::{IntoResponse, Response},
};
use pulldown_cmark::{Options, Parser, html::push_html};

pub(super) use self::about::{__path_about, about};
use super::error::{ApiError, ErrorBody};

/// Guide for annotators, shown on the page.
const GUIDE: &str = include_str!("../../../docs/annotating.md");

/// The page with the guide inserted.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let mut guide = String::new();
    push_html(&mut guide, Parser::new_ext(GUIDE, Options::ENABLE_TABLES));
    include_str!("index.html").replace(
        "<!--guide-->",
        &guide.replace("<h1>", "<h1 tabindex=\"-1\">"),
    )
});

/// API documentation page, which reads `/openapi.json`.
const DOCS: &str = include_str!("docs.html");

/// A static file of the pages.
struct File {
    name: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($folder:literal $media_type:literal: $($name:literal)+;)+) => {
        &[$($(File { name: $name, media_type: $media_type,
            bytes: include_bytes!(concat!($folder, $name)) },)+)+]
    };
}

const FILES: &[File] = files! {
    "" "text/css; charset=utf-8": "docs.css" "style.css" "views.css";
    "" "image/svg+xml": "icon.svg";
    // By NASA, a crop of the astronaut.
    "" "image/jpeg": "portrait.jpg";
    // Images of the README's examples; their licenses are beside them and on the page.
    "../../../tests/fixtures/photos/" "image/jpeg": "astronaut.jpg" "cat.jpg" "coffee.jpg"
      "photographer.jpg";
    "" "text/javascript; charset=utf-8":
        "access.js" "answer.js" "api.js" "app.js" "ask.js" "cards.js" "chart.js" "chooser.js"
          "correct.js" "corrections.js" "curl.js" "docs.js" "dom.js"
        "earlier.js" "fix.js" "history.js" "judged.js" "kept.js" "key.js" "metrics.js" "mine.js"
          "photo.js" "prometheus.js" "queue.js"
        "records.js" "schema.js" "session.js" "speech.js" "sse.js" "storage.js" "try.js"
          "tryit.js" "watch.js" "wordcard.js" "wordlist.js"
        "words.js" "zoom.js";
};

/// Headers of all files. Images are shown as `data:` URLs; text of people and models never becomes
/// markup.
const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-cache"),
];

/// Responds with a page and its headers.
fn html(page: &'static str) -> Response {
    (
        HEADERS,
        [(header::CONTENT_TYPE, "text/html; charset=utf-8")],
        page,
    )
        .into_response()
}

/// Web page to try, correct and monitor the model.
#[utoipa::path(get, path = "/", tag = "page",
    responses((status = 200, description = "The page.", body = String,
        content_type = "text/html")))]
pub(crate) async fn page() -> Response {
    html(&PAGE)
}

/// API documentation page, from which requests can be sent.
#[utoipa::path(get, path = "/docs", tag = "documentation",
    responses((status = 200, description = "The page.", body = String,
        content_type = "text/html")))]
pub(crate) async fn docs() -> Response {
    html(DOCS)
}

/// Static file of the web pages.
#[utoipa::path(get, path = "/ui/{file}", tag = "page",
    params(("file" = String, Path, description = "Name of the file.")),
    responses(
        (status = 200, description = "The file.",
            content((String = "text/javascript"), (String = "text/css"), (String = "image/svg+xml"),
                (String = "image/jpeg"))),
        (status = 404, description = "Unknown file.", body = ErrorBody),
    ))]
pub(crate) async fn asset(
    Path(file): Path<String>,
    method: Method,
    uri: Uri,
) -> Result<Response, ApiError> {
    let found = FILES
        .iter()
        .find(|f| f.name == file)
        .ok_or_else(|| ApiError::unknown_route(method.as_str(), uri.path()))?;
    Ok((
        HEADERS,
        [(header::CONTENT_TYPE, found.media_type)],
        found.bytes,
    )
        .into_response())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    #[test]
    fn every_file_is_served_and_loads_no_other_host() {
        let there = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/serve/ui")).unwrap();
        let there: BTreeSet<_> = there
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let own = FILES
            .iter()
            .filter(|f| f.media_type != "image/jpeg")
            .map(|f| f.name);
        let served = own
            .chain([
                "about.rs",
                "docs.html",
                "index.html",
                "mod.rs",
                "portrait.jpg",
            ])
            .map(str::to_owned)
            .collect();
        assert_eq!(there, served);
        for text in FILES
            .iter()
            .filter_map(|f| std::str::from_utf8(f.bytes).ok())
            .chain([PAGE.as_str(), DOCS])
        {
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !elsewhere.contains("http://") && !elsewhere.contains("https://"),
                "{text}"
            );
        }
        assert!(!PAGE.contains("<!--guide-->"));
        for page in [PAGE.as_str(), DOCS] {
            assert!(
                !page.contains(" style=") && !page.contains("<script>"),
                "{page}"
            );
        }
    }
}
