//! Real clients, unchanged, against the real server; and what the documents show of them, word for
//! word.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    cli::Process,
    support::{needed, runs},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const README: &str = include_str!("../../README.md");
const QUICKSTART: &str = include_str!("../../docs/quickstart.md");
const GUARD: &str = include_str!("../../docs/guard.md");
const FEEDBACK: &str = include_str!("../../docs/feedback.md");
/// Address of the server in the documents.
const ADDRESS: &str = "127.0.0.1:8080";

/// The virtual environment that `make test` makes, or the interpreter that `CANDOR_TEST_PYTHON`
/// names, if it has `package`.
pub fn python(package: &str) -> Option<Command> {
    let given = std::env::var_os("CANDOR_TEST_PYTHON").map(PathBuf::from);
    let mut python =
        Command::new(given.unwrap_or_else(|| Path::new(ROOT).join(".venv/bin/python")));
    // What packages warn about each other is not ours; nothing is fetched or reported while the
    // tests run.
    python
        .envs([
            ("PYTHONWARNINGS", "ignore"),
            ("LITELLM_LOCAL_MODEL_COST_MAP", "True"),
            ("LANGSMITH_TRACING", "false"),
        ])
        .current_dir(ROOT);
    let find = format!("import importlib.util as u, sys; sys.exit(not u.find_spec('{package}'))");
    let there = Command::new(python.get_program())
        .args(["-c", &find])
        .output()
        .is_ok_and(|o| o.status.success());
    needed(
        &format!("Python's package {package}"),
        there.then_some(python),
    )
}

/// Node in the folder with its packages.
fn node() -> Option<Command> {
    let folder = Path::new(ROOT).join("tests/clients/js");
    let there = folder.join("node_modules/openai").is_dir() && runs("node", &["--version"]);
    let mut node = Command::new("node");
    node.current_dir(folder);
    needed("node's package openai", there.then_some(node))
}

/// What it prints, given this to read; it must end well.
#[track_caller]
pub fn said(mut command: Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}

/// Runs a client's test against a server of its own.
fn run(client: Option<Command>, script: &str, photo: &str) {
    let Some(mut client) = client else { return };
    // Nobody reads the log, and its pipe is soon full with a line a request.
    let server = Process::serve(&[("CANDOR_LOG__LEVEL", "error")]);
    client.arg(Path::new(ROOT).join("tests/clients").join(script));
    client
        .arg(format!("http://{}/v1", server.at))
        .arg(Path::new(ROOT).join(photo));
    said(client, "");
}

const CAT: &str = "tests/fixtures/photos/cat.jpg";

#[test]
fn openai_python_client_works() {
    run(python("openai"), "openai_client.py", CAT);
}

#[test]
fn answers_match_openais_published_schema() {
    run(python("openai"), "openai_schema.py", CAT);
}

#[test]
fn openai_javascript_client_works() {
    run(node(), "js/client.mjs", CAT);
}

#[test]
fn litellm_client_works() {
    run(python("litellm"), "litellm_client.py", CAT);
}

#[test]
fn langchain_client_works() {
    run(python("langchain_openai"), "langchain_client.py", CAT);
}

#[test]
fn schemathesis_finds_no_fault() {
    // A small photograph, because there may be thousands in a request.
    run(
        python("schemathesis"),
        "openapi_schemathesis.py",
        "src/serve/docs/example.jpg",
    );
}

/// Returns a document's code blocks in this language that contain `word`, with this server's
/// address.
fn shown(document: &str, language: &str, word: &str, server: &Process) -> Vec<String> {
    let blocks = document.split("\n```").collect::<Vec<_>>();
    let blocks = blocks.iter().skip(1).step_by(2);
    let blocks = blocks.filter_map(|b| b.strip_prefix(language)?.strip_prefix('\n'));
    let blocks = blocks.filter(|b| b.contains(word));
    let blocks: Vec<_> = blocks
        .map(|b| b.replace(ADDRESS, &server.at.to_string()))
        .collect();
    assert!(
        !blocks.is_empty(),
        "the document has no {language} with {word}"
    );
    blocks
}

#[test]
fn curl_snippets_of_the_documents_work() {
    for program in ["bash", "curl", "base64"] {
        if needed(program, runs(program, &["--version"]).then_some(())).is_none() {
            return;
        }
    }
    let server = Process::serve(&[]);
    let bash = |script: &str| {
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", script])
            .current_dir(ROOT);
        said(bash, "")
    };
    let only = |document| {
        let blocks = shown(document, "bash", "curl", &server);
        assert_eq!(blocks.len(), 1, "{blocks:?}");
        bash(&blocks[0])
    };
    let whole = |document| serde_json::from_str::<Value>(&only(document)).unwrap();
    let (answer, scores, record) = (whole(README), whole(GUARD), whole(FEEDBACK));
    assert_eq!(record["errors"][0]["text"], "dog");
    assert!(
        answer["choices"][0]["guard"]["verdict"].is_string(),
        "{answer}"
    );
    assert!(
        scores["results"][0]["tokens"][1]["reward"].is_number(),
        "{scores}"
    );
    let out = only(QUICKSTART);
    let mut events: Vec<&str> = out
        .lines()
        .filter_map(|l| l.strip_prefix("data: "))
        .collect();
    assert_eq!(events.pop(), Some("[DONE]"), "{out}");
    let chunks: Vec<Value> = events
        .iter()
        .map(|e| serde_json::from_str(e).unwrap())
        .collect();
    let text: String = chunks
        .iter()
        .filter_map(|c| c["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(answer["choices"][0]["message"]["content"], text);
}

#[test]
fn python_snippet_of_the_readme_works() {
    let Some(mut python) = python("openai") else {
        return;
    };
    let server = Process::serve(&[]);
    let program = shown(README, "python", "import OpenAI", &server).concat();
    python.arg("-");
    let out = said(python, &program);
    assert!(
        out.lines().count() == 2 && out.contains("\nflagged ["),
        "{out}"
    );
}

#[test]
fn python_snippet_of_the_quickstart_works() {
    let Some(mut python) = python("litellm") else {
        return;
    };
    let server = Process::serve(&[]);
    // Later blocks use what the first defines.
    let program = shown(QUICKSTART, "python", "", &server).join("\n");
    for word in ["import litellm", "import ChatOpenAI"] {
        assert!(program.contains(word), "{program}");
    }
    python.arg("-");
    let out = said(python, &program);
    assert!(
        out.lines().count() == 2 && ["may be", "erhaps"].iter().any(|hedge| out.contains(hedge)),
        "{out}"
    );
}

#[test]
fn javascript_snippet_of_the_quickstart_works() {
    let Some(mut node) = node() else { return };
    let server = Process::serve(&[]);
    let program = shown(QUICKSTART, "js", "", &server).concat();
    let program = program.replace("tests/fixtures", &format!("{ROOT}/tests/fixtures"));
    node.args(["--input-type=module", "-"]);
    let out = said(node, &program);
    assert!(out.contains("flagged"), "{out}");
}
