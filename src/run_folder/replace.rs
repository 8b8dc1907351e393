//! Replaces a folder so that a crash at any instant leaves either the old or the new one, never a mixture.
//!
//! A folder `name` passes through these states, each one rename apart:
//!
//! | step | on disk | a crash here: [`recover`] |
//! | --- | --- | --- |
//! | being filled | `name`, `name.partial` | removes `.partial` |
//! | complete and synced | `name`, `name.new` | goes on |
//! | old one moved away | `name.old`, `name.new` | goes on |
//! | new one in place | `name.old`, `name` | goes on |
//! | old one given up | `name.partial`, `name` | removes `.partial` |

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{MARKER, strangers};
use crate::error::{Error, Result};
use crate::files::{folder_of, sync_folder};

/// A folder being written beside its final place. Dropping it without [`AtomicDir::commit`] removes it.
#[derive(Debug)]
pub struct AtomicDir {
    places: Places,
    committed: bool,
    /// Tells other processes that the folder is not left over from a crash.
    _lock: Option<File>,
}

impl AtomicDir {
    /// Creates `<final_path>.partial` after [`recover`]. Nothing at `final_path` changes before [`AtomicDir::commit`], which
    /// replaces that folder. What the run has not written there moves into the new one.
    pub(super) fn begin(final_path: &Path) -> Result<AtomicDir> {
        let Some(places) = Places::beside(final_path) else {
            let what = format!("\"{}\" has no name of its own; name a folder inside of it", final_path.display());
            return Err(Error::Input(what));
        };
        // Until the lock is taken, a reader's `recover` would think the new folder left over.
        let _turn = wait_for_turn(&places.parent);
        places.recover()?;
        if try_lock_folder(&places.partial).is_err() {
            return Err(Error::file(&places.partial, "another process is writing here; choose another folder"));
        }
        remove_tree(&places.partial)?;
        fs::create_dir(&places.partial).map_err(Error::io("create", &places.partial))?;
        let lock = try_lock_folder(&places.partial).ok().flatten();
        Ok(AtomicDir { places, committed: false, _lock: lock })
    }

    /// Where to write the new folder's files.
    pub fn path(&self) -> &Path {
        &self.places.partial
    }

    /// Syncs everything written to the disk and puts the folder in its place.
    pub fn commit(mut self) -> Result<()> {
        sync_tree(&self.places.partial)?;
        let _turn = wait_for_turn(&self.places.parent);
        rename(&self.places.partial, &self.places.new)?;
        self.committed = true;
        sync_folder(&self.places.parent)?;
        self.places.finish()
    }
}

impl Drop for AtomicDir {
    fn drop(&mut self) {
        if !self.committed {
            // What cannot be removed now is removed by the next `recover`.
            let _ = fs::remove_dir_all(&self.places.partial);
        }
    }
}

/// Brings the folder at `final_path` into a good state after a crash during [`AtomicDir::commit`] or before it. Call it
/// before reading. Does nothing outside of a run's folder, where nothing is left over, or where a living process is still writing.
pub fn recover(final_path: impl AsRef<Path>) -> Result<()> {
    // A path like "." is no place that `begin` could have written to.
    let Some(places) = Places::beside(final_path.as_ref()) else {
        return Ok(());
    };
    // Elsewhere a folder of such a name is not ours.
    if !places.parent.join(MARKER).exists() {
        return Ok(());
    }
    let _turn = wait_for_turn(&places.parent);
    places.recover()
}

/// What a folder is called beside its name while it is replaced.
pub(super) const SUFFIXES: [&str; 3] = [".partial", ".new", ".old"];

#[derive(Debug)]
struct Places {
    parent: PathBuf,
    partial: PathBuf,
    new: PathBuf,
    old: PathBuf,
    last: PathBuf,
}

impl Places {
    /// `None` for paths without a last name: "", ".", "..", "/".
    fn beside(last: &Path) -> Option<Places> {
        let name = last.file_name()?;
        let parent = folder_of(last).to_path_buf();
        let sibling = |suffix: &str| {
            let mut name = OsString::from(name);
            name.push(suffix);
            parent.join(name)
        };
        let [partial, new, old] = SUFFIXES.map(sibling);
        let last = parent.join(name);
        Some(Places { parent, partial, new, old, last })
    }

    /// To be called in turn only.
    fn recover(&self) -> Result<()> {
        if is_there(&self.new) {
            self.finish()?;
        } else if is_there(&self.old) {
            match is_there(&self.last) {
                true => self.give_up_old()?,
                false => rename(&self.old, &self.last)?,
            }
        }
        if let Ok(_lock) = try_lock_folder(&self.partial) {
            // A process that only reads the model may not be allowed to remove files, and need not.
            let _ = fs::remove_dir_all(&self.partial);
        }
        Ok(())
    }

    /// From "complete and synced" or any later state to the end.
    fn finish(&self) -> Result<()> {
        if is_there(&self.last) {
            if is_there(&self.old) {
                self.give_up_old()?;
            }
            rename(&self.last, &self.old)?;
        }
        rename(&self.new, &self.last)?;
        if is_there(&self.old) {
            self.give_up_old()?;
        }
        sync_folder(&self.parent)
    }

    /// Renamed before it is removed, so that no half-removed folder can pass for a good one.
    fn give_up_old(&self) -> Result<()> {
        let name = self.last.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        for path in strangers(&self.old, name) {
            let place = self.last.join(path.file_name().unwrap_or_default());
            if is_there(&self.last) && !is_there(&place) {
                rename(&path, &place)?;
            }
        }
        remove_tree(&self.partial)?;
        rename(&self.old, &self.partial)?;
        sync_folder(&self.parent)?;
        remove_tree(&self.partial)
    }
}

/// Another process holds the lock.
struct Busy;

/// The lock of a folder being filled. A folder that is missing, or whose file system knows no locks, counts as free.
fn try_lock_folder(path: &Path) -> Result<Option<File>, Busy> {
    let Some(folder) = open_folder(path) else {
        return Ok(None);
    };
    match folder.try_lock() {
        Ok(()) => Ok(Some(folder)),
        Err(fs::TryLockError::WouldBlock) => Err(Busy),
        Err(fs::TryLockError::Error(_)) => Ok(None),
    }
}

/// Only one process at a time may rename things in `parent`; it holds the lock for a moment.
fn wait_for_turn(parent: &Path) -> Option<File> {
    let folder = open_folder(parent)?;
    folder.lock().ok()?;
    Some(folder)
}

/// `None` on systems other than Unix: there, an open folder could not be renamed.
fn open_folder(path: &Path) -> Option<File> {
    if cfg!(unix) { File::open(path).ok() } else { None }
}

/// Also true for a dangling link, which `Path::exists` denies.
pub(super) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io("rename a finished file or folder to", to))
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("read", &path))?;
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            // Windows syncs only what is open for writing.
            let file = File::options().append(true).open(&path).map_err(Error::io("write", &path))?;
            file.sync_all().map_err(Error::io("write", &path))?;
        }
    }
    sync_folder(folder)
}
