//! Random command lines: no panic, and every refusal has a reason.

use std::{
    ffi::OsString,
    fs,
    io::Read,
    os::unix::{ffi::OsStringExt, process::ExitStatusExt},
    panic::catch_unwind,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use crate::cli::candor;

/// Number of command lines that are parsed.
const LINES: usize = 5_000;
/// Number of them that are run; `CANDOR_FUZZ_PROCESSES` overrides it.
const PROCESSES: usize = 200;

/// Commands that take long or serve; they get an invalid configuration.
const BOUNDED: [&str; 5] = ["serve", "train", "cycle", "bench", "promote"];

/// Writes files of all kinds, and returns their names.
fn files(dir: &Path) -> Vec<String> {
    let photo =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/photos/cat.jpg"))
            .unwrap();
    let row = "{\"image\": \"a.jpg\", \"caption\": \"A dog.\", \"objects\": [\"dog\"], \
               \"question\": \"What?\", \"answer\": \"no\"}\n";
    let written: [(&str, &[u8]); 9] = [
        ("cat.jpg", &photo),
        ("half.jpg", &photo[..photo.len() / 2]),
        ("empty", b""),
        ("text.txt", b"just some words\n"),
        ("rows.jsonl", row.as_bytes()),
        ("torn.jsonl", &row.as_bytes()[..20]),
        (
            "coco.json",
            b"{\"images\": [{\"id\": 1}], \"annotations\": [{\"image_id\": 1, \
                        \"caption\": \"x\"}]}",
        ),
        ("bad.toml", b"[nonsense]\nlisten = 'nowhere'\n"),
        ("noise.bin", &[0, 159, 146, 150, 255, 0, 10]),
    ];
    for (name, bytes) in written {
        fs::write(dir.join(name), bytes).unwrap();
    }
    fs::create_dir(dir.join("folder")).unwrap();
    fs::create_dir(dir.join("photos")).unwrap();
    fs::copy(dir.join("cat.jpg"), dir.join("photos/a.jpg")).unwrap();
    fs::write(dir.join("photos/b.jpg"), b"no photograph").unwrap();
    let more = [
        "folder",
        "photos",
        "absent",
        "absent/deeper",
        "/dev/null",
        "/dev/full",
        "-",
    ];
    written
        .iter()
        .map(|(name, _)| *name)
        .chain(more)
        .map(str::to_owned)
        .collect()
}

/// Generator of command lines.
struct Fuzzer {
    rng: SmallRng,
    files: Vec<String>,
}

impl Fuzzer {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from.choose(&mut self.rng).unwrap().clone()
    }

    fn value(&mut self, arg: Option<&clap::Arg>) -> OsString {
        const ODD: [&str; 32] = [
            "",
            " ",
            "-",
            "--",
            "---",
            "0",
            "-1",
            "1",
            "2",
            "0.5",
            "-0.0",
            "1e309",
            "NaN",
            "inf",
            "18446744073709551616",
            "-9223372036854775809",
            "0x10",
            "true",
            "null",
            "auto",
            "💥",
            "e\u{301}\u{202e}",
            "a\nb",
            "a\tb",
            "%s%n",
            "$(exit 1)",
            "'",
            "KEY=VALUE",
            "a=b=c",
            "..",
            "candor-mini",
            "cuda:99",
        ];
        let known: Vec<String> = arg
            .map(|arg| {
                arg.get_possible_values()
                    .iter()
                    .map(|v| v.get_name().to_owned())
                    .collect()
            })
            .unwrap_or_default();
        match self.rng.random_range(0..20) {
            0..8 if !known.is_empty() => self.pick(&known).into(),
            0..9 => {
                let files = self.files.clone();
                self.pick(&files).into()
            }
            9 => OsString::from_vec(vec![b'x', 0xff, 0xfe]),
            10 => "long ".repeat(2_000).into(),
            11 => (0..self.rng.random_range(1..12))
                .map(|_| self.rng.random::<char>())
                .filter(|c| *c != '\0')
                .collect::<String>()
                .into(),
            _ => self.pick(&ODD).into(),
        }
    }

    fn line(&mut self, root: &clap::Command) -> Vec<OsString> {
        let (mut words, mut command) = (vec![OsString::from("candor")], root);
        while command.has_subcommands() && self.chance(97) {
            let below: Vec<&clap::Command> = command.get_subcommands().collect();
            command = self.pick(&below);
            words.push(command.get_name().into());
        }
        let path: Vec<String> = words
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let args: Vec<&clap::Arg> = command.get_arguments().collect();
        // Most lines have the required arguments, so that more than the parser is tested.
        for arg in args.iter().filter(|arg| arg.is_required_set()) {
            if self.chance(90) {
                self.argument(arg, &mut words);
            }
        }
        for _ in 0..self.rng.random_range(0..5) {
            if let Some(arg) = args.choose(&mut self.rng) {
                self.argument(arg, &mut words);
            }
        }
        if self.chance(10) {
            let odd = self.value(None);
            let at = self.rng.random_range(1..=words.len());
            words.insert(at, odd);
        }
        if path.iter().any(|word| BOUNDED.contains(&word.as_str())) {
            words.extend(["--config".into(), "bad.toml".into()]);
        }
        words
    }

    fn argument(&mut self, arg: &clap::Arg, words: &mut Vec<OsString>) {
        let takes_value = arg.get_action().takes_values();
        match arg.get_long() {
            None if arg.is_positional() => words.push(self.value(Some(arg))),
            None => words.push(format!("-{}", arg.get_short().unwrap_or('x')).into()),
            Some(long) => {
                let long = if self.chance(3) {
                    &long[..long.len() - 1]
                } else {
                    long
                };
                let value = self.value(Some(arg));
                if !takes_value || self.chance(3) {
                    words.push(format!("--{long}").into());
                } else if self.chance(30) {
                    let mut word = OsString::from(format!("--{long}="));
                    word.push(value);
                    words.push(word);
                } else {
                    words.extend([format!("--{long}").into(), value]);
                }
            }
        }
    }
}

/// Runs a command line, and describes what is wrong with how it ended.
fn carried_out(words: &[OsString], dir: &Path) -> Result<(), String> {
    // Arguments that no process can receive.
    if words
        .iter()
        .any(|word| word.as_encoded_bytes().contains(&0))
    {
        return Ok(());
    }
    let mut command = candor(&[]);
    command
        .args(&words[1..])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let mut pipe = child.stderr.take().unwrap();
    let read = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).map(|_| bytes)
    });
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > Duration::from_secs(100) {
            child.kill().unwrap();
            child.wait().unwrap();
            return Err("it does not end".to_owned());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let err = String::from_utf8_lossy(&read.join().unwrap().unwrap()).into_owned();
    if err.contains("panicked at")
        || status.signal().is_some()
        || !matches!(status.code(), Some(0..=2))
    {
        return Err(format!("{status}: {err}"));
    }
    if status.code() != Some(0) && err.trim().is_empty() {
        Err(format!("{status} without a word"))
    } else {
        Ok(())
    }
}

#[test]
fn any_command_line_exits_without_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let mut fuzzer = Fuzzer {
        rng: SmallRng::seed_from_u64(13),
        files: files(dir.path()),
    };
    let mut root = candor::cli::command();
    root.build();
    let lines: Vec<Vec<OsString>> = (0..LINES).map(|_| fuzzer.line(&root)).collect();
    let shown = |words: &[OsString]| {
        words
            .iter()
            .map(|word| format!("{word:.120?}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut taken = 0;
    for words in &lines {
        let checked = catch_unwind(|| candor::cli::check(words.iter().cloned()))
            .unwrap_or_else(|_| panic!("{}", shown(words)));
        match checked {
            Ok(()) => taken += 1,
            Err(error) => assert!(
                matches!(error.exit_code(), 0 | 2) && !error.to_string().trim().is_empty(),
                "{}",
                shown(words)
            ),
        }
    }
    assert!(
        (LINES / 20..LINES * 9 / 10).contains(&taken),
        "both kinds must be tried: {taken}"
    );
    let processes = std::env::var("CANDOR_FUZZ_PROCESSES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(PROCESSES);
    let each = (LINES / processes).max(1);
    let wrong: Vec<String> = lines
        .iter()
        .step_by(each)
        .filter_map(|words| {
            carried_out(words, dir.path())
                .err()
                .map(|why| format!("{}\n  {why}", shown(words)))
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        LINES / each,
        wrong.join("\n")
    );
}
