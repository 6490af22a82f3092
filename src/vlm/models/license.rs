//! Licenses of weights, as their files state them.

use std::{fmt, fs::File, io::Read, path::Path};

use serde::{Deserialize, Serialize};

use super::ModelSource;
use crate::vlm::weights::GgufFile;

/// Bytes of a model card that are read: its front matter stands first.
const CARD_BYTES: u64 = 1 << 16;

/// What the license of weights allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PermittedUse {
    /// Any use, under the license's terms.
    Any,
    /// Research and education; no commercial use.
    Research,
    /// Not known to Candor.
    Unknown,
}

impl fmt::Display for PermittedUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any use",
            Self::Research => "research use",
            Self::Unknown => "unknown use",
        })
    }
}

/// License of a model's weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelLicense {
    /// SPDX identifier in lower case, or the name that the model's files give; `unknown` if they
    /// give none.
    pub id: String,
    /// What it allows.
    pub permits: PermittedUse,
}

impl ModelLicense {
    /// Returns the license of a name.
    pub fn named(name: &str) -> Self {
        let id = name.trim().to_lowercase();
        let is_of = |ids: &[&str]| ids.iter().any(|known| id.starts_with(known));
        let permits = if is_of(&RESEARCH) {
            PermittedUse::Research
        } else if is_of(&ANY) {
            PermittedUse::Any
        } else {
            PermittedUse::Unknown
        };
        Self { id, permits }
    }

    /// Returns the license of files that state none.
    pub fn unknown() -> Self {
        Self::named("unknown")
    }

    /// Returns the license that a checkpoint states: `license` in the front matter of its card
    /// (`README.md`), or `general.license` in a GGUF file.
    pub fn of_checkpoint(source: &ModelSource) -> Self {
        let name = match source {
            ModelSource::Folder(folder) => of_card(&folder.join("README.md")),
            ModelSource::Gguf { text, .. } => of_gguf(text),
        };
        name.map_or_else(Self::unknown, |name| Self::named(&name))
    }
}

impl fmt::Display for ModelLicense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.id, self.permits)
    }
}

fn of_card(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(path)
        .ok()?
        .take(CARD_BYTES)
        .read_to_end(&mut text)
        .ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let mut front = lines.take_while(|line| line.trim_end() != "---");
    let value = front.find_map(|line| line.strip_prefix("license:"))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

fn of_gguf(path: &Path) -> Option<String> {
    let file = GgufFile::open(path).ok()?;
    let license = file.metadata().text("general.license").ok()??;
    Some(license.to_owned())
}

/// Beginnings of identifiers of licenses that allow any use.
const ANY: [&str; 14] = [
    "0bsd",
    "apache-2.0",
    "artistic-2.0",
    "bsd-",
    "bsl-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "cdla-permissive",
    "isc",
    "mit",
    "mpl-2.0",
    "unlicense",
    "zlib",
];

/// Beginnings of identifiers of licenses that allow no commercial use.
const RESEARCH: [&str; 4] = [
    "cc-by-nc",
    "apple-amlr",
    "fair-noncommercial",
    "research-only",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_tell_what_is_allowed() {
        for (name, permits) in [
            ("Apache-2.0", PermittedUse::Any),
            ("mit", PermittedUse::Any),
            ("cc-by-4.0", PermittedUse::Any),
            ("cc-by-nc-4.0", PermittedUse::Research),
            ("CC-BY-NC-SA-3.0", PermittedUse::Research),
            ("llama3.2", PermittedUse::Unknown),
            ("other", PermittedUse::Unknown),
            ("unknown", PermittedUse::Unknown),
        ] {
            assert_eq!(ModelLicense::named(name).permits, permits, "{name}");
        }
    }

    #[test]
    fn cards_state_licenses_in_their_front_matter() {
        let folder = tempfile::tempdir().unwrap();
        let source = ModelSource::Folder(folder.path().to_owned());
        let of = |card: &str| {
            std::fs::write(folder.path().join("README.md"), card).unwrap();
            ModelLicense::of_checkpoint(&source).id
        };
        assert_eq!(ModelLicense::of_checkpoint(&source).id, "unknown");
        assert_eq!(
            of("---\nlanguage: en\nlicense: Apache-2.0\n---\n# A model\n"),
            "apache-2.0"
        );
        assert_eq!(of("---\nlicense: 'mit'\n---\n"), "mit");
        assert_eq!(of("---\ntags: [a]\n---\nlicense: mit\n"), "unknown");
        assert_eq!(of("license: mit\n"), "unknown");
        assert_eq!(of(""), "unknown");
    }
}
