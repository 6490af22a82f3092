//! `candor models diff`

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::versions::RegistryArgs;
use crate::{
    cli::Failure,
    registry::{Registry, Version},
};

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// Id of a version, or its beginning
    #[arg(value_name = "A")]
    first: String,

    /// Id of the version to compare it with, or its beginning
    #[arg(value_name = "B")]
    second: String,

    #[command(flatten)]
    registry: RegistryArgs,
}

/// A value in both versions; `null` where a version lacks it.
#[derive(Debug, PartialEq, Serialize)]
struct Pair<T> {
    a: Option<T>,
    b: Option<T>,
}

/// Differences between two versions.
#[derive(Debug, Serialize)]
struct VersionDiff {
    a: String,
    b: String,
    /// All figures of either version.
    figures: BTreeMap<String, Pair<f64>>,
    /// SHA-256 of the files that differ.
    files: BTreeMap<String, Pair<String>>,
    /// Values of `config.json` that differ, by dotted path.
    config: BTreeMap<String, Pair<Value>>,
}

pub(super) fn run(args: &DiffArgs) -> Result<(), Failure> {
    let registry = args.registry.open()?;
    let version = |id: &str| registry.get(id).map_err(Failure::failed);
    let (a, b) = (version(&args.first)?, version(&args.second)?);
    let (config_a, config_b) = (config(&registry, &a)?, config(&registry, &b)?);
    let hashes = |version: &Version| {
        version
            .files
            .iter()
            .map(|(name, file)| (name.clone(), file.sha256.clone()))
            .collect()
    };
    let mut files = pairs(hashes(&a), hashes(&b));
    files.retain(|_, pair| pair.a != pair.b);
    let mut config = pairs(leaves(&config_a), leaves(&config_b));
    config.retain(|_, pair| pair.a != pair.b);
    let difference = VersionDiff {
        figures: pairs(a.figures, b.figures),
        files,
        config,
        a: a.id,
        b: b.id,
    };
    args.registry
        .print(&json!(difference), || text(&difference))
}

fn config(registry: &Registry, version: &Version) -> Result<Value, Failure> {
    let path = registry.bundle_dir(version).join("config.json");
    let wrong = |e: &dyn std::fmt::Display| Failure::Failed(format!("{}: {e}", path.display()));
    serde_json::from_slice(&fs::read(&path).map_err(|e| wrong(&e))?).map_err(|e| wrong(&e))
}

fn pairs<T>(mut a: BTreeMap<String, T>, mut b: BTreeMap<String, T>) -> BTreeMap<String, Pair<T>> {
    let names: BTreeSet<String> = a.keys().chain(b.keys()).cloned().collect();
    let pair = |name: String| {
        let pair = Pair {
            a: a.remove(&name),
            b: b.remove(&name),
        };
        (name, pair)
    };
    names.into_iter().map(pair).collect()
}

/// Leaves of a JSON document by dotted path.
pub(in crate::cli) fn leaves(value: &Value) -> BTreeMap<String, Value> {
    fn walk(value: &Value, path: &str, into: &mut BTreeMap<String, Value>) {
        let below = |key: &dyn std::fmt::Display| {
            if path.is_empty() {
                key.to_string()
            } else {
                format!("{path}.{key}")
            }
        };
        match value {
            Value::Object(fields) if !fields.is_empty() => fields
                .iter()
                .for_each(|(key, value)| walk(value, &below(key), into)),
            Value::Array(items) if !items.is_empty() => items
                .iter()
                .enumerate()
                .for_each(|(i, value)| walk(value, &below(&i), into)),
            leaf => drop(into.insert(path.to_owned(), leaf.clone())),
        }
    }
    let mut into = BTreeMap::new();
    walk(value, "", &mut into);
    into
}

fn text(difference: &VersionDiff) -> String {
    let VersionDiff {
        a,
        b,
        figures,
        files,
        config,
    } = difference;
    let mut out = format!("a  {a}\nb  {b}\n");
    let width = figures.keys().map(String::len).max().unwrap_or(0);
    if !figures.is_empty() {
        out += &format!("\n{:width$} {:>12} {:>12} {:>12}\n", "", "a", "b", "b - a");
    }
    for (name, Pair { a, b }) in figures {
        let shown = |value: &Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
        };
        let by = a
            .zip(*b)
            .map_or_else(String::new, |(a, b)| format!("{:+.4}", b - a));
        out += &format!("{name:width$} {:>12} {:>12} {by:>12}\n", shown(a), shown(b));
    }
    out += if files.is_empty() {
        "\nall files are the same\n"
    } else {
        "\nfiles that differ\n"
    };
    for (name, Pair { a, b }) in files {
        let shown = |hash: &Option<String>| {
            hash.as_deref()
                .map_or("none", |hash| hash.get(..12).unwrap_or(hash))
                .to_owned()
        };
        out += &format!("  {name}: {} -> {}\n", shown(a), shown(b));
    }
    if !config.is_empty() {
        out += "\nconfig.json\n";
    }
    for (path, Pair { a, b }) in config {
        let shown = |value: &Option<Value>| {
            value
                .as_ref()
                .map_or_else(|| "none".to_owned(), Value::to_string)
        };
        out += &format!("  {path}: {} -> {}\n", shown(a), shown(b));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diff_shows_only_differing_values() {
        let (a, b) = (
            json!({"x": {"y": [1, 2]}, "same": null}),
            json!({"x": {"y": [1, 3], "new": {}}, "same": null}),
        );
        let mut config = pairs(leaves(&a), leaves(&b));
        config.retain(|_, pair| pair.a != pair.b);
        let paths: Vec<&str> = config.keys().map(String::as_str).collect();
        assert_eq!(paths, ["x.new", "x.y.1"]);
        let figures = pairs(
            [("chair_i".to_owned(), 0.25)].into(),
            [("chair_i".to_owned(), 0.125), ("bleu_4".to_owned(), 0.5)].into(),
        );
        let shown = text(&VersionDiff {
            a: "one".to_owned(),
            b: "two".to_owned(),
            figures,
            files: BTreeMap::new(),
            config,
        });
        let line = |start: &str| {
            shown
                .lines()
                .find(|line| line.trim().starts_with(start))
                .unwrap()
                .split_whitespace()
                .collect::<Vec<_>>()
        };
        assert_eq!(line("chair_i"), ["chair_i", "0.2500", "0.1250", "-0.1250"]);
        assert_eq!(line("bleu_4"), ["bleu_4", "-", "0.5000"]);
        assert_eq!(line("x.y.1"), ["x.y.1:", "2", "->", "3"]);
        assert!(shown.contains("all files are the same"));
    }
}
