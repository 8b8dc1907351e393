//! The folder of a run: the proof that a run made it, the lock of the process that works in it, and removal of its files.

mod replace;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

pub use replace::{AtomicDir, recover};

use crate::error::{Error, Result};
use crate::files::LEFT_OVER;
use replace::is_there;

/// The file that proves that a run made the folder around it, and that is locked while a process works there.
pub const MARKER: &str = ".t5-run";

/// What the folders in a run's folder hold; `*` stands for any letters. Whatever else lies in them, the run has not written.
const CONTENTS: [(&str, &[&str]); 5] = [
    ("best", MODEL),
    ("last", MODEL),
    ("tokenizer", MODEL),
    ("predictions", &["*.jsonl", LEFT_OVERS]),
    ("tensorboard", &["events.out.tfevents.*"]),
];

const MODEL: &[&str] = &[
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "training_state",
    LEFT_OVERS,
];

const LEFT_OVERS: &str = ".t5-partial-*";

/// How often and in what intervals a lock is asked for.
const PATIENCE: (u32, Duration) = (20, Duration::from_millis(20));

const EXPLANATION: &[u8] = b"A run of t5 made this folder. Where this file lies, `--overwrite` may remove the run's own files; other files stay.\n";

/// A folder that a run made, locked for this process. Only files of a run's own names are written, replaced and removed.
///
/// The proof of ownership is the file [`MARKER`]. It is only put where nothing has one of the run's names, so that whatever has
/// one of those names beside it was written by a run.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Locked until it is closed.
    marker: File,
}

/// Whether a file may have this name on every system, and a folder does not have it while it is replaced.
pub fn is_plain_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_between = replace::SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
    !name.is_empty() && !name.starts_with('.') && name.chars().all(fits) && !is_between
}

impl RunFolder {
    /// Whether there is a run's folder. Not so where there is nothing, or nothing that has one of `names`.
    ///
    /// # Errors
    /// Something has one of these names and is not a run's.
    pub fn look(path: &Path, names: &[&str]) -> Result<bool> {
        if is_file(&path.join(MARKER)) {
            return Ok(true);
        }
        match names.iter().map(|name| path.join(name)).find(|path| is_there(path)) {
            None => Ok(false),
            Some(found) => {
                let what = format!(
                    "no run of t5 made this, so it is neither replaced nor continued: choose another folder (if an older t5 \
                     made it, say so with an empty file: touch \"{}\")",
                    path.join(MARKER).display()
                );
                Err(Error::file(found, what))
            }
        }
    }

    /// The error if the run's folders of these `names` hold something that the run has not written, which would go with them.
    pub fn refuse_strangers(path: &Path, names: &[&str]) -> Result<()> {
        match names.iter().flat_map(|name| strangers(&path.join(name), name)).next() {
            None => Ok(()),
            Some(found) => {
                let what = "the run has not written this, and would remove it with the folder around it: move it elsewhere, or \
                            choose another folder";
                Err(Error::file(found, what))
            }
        }
    }

    /// Takes a folder for a run that will write files and folders of these `names`. Makes the folder if it is missing.
    ///
    /// # Errors
    /// As [`RunFolder::look`]; another process works there; the folder cannot be written.
    pub fn open(path: &Path, names: &[&str]) -> Result<RunFolder> {
        let is_new = !RunFolder::look(path, names)?;
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        let place = path.join(MARKER);
        let mut marker = open_marker(&place).map_err(Error::io("create", &place))?;
        if !lock(&marker) {
            return Err(Error::Busy { path: path.to_path_buf() });
        }
        if is_new {
            marker.write_all(EXPLANATION).and_then(|()| marker.sync_all()).map_err(Error::io("write", &place))?;
        }
        let folder = RunFolder { path: path.to_path_buf(), marker };
        folder.check()?;
        folder.remove_left_over()?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a process works in a folder, as far as can be seen.
    pub fn is_busy(path: &Path) -> bool {
        let marker = File::open(path.join(MARKER));
        marker.is_ok_and(|marker| matches!(marker.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
    }

    /// The error if the folder was removed or replaced since it was opened.
    pub fn check(&self) -> Result<()> {
        let place = self.path.join(MARKER);
        let same = fs::symlink_metadata(&place).and_then(|now| Ok(is_same(&now, &self.marker.metadata()?)));
        match same {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::file(&self.path, "the run's folder was replaced while the run went on")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::file(&self.path, "the run's folder was removed while the run went on"))
            }
            Err(e) => Err(Error::io("read", &place)(e)),
        }
    }

    /// Replaces a file, or writes a new one: `NAME` or `FOLDER/NAME`.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.place(name)?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        // Whatever lies there, be it a pipe, is replaced.
        crate::files::write_all_atomic(&[(&path, bytes)])
    }

    /// Opens a file that is written to its end.
    pub fn append(&self, name: &str) -> Result<File> {
        let path = self.place(name)?;
        File::options().append(true).create(true).open(&path).map_err(Error::io("write", &path))
    }

    /// A folder that will be replaced as a whole, or made.
    pub fn begin(&self, name: &str) -> Result<AtomicDir> {
        AtomicDir::begin(&self.place(name)?)
    }

    /// Removes files and folders of these names, where they are.
    ///
    /// # Errors
    /// As [`RunFolder::refuse_strangers`], before anything is removed.
    pub fn remove(&self, names: &[&str]) -> Result<()> {
        RunFolder::refuse_strangers(&self.path, names)?;
        for name in names {
            let path = self.place(name)?;
            // What a crash has left of it would bring it back.
            recover(&path)?;
            remove(&path)?;
        }
        Ok(())
    }

    /// Removes what a run has written, then the folder if nothing else is in it.
    pub fn dissolve(self, names: &[&str]) -> Result<()> {
        self.remove(names)?;
        remove(&self.path.join(MARKER))?;
        drop(self.marker);
        match fs::remove_dir(&self.path) {
            Err(e) if !matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => {
                Err(Error::io("remove", &self.path)(e))
            }
            _ => Ok(()),
        }
    }

    /// Where a name leads, if the folder is still there and the name leads nowhere else.
    fn place(&self, name: &str) -> Result<PathBuf> {
        self.check()?;
        if name.split('/').all(is_plain_name) {
            return Ok(self.path.join(name));
        }
        Err(Error::file(&self.path, format!("no file of a run may be called {name:?}: only letters, digits, - and _")))
    }

    /// Files that a crash has left half written.
    fn remove_left_over(&self) -> Result<()> {
        let entries = fs::read_dir(&self.path).map_err(Error::io("list", &self.path))?;
        for entry in entries {
            let name = entry.map_err(Error::io("list", &self.path))?.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(LEFT_OVER)) {
                remove(&self.path.join(name))?;
            }
        }
        Ok(())
    }
}

/// What lies in the folder `name` of a run and was not written by it. Of a folder with another name, all is the run's.
pub(super) fn strangers(folder: &Path, name: &str) -> Vec<PathBuf> {
    let Some((_, contents)) = CONTENTS.iter().find(|(known, _)| *known == name) else { return Vec::new() };
    let patterns: Vec<glob::Pattern> = contents.iter().flat_map(|pattern| glob::Pattern::new(pattern)).collect();
    let is_folder = folder.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    let entries = is_folder.then(|| fs::read_dir(folder)).into_iter().flatten().flatten().flatten();
    let is_known = |name: &str| patterns.iter().any(|pattern| pattern.matches(name));
    entries.filter(|entry| !entry.file_name().to_str().is_some_and(is_known)).map(|entry| entry.path()).collect()
}

/// Makes the file if it is missing, and never through a link.
fn open_marker(place: &Path) -> io::Result<File> {
    match File::options().read(true).write(true).create_new(true).open(place) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && is_file(place) => {
            File::options().read(true).write(true).open(place)
        }
        opened => opened,
    }
}

/// Whether the lock is ours. A file system without locks protects nothing, and hinders nothing.
fn lock(marker: &File) -> bool {
    for _ in 0..PATIENCE.0 {
        if !matches!(marker.try_lock(), Err(fs::TryLockError::WouldBlock)) {
            return true;
        }
        // A process that is just ending may hold it for a moment.
        thread::sleep(PATIENCE.1);
    }
    false
}

fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
}

fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn is_same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Elsewhere an open file keeps its folder from being removed.
#[cfg(not(unix))]
fn is_same(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}
