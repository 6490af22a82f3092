//! A single API key in plain text, from the environment or a file, as container secrets are passed.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
};

use super::{ApiKey, Config, ConfigProblem, ConfigProblems, KeyScope, KeyScopes, keys};

/// Environment variable that holds the key.
pub const API_KEY: &str = "CANDOR_API_KEY";
/// Name of the key.
const NAME: &str = "default";
/// Minimum length in characters: 16 random ones cannot be guessed.
const MIN_CHARS: usize = 16;
/// Maximum size in bytes of the key's file.
const MAX_BYTES: u64 = 4096;

impl Config {
    /// Adds the key in `variable` (the value of [`API_KEY`]) or in the file `server.key_file`,
    /// named `default` and with all scopes but `admin`. An empty variable is ignored.
    ///
    /// # Errors
    /// Returns an error if both are given, the file cannot be read, the key is malformed or too
    /// short, or `keys` already has a key named `default`.
    pub fn add_api_key(&mut self, variable: Option<&OsStr>) -> Result<(), ConfigProblems> {
        let variable = variable.filter(|value| !value.is_empty());
        let file = Some(self.server.key_file.as_str()).filter(|file| *file != "off");
        let fail = |what: &str, origin: String| {
            Err(ConfigProblems(vec![ConfigProblem {
                key: String::new(),
                what: what.to_owned(),
                origin,
            }]))
        };
        let (text, origin) = match (variable, file) {
            (None, None) => return Ok(()),
            (Some(_), Some(file)) => {
                return fail(
                    "two keys are given; give one",
                    format!("environment variable {API_KEY} and {file}"),
                );
            }
            (Some(value), None) => (
                value.as_encoded_bytes().to_vec(),
                format!("environment variable {API_KEY}"),
            ),
            (None, Some(file)) => match read(file) {
                Ok(text) => (text, file.to_owned()),
                Err(error) => {
                    return fail(
                        &format!("the file cannot be read: {error}"),
                        file.to_owned(),
                    );
                }
            },
        };
        let secret = match check(text.trim_ascii()) {
            Ok(secret) => secret,
            Err(what) => return fail(what, origin),
        };
        let scopes = KeyScopes::new(
            KeyScope::ALL
                .into_iter()
                .filter(|&scope| scope != KeyScope::Admin),
        );
        self.keys.push(ApiKey {
            scopes,
            ..ApiKey::new(NAME, secret)
        });
        let problems = keys::check(&self.keys)
            .into_iter()
            .map(|(key, what)| ConfigProblem {
                key,
                what,
                origin: origin.clone(),
            });
        let problems: Vec<_> = problems.collect();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigProblems(problems))
        }
    }
}

fn read(file: &str) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(file)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut text)?;
    Ok(text)
}

/// Returns the key if it fits into an HTTP header and is long enough.
fn check(key: &[u8]) -> Result<&str, &'static str> {
    if key.is_empty() {
        return Err("the key is empty; `candor keys new` makes one");
    }
    let text = std::str::from_utf8(key).ok().filter(|text| {
        text.len() as u64 <= MAX_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic())
    });
    let text = text.ok_or(
        "must be a single key of ASCII characters without spaces; `candor keys new` makes one",
    )?;
    if text.len() < MIN_CHARS {
        return Err(
            "the key must have at least 16 characters; `candor keys new` makes a random one",
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "candor-0123456789abcdef";

    fn with(variable: Option<&str>, file: Option<&[u8]>) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        if let Some(text) = file {
            let path = folder.path().join("key");
            std::fs::write(&path, text).unwrap();
            config.server.key_file = path.display().to_string();
        }
        let added = config.add_api_key(variable.map(OsStr::new));
        added
            .map(|()| config)
            .map_err(|problems| problems.to_string())
    }

    #[test]
    fn key_from_environment_or_file_is_added() {
        let expected = ApiKey::new("default", SECRET).digest();
        let line = format!("{SECRET}\r\n");
        for config in [
            with(Some(SECRET), None),
            with(None, Some(SECRET.as_bytes())),
            with(None, Some(line.as_bytes())),
        ] {
            let config = config.unwrap();
            let [key] = &config.keys[..] else {
                panic!("{:?}", config.keys.len())
            };
            assert_eq!(
                (key.name.as_str(), key.owner(), key.digest()),
                ("default", "default", expected)
            );
            let names: Vec<_> = KeyScope::ALL
                .into_iter()
                .filter(|&scope| key.scopes.contains(scope))
                .map(KeyScope::name)
                .collect();
            assert_eq!(
                names,
                [
                    "complete",
                    "score",
                    "feedback:write",
                    "feedback:read",
                    "annotate"
                ]
            );
        }
        for nothing in [with(None, None), with(Some(""), None)] {
            assert_eq!(nothing, Ok(Config::default()));
        }
    }

    #[test]
    fn invalid_key_is_refused_and_never_repeated() {
        let long = "k".repeat(5000);
        let (two, cases) = (
            format!("{SECRET}\n{SECRET}"),
            ["short-secret", "clé-0123456789abcdef", "\0\0\0"],
        );
        for bad in cases.into_iter().chain([two.as_str(), long.as_str()]) {
            for error in [
                with(Some(bad), None).unwrap_err(),
                with(None, Some(bad.as_bytes())).unwrap_err(),
            ] {
                assert!(
                    error.contains("candor keys new")
                        && !error.contains(bad)
                        && !error.contains("0123456789"),
                    "{error}"
                );
            }
        }
        assert!(with(None, Some(b"\n")).unwrap_err().contains("is empty"));
        assert!(
            with(None, Some(b"\xff\xfe0123456789abcdef"))
                .unwrap_err()
                .contains("a single key")
        );
        assert!(
            with(Some(SECRET), Some(SECRET.as_bytes()))
                .unwrap_err()
                .contains("two keys are given")
        );
        let mut config = Config::default();
        config.server.key_file = "no/such/key".to_owned();
        let missing = config.add_api_key(None).unwrap_err().to_string();
        assert!(
            missing.contains("no/such/key") && missing.contains("cannot be read"),
            "{missing}"
        );
        config.server.key_file = "off".to_owned();
        config.keys = vec![ApiKey::new("default", "another-secret-of-length")];
        let taken = config
            .add_api_key(Some(OsStr::new(SECRET)))
            .unwrap_err()
            .to_string();
        assert!(
            taken.contains("keys[1].name") && taken.contains(API_KEY) && !taken.contains(SECRET),
            "{taken}"
        );
    }
}
