//! The documents against the repository: the files that they name, and the links between them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Folders of the repository that documents name files of.
const FOLDERS: [&str; 9] = [
    "config/", "deploy/", "docs/", "fuzz/", "grafana/", "models/", "src/", "tests/", "tools/",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the documents at the root and in `docs`, each with its prose: its text without code
/// blocks.
fn documents() -> Vec<(PathBuf, String)> {
    let folders = [root().to_owned(), root().join("docs")];
    let entries = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap());
    let files = entries.map(|entry| entry.unwrap().path());
    let documents =
        files.filter(|file| file.extension().is_some_and(|extension| extension == "md"));
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).unwrap();
        let prose = text.split("\n```").step_by(2).collect();
        (file, prose)
    };
    documents.map(read).collect()
}

/// Returns the anchor that a heading has on a page.
fn anchor(heading: &str) -> String {
    let lower = heading.trim().to_lowercase();
    let kept: String = lower
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .collect();
    kept.replace(' ', "-")
}

#[test]
fn files_named_by_documents_exist() {
    let rooms = fs::read_dir(root().join("src")).unwrap();
    let rooms = rooms.map(|entry| format!("{}/", entry.unwrap().file_name().to_str().unwrap()));
    let rooms: Vec<String> = rooms.collect();
    for (file, prose) in documents() {
        let spans = prose.split('`').skip(1).step_by(2);
        // Patterns and examples are no names.
        let is_plain = |span: &&str| {
            span.chars()
                .all(|c| c.is_ascii_alphanumeric() || "./_-".contains(c))
        };
        for span in spans.filter(is_plain) {
            let of_root = FOLDERS.iter().any(|folder| span.starts_with(folder));
            let of_room = span.ends_with(".rs") && rooms.iter().any(|room| span.starts_with(room));
            let exists = root().join(span).exists() || root().join("src").join(span).exists();
            assert!(
                exists || !(of_root || of_room),
                "{}: there is no {span}",
                file.display()
            );
        }
    }
}

#[test]
fn links_of_documents_lead_to_headings_that_exist() {
    for (file, prose) in documents() {
        let targets = prose
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("http")) {
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let linked = if path.is_empty() {
                file.clone()
            } else {
                file.parent().unwrap().join(path)
            };
            assert!(
                linked.exists(),
                "{}: {target} leads nowhere",
                file.display()
            );
            if !heading.is_empty() {
                let text = fs::read_to_string(&linked).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let mut anchors = headings.map(|line| anchor(line.trim_start_matches('#')));
                let found = anchors.any(|anchor| anchor == heading);
                assert!(found, "{}: {target} has no such heading", file.display());
            }
        }
    }
}

#[test]
fn the_readme_fits_a_page() {
    let lines = fs::read_to_string(root().join("README.md"))
        .unwrap()
        .lines()
        .count();
    assert!(lines <= 150, "{lines} lines");
}
