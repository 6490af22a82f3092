//! Loading of the configuration's layers, which reports all problems at once.

use std::{fmt, path::Path};

use figment::{
    Figment, Metadata, Profile, Provider,
    error::Kind,
    providers::{Format, Serialized, Toml},
    value::{Dict, Map, Value},
};

use super::{Config, check::check};

/// Option given on the command line.
#[derive(Debug, Clone)]
pub struct ConfigFlag {
    /// Flag, such as `--listen`.
    pub name: &'static str,
    /// Option that it sets, such as `server.listen`.
    pub key: &'static str,
    /// Value as text.
    pub value: String,
}

/// Problem with one option.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ConfigProblem {
    /// Option; empty if the file as a whole could not be read.
    pub key: String,
    /// Description of the problem.
    pub what: String,
    /// Source of the value: a file, an environment variable or a flag.
    pub origin: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, what, origin } = self;
        let colon = if key.is_empty() { "" } else { ": " };
        write!(f, "{key}{colon}{what} ({origin})")
    }
}

/// All problems with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ConfigProblems(pub Vec<ConfigProblem>);

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration cannot be used:")?;
        self.0
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigProblems {}

/// Loads the configuration from the file, then the environment variables in `env`, then the flags;
/// later layers override earlier ones.
///
/// Only variables named `CANDOR_SECTION__OPTION` are read. The two underscores keep out what others
/// set for a service named `candor`, such as `CANDOR_PORT` in Kubernetes.
///
/// # Errors
/// Returns every unknown option (with the nearest known one), wrong type and value out of range,
/// each with its source.
pub fn load(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
    flags: &[ConfigFlag],
) -> Result<Config, ConfigProblems> {
    let defaults = Figment::from(Serialized::defaults(Config::default()));
    let mut layers = defaults.clone();
    if let Some(path) = file {
        layers = layers.merge(TomlFile::read(path)?);
    }
    let mut env: Vec<_> = env.into_iter().collect();
    env.sort();
    for (name, value) in env {
        if let Some(key) = name
            .strip_prefix("CANDOR_")
            .filter(|key| key.contains("__"))
        {
            layers = layers.merge(SingleOption::new(
                &defaults,
                key.to_lowercase().replace("__", "."),
                value,
                format!("environment variable {name}"),
            ));
        }
    }
    for ConfigFlag { name, key, value } in flags {
        layers = layers.merge(SingleOption::new(
            &defaults,
            (*key).to_owned(),
            value.clone(),
            format!("flag {name}"),
        ));
    }
    extract(&layers, &defaults)
}

/// Extracts the configuration. An invalid value is recorded and replaced by its default, so that
/// the remaining values are checked too.
fn extract(layers: &Figment, defaults: &Figment) -> Result<Config, ConfigProblems> {
    let broken = |e: figment::Error| {
        ConfigProblems(vec![ConfigProblem {
            key: String::new(),
            what: e.to_string(),
            origin: "internal error".to_owned(),
        }])
    };
    let (mut value, defaults) = (
        layers.extract::<Value>().map_err(broken)?,
        defaults.extract::<Value>().map_err(broken)?,
    );
    let mut problems = Vec::new();
    remove_unknown(layers, &mut value, &defaults, &defaults, "", &mut problems);
    let config = loop {
        let error = match value.deserialize::<Config>() {
            Ok(config) => break config,
            Err(error) => error,
        };
        let what = describe(&error.kind);
        // An element of a list has neither default nor origin; the list has both.
        let depth = (1..=error.path.len())
            .rev()
            .find(|&n| defaults.find_ref(&error.path[..n].join(".")).is_some());
        let path = &error.path[..depth.unwrap_or(0)];
        let key = path.join(".");
        let replaced = defaults
            .find_ref(&key)
            .is_some_and(|default| replace(&mut value, path, default.clone()));
        let known = problems.iter().any(|p: &ConfigProblem| p.key == key);
        if !replaced || known {
            return Err(broken(error));
        }
        problems.push(ConfigProblem {
            origin: origin(layers, &key),
            key,
            what,
        });
    };
    for (key, what) in check(&config) {
        if !problems.iter().any(|p| p.key == key) {
            problems.push(ConfigProblem {
                origin: origin(layers, &key),
                key: key.into_owned(),
                what,
            });
        }
    }
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigProblems(problems))
    }
}

/// Removes unknown options, and options in the place of sections, and records them as problems.
fn remove_unknown(
    layers: &Figment,
    value: &mut Value,
    like: &Value,
    all: &Value,
    path: &str,
    problems: &mut Vec<ConfigProblem>,
) {
    let (Value::Dict(_, dict), Value::Dict(_, known)) = (value, like) else {
        return;
    };
    dict.retain(|key, value| {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let what = match known.get(key) {
            None => unknown_option(key, known, all),
            Some(Value::Dict(..)) if value.as_dict().is_none() => {
                "is a section, not an option".to_owned()
            }
            Some(like) => {
                remove_unknown(layers, value, like, all, &path, problems);
                return true;
            }
        };
        problems.push(ConfigProblem {
            origin: origin(layers, &path),
            key: path,
            what,
        });
        false
    });
}

/// Returns the message about an unknown option: it suggests the nearest option of the section, or
/// the section that has it.
fn unknown_option(key: &str, known: &Dict, all: &Value) -> String {
    let elsewhere = all
        .as_dict()
        .into_iter()
        .flatten()
        .find(|(_, section)| section.as_dict().is_some_and(|s| s.contains_key(key)));
    let hint = match elsewhere {
        Some((section, _)) => Some(format!("{section}.{key}")),
        None => nearest(key, known.keys().map(String::as_str)).map(str::to_owned),
    };
    hint.map_or_else(
        || "unknown option".to_owned(),
        |hint| format!("unknown option; did you mean `{hint}`?"),
    )
}

/// Returns the known name most similar to `name`, if any is similar enough.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|k| (strsim::normalized_damerau_levenshtein(name, k), k));
    scored
        .filter(|(score, _)| *score >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

fn describe(kind: &Kind) -> String {
    match kind {
        Kind::UnknownVariant(given, known) => {
            format!("unknown value `{given}`; it is one of {}", known.join(", "))
        }
        Kind::InvalidType(given, expected) => format!("found {given}, expected {expected}"),
        other => other.to_string(),
    }
}

fn replace(value: &mut Value, path: &[String], with: Value) -> bool {
    let mut at = value;
    for key in path {
        let Value::Dict(_, dict) = at else {
            return false;
        };
        let Some(next) = dict.get_mut(key) else {
            return false;
        };
        at = next;
    }
    *at = with;
    true
}

fn origin(layers: &Figment, key: &str) -> String {
    // A list has one origin for all of its elements.
    let key = key.split('[').next().unwrap_or(key);
    layers
        .find_metadata(key)
        .map_or_else(|| "default".to_owned(), |m| m.name.to_string())
}

/// Configuration file with its path as given.
struct TomlFile {
    origin: String,
    dict: Map<Profile, Dict>,
}

impl TomlFile {
    fn read(path: &Path) -> Result<Self, ConfigProblems> {
        let origin = path.display().to_string();
        let fail = |what: String| {
            ConfigProblems(vec![ConfigProblem {
                key: String::new(),
                what,
                origin: origin.clone(),
            }])
        };
        let text = std::fs::read_to_string(path)
            .map_err(|e| fail(format!("the file cannot be read: {e}")))?;
        let dict = Toml::string(&text)
            .data()
            .map_err(|e| fail(e.to_string().trim_end().to_owned()))?;
        Ok(Self { origin, dict })
    }
}

impl Provider for TomlFile {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(self.dict.clone())
    }
}

/// Single option from the environment or the command line.
struct SingleOption {
    key: String,
    value: Value,
    origin: String,
}

impl SingleOption {
    /// Parses `text` as a number or boolean unless the option takes text, and as a comma-separated
    /// list if it takes a list.
    fn new(defaults: &Figment, key: String, text: String, origin: String) -> Self {
        let takes_text = defaults
            .find_value(&key)
            .is_ok_and(|v| v.as_str().is_some_and(|default| default != "auto"));
        let number = || {
            let integer = text
                .parse::<u64>()
                .map(Value::from)
                .or_else(|_| text.parse::<i64>().map(Value::from))
                .ok();
            integer
                .or_else(|| text.parse::<f64>().map(Value::from).ok())
                .or_else(|| text.parse::<bool>().map(Value::from).ok())
        };
        let takes_list = defaults
            .find_value(&key)
            .is_ok_and(|v| v.as_array().is_some());
        let items = || {
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let value = if takes_list {
            Some(Value::from(items()))
        } else {
            (!takes_text).then(number).flatten()
        };
        Self {
            key,
            value: value.unwrap_or_else(|| Value::from(text)),
            origin,
        }
    }
}

impl Provider for SingleOption {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let nested = figment::util::nest(&self.key, self.value.clone())
            .into_dict()
            .unwrap_or_default();
        Ok(Profile::Default.collect(nested))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Auto, device::DeviceChoice, guard::Mode};

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn problems(text: &str, vars: &[(&str, &str)]) -> Vec<String> {
        let file = file(text);
        let name = file.path().display().to_string();
        let problems = load(Some(file.path()), env(vars), &[]).unwrap_err();
        problems
            .0
            .iter()
            .map(|p| p.to_string().replace(&name, "FILE"))
            .collect()
    }

    #[test]
    fn image_limit_above_the_body_limit_is_refused() {
        let found = problems("[server]\nmax_body_bytes = 20971520\n", &[]);
        let [problem] = &found[..] else {
            panic!("{found:?}")
        };
        assert!(
            problem.contains("images.max_bytes")
                && problem.contains("15728640")
                && problem.contains("20971520"),
            "{problem}"
        );
        let file = file("[server]\nmax_body_bytes = 10000000\n[images]\nmax_bytes = 7000000\n");
        assert!(load(Some(file.path()), env(&[]), &[]).is_ok());
    }

    #[test]
    fn example_file_equals_the_defaults() {
        let example = include_str!("../../config/candor.toml");
        let live: String = example
            .lines()
            .map(|line| {
                line.strip_prefix('#')
                    .filter(|l| !l.starts_with([' ', '#']))
                    .unwrap_or(line)
            })
            .collect::<Vec<_>>()
            .join("\n");
        let given: toml::Value = toml::from_str(&live).unwrap();
        let defaults = toml::Value::try_from(Config::default()).unwrap();
        assert_eq!(given, defaults);
        assert_eq!(
            load(Some(file(&live).path()), env(&[]), &[]).unwrap(),
            Config::default()
        );
        assert_eq!(
            load(Some(file(example).path()), env(&[]), &[]).unwrap(),
            Config::default()
        );
    }

    #[test]
    fn flags_override_environment_and_file() {
        let file = file(
            "[server]\nlisten = '1.1.1.1:1'\nmax_connections = 1\nread_timeout_s = \
             1\n[model]\nname = 'x'\n",
        );
        let vars = env(&[
            ("CANDOR_SERVER__LISTEN", "2.2.2.2:2"),
            ("CANDOR_SERVER__MAX_CONNECTIONS", "2"),
            ("CANDOR_MODEL__NAME", "1.5"),
        ]);
        let flag = ConfigFlag {
            name: "--listen",
            key: "server.listen",
            value: "[::3]:3".to_owned(),
        };
        let device = ConfigFlag {
            name: "--device",
            key: "model.device",
            value: "cuda:1".to_owned(),
        };
        let config = load(Some(file.path()), vars, &[flag, device]).unwrap();
        let server = &config.server;
        assert_eq!(
            (
                server.listen.as_str(),
                server.max_connections,
                server.read_timeout_s
            ),
            ("[::3]:3", 2, 1)
        );
        assert_eq!(
            (config.model.name.as_str(), config.model.device),
            ("1.5", DeviceChoice::Cuda(1))
        );
    }

    #[test]
    fn automatic_options_accept_auto_and_values() {
        let vars = env(&[
            ("CANDOR_MODEL__THREADS", "3"),
            ("CANDOR_GUARD__THRESHOLD", "0.25"),
            ("CANDOR_GUARD__MODE", "score"),
            ("CANDOR_IMAGES__WORKERS", "auto"),
        ]);
        let config = load(None, vars, &[]).unwrap();
        assert_eq!(
            (config.model.threads, config.images.workers),
            (Auto::Value(3), Auto::Auto)
        );
        assert_eq!(
            (config.guard.threshold, config.guard.mode),
            (Auto::Value(0.25), Mode::Score)
        );
    }

    #[test]
    fn lists_are_read_from_arrays_and_comma_separated_variables() {
        let file = file("[fetch]\nallow = ['a:1', 'b:2']\n");
        assert_eq!(
            load(Some(file.path()), env(&[]), &[]).unwrap().fetch.allow,
            ["a:1", "b:2"]
        );
        let config = load(
            Some(file.path()),
            env(&[
                ("CANDOR_FETCH__ALLOW", "c:3, [::1]:4"),
                ("CANDOR_FETCH__ENABLED", "true"),
            ]),
            &[],
        )
        .unwrap();
        assert_eq!(
            (config.fetch.enabled, config.fetch.allow),
            (true, vec!["c:3".to_owned(), "[::1]:4".to_owned()])
        );
        assert!(
            load(Some(file.path()), env(&[("CANDOR_FETCH__ALLOW", "")]), &[])
                .unwrap()
                .fetch
                .allow
                .is_empty()
        );
        assert_eq!(
            problems("[fetch]\nallow = [3]\n", &[]),
            ["fetch.allow: found signed int `3`, expected a string (FILE)"]
        );
        let bad = problems(
            "[fetch]\nallow = ['a:1', 'https://b']\nmax_redirects = 4\n",
            &[],
        );
        let expected = [
            "fetch.max_redirects: must be at most 3 (FILE)",
            "fetch.allow: `https://b` is not HOST:PORT, such as store.internal:443 (FILE)",
        ];
        assert_eq!(bad, expected);
    }

    #[test]
    fn foreign_variables_are_ignored() {
        let vars = env(&[
            ("CANDOR_PORT", "tcp://10.0.0.1:80"),
            ("CANDOR_SERVICE_HOST", "10.0.0.1"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(load(None, vars, &[]).unwrap(), Config::default());
    }

    #[test]
    fn all_problems_are_reported_with_source_and_suggestion() {
        let text = "[server]\nlisten = 'nowhere'\nlisten_on = 'x'\nmax_batch = \
                    3\n[servr]\n[engine]\nmax_batch = 'many'\n[guard]\nmode = 'flags'\n";
        let vars = [
            ("CANDOR_IMAGES__MAX_PIXELS", "lots"),
            ("CANDOR_LOG__FROMAT", "json"),
            ("CANDOR_GENERATION__TEMPERATURE", "9"),
        ];
        let mut found = problems(text, &vars);
        found.sort();
        let expected = [
            "engine.max_batch: found string \"many\", expected usize (FILE)",
            "generation.temperature: must be between 0 and 2 (environment variable \
             CANDOR_GENERATION__TEMPERATURE)",
            "guard.mode: unknown value `flags`; it is one of off, score, flag, regenerate, block \
             (FILE)",
            "images.max_pixels: found string \"lots\", expected u64 (environment variable \
             CANDOR_IMAGES__MAX_PIXELS)",
            "log.fromat: unknown option; did you mean `format`? (environment variable \
             CANDOR_LOG__FROMAT)",
            "server.listen: must be HOST:PORT, such as 127.0.0.1:8080 (FILE)",
            "server.listen_on: unknown option; did you mean `listen`? (FILE)",
            "server.max_batch: unknown option; did you mean `engine.max_batch`? (FILE)",
            "servr: unknown option; did you mean `server`? (FILE)",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn section_given_as_option_is_refused() {
        assert_eq!(
            problems("guard = 'flag'", &[]),
            ["guard: is a section, not an option (FILE)"]
        );
    }

    #[test]
    fn missing_or_malformed_file_is_named() {
        let missing = load(Some(Path::new("no/such.toml")), env(&[]), &[]).unwrap_err();
        assert!(
            missing.to_string().contains("the file cannot be read")
                && missing.to_string().contains("no/such.toml"),
            "{missing}"
        );
        let broken = problems("[server\nlisten = 1", &[]);
        assert!(
            broken[0].contains("line 1") && broken[0].ends_with("(FILE)"),
            "{broken:?}"
        );
    }

    #[test]
    fn invalid_keys_are_named_without_their_digest() {
        let digest = "ab".repeat(32);
        let good = file(&format!(
            "[[keys]]\nname = 'app'\nkey_sha256 = '{digest}'\nmode = 'score'\nthreshold = 0.5\n"
        ));
        let config = load(Some(good.path()), env(&[]), &[]).unwrap();
        let guard = config.keys[0].guard(&config.guard);
        assert_eq!(
            (config.keys[0].digest(), guard.mode, guard.threshold),
            (Some([0xAB; 32]), Mode::Score, Auto::Value(0.5))
        );
        let key = |name: &str, rest: &str| format!("[[keys]]\nname = '{name}'\n{rest}\n");
        let text = [
            key("a", &format!("key_sha256 = '{digest}'\nthreshold = 2.0")),
            key("a", "key_sha256 = 'sk-secret'\nmode = 'block'"),
            key(
                "",
                &format!(
                    "key_sha256 = '{}'\nthreshold = 0.5\ntarget_fpr = 0.1",
                    digest.to_uppercase()
                ),
            ),
        ];
        let expected = [
            "keys[0].threshold: must be between 0 and 1, or \"auto\" (key `a`) (FILE)",
            "keys[1].name: must not be that of another key (key `a`) (FILE)",
            "keys[1].key_sha256: must be the 64 hex digits of the key's SHA-256 (key `a`) (FILE)",
            "keys[2].name: must not be empty (key ``) (FILE)",
            "keys[2].key_sha256: must not be that of another key (key ``) (FILE)",
            "keys[2].target_fpr: cannot be given together with threshold (key ``) (FILE)",
        ];
        assert_eq!(problems(&text.concat(), &[]), expected);
        let misspelt = problems("[[keys]]\nnmae = 'x'\n[server]\nlisten = 'nowhere'\n", &[]);
        assert!(
            misspelt.len() == 2 && misspelt[0].starts_with("keys") && misspelt[0].contains("nmae"),
            "{misspelt:?}"
        );
        let wrong = problems("keys = 'sk-secret'\n", &[]);
        assert!(
            wrong.len() == 1 && wrong[0].starts_with("keys: "),
            "{wrong:?}"
        );
    }

    #[test]
    fn limits_are_bounded_and_overridden_by_keys() {
        let found = problems(
            "[limits]\nmax_choices = 129\ntokens_per_minute = 1000000001\n",
            &[],
        );
        let expected = [
            "limits.max_choices: must be at most 128 (FILE)",
            "limits.tokens_per_minute: must be at most 1000000000 (FILE)",
        ];
        assert_eq!(found, expected);
        assert_eq!(
            problems("[limits]\nmax_choices = 0\n", &[]),
            ["limits.max_choices: must be at least 1 (FILE)"]
        );
        let key = format!("[[keys]]\nname = 'a'\nkey_sha256 = '{}'\n", "ab".repeat(32));
        let own = file(&format!("{key}requests_per_minute = 60\n"));
        let config = load(
            Some(own.path()),
            env(&[("CANDOR_LIMITS__TOKENS_PER_MINUTE", "500")]),
            &[],
        )
        .unwrap();
        assert_eq!(
            (
                config.keys[0].requests_per_minute,
                config.keys[0].tokens_per_minute
            ),
            (Auto::Value(60), Auto::Auto)
        );
        assert_eq!(
            (
                config.limits.requests_per_minute,
                config.limits.tokens_per_minute
            ),
            (0, 500)
        );
        let wrong = problems(&format!("{key}tokens_per_minute = 1000000001\n"), &[]);
        assert_eq!(
            wrong,
            ["keys[0].tokens_per_minute: must be at most 1000000000 (key `a`) (FILE)"]
        );
    }

    #[test]
    fn two_thresholds_are_refused() {
        let found = problems("[guard]\nthreshold = 0.5\ntarget_fpr = 0.05\n", &[]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("guard.target_fpr: cannot be given together"),
            "{found:?}"
        );
    }
}
