//! The pages at `/` and `/docs` in a real browser (`tests/e2e` has the tests themselves), and their
//! headers.

use std::{net::SocketAddr, path::Path, process::Command};

use candor::{
    config::{ApiKey, Auto, Config, KeyScope, KeyScopes},
    guard::OnUnanswerable,
};
use serde_json::json;

use crate::{
    cli::Process,
    http::get,
    served::Served,
    server_clients::{python, said},
    support::{needed, runs},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Python with Playwright, where there are a browser and axe for it too.
pub fn browser() -> Option<Command> {
    let mut found = BROWSERS.iter().filter(|name| runs(name, &["--version"]));
    needed("chromium", found.next())?;
    let axe = Path::new(ROOT).join("tests/e2e/node_modules/axe-core");
    needed("node's package axe-core", axe.is_dir().then_some(()))?;
    python("playwright")
}

/// Runs a test of a file in `tests/e2e` against the server at this address.
fn page(file: &str, test: &str, at: SocketAddr, more: &[&str]) {
    let Some(mut python) = browser() else { return };
    python
        .args([
            &format!("tests/e2e/{file}.py"),
            test,
            &format!("http://{at}/"),
        ])
        .args(more);
    said(python, "");
}

macro_rules! pages {
    ($($file:ident: $($test:ident)+;)+) => {
        $(mod $file {
            use super::*;

            $(#[test]
            fn $test() {
                page(stringify!($file), stringify!($test), Served::new().at, &[]);
            })+
        })+
    };
}

pages! {
    try_page: caption question curl compare dropped examples shared spoken reloaded another
      bounded enlarged;
    correct_page: keyboard correct judge undone returned neighbors mine;
    watch_page: watch span;
    views: light dark narrow calm ring;
    docs_page: described tried;
}

#[test]
fn abstention_is_shown() {
    page(
        "try_page",
        "abstained",
        Served::with(|config| config.guard.on_unanswerable = OnUnanswerable::Abstain).at,
        &[],
    );
}

#[test]
fn refused_image_is_explained() {
    page(
        "try_page",
        "bad_image",
        Served::with(|config| config.images.max_pixels = 100_000).at,
        &[],
    );
}

#[test]
fn queued_item_is_judged() {
    page(
        "correct_page",
        "queued",
        Served::with(|config| {
            (config.queue.unassisted_share, config.queue.overlap_share) = (0.0, 0.0)
        })
        .at,
        &[],
    );
}

#[test]
fn unassisted_item_has_no_marks() {
    page(
        "correct_page",
        "unmarked",
        Served::with(|config| config.queue.unassisted_share = 1.0).at,
        &[],
    );
}

/// Whichever of the server's two queues an answer is in.
#[test]
fn same_item_is_judged_once() {
    for unassisted_share in [0.0, 1.0] {
        let served = Served::with(|config| config.queue.unassisted_share = unassisted_share);
        page("correct_page", "once", served.at, &[]);
    }
}

#[test]
fn skipped_item_stays_away() {
    page(
        "correct_page",
        "skipped",
        Served::with(|config| config.queue.unassisted_share = 0.0).at,
        &[],
    );
}

/// A threshold on the bound of a bucket, and one between two, as by default.
#[test]
fn colors_follow_the_served_threshold() {
    page(
        "watch_page",
        "watch",
        Served::with(|config| config.guard.threshold = Auto::Value(0.3)).at,
        &[],
    );
}

fn key() -> ApiKey {
    ApiKey::new("page", "candor-page-test")
}

#[test]
fn wrong_key_is_shown() {
    page(
        "try_page",
        "key",
        Served::with(|config| config.keys = vec![key()]).at,
        &[],
    );
}

#[test]
fn missing_scope_is_shown() {
    let served = Served::with(|config| {
        let reader = ApiKey {
            owner: Auto::Value("readers".to_owned()),
            scopes: KeyScopes::new([KeyScope::Complete]),
            ..key()
        };
        let other = ApiKey {
            owner: reader.owner.clone(),
            scopes: KeyScopes::new(KeyScope::ALL),
            ..ApiKey::new("other", "candor-other-test")
        };
        config.keys = vec![reader, other];
    });
    page("try_page", "scopes", served.at, &["candor-other-test"]);
}

#[test]
fn stored_data_is_described() {
    page(
        "try_page",
        "kept",
        Served::new().at,
        &[
            "for 7 days",
            "everybody who can open this page",
            "until you take the correction back",
        ],
    );
    let served = Served::with(|config| {
        config.receipts.retention = "90m".to_owned();
        config.queue.enabled = false;
    });
    page(
        "try_page",
        "kept",
        served.at,
        &["for 90 minutes. They can be seen by those who run the server."],
    );
    let served = Served::with(|config| config.receipts.retention = "0s".to_owned());
    page(
        "try_page",
        "kept",
        served.at,
        &["forgets photograph and answer at once, unless you correct"],
    );
    page(
        "try_page",
        "kept",
        Served::with(|config| config.feedback.store = "off".to_owned()).at,
        &["it takes no corrections"],
    );
    page(
        "try_page",
        "kept",
        Served::with(|config| config.keys = vec![key()]).at,
        &["whoever has a key of the same owner"],
    );
}

#[test]
fn about_shows_the_servers_settings() {
    let about = |change: fn(&mut Config)| get(Served::with(change).at, "/ui/about.json").json();
    let plain = about(|_| {});
    assert_eq!(plain["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (&plain["model"], &plain["keys"], &plain["feedback"]),
        (&json!("candor-mini"), &json!(false), &json!(true))
    );
    assert_eq!(
        (&plain["retention_s"], &plain["queue"]),
        (&json!(604_800), &json!(true))
    );
    assert!(
        plain["threshold"]
            .as_f64()
            .is_some_and(|threshold| 0.0 < threshold && threshold < 1.0),
        "{plain}"
    );
    let strict =
        about(|config| (config.keys, config.guard.threshold) = (vec![key()], Auto::Value(0.25)));
    assert_eq!(
        (&strict["keys"], &strict["threshold"]),
        (&json!(true), &json!(0.25))
    );
    let off = about(|config| config.feedback.store = "off".to_owned());
    assert_eq!(
        (&off["feedback"], &off["retention_s"], &off["queue"]),
        (&json!(false), &json!(0), &json!(false))
    );
}

#[test]
fn lost_server_is_reported() {
    let server = Process::serve(&[("CANDOR_LOG__LEVEL", "error")]);
    page(
        "try_page",
        "offline",
        server.at,
        &[&server.child.id().to_string()],
    );
}

#[test]
fn page_is_complete_and_its_policy_strict() {
    let served = Served::new();
    let page = get(served.at, "/");
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert!(page.text().contains("Guide for annotators"));
    let files = page
        .text()
        .split('"')
        .filter(|text| text.starts_with("ui/"))
        .map(str::to_owned)
        .collect::<Vec<_>>();
    assert!(files.len() > 3, "{files:?}");
    for file in files {
        let reply = get(served.at, &format!("/{file}"));
        assert_eq!(
            (reply.status, reply.header("content-security-policy")),
            (200, Some(policy)),
            "{file}"
        );
    }
    for absent in ["/ui/mod.rs", "/ui/index.html", "/ui/../mod.rs", "/ui/"] {
        assert_eq!(get(served.at, absent).status, 404, "{absent}");
    }
}
