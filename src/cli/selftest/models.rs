//! Models under test: one, or every checkpoint in a folder.

use std::{fs, path::Path};

use crate::{bundle::Bundle, cli::output::note, vlm::models::ModelSource};

/// Most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 10_000;

/// Tokenizers of checkpoints, without which a folder of weights is a part of a model.
const TOKENIZERS: [&str; 2] = ["tokenizer.json", "tokenizer.model"];

/// Returns the names of the models under `name`: itself or, if it is a folder of several, those in
/// the order of their names.
pub(super) fn models(name: &str) -> Vec<String> {
    let folder = Path::new(name);
    let is_one = Bundle::embedded().contains(&name) || ModelSource::find(folder).is_ok();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut inside: Vec<_> = entries
        .take(if is_one { 0 } else { MAX_ENTRIES })
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    inside.sort();
    let mut models = Vec::new();
    for path in inside {
        let is_whole = || TOKENIZERS.iter().any(|file| path.join(file).exists());
        match ModelSource::find(&path) {
            Ok(ModelSource::Folder(_)) if !is_whole() => note(format_args!(
                "{} is skipped: it has no tokenizer",
                path.display()
            )),
            Ok(_) => models.push(path.to_string_lossy().into_owned()),
            Err(_) => {}
        }
    }
    match models.is_empty() {
        // What it is not is said when it is opened.
        true => vec![name.to_owned()],
        false => models,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_checkpoints_is_all_that_are_whole() {
        let fixtures = crate::vlm::processor::fixtures().join("models");
        let name = |path: &Path| path.to_str().unwrap().to_owned();
        let found = models(&name(&fixtures));
        let wanted = [
            "idefics3",
            "llava-layers",
            "llava-new",
            "llava-old",
            "smolvlm",
        ];
        assert_eq!(found, wanted.map(|folder| name(&fixtures.join(folder))));
        let no_models = name(&fixtures.join("images"));
        for one in ["candor-mini", "absent", &no_models] {
            assert_eq!(models(one), [one]);
        }
        let one = name(&fixtures.join("smolvlm"));
        assert_eq!(models(&one), [one]);
    }
}
