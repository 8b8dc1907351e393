//! Files of weights in memory: mapped, or handed over by the caller.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::files;

/// A file's bytes, and what messages call it.
pub(super) struct MappedFile {
    pub path: PathBuf,
    contents: Contents,
}

enum Contents {
    Mapped(Mmap),
    InMemory(Vec<u8>),
}

impl MappedFile {
    /// Maps a file. Nothing of it is read yet.
    ///
    /// # Errors
    /// It cannot be opened, or is empty.
    pub fn open(path: &Path) -> Result<MappedFile> {
        let file = files::open(path)?;
        if file.metadata().map_err(Error::io("read", path))?.len() == 0 {
            return Err(Error::file(path, "the file is empty; download or copy it again"));
        }
        // SAFETY: the mapping is read-only. A file that another program changes meanwhile would yield changed numbers, or
        // a signal if it shrinks; this program never writes into an existing weights file, it replaces it by a rename.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let file = MappedFile { path: path.to_path_buf(), contents: Contents::Mapped(map) };
        if file.starts_with(b"version https://git-lfs") {
            let what = "this is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`";
            return Err(Error::file(path, what));
        }
        Ok(file)
    }

    /// Bytes in memory. `name` stands for them in messages.
    pub fn of_bytes(name: &Path, bytes: Vec<u8>) -> MappedFile {
        MappedFile { path: name.to_path_buf(), contents: Contents::InMemory(bytes) }
    }

    /// Whether the caller handed the bytes over.
    #[cfg(feature = "pytorch")]
    pub fn is_in_memory(&self) -> bool {
        matches!(self.contents, Contents::InMemory(_))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.contents {
            Contents::Mapped(map) => map,
            Contents::InMemory(bytes) => bytes,
        }
    }
}
