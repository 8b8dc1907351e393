//! Names of models, revisions and files on a hub: what they may look like. They become parts of addresses and of paths, and files'
//! names come from a server.

use std::fmt;
use std::path::Path;

/// The most characters of `owner/model`, as the hub itself has it.
const MOST: usize = 96;

/// The name of a model on the hub, with a revision if one is wanted: `google/flan-t5-small`, `google/flan-t5-small@main`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    /// `owner/model`.
    pub(super) repository: String,
    /// A branch, a tag or a commit.
    pub(super) revision: Option<String>,
}

impl ModelName {
    /// Reads `owner/model` or `owner/model@revision`. `None` for a text that is no such name, such as a path.
    pub fn parse(text: &str) -> Option<ModelName> {
        let (repository, revision) = match text.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (text, None),
        };
        let (owner, model) = repository.split_once('/')?;
        let is_good = is_part(owner) && is_part(model) && repository.len() <= MOST && revision.is_none_or(is_revision);
        is_good.then(|| ModelName { repository: repository.into(), revision: revision.map(str::to_owned) })
    }

    /// The model that a path names where there is neither a folder nor a file of this name.
    pub fn in_place_of(path: &Path) -> Option<ModelName> {
        let name = ModelName::parse(path.to_str()?)?;
        (!path.exists()).then_some(name)
    }

    /// The branch, the tag or the commit that is meant.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        self.revision.iter().try_for_each(|revision| write!(f, "@{revision}"))
    }
}

/// An owner's or a model's name by the hub's rules, which rule `..` out.
fn is_part(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends_well = |text: &str| !text.starts_with(['-', '.']) && !text.ends_with(['-', '.']);
    // The cache's folder is named with `--` for `/`.
    let is_plain = !text.contains("..") && !text.contains("--") && !text.ends_with(".git");
    !text.is_empty() && text.chars().all(known) && ends_well(text) && is_plain
}

/// A branch, a tag, a commit, or another reference (`refs/pr/1`).
fn is_revision(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let is_part = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && part.chars().all(known);
    text.len() <= 200 && !text.contains("..") && text.split('/').all(is_part)
}

/// Whether a revision is a commit, which never changes: 40 hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

/// Whether a text is so many hexadecimal digits, in lower case as git and the hub write them.
pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

/// Whether a file's name leads to a place below the folder that it is put in, on every system.
pub(super) fn is_inside(name: &str) -> bool {
    let is_part = |part: &str| {
        let is_odd = |c: char| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
        !part.is_empty() && part.len() <= 255 && !part.contains(is_odd) && !part.ends_with(['.', ' '])
    };
    name.len() <= 1000 && name.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        for good in ["google/flan-t5-small", "a/b_c.d", "google/byt5-small@main", "a/b@refs/pr/1", "a/b@v1.0"] {
            assert_eq!(ModelName::parse(good).expect(good).to_string(), good);
        }
        let long = format!("a/{}", "b".repeat(MOST));
        for bad in [
            "t5-small", "a/b/c", "/a/b", "./a", "../a", "a/..", "a/", "/a", "a/b--c", "a--b/c", "-a/b", "a/b.",
            "a/b.git", "a\\b/c", "a b/c", "a/b@", "a/b@../c", "a/b@/c", "a/b@c/", "a/b@c//d", "a/b@.c", "a/b@-c",
            "a/b@c@d", "ä/b", "", "/", "@", "a/b@c\0", &long,
        ] {
            assert_eq!(ModelName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn files_stay_in_their_folder() {
        for good in ["model.safetensors", "1_Pooling/config.json", "a/b/c.d", ".gitattributes"] {
            assert!(is_inside(good), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "..",
            "../a",
            "a/../b",
            "a//b",
            "a/",
            ".",
            "a/./b",
            "C:a",
            "a\\b",
            "a\0",
            "a\nb",
            "a/b.",
        ] {
            assert!(!is_inside(bad), "{bad}");
        }
    }

    #[test]
    fn commits_are_hexadecimal() {
        assert!(is_commit("0123456789abcdef0123456789abcdef01234567"));
        for bad in
            ["main", "0123456789ABCDEF0123456789abcdef01234567", "0123", "0123456789abcdef0123456789abcdef0123456g"]
        {
            assert!(!is_commit(bad), "{bad}");
        }
    }
}
