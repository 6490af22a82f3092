//! JSON Lines files that an interrupted run leaves and the next one continues.

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use super::{
    Failure,
    models::leaves,
    output::{failed_at, is_stdio, print, replace},
};
use crate::{bundle::Bundle, config::Config};

/// Field of a row that holds the settings it was made with.
const SETTINGS: &str = "settings";

/// File of rows about photographs, open at its end; or standard output.
#[derive(Debug)]
pub(crate) struct LineFile {
    /// `None` is standard output.
    file: Option<File>,
    path: PathBuf,
    settings: Value,
}

impl LineFile {
    /// Opens a file and returns the rows that need not be made again. A torn last line, which a
    /// killed run leaves, and rows with an error are dropped.
    ///
    /// # Errors
    /// If the file holds something else, or rows made with other settings, and `overwrite` is not
    /// set; if another process is writing it.
    pub(crate) fn open(
        path: &Path,
        overwrite: bool,
        settings: Value,
    ) -> Result<(Self, Vec<Value>), Failure> {
        let new = |file| Self {
            file,
            path: path.to_owned(),
            settings: settings.clone(),
        };
        if is_stdio(path) {
            return Ok((new(None), Vec::new()));
        }
        if path.is_dir() {
            return Err(Failure::Misused(format!(
                "{} is a folder; name a file, such as {}",
                path.display(),
                path.join("captions.jsonl").display()
            )));
        }
        if path.exists() && !path.is_file() {
            let file = File::options()
                .append(true)
                .open(path)
                .map_err(failed_at(path))?;
            return Ok((new(Some(file)), Vec::new()));
        }
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map_err(failed_at(path))
        };
        let mut file = open()?;
        let mut text = Vec::new();
        lock(&file, path)?;
        if overwrite {
            file.set_len(0).map_err(failed_at(path))?;
        } else {
            file.read_to_end(&mut text).map_err(failed_at(path))?;
        }
        // Settings are compared after a round trip, which may change the last digit of a number.
        let as_read: Value =
            serde_json::from_str(&settings.to_string()).map_err(Failure::failed)?;
        let Rows { rows, good } = read(&text, &as_read)
            .map_err(|why| Failure::Misused(format!("{}{why}", path.display())))?;
        if good != text {
            replace(path, &good).map_err(failed_at(path))?;
            file = open()?;
            lock(&file, path)?;
        }
        file.seek(SeekFrom::End(0)).map_err(failed_at(path))?;
        Ok((new(Some(file)), rows))
    }

    /// Appends a row.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn push(&mut self, mut row: Value) -> Result<(), Failure> {
        row[SETTINGS] = self.settings.clone();
        match &mut self.file {
            // One write per row, so that a killed run tears at most the last line.
            Some(file) => file
                .write_all(format!("{row}\n").as_bytes())
                .map_err(failed_at(&self.path)),
            None => print(row),
        }
    }

    /// Returns `true` if a later run can continue the file.
    pub(crate) fn is_resumable(&self) -> bool {
        self.file.is_some() && fs::metadata(&self.path).is_ok_and(|file| file.is_file())
    }
}

fn lock(file: &File, path: &Path) -> Result<(), Failure> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Failure::Failed(format!(
            "{} is being written by another run",
            path.display()
        ))),
        // Not every file system has locks.
        _ => Ok(()),
    }
}

struct Rows {
    rows: Vec<Value>,
    /// Text of those rows.
    good: Vec<u8>,
}

fn read(text: &[u8], settings: &Value) -> Result<Rows, String> {
    let (mut rows, mut good) = (Vec::new(), Vec::with_capacity(text.len()));
    let mut lines = text.split(|&b| b == b'\n').enumerate().peekable();
    while let Some((i, line)) = lines.next() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let row = serde_json::from_slice::<Value>(line)
            .ok()
            .filter(|row| row.is_object());
        let Some(row) = row else {
            // The last line, without a line end, of a run that was killed.
            if lines.peek().is_none() && (i > 0 || line.starts_with(b"{")) {
                break;
            }
            return Err(format!(
                ":{}: is not a line of captions; --overwrite replaces the file",
                i + 1
            ));
        };
        if row["image"].is_null() && row["image_id"].is_null() {
            return Err(format!(
                ":{}: is not a caption: it names no image; --overwrite replaces the file",
                i + 1
            ));
        }
        let failed = !row["error"].is_null() && row["caption"].is_null();
        if failed {
            continue;
        }
        if row[SETTINGS] != *settings {
            return Err(format!(
                ":{}: {}; --overwrite replaces the file",
                i + 1,
                difference(&row[SETTINGS], settings)
            ));
        }
        good.extend_from_slice(line);
        good.push(b'\n');
        rows.push(row);
    }
    Ok(Rows { rows, good })
}

/// Describes the differences between the settings of a row and those of this run.
fn difference(there: &Value, here: &Value) -> String {
    let Some(there) = there.as_object() else {
        return "does not record its settings, so this run cannot continue it".to_owned();
    };
    let nothing = Map::new();
    let here = here.as_object().unwrap_or(&nothing);
    let shown = |value: Option<&Value>| match value {
        None => "the default".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let mut keys: Vec<&String> = there
        .keys()
        .chain(here.keys())
        .filter(|key| there.get(*key) != here.get(*key))
        .collect();
    keys.sort();
    keys.dedup();
    let parts = keys.iter().map(|key| {
        format!(
            "{key} is {} there and {} here",
            shown(there.get(*key)),
            shown(here.get(*key))
        )
    });
    format!(
        "was made with other settings: {}",
        parts.collect::<Vec<_>>().join(", ")
    )
}

/// Settings that affect answers, by name: the model, and every value of configuration and request
/// that is not the default.
///
/// # Errors
/// If there is no such model.
pub(crate) fn settings(config: &Config, request: &Value) -> Result<Value, Failure> {
    let bundle = Bundle::describe(&config.model.name).map_err(Failure::failed)?;
    let parts = |config: &Config| {
        leaves(
            &json!({ "guard": config.guard, "generation": config.generation,
                "model": { "reward": config.model.reward },
                "engine": { "context_len": config.engine.context_len } }),
        )
    };
    let defaults = parts(&Config::default());
    let mut all: Map<String, Value> = parts(config)
        .into_iter()
        .filter(|(key, value)| defaults.get(key) != Some(value))
        .collect();
    all.insert("guard.mode".into(), json!(config.guard.mode));
    // An empty object is a leaf without a name.
    all.extend(
        leaves(request)
            .into_iter()
            .filter(|(key, _)| !key.is_empty()),
    );
    all.insert(
        "model".into(),
        format!("{} {}", bundle.name, bundle.version).into(),
    );
    Ok(all.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn here() -> Value {
        json!({ "model": "m 1", "guard.mode": "flag" })
    }

    fn row(image: &str) -> Value {
        json!({ "image": image, "caption": "A dog.\n", "settings": here() })
    }

    #[test]
    fn file_of_an_interrupted_run_is_continued_without_torn_and_failed_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.jsonl");
        let failed =
            json!({ "image": "b.jpg", "error": "no photograph", "settings": { "model": "m 0" } });
        fs::write(
            &path,
            format!(
                "{}\n{failed}\n{}\n{{\"image\": \"d.jp",
                row("a.jpg"),
                row("c.jpg")
            ),
        )
        .unwrap();
        let (mut lines, rows) = LineFile::open(&path, false, here()).unwrap();
        assert_eq!(rows, [row("a.jpg"), row("c.jpg")]);
        assert!(matches!(LineFile::open(&path, false, here()),
                Err(Failure::Failed(why)) if why.contains("another run")));
        lines
            .push(json!({ "image": "b.jpg", "caption": "A dog.\n" }))
            .unwrap();
        drop(lines);
        let want: String = ["a.jpg", "c.jpg", "b.jpg"]
            .map(|name| format!("{}\n", row(name)))
            .concat();
        assert_eq!(fs::read_to_string(&path).unwrap(), want);
        let (_, rows) = LineFile::open(&path, true, here()).unwrap();
        assert_eq!(
            (rows.len(), fs::read(&path).unwrap().len()),
            (0, 0),
            "it was told to"
        );
    }

    #[test]
    fn file_with_other_content_or_settings_is_refused_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.jsonl");
        let other = json!({ "image": "a.jpg", "caption": "x",
            "settings": { "model": "m 2", "guard.mode": "flag", "seed": 3 } });
        for (text, want) in [
            ("notes\n".to_owned(), "c.jsonl:1: is not a line of captions"),
            (
                "my diary, without a line end".to_owned(),
                "c.jsonl:1: is not a line of captions",
            ),
            ("[1, 2]\n".to_owned(), "c.jsonl:1: is not a line"),
            (
                format!("{}\n{{\"x\": 1}}\n", row("a.jpg")),
                "c.jsonl:2: is not a caption",
            ),
            (
                format!("{}\ntorn in the midd\n{}\n", row("a.jpg"), row("b.jpg")),
                "c.jsonl:2: is not a line",
            ),
            (
                "{\"image\": \"a.jpg\", \"caption\": \"x\"}\n".to_owned(),
                "does not record its settings",
            ),
            (
                format!("{other}\n"),
                "model is m 2 there and m 1 here, seed is 3 there and the default here",
            ),
        ] {
            fs::write(&path, &text).unwrap();
            let Err(Failure::Misused(error)) = LineFile::open(&path, false, here()) else {
                panic!("{text}")
            };
            assert!(
                error.contains(want) && error.contains("--overwrite"),
                "{error}"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), text, "nothing is lost");
        }
        assert!(matches!(LineFile::open(dir.path(), false, here()),
                Err(Failure::Misused(why)) if why.contains("is a folder")));
    }

    proptest! {
        #[test]
        fn file_cut_anywhere_keeps_its_whole_lines(count in 1usize..5, cut in 0.0f64..1.0) {
            let lines: Vec<String> = (0..count).map(|i| format!("{}\n", row(&format!("{i}é.jpg"))))
                .collect();
            let text = lines.concat().into_bytes();
            let cut = (cut * text.len() as f64) as usize;
            let read = read(&text[..cut], &here()).unwrap();
            // A line that lacks only its line end is whole.
            let whole = (0..=count).rev().find(|&n| lines[..n].concat().trim_end().len() <= cut)
                .unwrap();
            prop_assert_eq!(read.rows.len(), whole);
            prop_assert_eq!(read.good, lines[..whole].concat().into_bytes());
        }
    }
}
