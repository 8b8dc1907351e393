//! Names of files with stars in them.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Replaces each pattern (`*`, `?`, `[a-z]`, `**`) by the files that match it, in the order of their names; what is no
/// pattern stays as it is.
///
/// # Errors
/// `Input`: a pattern that is none or that no file matches.
pub fn expand(patterns: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::with_capacity(patterns.len());
    for pattern in patterns {
        let text = pattern.to_string_lossy();
        if !text.contains(['*', '?', '[']) || Path::new(pattern).exists() {
            files.push(pattern.clone());
            continue;
        }
        let matches = glob::glob(&text).map_err(|e| Error::Input(format!("{text} is no pattern of file names: {e}")))?;
        let before = files.len();
        for file in matches {
            let file = file.map_err(|e| Error::Io { action: "read", path: e.path().to_owned(), cause: e.into() })?;
            files.push(file);
        }
        if files.len() == before {
            return Err(Error::Input(format!("no file matches {text}")));
        }
    }
    Ok(files)
}
