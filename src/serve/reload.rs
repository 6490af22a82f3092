//! Configuration changes at run time: API keys, rate limits and log level.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;

use super::{app::App, audit::AuditEntry, auth::Access, served::check_guards};
use crate::{
    config::{ApiKey, Config, ConfigProblems, LimitsSection, LogSection},
    telemetry::LogLevel,
};

/// Applies a changed configuration, as far as possible without a restart.
pub struct Reloader {
    app: Arc<App>,
    level: LogLevel,
    /// Configuration in force.
    current: Mutex<Config>,
}

impl Reloader {
    pub(super) fn new(app: &Arc<App>, level: LogLevel) -> Self {
        Self {
            app: Arc::clone(app),
            level,
            current: Mutex::new(app.config.clone()),
        }
    }

    /// Applies the keys, rate limits and log level of `read`, unless that would expose a server
    /// without keys, and logs changes, including those that need a restart. An invalid
    /// configuration is logged and changes nothing.
    pub fn reload(&self, read: Result<Config, ConfigProblems>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let new = match read {
            Ok(new) => new,
            Err(ConfigProblems(problems)) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                return self.refuse(&problems.join("; "));
            }
        };
        let log = LogSection {
            level: new.log.level.clone(),
            ..current.log.clone()
        };
        let limits = LimitsSection {
            max_choices: current.limits.max_choices,
            ..new.limits.clone()
        };
        let mut next = Config {
            keys: new.keys.clone(),
            admin: new.admin.clone(),
            limits,
            log,
            ..current.clone()
        };
        (next.server.insecure, next.server.key_file) =
            (new.server.insecure, new.server.key_file.clone());
        if let Err(error) = next.check_exposure() {
            return self.refuse(&error.to_string());
        }
        if let Err(error) = check_guards(&next, &self.app.served().bundle) {
            return self.refuse(&error.to_string());
        }
        let applied: Vec<String> = changed_options(&current, &next)
            .into_iter()
            .map(|name| {
                if name == "keys" {
                    format!("keys ({})", changed_keys(&current.keys, &next.keys))
                } else {
                    name
                }
            })
            .collect();
        let restart = changed_options(&next, &new).join(", ");
        let log_changes = || {
            if applied.is_empty() {
                tracing::info!(
                    "the configuration was reloaded: nothing has changed that can be applied \
                     without a restart"
                );
            } else {
                tracing::info!(
                    changed = applied.join(", "),
                    "the configuration was reloaded"
                );
            }
            if !restart.is_empty() {
                tracing::warn!(options = restart, "changed options need a restart");
            }
            if next.keys.is_empty() && !current.keys.is_empty() {
                tracing::warn!("no API keys are configured any more: anybody may use the API");
            }
        };
        // Logged while the level permits it, whether it rises or falls.
        let logs = tracing::enabled!(tracing::Level::INFO);
        if logs {
            log_changes();
        }
        self.app.set_access(Access::new(&next));
        self.app.limits.set_rates(&next);
        if let Err(error) = self.level.set(&next.log.level) {
            tracing::error!(error, "the log level cannot be changed");
        }
        if !logs {
            log_changes();
        }
        self.app.metrics.count_reload("applied");
        self.audit("applied", Some(applied.join(", ")));
        *current = next;
    }

    fn audit(&self, outcome: &str, changed: Option<String>) {
        if let Some(log) = &self.app.audit {
            log.write(&AuditEntry::reload(outcome, changed));
        }
    }

    fn refuse(&self, why: &str) {
        self.app.metrics.count_reload("refused");
        self.audit("refused", None);
        tracing::error!(
            why,
            "the configuration cannot be reloaded; the old one stays in force"
        );
    }
}

/// Returns the names of configuration keys that differ.
fn changed_options(old: &Config, new: &Config) -> Vec<String> {
    let value = |config: &Config| serde_json::to_value(config).unwrap_or_default();
    let mut names = Vec::new();
    collect_changes(&value(old), &value(new), "", &mut names);
    names
}

fn collect_changes(old: &Value, new: &Value, path: &str, names: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in new {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                collect_changes(old.get(name).unwrap_or(&Value::Null), value, &path, names);
            }
        }
        _ if old != new => names.push(path.to_owned()),
        _ => {}
    }
}

/// Describes API keys that were added, removed or changed.
fn changed_keys(old: &[ApiKey], new: &[ApiKey]) -> String {
    let names = |keys: &[ApiKey]| {
        keys.iter()
            .map(|key| key.name.clone())
            .collect::<BTreeSet<_>>()
    };
    let (before, after) = (names(old), names(new));
    let differs = |name: &&String| {
        old.iter().find(|key| key.name == **name) != new.iter().find(|key| key.name == **name)
    };
    let list = |what: &str, names: Vec<&String>| {
        let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
        (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")))
    };
    let parts = [
        list("added", after.difference(&before).collect()),
        list("removed", before.difference(&after).collect()),
        list(
            "changed",
            before.intersection(&after).filter(differs).collect(),
        ),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() {
        "in another order".to_owned()
    } else {
        parts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, digit: &str) -> ApiKey {
        ApiKey {
            name: name.to_owned(),
            key_sha256: digit.repeat(64),
            ..ApiKey::default()
        }
    }

    #[test]
    fn changes_are_reported_without_values() {
        let old = Config::default();
        let mut new = old.clone();
        new.server.max_concurrent = 7;
        new.guard.thresholds.object = crate::config::Auto::Value(0.5);
        new.keys = vec![key("app", "a")];
        assert_eq!(
            changed_options(&old, &new),
            ["guard.thresholds.object", "keys", "server.max_concurrent"]
        );
        assert!(changed_options(&new, &new).is_empty());
    }

    #[test]
    fn keys_are_listed_as_added_removed_or_changed() {
        let (old, new) = (
            [key("a", "1"), key("b", "2"), key("c", "3")],
            [key("d", "4"), key("c", "3"), key("b", "5")],
        );
        assert_eq!(changed_keys(&old, &new), "added d; removed a; changed b");
        assert_eq!(changed_keys(&old[..1], &[]), "removed a");
        assert_eq!(
            changed_keys(
                &[key("a", "1"), key("b", "2")],
                &[key("b", "2"), key("a", "1")]
            ),
            "in another order"
        );
    }
}
