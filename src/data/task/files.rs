//! The files of a split: paths, globs, and tables of parallel files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_with::{OneOrMany, serde_as};

use crate::{Error, Result};

/// `"a.tsv"`, `["a.tsv", "b-*.tsv"]`, or `{ en = "train.en.gz", de = "train.de.gz" }`.
#[serde_as]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    remote = "Self",
    expecting = "expected a path, a list of paths, or a table of parallel files ({ en = \"a.en\", de = \"a.de\" })"
)]
pub enum Files {
    /// Files that each hold all columns. Never empty when read from a recipe.
    Together(#[serde_as(as = "OneOrMany<_>")] Vec<String>),
    /// Files of lines, one or several for each column; the n-th lines of all columns belong together.
    Parallel(#[serde_as(as = "BTreeMap<_, OneOrMany<_>>")] BTreeMap<String, Vec<String>>),
}

/// Files found on disk, as many for each column of parallel ones.
pub(super) enum Paths {
    Together(Vec<PathBuf>),
    Parallel(Vec<(String, Vec<PathBuf>)>),
}

impl Files {
    /// The paths of files that each hold everything, globs resolved; none of parallel ones.
    ///
    /// # Errors
    /// A file does not exist, or a pattern matches none.
    pub fn paths(&self, base: &Path) -> Result<Vec<PathBuf>> {
        Ok(self.resolve(base)?.into_paths())
    }

    /// Takes relative paths from `base`.
    pub fn start_at(&mut self, base: &Path) {
        let lists: Vec<&mut Vec<String>> = match self {
            Files::Together(patterns) => vec![patterns],
            Files::Parallel(columns) => columns.values_mut().collect(),
        };
        for pattern in lists.into_iter().flatten() {
            if !Path::new(pattern.as_str()).is_absolute() {
                let base = base.to_string_lossy();
                let base = if pattern.contains(['*', '?', '[']) { glob::Pattern::escape(&base) } else { base.into() };
                *pattern = Path::new(&base).join(&*pattern).to_string_lossy().into_owned();
            }
        }
    }

    /// Globs resolved, in alphabetical order each.
    pub(super) fn resolve(&self, base: &Path) -> Result<Paths> {
        match self {
            Files::Together(patterns) => Ok(Paths::Together(resolve_all(patterns, base)?)),
            Files::Parallel(columns) => {
                let resolve = |(name, patterns): (&String, &Vec<String>)| {
                    resolve_all(patterns, base).map(|paths| (name.clone(), paths))
                };
                let columns: Vec<(String, Vec<PathBuf>)> = columns.iter().map(resolve).collect::<Result<_>>()?;
                let n_files = |column: &(String, Vec<PathBuf>)| column.1.len();
                if let [first, rest @ ..] = columns.as_slice()
                    && let Some(other) = rest.iter().find(|column| n_files(column) != n_files(first))
                {
                    return Err(Error::Input(format!(
                        "parallel files must be as many for each column: {:?} has {}, {:?} has {}",
                        first.0,
                        n_files(first),
                        other.0,
                        n_files(other)
                    )));
                }
                Ok(Paths::Parallel(columns))
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Files::Together(patterns) => patterns.is_empty(),
            Files::Parallel(columns) => columns.is_empty() || columns.values().any(Vec::is_empty),
        }
    }
}

impl Paths {
    pub(super) fn into_paths(self) -> Vec<PathBuf> {
        match self {
            Paths::Together(paths) => paths,
            Paths::Parallel(columns) => columns.into_iter().flat_map(|(_, paths)| paths).collect(),
        }
    }
}

fn resolve_all(patterns: &[String], base: &Path) -> Result<Vec<PathBuf>> {
    let lists: Vec<Vec<PathBuf>> = patterns.iter().map(|pattern| resolve(pattern, base)).collect::<Result<_>>()?;
    Ok(lists.concat())
}

fn resolve(pattern: &str, base: &Path) -> Result<Vec<PathBuf>> {
    let path = base.join(pattern);
    if !pattern.contains(['*', '?', '[']) || path.exists() {
        fs::metadata(&path).map_err(Error::io("find", &path))?;
        return Ok(vec![path]);
    }
    let whole = if Path::new(pattern).is_absolute() {
        pattern.to_owned()
    } else {
        Path::new(&glob::Pattern::escape(&base.to_string_lossy())).join(pattern).to_string_lossy().into_owned()
    };
    let found = glob::glob(&whole).map_err(|e| Error::file(&path, format!("not a valid pattern: {e}")))?;
    let read = |e: glob::GlobError| {
        let path = e.path().to_path_buf();
        Error::io("read", path)(e.into())
    };
    let mut paths: Vec<PathBuf> = found.map(|path| path.map_err(read)).collect::<Result<_>>()?;
    paths.retain(|path| path.is_file());
    if paths.is_empty() {
        return Err(Error::file(&path, "no file matches this pattern"));
    }
    Ok(paths)
}

// `remote` makes functions of the same names, which these wrap.
impl Serialize for Files {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Files::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Files, D::Error> {
        let files = Files::deserialize(deserializer)?;
        if files.is_empty() {
            return Err(serde::de::Error::custom("no file is named: give a path, or leave the key out"));
        }
        Ok(files)
    }
}
