//! Files of a repository that a model is loaded from.
//!
//! They are JSON, a chat template, safetensors and GGUF. Pickled weights and code are never read.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{HubError, RepoId};

const CONFIG: &str = "config.json";
/// List of the tensors of several safetensors files.
pub(super) const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// What a repository may say about its model, by file name.
const DESCRIPTIONS: [&str; 10] = [
    CONFIG,
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Returns the names of the files that are taken from every repository that has them.
pub(super) fn fixed_names() -> impl Iterator<Item = &'static str> {
    DESCRIPTIONS.into_iter().chain([INDEX])
}

/// Returns `true` for safetensors and GGUF.
pub(super) fn holds_weights(name: &str) -> bool {
    name.ends_with(".safetensors") || is_gguf(name)
}

fn is_gguf(name: &str) -> bool {
    name.ends_with(".gguf")
}

/// Returns `true` for the vision tower and projector beside a GGUF text model.
fn is_projector(name: &str) -> bool {
    is_gguf(name) && name.contains("mmproj")
}

/// Returns the files at the top of a repository, refusing names that are no relative paths.
///
/// # Errors
/// When a name could lead out of a folder.
pub(super) fn top_files(
    repo: &RepoId,
    listed: impl IntoIterator<Item = String>,
) -> Result<BTreeSet<String>, HubError> {
    let mut top = BTreeSet::new();
    for name in listed {
        if !is_path_within(&name) {
            return Err(HubError::FileName {
                repo: repo.to_string(),
                name,
            });
        }
        if !name.contains('/') {
            top.insert(name);
        }
    }
    Ok(top)
}

fn is_path_within(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    name.len() <= 1024
        && name.split('/').all(part)
        && !name.contains(|c: char| c.is_control() || c == '\\')
}

/// Chooses the files to load a model from: what describes it first, its weights last. Files that
/// it cannot do without are chosen even if `names` lacks them.
///
/// The weights are the shards that the index names, else `model.safetensors`, else all safetensors;
/// or a GGUF file with its projector, if `gguf` names one or there is nothing else.
/// `read_index` reads the index.
///
/// # Errors
/// When there are no weights, several GGUF files and none is named, or the index is wrong.
pub(super) fn select(
    repo: &RepoId,
    names: &BTreeSet<String>,
    gguf: Option<&str>,
    read_index: impl FnOnce() -> Result<Vec<u8>, HubError>,
) -> Result<Vec<String>, HubError> {
    let mut wanted: Vec<String> = DESCRIPTIONS
        .iter()
        .filter(|&&name| names.contains(name))
        .map(|&name| name.to_owned())
        .collect();
    let safetensors: Vec<&String> = names
        .iter()
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    let indexed = names.contains(INDEX);
    if gguf.is_some() || safetensors.is_empty() && !indexed {
        let chosen = choose_gguf(repo, names, gguf)?;
        wanted.extend(choose_projector(names));
        wanted.push(chosen);
        return Ok(wanted);
    }
    if !names.contains(CONFIG) {
        wanted.push(CONFIG.to_owned());
    }
    if indexed {
        wanted.push(INDEX.to_owned());
        wanted.extend(shards(repo, &read_index()?)?);
    } else if names.contains(SINGLE) {
        wanted.push(SINGLE.to_owned());
    } else {
        wanted.extend(safetensors.into_iter().cloned());
    }
    Ok(wanted)
}

/// Returns the GGUF files of a language model.
pub(super) fn gguf_models(names: &BTreeSet<String>) -> Vec<String> {
    let model = |name: &&String| is_gguf(name) && !is_projector(name);
    names.iter().filter(model).cloned().collect()
}

fn choose_gguf(
    repo: &RepoId,
    names: &BTreeSet<String>,
    named: Option<&str>,
) -> Result<String, HubError> {
    let models = gguf_models(names);
    match (named, models.as_slice()) {
        (Some(name), _) if is_gguf(name) && !is_projector(name) && is_plain(name) => {
            Ok(name.to_owned())
        }
        (None, [one]) => Ok(one.clone()),
        (None, []) => Err(HubError::NoWeights {
            repo: repo.to_string(),
        }),
        (named, _) => Err(HubError::Choice {
            repo: repo.to_string(),
            named: named.map(str::to_owned),
            choices: models,
        }),
    }
}

/// Prefers 16-bit floats among several projectors: they are small beside the model, and their
/// rounding harms most.
fn choose_projector(names: &BTreeSet<String>) -> Option<String> {
    let projectors = || names.iter().filter(|name| is_projector(name));
    let half = |name: &&String| {
        let name = name.to_ascii_lowercase();
        name.contains("f16") && !name.contains("bf16")
    };
    projectors()
        .find(half)
        .or_else(|| projectors().next())
        .cloned()
}

fn is_plain(name: &str) -> bool {
    is_path_within(name) && !name.contains('/') && !name.starts_with('.')
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// Returns the files that an index names.
fn shards(repo: &RepoId, index: &[u8]) -> Result<BTreeSet<String>, HubError> {
    let index: ShardIndex = serde_json::from_slice(index).map_err(|error| HubError::Malformed {
        repo: repo.to_string(),
        what: INDEX.to_owned(),
        why: error.to_string(),
    })?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    let wrong = |name: &&String| !is_plain(name) || !name.ends_with(".safetensors");
    match shards.iter().find(wrong) {
        Some(name) => Err(HubError::FileName {
            repo: repo.to_string(),
            name: name.clone(),
        }),
        None if shards.is_empty() => Err(HubError::Malformed {
            repo: repo.to_string(),
            what: INDEX.to_owned(),
            why: "it names no file".to_owned(),
        }),
        None => Ok(shards),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str], gguf: Option<&str>, index: &str) -> Result<Vec<String>, HubError> {
        let repo = "a/b".parse().unwrap();
        let names = top_files(&repo, names.iter().map(|&name| name.to_owned()))?;
        select(&repo, &names, gguf, || Ok(index.as_bytes().to_vec()))
    }

    #[test]
    fn only_data_of_the_model_is_chosen() {
        let names = [
            ".gitattributes",
            "README.md",
            "config.json",
            "modeling_evil.py",
            "pytorch_model.bin",
            "model.safetensors",
            "adapter.safetensors",
            "original/model.safetensors",
            "tokenizer.json",
            "vocab.txt",
            "weights.pt",
        ];
        assert_eq!(
            chosen(&names, None, "").unwrap(),
            ["config.json", "tokenizer.json", "model.safetensors"]
        );
        assert_eq!(
            chosen(&["config.json", "b.safetensors", "a.safetensors"], None, "").unwrap(),
            ["config.json", "a.safetensors", "b.safetensors"]
        );
        assert_eq!(
            chosen(&["model.safetensors"], None, "").unwrap(),
            ["config.json", "model.safetensors"],
            "it cannot do without a configuration"
        );
        for names in [
            &["config.json", "pytorch_model.bin"][..],
            &["config.json"],
            &[],
        ] {
            assert!(matches!(
                chosen(names, None, ""),
                Err(HubError::NoWeights { .. })
            ));
        }
    }

    #[test]
    fn index_decides_between_shards_and_consolidated_weights() {
        let names = [
            "config.json",
            "consolidated.safetensors",
            "model.safetensors",
            "model-1-of-2.safetensors",
            "model-2-of-2.safetensors",
            "model-3-of-3.safetensors",
            INDEX,
        ];
        let index = r#"{"metadata": {}, "weight_map": {"a": "model-1-of-2.safetensors",
            "b": "model-2-of-2.safetensors", "c": "model-1-of-2.safetensors"}}"#;
        assert_eq!(
            chosen(&names, None, index).unwrap(),
            [
                "config.json",
                INDEX,
                "model-1-of-2.safetensors",
                "model-2-of-2.safetensors"
            ]
        );
        for index in [
            r#"{"weight_map": {"a": "../model.safetensors"}}"#,
            r#"{"weight_map": {"a": "/model.safetensors"}}"#,
            r#"{"weight_map": {"a": "model.bin"}}"#,
            r#"{"weight_map": {}}"#,
            "{}",
            "",
        ] {
            assert!(chosen(&names, None, index).is_err(), "{index}");
        }
    }

    #[test]
    fn one_gguf_file_is_chosen_with_its_projector() {
        let one = ["mmproj-f32.gguf", "mmproj-model-f16.gguf", "m-Q4_K.gguf"];
        assert_eq!(
            chosen(&one, None, "").unwrap(),
            ["mmproj-model-f16.gguf", "m-Q4_K.gguf"]
        );
        let several = ["config.json", "m-Q4_K.gguf", "m-Q8_0.gguf"];
        assert_eq!(
            chosen(&several, Some("m-Q8_0.gguf"), "").unwrap(),
            ["config.json", "m-Q8_0.gguf"]
        );
        for named in [
            None,
            Some("m.safetensors"),
            Some("../m.gguf"),
            Some("mmproj-f32.gguf"),
        ] {
            let error = chosen(&several, named, "").unwrap_err().to_string();
            assert!(
                error.contains("m-Q4_K.gguf, m-Q8_0.gguf") && error.contains("--file"),
                "{error}"
            );
        }
        let both = ["config.json", "model.safetensors", "m.gguf"];
        assert_eq!(
            chosen(&both, None, "").unwrap(),
            ["config.json", "model.safetensors"]
        );
        assert_eq!(
            chosen(&both, Some("m.gguf"), "").unwrap(),
            ["config.json", "m.gguf"]
        );
    }

    #[test]
    fn names_that_lead_out_of_a_folder_are_refused() {
        for name in [
            "../config.json",
            "/etc/config.json",
            "a/../../model.safetensors",
            "a//b.json",
            "..\\model.safetensors",
            "model\n.safetensors",
            "",
            ".",
        ] {
            let error = chosen(&["config.json", "model.safetensors", name], None, "");
            assert!(matches!(error, Err(HubError::FileName { .. })), "{name:?}");
        }
    }
}
