//! Replaces a file or a folder so that a crash at any instant leaves either the old or the new one, never a mixture.
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
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A folder being written beside its final place. Dropping it without [`AtomicDir::commit`] removes it.
#[derive(Debug)]
pub struct AtomicDir {
    places: Places,
    committed: bool,
    /// Tells other processes that the folder is not left over from a crash.
    _lock: Option<File>,
}

impl AtomicDir {
    /// Creates `<final_path>.partial`, and missing parents, after [`recover`]. Nothing at `final_path` changes before
    /// [`AtomicDir::commit`], which replaces that folder **and whatever else is in it**; hence the error if it is
    /// something else than an empty folder or one with a `config.json`.
    pub fn begin(final_path: impl AsRef<Path>) -> Result<AtomicDir> {
        let final_path = final_path.as_ref();
        let Some(places) = Places::beside(final_path) else {
            let what = format!("\"{}\" has no name of its own; name a folder inside of it", final_path.display());
            return Err(Error::Input(what));
        };
        fs::create_dir_all(&places.parent).map_err(Error::io("create", &places.parent))?;
        // Until the lock is taken, a reader's `recover` would think the new folder left over.
        let _turn = wait_for_turn(&places.parent);
        places.recover()?;
        places.refuse_foreign_folder()?;
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
/// before reading. Does nothing where nothing is left over, or where a living process is still writing.
pub fn recover(final_path: impl AsRef<Path>) -> Result<()> {
    // A path like "." is no place that `begin` could have written to.
    let Some(places) = Places::beside(final_path.as_ref()) else {
        return Ok(());
    };
    let _turn = wait_for_turn(&places.parent);
    places.recover()
}

/// Writes a file beside `path`, syncs it and renames it into place.
pub fn write_file_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let places = Places::beside(path).ok_or_else(|| Error::file(path, "is not the name of a file"))?;
    let written = write_synced(&places.partial, bytes).and_then(|()| rename(&places.partial, &places.last));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&places.partial);
    }
    written?;
    sync_folder(&places.parent)
}

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
        let parent = match last.parent() {
            Some(parent) if parent != Path::new("") => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let sibling = |suffix: &str| {
            let mut name = OsString::from(name);
            name.push(suffix);
            parent.join(name)
        };
        let (partial, new, old) = (sibling(".partial"), sibling(".new"), sibling(".old"));
        let last = parent.join(name);
        Some(Places { parent, partial, new, old, last })
    }

    fn refuse_foreign_folder(&self) -> Result<()> {
        let last = &self.last;
        if !is_there(last) {
            return Ok(());
        }
        let mut entries = fs::read_dir(last).map_err(Error::io("list", last))?;
        if entries.next().is_some() && !last.join("config.json").exists() {
            let what = "the folder holds something else than a model (it has no config.json); not replacing it, choose \
                        another folder";
            return Err(Error::file(last, what));
        }
        Ok(())
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
            // Whoever only reads the model may lack the right to tidy up, and does not depend on it.
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
fn is_there(path: &Path) -> bool {
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

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io("write", path))
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

/// Makes the names in a folder durable; only Unix can, and some file systems there refuse.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        match File::open(folder).and_then(|folder| folder.sync_all()) {
            Err(e) if !matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                return Err(Error::io("write", folder)(e));
            }
            _ => {}
        }
    }
    Ok(())
}
