//! One key given as it is, in the environment or in a file, as containers are given secrets.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
};

use super::{ApiKey, Config, ConfigProblem, ConfigProblems, KeyScope, KeyScopes, keys};

/// The environment variable that holds a key.
pub const API_KEY: &str = "CANDOR_API_KEY";
/// The name of the key that is given so.
const NAME: &str = "default";
/// Fewest characters of such a key: 16 drawn by chance are not guessed.
const MIN_CHARS: usize = 16;
/// Most bytes of its file.
const MAX_BYTES: u64 = 4096;

impl Config {
    /// Adds the key of the variable [`API_KEY`], given here by its value, or of the file
    /// `server.key_file`. Its name is `default`, and it has all scopes but `admin`. An empty
    /// variable is none.
    ///
    /// # Errors
    /// When there are both, the file cannot be read, it is no key or a weak one, or `keys` has one
    /// of that name.
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

/// Returns the key, if it can stand in a header and is not easily guessed.
fn check(key: &[u8]) -> Result<&str, &'static str> {
    if key.is_empty() {
        return Err("the key is empty; `candor keys new` makes one");
    }
    let text = std::str::from_utf8(key).ok().filter(|text| {
        text.len() as u64 <= MAX_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic())
    });
    let text = text.ok_or(
        "this must be one key alone, of ASCII characters without spaces; `candor \
                           keys new` makes one",
    )?;
    if text.len() < MIN_CHARS {
        return Err(
            "the key must have at least 16 characters, drawn by chance; `candor keys new` makes \
             one",
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
    fn a_key_of_the_environment_or_of_a_file_is_one_key() {
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
    fn what_is_no_key_is_named_and_never_repeated() {
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
                .contains("one key alone")
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
