//! The cache on disk, which other programs share: the layout of huggingface_hub
//! (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>).
//!
//! `models--OWNER--MODEL/blobs/HASH` are the contents, each once; `snapshots/COMMIT/FILE` are links to them; `refs/REVISION` holds the
//! commit that a branch stood at. `blobs/HASH.part` is what has come so far.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::name::{ModelName, is_commit};
use super::{Watch, pause};
use crate::error::{Error, Result};
use crate::files::{self, write_atomic};

/// Folders deeper than those that a model's files lie in.
const DEPTH: usize = 3;

/// A model's part of the cache.
pub(super) struct RepositoryCache {
    root: PathBuf,
    locks: PathBuf,
}

impl RepositoryCache {
    pub fn new(cache: &Path, name: &ModelName) -> RepositoryCache {
        let folder = format!("models--{}", name.repository.replace('/', "--"));
        RepositoryCache { root: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub fn blob(&self, hash: &str) -> PathBuf {
        self.root.join("blobs").join(hash)
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.root.join("refs").join(revision)
    }

    /// The commit that a revision is, or stood at when it was last asked for.
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = files::read_text(self.reference(revision), 1000).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Writes down the commit of a branch or tag.
    pub fn set_reference(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.reference(revision);
        create_folder_of(&path)?;
        write_atomic(path, commit.as_bytes())
    }

    /// The files of a snapshot, those of folders as `folder/name`.
    pub fn names(&self, commit: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut folders = vec![(self.snapshot(commit), String::new(), DEPTH)];
        while let Some((folder, before, depth)) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = format!("{before}{}", entry.file_name().to_string_lossy());
                let path = entry.path();
                if path.is_file() {
                    names.insert(name);
                } else if depth > 0 && path.is_dir() {
                    folders.push((path, name + "/", depth - 1));
                }
            }
        }
        names
    }

    /// Whether a snapshot has a file, in this size.
    pub fn has(&self, commit: &str, name: &str, size: u64) -> bool {
        fs::metadata(self.snapshot(commit).join(name)).is_ok_and(|file| file.is_file() && file.len() == size)
    }

    /// Puts a blob into a snapshot, under this name.
    pub fn link(&self, hash: &str, commit: &str, name: &str) -> Result<()> {
        let path = self.snapshot(commit).join(name);
        create_folder_of(&path)?;
        let up = "../".repeat(2 + name.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{hash}"));
        if fs::read_link(&path).is_ok_and(|old| old == target) {
            return Ok(());
        }
        // A name beside it, so that there is always the old file or the new one.
        let beside = path.with_file_name(format!(".{hash}.link"));
        let _none_left = fs::remove_file(&beside);
        symlink(&target, &self.blob(hash), &beside)
            .and_then(|()| fs::rename(&beside, &path))
            .map_err(Error::io("create", path))
    }

    /// Waits until no other program fetches this blob. The lock is that of huggingface_hub, too, and goes with what is returned.
    pub fn lock(&self, hash: &str, watch: &mut Watch) -> Result<File> {
        let path = self.locks.join(format!("{hash}.lock"));
        create_folder_of(&path)?;
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io("write", &path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    pause(Duration::from_millis(300), "another program is fetching this file", watch)?;
                }
                // Some network file systems have no locks. At worst both fetch the file.
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => return Ok(file),
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", path)(e)),
            }
        }
    }
}

/// Creates the folder that a file is to lie in.
pub(super) fn create_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(Error::io("create", folder))
}

#[cfg(unix)]
fn symlink(target: &Path, _blob: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Windows lets not everyone make links; then the blob itself takes the place, as huggingface_hub does it.
#[cfg(not(unix))]
fn symlink(target: &Path, blob: &Path, link: &Path) -> io::Result<()> {
    #[cfg(windows)]
    if std::os::windows::fs::symlink_file(target, link).is_ok() {
        return Ok(());
    }
    let _ = target;
    fs::hard_link(blob, link).or_else(|_| fs::rename(blob, link))
}
