//! The structure of `src/`: which room may use which, circles between files, names and form.
//!
//! Everything is read from the sources as text. A *room* is a folder or a file of `src/`. An arrow
//! goes from a file to each file whose items it names, by a `use` or by a path; a re-export is
//! followed to the item, and declaring a module is no arrow.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// Rooms from the bottom up, each with the rooms that it may use, `util` aside, which all may use.
/// `ARCHITECTURE.md` has the same table.
const ROOMS: [(&str, &[&str]); 16] = [
    ("util", &[]),
    ("device", &[]),
    ("lexicon", &[]),
    ("vlm", &[]),
    ("guard", &["lexicon"]),
    ("reward", &["lexicon", "vlm", "guard"]),
    ("bundle", &["vlm", "reward"]),
    ("engine", &["vlm", "guard", "reward"]),
    ("eval", &["lexicon", "vlm", "guard", "reward"]),
    ("registry", &["bundle"]),
    (
        "feedback",
        &["lexicon", "vlm", "guard", "reward", "bundle", "eval"],
    ),
    ("telemetry", &["lexicon", "guard", "engine", "feedback"]),
    (
        "config",
        &[
            "device",
            "vlm",
            "guard",
            "reward",
            "bundle",
            "engine",
            "registry",
            "feedback",
            "telemetry",
        ],
    ),
    (
        "serve",
        &[
            "device",
            "vlm",
            "guard",
            "reward",
            "bundle",
            "engine",
            "registry",
            "feedback",
            "telemetry",
            "config",
        ],
    ),
    (
        "train",
        &[
            "lexicon", "vlm", "guard", "reward", "bundle", "engine", "eval", "registry", "feedback",
        ],
    ),
    (
        "cli",
        &[
            "device",
            "lexicon",
            "vlm",
            "guard",
            "reward",
            "bundle",
            "engine",
            "eval",
            "registry",
            "feedback",
            "telemetry",
            "config",
            "serve",
            "train",
        ],
    ),
];

/// Rooms with circles of any length between files of one folder.
const TANGLED: [&str; 2] = ["serve", "train"];
/// Most files of a circle in the other rooms.
const LONGEST_CIRCLE: usize = 3;

/// Most doc comments that begin with a question word.
const MOST_QUESTIONS: usize = 30;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the Rust files under a folder of the repository, by their paths from its root.
fn rust_files(folder: &str) -> Vec<(String, String)> {
    let mut folders = vec![root().join(folder)];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(folder) else {
            continue;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
        (name.to_owned(), text)
    };
    files.into_iter().map(read).collect()
}

/// Returns the room of a file under `src/`.
fn room(file: &str) -> &str {
    let first = file.split('/').nth(1).unwrap();
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Cuts Rust into words (identifiers, keywords, numbers), `::` and single characters. Comments,
/// strings, character literals and lifetimes are left out.
fn tokens(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let starts = |at: usize, mark: &str| text.as_bytes()[at..].starts_with(mark.as_bytes());
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
    // Position behind the first `mark` at or after `from`.
    let behind = |from: usize, mark: &str| {
        text[from..]
            .find(mark)
            .map_or(text.len(), |length| from + length + mark.len())
    };
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let byte = bytes[at];
        if byte.is_ascii_whitespace() {
            at += 1;
        } else if starts(at, "//") {
            at = behind(at, "\n");
        } else if starts(at, "/*") {
            at = behind(at, "*/");
        } else if byte == b'"' {
            at += 1;
            while at < bytes.len() && bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            at += 1;
        } else if byte == b'\'' {
            let char_length = text[at + 1..].chars().next().map_or(0, char::len_utf8);
            if starts(at + 1, "\\") {
                at = behind(at + 3, "'");
            } else if starts(at + 1 + char_length, "'") {
                at += char_length + 2;
            } else {
                at += 1;
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
            }
        } else if is_word(byte) {
            let start = at;
            while at < bytes.len() && is_word(bytes[at]) {
                at += 1;
            }
            let word = &text[start..at];
            let hashes = bytes[at..].iter().take_while(|byte| **byte == b'#').count();
            if matches!(word, "r" | "br") && starts(at + hashes, "\"") {
                at = behind(at + hashes + 1, &format!("\"{}", "#".repeat(hashes)));
            } else if word != "b" || !matches!(bytes.get(at), Some(b'"' | b'\'')) {
                found.push(word);
            }
        } else {
            let length = if starts(at, "::") { 2 } else { 1 };
            found.push(&text[at..at + length]);
            at += length;
        }
    }
    found
}

/// A path that a file names.
struct Reference<'a> {
    path: Vec<&'a str>,
    /// Number of modules within the file around it.
    nesting: usize,
    /// `true` in a module that is compiled for tests alone.
    in_tests: bool,
    /// For a `use`: `true` if it has a visibility.
    import: Option<bool>,
}

/// A file of `src/`, as far as its arrows need it.
#[derive(Default)]
struct SourceFile<'a> {
    /// Its module's path.
    module: Vec<&'a str>,
    references: Vec<Reference<'a>>,
    /// Words outside `use` and tests, and not part of a path or behind a dot.
    words: HashSet<&'a str>,
    /// Modules that it declares for tests alone.
    test_modules: Vec<&'a str>,
}

/// Returns the paths of a `use` tree that begins at `at`, and the position behind it.
fn use_tree<'a>(
    tokens: &[&'a str],
    mut at: usize,
    prefix: &[&'a str],
    out: &mut Vec<Vec<&'a str>>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens[at] {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens[at] != "}" {
                    at = use_tree(tokens, at, &path, out);
                    if tokens[at] == "," {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "as" => at += 2,
            "," | "}" | ";" => {
                if path.len() > 1 && path.last() == Some(&"self") {
                    path.pop();
                }
                out.push(path);
                return at;
            }
            word => {
                path.push(word);
                at += 1;
            }
        }
    }
}

/// Returns `true` if an attribute `cfg(test)` stands before the item whose keyword is at `at`.
fn is_for_tests(tokens: &[&str], mut at: usize) -> bool {
    if at > 0 && tokens[at - 1] == ")" {
        at = tokens[..at]
            .iter()
            .rposition(|token| *token == "(")
            .unwrap();
    }
    if at > 0 && tokens[at - 1] == "pub" {
        at -= 1;
    }
    while at > 0 && tokens[at - 1] == "]" {
        let start = tokens[..at]
            .iter()
            .rposition(|token| *token == "#")
            .unwrap();
        if tokens[start..at].starts_with(&["#", "[", "cfg", "(", "test"]) {
            return true;
        }
        at = start;
    }
    false
}

impl<'a> SourceFile<'a> {
    fn new(module: Vec<&'a str>, children: &HashSet<&str>, text: &'a str) -> Self {
        let tokens = tokens(text);
        let mut file = Self {
            module,
            ..Self::default()
        };
        // Modules around the position: braces open at their beginning, and if they are for tests.
        let mut modules: Vec<(usize, bool)> = Vec::new();
        let (mut braces, mut at) = (0usize, 0);
        let before = |at: usize, back: usize| at.checked_sub(back).map_or("", |at| tokens[at]);
        while at < tokens.len() {
            let nesting = modules.len();
            let in_tests = modules.iter().any(|module| module.1);
            let follows = |offset: usize| tokens.get(at + offset).copied().unwrap_or_default();
            match tokens[at] {
                "{" => braces += 1,
                "}" => {
                    braces -= 1;
                    modules.pop_if(|module| module.0 == braces);
                }
                "mod" if follows(2) == "{" => {
                    modules.push((braces, is_for_tests(&tokens, at)));
                    braces += 1;
                    at += 2;
                }
                "mod" if follows(2) == ";" => {
                    if is_for_tests(&tokens, at) {
                        file.test_modules.push(tokens[at + 1]);
                    }
                    at += 2;
                }
                "use" if follows(1) != "<" => {
                    let is_visible = matches!(before(at, 1), "pub" | ")");
                    let mut paths = Vec::new();
                    at = use_tree(&tokens, at + 1, &[], &mut paths);
                    file.references
                        .extend(paths.into_iter().map(|path| Reference {
                            path,
                            nesting,
                            in_tests,
                            import: Some(is_visible),
                        }));
                }
                word if before(at, 1) != "::"
                    && follows(1) == "::"
                    && (matches!(word, "crate" | "self" | "super")
                        || nesting == 0 && children.contains(word)) =>
                {
                    let is_visibility = before(at, 1) == "in" && before(at, 2) == "(";
                    let mut path = vec![word];
                    while follows_path(&tokens, at) {
                        path.push(tokens[at + 2]);
                        at += 2;
                    }
                    if !is_visibility {
                        file.references.push(Reference {
                            path,
                            nesting,
                            in_tests,
                            import: None,
                        });
                    }
                }
                word => {
                    if !in_tests && !matches!(before(at, 1), "::" | ".") {
                        file.words.insert(word);
                    }
                }
            }
            at += 1;
        }
        file
    }
}

/// Returns `true` if the path whose last word is at `at` goes on with a word.
fn follows_path(tokens: &[&str], at: usize) -> bool {
    tokens.get(at + 1) == Some(&"::")
        && tokens
            .get(at + 2)
            .is_some_and(|next| next.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// The files of `src/` and their modules.
struct Sources<'a> {
    files: BTreeMap<&'a str, SourceFile<'a>>,
    /// File of each module.
    modules: HashMap<Vec<&'a str>, &'a str>,
    /// Files that are compiled for tests alone.
    test_files: HashSet<&'a str>,
}

impl<'a> Sources<'a> {
    fn new(texts: &'a [(String, String)]) -> Self {
        let modules: HashMap<Vec<&str>, &str> = texts
            .iter()
            .map(|(name, _)| (module_path(name), name.as_str()))
            .collect();
        let mut children: HashMap<&[&str], HashSet<&str>> = HashMap::new();
        for module in modules.keys() {
            if let Some((last, parent)) = module.split_last() {
                children.entry(parent).or_default().insert(*last);
            }
        }
        let none = HashSet::new();
        let files: BTreeMap<&str, SourceFile<'_>> = texts
            .iter()
            .map(|(name, text)| {
                let module = module_path(name);
                let children = children.get(module.as_slice()).unwrap_or(&none);
                (name.as_str(), SourceFile::new(module, children, text))
            })
            .collect();
        let mut test_files = HashSet::new();
        for file in files.values() {
            for name in &file.test_modules {
                let module: Vec<&str> = file.module.iter().chain([name]).copied().collect();
                test_files.extend(modules.get(&module));
            }
        }
        Self {
            files,
            modules,
            test_files,
        }
    }

    /// Returns the path from the crate's root, or `None` for what is not of this crate or within
    /// the file.
    fn absolute(&self, file: &SourceFile<'a>, reference: &Reference<'a>) -> Option<Vec<&'a str>> {
        let path = &reference.path;
        let leading = path
            .iter()
            .take_while(|word| matches!(**word, "super" | "self"))
            .count();
        let ups = path[..leading]
            .iter()
            .filter(|word| **word == "super")
            .count();
        if path[0] == "crate" {
            return Some(path[1..].to_vec());
        }
        if leading > 0 {
            let ups = ups.checked_sub(reference.nesting)?;
            let base = &file.module[..file.module.len().checked_sub(ups)?];
            return Some([base, &path[leading..]].concat());
        }
        let own = [file.module.as_slice(), &path[..1]].concat();
        (reference.nesting == 0 && self.modules.contains_key(&own))
            .then(|| [file.module.as_slice(), path].concat())
    }

    /// Returns the file that defines what an absolute path names; re-exports are followed.
    fn defining_file(&self, path: &[&'a str], followed: usize) -> Option<&'a str> {
        let (file, length) = (0..=path.len())
            .rev()
            .find_map(|length| Some((*self.modules.get(&path[..length])?, length)))?;
        let source = &self.files[file];
        let exported = path.get(length).and_then(|name| {
            source.references.iter().find(|reference| {
                reference.import.is_some()
                    && reference.nesting == 0
                    && reference.path.last() == Some(name)
            })
        });
        let target = exported.and_then(|reference| self.absolute(source, reference));
        match target {
            Some(target) if followed < 8 && target != path => {
                let rest = &path[length + 1..];
                self.defining_file(&[target.as_slice(), rest].concat(), followed + 1)
            }
            _ => Some(file),
        }
    }

    /// Returns the arrows between files: with those of tests and of re-exports, or those alone that
    /// the code needs.
    fn arrows(&self, with_tests: bool) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
        let mut arrows: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (&name, file) in &self.files {
            if !with_tests && self.test_files.contains(name) {
                continue;
            }
            for reference in &file.references {
                let is_unused_export = !with_tests
                    && reference.import == Some(true)
                    && !reference
                        .path
                        .last()
                        .is_some_and(|last| file.words.contains(last));
                if is_unused_export || reference.in_tests && !with_tests {
                    continue;
                }
                let mut path = self.absolute(file, reference).unwrap_or_default();
                path.pop_if(|last| *last == "*");
                let target = self.defining_file(&path, 0);
                let is_other = |target: &&str| *target != name && *target != "src/lib.rs";
                if let Some(target) = target.filter(|target| !path.is_empty() && is_other(target)) {
                    arrows.entry(name).or_default().insert(target);
                }
            }
        }
        arrows
    }
}

/// Returns the path of the module that a file of `src/` is.
fn module_path(file: &str) -> Vec<&str> {
    let path = file.strip_prefix("src/").unwrap();
    let mut path: Vec<&str> = path.strip_suffix(".rs").unwrap().split('/').collect();
    path.pop_if(|last| matches!(*last, "mod" | "lib"));
    path
}

/// Returns the strongly connected components of more than one file.
fn circles<'a>(arrows: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<BTreeSet<&'a str>> {
    let reachable = |from: &'a str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            for &next in arrows.get(file).into_iter().flatten() {
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        arrows.keys().map(|&file| (file, reachable(file))).collect();
    let mut found: Vec<BTreeSet<&str>> = Vec::new();
    for (&file, seen) in &reached {
        if seen.contains(file) && !found.iter().any(|circle| circle.contains(file)) {
            let circle = seen
                .iter()
                .copied()
                .filter(|other| reached.get(other).is_some_and(|back| back.contains(file)));
            found.push(circle.collect());
        }
    }
    found
}

#[test]
fn rooms_use_only_rooms_below_them() {
    let texts = rust_files("src");
    let sources = Sources::new(&texts);
    let order = |name: &str| ROOMS.iter().position(|room| room.0 == name);
    for (at, (name, may_use)) in ROOMS.iter().enumerate() {
        assert!(
            may_use
                .iter()
                .all(|used| order(used).is_some_and(|below| below < at)),
            "{name} may use a room that stands above it"
        );
    }
    let mut problems = String::new();
    for (file, targets) in sources.arrows(true) {
        if file == "src/lib.rs" || file == "src/main.rs" {
            continue;
        }
        let Some(at) = order(room(file)) else {
            writeln!(problems, "{file}: its room is not in the table").unwrap();
            continue;
        };
        for target in targets {
            let used = room(target);
            if used != room(file) && used != "util" && !ROOMS[at].1.contains(&used) {
                writeln!(problems, "{file} uses {target}").unwrap();
            }
        }
    }
    assert!(problems.is_empty(), "{problems}");
}

#[test]
fn architecture_has_the_table_of_rooms() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for (name, may_use) in ROOMS {
        let row = [format!("| `{name}` |"), format!("| `{name}.rs` |")]
            .iter()
            .find_map(|start| page.lines().find(|line| line.starts_with(start)))
            .unwrap_or_else(|| panic!("ARCHITECTURE.md has no row of {name}"));
        let cell = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let named: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        assert_eq!(named, may_use, "rooms that {name} may use");
    }
}

#[test]
fn files_of_different_folders_do_not_use_each_other_in_a_circle() {
    let texts = rust_files("src");
    let mut problems = String::new();
    for circle in circles(&Sources::new(&texts).arrows(false)) {
        let folders: BTreeSet<&str> = circle
            .iter()
            .map(|file| file.rsplit_once('/').unwrap().0)
            .collect();
        let is_tangled = circle.iter().all(|file| TANGLED.contains(&room(file)));
        if folders.len() > 1 || !is_tangled && circle.len() > LONGEST_CIRCLE {
            writeln!(problems, "{} files: {circle:?}", circle.len()).unwrap();
        }
    }
    assert!(problems.is_empty(), "{problems}");
}

#[test]
fn public_type_names_are_unique() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in rust_files("src") {
        for (number, line) in text.lines().enumerate() {
            let Some(item) = line.trim_start().strip_prefix("pub") else {
                continue;
            };
            let item = match item.strip_prefix('(') {
                Some(rest) => rest.split_once(')').map_or("", |(_, item)| item),
                None => item,
            };
            let mut words = item
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .filter(|word| !word.is_empty() && *word != "unsafe");
            let (keyword, name) = (words.next(), words.next());
            if let (Some("struct" | "enum" | "trait" | "type" | "union"), Some(name)) =
                (keyword, name)
            {
                let place = format!("{file}:{}", number + 1);
                places.entry(name.to_owned()).or_default().push(place);
            }
        }
    }
    places.retain(|_, places| places.len() > 1);
    assert!(places.is_empty(), "{places:#?}");
}

#[test]
fn lines_have_at_most_100_columns() {
    let folders = [
        "src",
        "tests",
        "examples",
        "benches",
        "fuzz/src",
        "fuzz/fuzz_targets",
    ];
    let mut long = Vec::new();
    for (file, text) in folders.into_iter().flat_map(rust_files) {
        let lines = text.lines().enumerate();
        let over = lines.filter(|(_, line)| line.chars().count() > 100);
        long.extend(over.map(|(number, _)| format!("{file}:{}", number + 1)));
    }
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn doc_comments_rarely_begin_with_a_question_word() {
    let doc = |line: &str| {
        let line = line.trim_start();
        let text = line
            .strip_prefix("///")
            .or_else(|| line.strip_prefix("//!"))?;
        Some(text.trim_start().to_owned())
    };
    let mut questions = Vec::new();
    for (file, text) in rust_files("src") {
        let mut is_inside = false;
        for (number, line) in text.lines().enumerate() {
            let comment = doc(line);
            if let (false, Some(comment)) = (is_inside, &comment)
                && comment
                    .split(|c: char| !c.is_alphabetic())
                    .next()
                    .is_some_and(|word| matches!(word, "What" | "How" | "Whether" | "Where"))
            {
                questions.push(format!("{file}:{}: {comment}", number + 1));
            }
            is_inside = comment.is_some();
        }
    }
    assert!(questions.len() <= MOST_QUESTIONS, "{questions:#?}");
}

#[test]
fn tokens_leave_out_comments_strings_and_lifetimes() {
    let text = "use a::B; // crate::x\nfn f<'a>(c: &'a str) { r#\"super::y\"#; b\"\\\"z\"; '\\'' }";
    let found = tokens(text);
    assert_eq!(found[..5], ["use", "a", "::", "B", ";"]);
    assert!(
        !found
            .iter()
            .any(|token| ["crate", "x", "super", "y", "z"].contains(token))
    );
    assert_eq!(found.last(), Some(&"}"));
}

#[test]
fn arrows_follow_re_exports_to_the_item() {
    let texts: Vec<(String, String)> = [
        (
            "src/a/mod.rs",
            "mod low;\nmod high;\npub use low::Low;\npub struct Top;",
        ),
        ("src/a/low.rs", "pub struct Low;"),
        (
            "src/a/high.rs",
            "use super::Low;\n#[cfg(test)]\nmod tests { use super::super::Top; }",
        ),
        ("src/b.rs", "fn f() { crate::a::high::g(); }"),
    ]
    .map(|(name, text)| (name.to_owned(), text.to_owned()))
    .into();
    let sources = Sources::new(&texts);
    let plain = sources.arrows(false);
    assert_eq!(plain.get("src/a/mod.rs"), None);
    assert_eq!(plain["src/a/high.rs"], BTreeSet::from(["src/a/low.rs"]));
    assert_eq!(plain["src/b.rs"], BTreeSet::from(["src/a/high.rs"]));
    let all = sources.arrows(true);
    assert_eq!(
        all["src/a/high.rs"],
        BTreeSet::from(["src/a/low.rs", "src/a/mod.rs"])
    );
}
