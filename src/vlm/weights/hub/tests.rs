//! Pulls from a local server that answers as the Hub does.

use std::fs;

use tempfile::TempDir;

use super::{
    test_server::{COMMIT, HubServer, REPO, sha256},
    *,
};

const TOKEN: &str = "hf_secret";

/// A server with a repository, and an empty cache.
struct Lab {
    server: HubServer,
    home: TempDir,
}

impl Lab {
    fn new(files: &[(&str, &[u8])]) -> Self {
        Self {
            server: HubServer::start(files),
            home: tempfile::tempdir().unwrap(),
        }
    }

    fn small() -> Self {
        Self::new(&[
            ("README.md", b"# Tiny"),
            ("config.json", b"{}"),
            ("model.safetensors", &weights()),
            ("modeling_tiny.py", b"import os"),
            ("pytorch_model.bin", b"pickle"),
            ("tokenizer.json", b"{\"model\": {}}"),
            ("weights.pt", b"pickle"),
        ])
    }

    fn hub(&self, more: &[(&str, &str)]) -> Hub {
        let home = self.home.path().to_str().unwrap();
        Hub::from_variables(|name| match name {
            "HF_ENDPOINT" => Some(self.server.endpoint()),
            "HF_HOME" => Some(home.to_owned()),
            "HF_TOKEN" => Some(TOKEN.to_owned()),
            name => {
                let (_, value) = more.iter().find(|(other, _)| *other == name)?;
                Some((*value).to_owned())
            }
        })
        .unwrap()
    }

    fn pull(&self, repo: &str) -> Result<HubSnapshot, HubError> {
        self.pull_file(repo, None)
    }

    fn pull_file(&self, repo: &str, gguf: Option<&str>) -> Result<HubSnapshot, HubError> {
        self.hub(&[]).pull(&repo.parse().unwrap(), gguf, &mut ())
    }

    fn offline(&self, repo: &str) -> Result<HubSnapshot, HubError> {
        let hub = self.hub(&[("HF_HUB_OFFLINE", "1")]);
        hub.pull(&repo.parse().unwrap(), None, &mut ())
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("hub/models--lab--tiny")
    }

    fn part(&self) -> PathBuf {
        let name = format!("{}.part", sha256(&weights()));
        self.folder().join("blobs").join(name)
    }

    /// Returns the ranges in which the weights were asked for.
    fn ranges(&self) -> Vec<Option<String>> {
        let seen = self.server.seen().into_iter();
        seen.filter(|request| request.storage)
            .map(|request| request.range)
            .collect()
    }
}

fn weights() -> Vec<u8> {
    (0..4000u32).map(|i| (i % 251) as u8).collect()
}

fn names(snapshot: &HubSnapshot) -> Vec<&str> {
    let files = snapshot.files.iter();
    files.map(|file| file.name.as_str()).collect()
}

#[test]
fn pull_stores_what_is_needed_in_the_hubs_layout() {
    let lab = Lab::small();
    let snapshot = lab.pull(REPO).unwrap();
    let folder = lab.folder();
    assert_eq!(snapshot.revision, COMMIT);
    assert_eq!(snapshot.dir, folder.join("snapshots").join(COMMIT));
    let wanted = ["config.json", "tokenizer.json", "model.safetensors"];
    assert_eq!(names(&snapshot), wanted);
    assert_eq!(snapshot.files[2].size, 4000);
    assert_eq!(fs::read_dir(&snapshot.dir).unwrap().count(), 3);
    assert_eq!(fs::read_dir(folder.join("blobs")).unwrap().count(), 3);
    let link = fs::read_link(snapshot.dir.join("model.safetensors")).unwrap();
    let blob = format!("../../blobs/{}", sha256(&weights()));
    assert_eq!(link, Path::new(&blob));
    assert_eq!(
        fs::read(snapshot.dir.join("model.safetensors")).unwrap(),
        weights()
    );
    assert_eq!(fs::read(snapshot.dir.join("config.json")).unwrap(), b"{}");
    assert_eq!(
        fs::read_to_string(folder.join("refs/main")).unwrap(),
        COMMIT
    );
    let unwanted = ["README", ".py", ".bin", ".pt"];
    for request in lab.server.seen() {
        assert!(!unwanted.iter().any(|name| request.line.ends_with(name)));
        let token = (!request.storage).then(|| format!("Bearer {TOKEN}"));
        assert_eq!(request.authorization, token, "{}", request.line);
    }
}

#[test]
fn second_pull_downloads_nothing() {
    let lab = Lab::small();
    let first = lab.pull(REPO).unwrap();
    lab.server.seen();
    assert_eq!(lab.pull(REPO).unwrap(), first);
    let lines: Vec<String> = lab
        .server
        .seen()
        .into_iter()
        .map(|seen| seen.line)
        .collect();
    assert_eq!(lines, [format!("GET /api/models/{REPO}/revision/main")]);
    let pinned = format!("{REPO}@{COMMIT}");
    assert_eq!(lab.pull(&pinned).unwrap(), first);
    assert_eq!(lab.server.seen(), [], "a commit never changes");
    let tagged = lab.pull(&format!("{REPO}@v1")).unwrap();
    assert_eq!(tagged, first);
    assert_eq!(
        fs::read_to_string(lab.folder().join("refs/v1")).unwrap(),
        COMMIT
    );
}

#[test]
fn commit_is_completed_where_another_client_took_a_part() {
    let lab = Lab::small();
    let dir = lab.folder().join("snapshots").join(COMMIT);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("model.safetensors"), weights()).unwrap();
    fs::write(dir.join("config.json"), "{}").unwrap();
    let snapshot = lab.pull(&format!("{REPO}@{COMMIT}")).unwrap();
    assert_eq!(
        names(&snapshot),
        ["config.json", "tokenizer.json", "model.safetensors"]
    );
    assert_eq!(lab.ranges(), []);
    assert!(!lab.folder().join("refs").exists());
}

#[test]
fn cut_download_goes_on_where_it_stopped() {
    let lab = Lab::small();
    lab.server.state().cuts = vec![1000, 0];
    let error = lab.pull(REPO).unwrap_err();
    assert!(
        matches!(
            error,
            HubError::BrokeOff {
                at: 1000,
                size: 4000,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(fs::read(lab.part()).unwrap(), weights()[..1000]);
    assert!(lab.offline(REPO).is_err(), "half a model is none");
    let from = |at: usize| Some(format!("bytes={at}-"));
    assert_eq!(lab.ranges(), [None, from(1000)]);
    lab.server.state().cuts = vec![500, 500];
    let snapshot = lab.pull(REPO).unwrap();
    assert_eq!(lab.ranges(), [from(1000), from(1500), from(2000)]);
    assert_eq!(
        fs::read(snapshot.dir.join("model.safetensors")).unwrap(),
        weights()
    );
    assert!(!lab.part().exists());
}

#[test]
fn server_without_ranges_sends_the_file_again() {
    let lab = Lab::small();
    lab.server.state().cuts = vec![1000, 0];
    lab.pull(REPO).unwrap_err();
    lab.server.state().ignores_ranges = true;
    let snapshot = lab.pull(REPO).unwrap();
    assert_eq!(
        fs::read(snapshot.dir.join("model.safetensors")).unwrap(),
        weights()
    );
}

#[test]
fn content_other_than_announced_is_deleted() {
    let lab = Lab::small();
    let longer = [weights(), vec![0]].concat();
    for forged in [vec![0; 4000], longer] {
        lab.server.state().forged = Some(forged);
        let error = lab.pull(REPO).unwrap_err();
        assert!(matches!(error, HubError::Mismatch { .. }), "{error}");
        assert!(!lab.part().exists());
        assert!(!lab.part().with_extension("").exists());
        assert!(lab.offline(REPO).is_err());
    }
    lab.server.state().forged = None;
    // A complete partial file of the wrong content asks for nothing, and is found out.
    fs::write(lab.part(), vec![1; 4000]).unwrap();
    lab.pull(REPO).unwrap_err();
    lab.pull(REPO).unwrap();
}

#[test]
fn refusals_say_what_to_do() {
    let lab = Lab::small();
    for status in [401, 403] {
        lab.server.state().refusal = Some(status);
        let error = lab.pull(REPO).unwrap_err().to_string();
        let page = format!("{}/{REPO}", lab.server.endpoint());
        for part in [REPO, "HF_TOKEN", "license", &page, &status.to_string()] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains(TOKEN), "{error}");
    }
    lab.server.state().refusal = Some(503);
    let error = lab.pull(REPO).unwrap_err().to_string();
    assert!(error.contains("503"), "{error}");
    lab.server.state().refusal = None;
    let error = lab.pull(&format!("{REPO}@v2")).unwrap_err();
    assert!(matches!(error, HubError::NotFound { .. }));
    let error = error.to_string();
    assert!(error.contains(REPO) && error.contains("v2") && error.contains("404"));
    let gone = "http://127.0.0.1:1";
    let home = lab.home.path().to_str().unwrap();
    let hub = Hub::from_variables(|name| match name {
        "HF_ENDPOINT" => Some(gone.to_owned()),
        "HF_HOME" => Some(home.to_owned()),
        _ => None,
    });
    let error = hub.unwrap().pull(&REPO.parse().unwrap(), None, &mut ());
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains(gone) && error.contains("--offline"),
        "{error}"
    );
}

#[test]
fn offline_uses_the_cache_alone() {
    let lab = Lab::small();
    let pinned = format!("{REPO}@{COMMIT}");
    for repo in [REPO, &pinned] {
        let error = lab.offline(repo).unwrap_err().to_string();
        assert!(
            error.contains(&format!("candor models pull {repo}")),
            "{error}"
        );
    }
    let pulled = lab.pull(REPO).unwrap();
    lab.server.seen();
    assert_eq!(lab.offline(REPO).unwrap(), pulled);
    assert_eq!(lab.offline(&pinned).unwrap(), pulled);
    let error = lab.offline(&format!("{REPO}@v1")).unwrap_err().to_string();
    assert!(error.contains("v1"), "{error}");
    for missing in ["config.json", "model.safetensors"] {
        let (file, aside) = (pulled.dir.join(missing), pulled.dir.join("aside"));
        fs::rename(&file, &aside).unwrap();
        let error = lab.offline(REPO).unwrap_err().to_string();
        let word = if missing == "config.json" {
            missing
        } else {
            "weights"
        };
        assert!(error.contains(word), "{error}");
        fs::rename(&aside, &file).unwrap();
    }
    assert_eq!(lab.server.seen(), []);
    let hub = lab.hub(&[]).offline();
    assert!(hub.pull(&REPO.parse().unwrap(), None, &mut ()).is_ok());
    fs::write(lab.folder().join("refs/main"), "../../elsewhere").unwrap();
    assert!(lab.offline(REPO).is_err(), "a reference that is no commit");
}

#[test]
fn hostile_answers_are_refused() {
    let lab = Lab::small();
    let refused = |change: &dyn Fn(&mut test_server::HubState)| {
        change(&mut lab.server.state());
        let error = lab.pull(REPO).unwrap_err();
        let mut state = lab.server.state();
        state.listed.clear();
        state.headers.clear();
        state.sha = None;
        drop(state);
        let left = fs::read_dir(lab.home.path()).unwrap().count();
        assert!(left <= 1, "only the cache");
        assert!(!lab.folder().join("snapshots").exists());
        error.to_string()
    };
    for name in ["../config.json", "/tmp/model.safetensors", "a/../../b.json"] {
        let error = refused(&|state| state.listed = vec![name.to_owned()]);
        assert!(error.contains(name), "{error}");
    }
    for etag in ["../../evil", "\"\"", "a/b", "."] {
        let error = refused(&|state| state.headers = vec![("etag", etag.to_owned())]);
        assert!(error.contains("etag"), "{error}");
    }
    for sha in ["main", "../../../tmp", &COMMIT.to_uppercase()] {
        let error = refused(&|state| state.sha = Some(sha.to_owned()));
        assert!(error.contains("sha"), "{error}");
    }
    let other = "f".repeat(40);
    let error = refused(&|state| state.headers = vec![("x-repo-commit", other.clone())]);
    assert!(error.contains("another commit"), "{error}");
    let error = refused(&|state| {
        state.headers = vec![("x-linked-size", (1u64 << 60).to_string())];
    });
    assert!(error.contains("free"), "{error}");
    lab.pull(REPO).unwrap();
}

#[test]
fn index_names_the_shards() {
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let lab = Lab::new(&[
        ("config.json", b"{}"),
        ("consolidated.safetensors", b"all"),
        ("model-1.safetensors", b"one"),
        ("model-2.safetensors", b"two"),
        (INDEX, index),
    ]);
    let snapshot = lab.pull(REPO).unwrap();
    let shards = [
        "config.json",
        INDEX,
        "model-1.safetensors",
        "model-2.safetensors",
    ];
    assert_eq!(names(&snapshot), shards);
    assert_eq!(lab.offline(REPO).unwrap(), snapshot);
    fs::remove_file(snapshot.dir.join("model-2.safetensors")).unwrap();
    let error = lab.offline(REPO).unwrap_err().to_string();
    assert!(error.contains("model-2.safetensors"), "{error}");
    lab.server.state().files.remove("model-2.safetensors");
    let error = lab.pull(REPO).unwrap_err();
    assert!(
        matches!(&error, HubError::Incomplete { missing, .. } if missing == "model-2.safetensors"),
        "{error}"
    );
}

#[test]
fn one_file_of_a_gguf_repository_is_pulled() {
    let lab = Lab::new(&[
        ("mmproj-f16.gguf", b"tower"),
        ("tiny-Q4_K.gguf", b"four"),
        ("tiny-Q8_0.gguf", b"eight"),
    ]);
    for named in [None, Some("tiny.gguf"), Some("model.safetensors")] {
        let error = lab.pull_file(REPO, named).unwrap_err();
        assert!(
            matches!(&error, HubError::Choice { choices, .. } if choices.len() == 2),
            "{error}"
        );
    }
    assert_eq!(lab.ranges(), []);
    let snapshot = lab.pull_file(REPO, Some("tiny-Q4_K.gguf")).unwrap();
    assert_eq!(names(&snapshot), ["mmproj-f16.gguf", "tiny-Q4_K.gguf"]);
    assert_eq!(lab.offline(REPO).unwrap(), snapshot, "the one that is here");
}

#[test]
fn variables_place_the_cache_and_find_the_token() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().to_str().unwrap();
    fs::create_dir_all(home.path().join(".cache/huggingface")).unwrap();
    fs::write(home.path().join(".cache/huggingface/token"), "hf_file\n").unwrap();
    let lab = Lab::small();
    let pull = |set: &[(&str, &str)]| {
        let hub = Hub::from_variables(|name| match name {
            "HF_ENDPOINT" => Some(lab.server.endpoint() + "/"),
            name => {
                let (_, value) = set.iter().find(|(other, _)| *other == name)?;
                Some((*value).to_owned())
            }
        });
        hub?.pull(&REPO.parse().unwrap(), None, &mut ())
    };
    let snapshot = pull(&[("HOME", path)]).unwrap();
    assert!(
        snapshot
            .dir
            .starts_with(home.path().join(".cache/huggingface/hub"))
    );
    let sent = lab.server.seen().swap_remove(0).authorization;
    assert_eq!(sent.as_deref(), Some("Bearer hf_file"));
    let other = home.path().join("other");
    let cache = other.to_str().unwrap();
    let snapshot = pull(&[("HOME", path), ("HF_HUB_CACHE", cache)]).unwrap();
    assert!(snapshot.dir.starts_with(&other));
    assert!(pull(&[]).unwrap_err().to_string().contains("HF_HOME"));
    let error = pull(&[("HOME", path), ("HF_TOKEN", "a\nb")]).unwrap_err();
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
}
