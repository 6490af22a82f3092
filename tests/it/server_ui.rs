//! The page at `/` in a real browser (`tests/e2e/page.py` has the tests themselves), and its headers.

use std::{net::SocketAddr, path::Path, process::Command};

use candor::config::Key;
use sha2::{Digest, Sha256};

use crate::{
    cli::Process,
    http::get,
    served::Served,
    server_clients::{needed, python, said},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Python with Playwright, where there are a browser and axe for it too.
pub fn browser() -> Option<Command> {
    let mut found = BROWSERS.iter().filter(|name| Command::new(name).arg("--version").output().is_ok());
    needed("chromium", found.next())?;
    let axe = Path::new(ROOT).join("tests/e2e/node_modules/axe-core");
    needed("node's package axe-core", axe.is_dir().then_some(()))?;
    python("playwright")
}

/// Runs a test of the page against the server at this address.
fn page(test: &str, at: SocketAddr, more: &[String]) {
    let Some(mut python) = browser() else { return };
    python.args(["tests/e2e/page.py", test, &format!("http://{at}/")]).args(more);
    said(python, "");
}

macro_rules! pages {
    ($($test:ident)+) => {
        $(#[test]
        fn $test() {
            page(stringify!($test), Served::new().at, &[]);
        })+
    };
}

pages! { caption question curl compare keyboard correct judge watch light dark narrow calm }

#[test]
fn bad_image() {
    page("bad_image", Served::with(|config| config.images.max_pixels = 100_000).at, &[]);
}

#[test]
fn queued() {
    page("queued", Served::with(|config| (config.queue.unassisted_share, config.queue.overlap_share) = (0.0, 0.0)).at, &[]);
}

#[test]
fn unmarked() {
    page("unmarked", Served::with(|config| config.queue.unassisted_share = 1.0).at, &[]);
}

#[test]
fn key() {
    let key_sha256 = Sha256::digest("candor-page-test").iter().map(|byte| format!("{byte:02x}")).collect();
    let key = Key { name: "page".to_owned(), key_sha256, ..Key::default() };
    page("key", Served::with(|config| config.keys = vec![key]).at, &[]);
}

#[test]
fn offline() {
    let server = Process::serve(&[("CANDOR_LOG__LEVEL", "error")]);
    page("offline", server.at, &[server.child.id().to_string()]);
}

#[test]
fn the_page_is_whole_and_its_policy_strict() {
    let served = Served::new();
    let page = get(served.at, "/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(page.text().contains("Guide for annotators"));
    let files = page.text().split('"').filter(|text| text.starts_with("ui/")).map(str::to_owned).collect::<Vec<_>>();
    assert!(files.len() > 3, "{files:?}");
    for file in files {
        let reply = get(served.at, &format!("/{file}"));
        assert_eq!((reply.status, reply.header("content-security-policy")), (200, Some(policy)), "{file}");
    }
    for absent in ["/ui/mod.rs", "/ui/index.html", "/ui/../mod.rs", "/ui/"] {
        assert_eq!(get(served.at, absent).status, 404, "{absent}");
    }
}
