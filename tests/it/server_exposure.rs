//! Servers that other machines reach: none without a key, and the ways of giving one, as the
//! quickstart and the container image have them.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use candor::config::{ApiKey, Config, KeyScope, load};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    cli::{Process, candor},
    http::{exchange, get, request},
    served::eventually,
};

const EVERYWHERE: [&str; 5] = ["serve", "--device", "cpu", "--listen", "0.0.0.0:0"];
const SECRET: &str = "candor-exposed-0123456789";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap()
}

fn status(server: &Process, path: &str, secret: &str) -> u16 {
    exchange(
        server.at,
        &request(
            "GET",
            path,
            &[("authorization", &format!("Bearer {secret}"))],
            b"",
        ),
    )
    .status
}

/// What the API says without a key, with this one and with another.
fn statuses(server: &Process, secret: &str) -> [u16; 3] {
    [
        get(server.at, "/v1/models").status,
        status(server, "/v1/models", secret),
        status(server, "/v1/models", "candor-another-0123456789"),
    ]
}

/// Its exit status, and what it says; nothing is served.
#[track_caller]
fn refused(args: &[&str], envs: &[(&str, &str)]) -> String {
    let output = candor(args).envs(envs.iter().copied()).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(2), &b""[..]),
        "{args:?} {envs:?}: {err}"
    );
    err
}

#[test]
fn server_without_key_refuses_public_addresses() {
    for listen in ["0.0.0.0:0", "[::]:0", "candor.example.org:8080"] {
        let by_flag = refused(&["serve", "--listen", listen], &[]);
        let by_variable = refused(&["serve"], &[("CANDOR_SERVER__LISTEN", listen)]);
        // An empty variable is none: compose files pass on what is not set.
        let empty = refused(
            &["serve", "--listen", listen],
            &[("CANDOR_API_KEY", ""), ("CANDOR_API_KEY_FILE", "")],
        );
        assert!(
            by_flag == by_variable && by_flag == empty,
            "{by_flag}{by_variable}{empty}"
        );
        for said in [
            listen,
            "CANDOR_API_KEY",
            "--key-file",
            "candor keys new",
            "127.0.0.1",
            "--insecure",
        ] {
            assert!(by_flag.contains(said), "{by_flag}");
        }
    }
    let digest = "ab".repeat(32);
    refused(&EVERYWHERE, &[("CANDOR_ADMIN__KEY_SHA256", &digest)]);
    // Other commands serve nobody.
    let doctor = candor(&["doctor", "--json"])
        .env("CANDOR_SERVER__LISTEN", "0.0.0.0:8080")
        .output()
        .unwrap();
    assert_eq!(doctor.status.code(), Some(0));
    for (args, envs) in [
        (&["--insecure"][..], &[][..]),
        (&[], &[("CANDOR_SERVER__INSECURE", "true")]),
    ] {
        let server = Process::start(candor(&[&EVERYWHERE[..], args].concat()), envs);
        assert_eq!(
            [
                get(server.at, "/v1/models").status,
                get(server.at, "/metrics").status
            ],
            [200, 200],
            "{args:?} {envs:?}"
        );
        server.signal(Signal::TERM);
        let (_, log) = server.end();
        assert!(
            log.contains("anyone who can reach this server may use it"),
            "{log}"
        );
    }
}

#[test]
fn key_from_environment_or_file_is_accepted_and_never_logged() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("api-key");
    fs::write(&file, format!("{SECRET}\n")).unwrap();
    let path = file.to_str().unwrap();
    let by_flag = [&EVERYWHERE[..], &["--key-file", path]].concat();
    let cases = [
        (&EVERYWHERE[..], ("CANDOR_API_KEY", SECRET)),
        (&EVERYWHERE, ("CANDOR_API_KEY_FILE", path)),
        (&EVERYWHERE, ("CANDOR_SERVER__KEY_FILE", path)),
        (&by_flag, ("CANDOR_LOG__FORMAT", "json")),
    ];
    for (args, variable) in cases {
        let server = Process::start(
            candor(args),
            &[variable, ("CANDOR_LOG__LEVEL", "debug,hyper=warn")],
        );
        assert_eq!(statuses(&server, SECRET), [401, 200, 401], "{variable:?}");
        let told = exchange(
            server.at,
            &request(
                "GET",
                "/v1/key",
                &[("authorization", &format!("Bearer {SECRET}"))],
                b"",
            ),
        )
        .json();
        let scopes = [
            "complete",
            "score",
            "feedback:write",
            "feedback:read",
            "annotate",
        ];
        assert_eq!(
            told,
            json!({"object": "key", "name": "default", "owner": "default", "scopes": scopes})
        );
        server.signal(Signal::HUP);
        server.signal(Signal::TERM);
        let (code, log) = server.end();
        assert_eq!(code, Some(0), "{log}");
        let digest = ApiKey::new("", SECRET).key_sha256;
        assert!(
            !log.contains(SECRET)
                && !log.contains("candor-another")
                && !log.contains(&digest[..16]),
            "{log}"
        );
    }
    for (variable, said) in [
        (("CANDOR_API_KEY", "too-short"), "at least 16 characters"),
        (
            ("CANDOR_API_KEY", "two words of some length"),
            "without spaces",
        ),
        (("CANDOR_API_KEY_FILE", "absent/key"), "cannot be read"),
    ] {
        // Also where the server would need no key.
        let err = refused(&["serve", "--listen", "127.0.0.1:0"], &[variable]);
        assert!(
            err.contains(said) && err.contains(variable.1) == (variable.1 == "absent/key"),
            "{err}"
        );
    }
    let err = refused(&by_flag, &[("CANDOR_API_KEY", SECRET)]);
    assert!(
        err.contains("two keys are given") && !err.contains(SECRET),
        "{err}"
    );
}

#[test]
fn sighup_reloads_the_key_file_and_never_opens_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = (
        folder.path().join("api-key"),
        folder.path().join("candor.toml"),
    );
    let admin = ApiKey::new("", "candor-root-0123456789").key_sha256;
    let write = |server: &str, keys: &str| {
        fs::write(
            &config,
            format!("[server]\n{server}\n[admin]\nkey_sha256 = '{admin}'\n{keys}"),
        )
        .unwrap();
    };
    fs::write(&file, SECRET).unwrap();
    let key_file = format!("key_file = '{}'", file.display());
    write(&key_file, "");
    let mut command = candor(&EVERYWHERE);
    command.arg("--config").arg(&config);
    let server = Process::start(command, &[]);
    // Metrics are for the administrator here.
    let reloads = |outcome: &str| {
        let bearer = [("authorization", "Bearer candor-root-0123456789")];
        let text = exchange(server.at, &request("GET", "/metrics", &bearer, b""))
            .text()
            .to_owned();
        let series = format!("candor_config_reloads_total{{outcome=\"{outcome}\"}} ");
        text.lines()
            .find_map(|line| line.strip_prefix(&series))
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    let reload = |outcome: &str| {
        let before = reloads(outcome);
        server.signal(Signal::HUP);
        eventually("it is read again", || reloads(outcome) == before + 1);
    };
    assert_eq!(statuses(&server, SECRET), [401, 200, 401]);
    const NEXT: &str = "candor-next-0123456789";
    fs::write(&file, NEXT).unwrap();
    reload("applied");
    assert_eq!(
        (
            statuses(&server, NEXT),
            status(&server, "/v1/models", SECRET)
        ),
        ([401, 200, 401], 401)
    );
    // Without any key, the old ones stay; so they do where the new configuration would be for
    // loopback, as the server still listens where it did.
    for nobody in ["", "listen = '127.0.0.1:0'"] {
        write(nobody, "");
        reload("refused");
        assert_eq!(statuses(&server, NEXT), [401, 200, 401], "{nobody}");
    }
    fs::write(&file, "short").unwrap();
    write(&key_file, "");
    reload("refused");
    assert_eq!(statuses(&server, NEXT), [401, 200, 401]);
    let table = format!(
        "[[keys]]\nname = 'app'\nkey_sha256 = '{}'\n",
        ApiKey::new("app", SECRET).key_sha256
    );
    write("", &table);
    reload("applied");
    assert_eq!(statuses(&server, SECRET), [401, 200, 401]);
    write("insecure = true", "");
    reload("applied");
    assert_eq!(get(server.at, "/v1/models").status, 200);
    // And back, once more.
    write("", "");
    reload("refused");
    server.signal(Signal::TERM);
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("can be reached from other machines") && !log.contains("0123456789"),
        "{log}"
    );
}

#[test]
fn new_key_is_random_and_accepted_by_its_table() {
    let folder = tempfile::tempdir().unwrap();
    let new = |args: &[&str]| {
        let output = candor(&[&["keys", "new"], args].concat())
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let known = |table: &str| -> Config {
        let file = folder.path().join("pasted.toml");
        fs::write(&file, table).unwrap();
        load(Some(&file), [], &[]).unwrap()
    };
    let printed = new(&[
        "--name",
        "a \"tenant\"",
        "--owner",
        "tenant",
        "--scopes",
        "annotate,feedback:write",
    ]);
    let (secret, table) = printed.split_once('\n').unwrap();
    let [key] = &known(table).keys[..] else {
        panic!("{table}")
    };
    assert_eq!(
        (key.name.as_str(), key.owner(), key.digest()),
        ("a \"tenant\"", "tenant", ApiKey::new("", secret).digest())
    );
    let scopes: Vec<_> = KeyScope::ALL
        .into_iter()
        .filter(|&scope| key.scopes.contains(scope))
        .collect();
    assert_eq!(scopes, [KeyScope::FeedbackWrite, KeyScope::Annotate]);
    assert!(
        !table.contains(secret)
            && secret.len() > 40
            && secret.bytes().all(|byte| byte.is_ascii_graphic()),
        "{printed}"
    );
    let plain = new(&[]);
    let (other, table) = plain.split_once('\n').unwrap();
    assert_ne!(secret, other);
    assert_eq!(known(table).keys, [ApiKey::new("app", other)]);
    let table = new(&["--out", "key.txt"]);
    let file = folder.path().join("key.txt");
    let secret = fs::read_to_string(&file).unwrap();
    assert_eq!(
        known(&table).keys[0].digest(),
        ApiKey::new("", secret.trim()).digest()
    );
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let again = candor(&["keys", "new", "--out", "key.txt"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(2));
    assert_eq!(new(&["--out", "key.txt", "--if-missing"]), "");
    assert_eq!(fs::read_to_string(&file).unwrap(), secret, "it stays");
    for args in [
        &["--name", ""][..],
        &["--owner", "a\nb"],
        &["--scopes", "all"],
        &["--scopes", ""],
        &["--if-missing"],
    ] {
        let output = candor(&[&["keys", "new"], args].concat()).output().unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(2), &b""[..]),
            "{args:?}"
        );
    }
}

/// The words of a list of the Dockerfile or the compose file, after this name.
fn listed(file: &str, name: &str) -> Vec<String> {
    let line = file
        .lines()
        .find_map(|line| line.trim().strip_prefix(name))
        .unwrap_or_else(|| panic!("no {name}"));
    serde_json::from_str(line.trim()).unwrap()
}

/// What the image runs where nothing else is said, on a free port and with the file of the
/// repository in place of the image's copy.
fn image() -> (Vec<String>, String) {
    let dockerfile = text("Dockerfile");
    assert_eq!(listed(&dockerfile, "ENTRYPOINT"), ["candor"]);
    let copied: BTreeMap<&str, &str> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY ")?.split_once(' '))
        .map(|(from, to)| (to, from))
        .collect();
    let mut port = String::new();
    let argument = |word: String| match (copied.get(word.as_str()), word.strip_prefix("0.0.0.0:")) {
        (Some(from), _) => root(from).display().to_string(),
        (None, Some(own)) => {
            port = own.to_owned();
            "0.0.0.0:0".to_owned()
        }
        (None, None) => word,
    };
    let mut words: Vec<String> = listed(&dockerfile, "CMD")
        .into_iter()
        .map(argument)
        .collect();
    words.extend(["--device".to_owned(), "cpu".to_owned()]);
    (words, port)
}

fn words(of: &[String]) -> Vec<&str> {
    of.iter().map(String::as_str).collect()
}

/// No container is run: the arguments and the environment that the quickstart and the image give
/// are, with the binary that was built.
#[test]
fn container_starts_only_with_a_key() {
    let (image, port) = image();
    let image = words(&image);
    let err = refused(&image, &[]);
    assert!(
        err.contains("CANDOR_API_KEY") && err.contains("--insecure"),
        "{err}"
    );
    for shown in [text("docs/quickstart.md"), text("Dockerfile")] {
        let lines: Vec<&str> = shown
            .lines()
            .map(|line| line.trim_start_matches(['#', ' ']))
            .collect();
        let made = lines
            .iter()
            .find_map(|line| line.strip_prefix("export CANDOR_API_KEY=$(docker run --rm candor "))
            .unwrap();
        let (arguments, first) = made.split_once(" | ").unwrap();
        assert_eq!(first, "head -1)");
        let output = candor(&arguments.split(' ').collect::<Vec<_>>())
            .output()
            .unwrap();
        let secret = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .to_owned();
        let run = lines
            .iter()
            .find(|line| line.starts_with("docker run ") && line.contains(" -p "))
            .unwrap();
        let run: Vec<&str> = run.split(' ').collect();
        let value = |flag: &str| {
            run.iter()
                .position(|word| *word == flag)
                .map(|at| run[at + 1])
        };
        assert_eq!(
            run.last(),
            Some(&"candor"),
            "what the image runs by default"
        );
        assert_eq!(
            value("-p"),
            Some(format!("127.0.0.1:{port}:{port}").as_str()),
            "published on this machine alone"
        );
        assert_eq!(
            value("-e"),
            Some("CANDOR_API_KEY"),
            "passed on, and not on the command line"
        );
        assert!(
            value("-v").unwrap().ends_with(":/data") && text("Dockerfile").contains("VOLUME /data")
        );
        let server = Process::start(candor(&image), &[("CANDOR_API_KEY", &secret)]);
        assert_eq!(statuses(&server, &secret), [401, 200, 401]);
        assert_eq!(
            [
                get(server.at, "/health/ready").status,
                get(server.at, "/metrics").status
            ],
            [200, 401]
        );
    }
}

#[test]
fn compose_creates_one_key_that_the_server_accepts() {
    let compose = text("deploy/compose.yaml");
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().display().to_string();
    let make: Vec<String> = listed(&compose, "command:")
        .iter()
        .map(|word| word.replace("/keys", &keys))
        .collect();
    let variable = |name: &str| {
        compose
            .lines()
            .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "))
            .unwrap()
            .trim_matches('"')
    };
    let file = variable("CANDOR_API_KEY_FILE").replace("/keys", &keys);
    let (image, port) = image();
    refused(&words(&image), &[("CANDOR_API_KEY_FILE", &file)]);
    let key = || {
        let output = candor(&words(&make)).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        fs::read_to_string(&file).unwrap().trim().to_owned()
    };
    let secret = key();
    assert_eq!(key(), secret, "the next start leaves it");
    assert!(variable("CANDOR_METRICS__LISTEN").starts_with("0.0.0.0:"));
    let server = Process::start(
        candor(&words(&image)),
        &[
            ("CANDOR_API_KEY_FILE", &file),
            ("CANDOR_METRICS__LISTEN", "127.0.0.1:0"),
        ],
    );
    assert_eq!(statuses(&server, &secret), [401, 200, 401]);
    assert_eq!(
        get(server.at, "/metrics").status,
        404,
        "on its own listener alone"
    );
    assert_eq!(
        listed(&compose, "ports:"),
        [format!("127.0.0.1:{port}:{port}")]
    );
    let mounts: Vec<Value> = compose
        .lines()
        .filter_map(|line| serde_json::from_str(line.trim().strip_prefix("volumes: ")?).ok())
        .collect();
    assert_eq!(
        mounts,
        [
            json!(["keys:/keys"]),
            json!(["keys:/keys:ro", "data:/data", "stores:/stores:ro"])
        ]
    );
    for line in [
        "read_only: true",
        "cap_drop: [ALL]",
        "security_opt: [\"no-new-privileges:true\"]",
        "<<: *candor",
    ] {
        assert!(compose.contains(line), "{line}");
    }
    let dockerfile = text("Dockerfile");
    assert!(
        dockerfile.contains("install -d -m 700 -o candor /data /keys")
            && dockerfile.contains("\nUSER 999\n")
    );
}
