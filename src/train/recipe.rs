//! Recipes of trainings: TOML files, in which older names of keys are still accepted.

use serde::de::DeserializeOwned;
use toml::Table;

/// Renamed keys: the section, the older name and the present one.
const RENAMED: [(&str, &str, &str); 1] = [("reward", "centre", "center")];

/// Parses a recipe. A key under an older name is accepted, and `warn` gets a message about it.
///
/// # Errors
/// Returns an error if the text is not TOML or does not fit the recipe; it names the line where
/// nothing was renamed.
pub fn parse<C: DeserializeOwned>(
    text: &str,
    warn: &mut dyn FnMut(String),
) -> Result<C, toml::de::Error> {
    let mut table: Table = toml::from_str(text)?;
    if rename_keys(&mut table, warn) {
        table.try_into()
    } else {
        toml::from_str(text)
    }
}

/// Renames keys that have an older name, and returns `true` if there were any. A value under the
/// older name replaces one under the present name.
pub fn rename_keys(table: &mut Table, warn: &mut dyn FnMut(String)) -> bool {
    let mut renamed = false;
    for (section, old, new) in RENAMED {
        let Some(options) = table.get_mut(section).and_then(toml::Value::as_table_mut) else {
            continue;
        };
        if let Some(value) = options.remove(old) {
            options.insert(new.to_owned(), value);
            warn(format!(
                "{section}.{old} is the older name of {section}.{new}, which replaces it"
            ));
            renamed = true;
        }
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::align::AlignConfig;

    const ALIGN: &str = include_str!("../../config/align.toml");

    fn parsed(text: &str) -> (Result<AlignConfig, toml::de::Error>, Vec<String>) {
        let mut warnings = Vec::new();
        let config = parse(text, &mut |warning| warnings.push(warning));
        (config, warnings)
    }

    #[test]
    fn a_key_under_its_older_name_is_accepted_with_a_warning() {
        let (present, warnings) = parsed(ALIGN);
        let present = present.unwrap();
        assert!(present.reward.center.is_some() && warnings.is_empty());
        let (older, warnings) = parsed(&ALIGN.replace("\ncenter = ", "\ncentre = "));
        assert_eq!(older.unwrap(), present);
        assert_eq!(
            warnings,
            ["reward.centre is the older name of reward.center, which replaces it"]
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let (refused, _) = parsed("sed = 1\n");
        assert!(refused.unwrap_err().to_string().contains("line 1"));
    }
}
