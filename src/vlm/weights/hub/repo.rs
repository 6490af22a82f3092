//! Names of repositories.

use std::{fmt, path::Path, str::FromStr};

use super::HubError;

/// Branch that a repository is read from unless another is named.
const MAIN: &str = "main";
/// Longest owner or model name that the Hub allows.
const MAX_PART: usize = 96;
const MAX_REVISION: usize = 200;

/// Repository of models on the Hub at a revision: `owner/model[@revision]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoId {
    owner: String,
    model: String,
    revision: String,
}

impl RepoId {
    /// Returns `owner/model`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.owner, self.model)
    }

    /// Returns the owner and the model's name.
    pub(super) fn parts(&self) -> [&str; 2] {
        [&self.owner, &self.model]
    }

    /// Returns the branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Returns the revision if it is a commit, which never changes.
    pub fn commit(&self) -> Option<&str> {
        Some(self.revision.as_str()).filter(|revision| is_commit(revision))
    }
}

impl FromStr for RepoId {
    type Err = HubError;

    /// Parses `owner/model` or `owner/model@revision`, where the revision is a branch, a tag or a
    /// commit of 40 digits.
    ///
    /// # Errors
    /// When the text is something else, or the path of something that exists.
    fn from_str(text: &str) -> Result<Self, HubError> {
        let wrong = |why: &'static str| HubError::Id {
            text: text.to_owned(),
            why,
        };
        if Path::new(text).exists() {
            return Err(wrong("it is a path that exists, and so no repository"));
        }
        let (name, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let (owner, model) = name
            .split_once('/')
            .ok_or_else(|| wrong("a repository is named OWNER/MODEL, or OWNER/MODEL@REVISION"))?;
        if !is_part(owner) || !is_part(model) {
            return Err(wrong(
                "the owner and the model are words of letters, digits and single - _ . within, at \
                 most 96 long",
            ));
        }
        if !is_revision(revision) {
            return Err(wrong(
                "what follows @ is the name of a branch or a tag, or a commit",
            ));
        }
        Ok(Self {
            owner: owner.to_owned(),
            model: model.to_owned(),
            revision: revision.to_owned(),
        })
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.model)?;
        match self.revision.as_str() {
            MAIN => Ok(()),
            revision => write!(f, "@{revision}"),
        }
    }
}

/// Returns `true` for 40 lower-case hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns `true` for a name that the Hub gives to owners and models, which the cache's folder
/// names can tell apart.
fn is_part(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let outer = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let bytes = text.as_bytes();
    bytes.len() <= MAX_PART
        && bytes.iter().all(|&byte| inner(byte))
        && outer(bytes.first())
        && outer(bytes.last())
        && !text.contains("--")
        && !text.contains("..")
}

/// Returns `true` for a name of a branch or a tag that is a relative path too.
fn is_revision(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte))
    };
    text.len() <= MAX_REVISION && text.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_repositories_are_told_from_other_text() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for (text, name, revision) in [
            (
                "llava-hf/llava-1.5-7b-hf",
                "llava-hf/llava-1.5-7b-hf",
                "main",
            ),
            ("a/b@v1.0", "a/b", "v1.0"),
            ("a/b@refs/pr/3", "a/b", "refs/pr/3"),
            (&format!("a/b_c@{commit}"), "a/b_c", commit),
        ] {
            let repo: RepoId = text.parse().unwrap();
            assert_eq!((repo.name().as_str(), repo.revision()), (name, revision));
            assert_eq!(repo.to_string(), text);
            assert_eq!(repo.commit().is_some(), revision == commit);
        }
        for text in [
            "",
            "llava",
            "a/",
            "/b",
            "a/b/c",
            "a/..",
            "../b",
            "a/b--c",
            "a/.b",
            "a/b c",
            "a/b@",
            "a/b@../x",
            "a/b@x/../../y",
            "a/b@/x",
            "a/b@x@y",
            "a/b@-x",
            "https://hub/a/b",
            "a/b?x",
            "a/b\n",
        ] {
            assert!(text.parse::<RepoId>().is_err(), "{text:?}");
        }
        assert!(format!("a/{}", "b".repeat(97)).parse::<RepoId>().is_err());
    }

    #[test]
    fn path_that_exists_is_no_repository() {
        let dir = tempfile::tempdir().unwrap();
        let error = dir.path().to_str().unwrap().parse::<RepoId>().unwrap_err();
        assert!(error.to_string().contains("exists"), "{error}");
    }
}
