//! Files in and out: read up to a limit and only if they are files, written whole or not at all.

mod atomic;
#[cfg(feature = "train")]
mod nesting;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

#[cfg(any(feature = "train", feature = "hub"))]
pub(crate) use atomic::sync_folder;
#[cfg(feature = "train")]
pub(crate) use atomic::{LEFT_OVER, folder_of};
pub use atomic::{write_all_atomic, write_atomic, write_streamed};
#[cfg(feature = "train")]
pub use nesting::{TOO_DEEP, nests_too_deep};

use crate::error::{Error, Result};

/// The most that is read of a file of settings, such as `config.json`, a recipe or a report.
pub const SETTINGS_LIMIT: u64 = 64 << 20;

/// The most that is read of a vocabulary or a log.
pub const LARGE_LIMIT: u64 = 1 << 30;

/// The folder of a model that is named by its folder, or by one of its files.
pub fn model_folder(path: &Path) -> &Path {
    match path.parent().filter(|_| path.is_file()) {
        Some(folder) if folder == Path::new("") => Path::new("."),
        Some(folder) => folder,
        None => path,
    }
}

/// Opens a file. A pipe or a device is refused: opening it might wait for ever, and it might never end.
///
/// # Errors
/// There is no such file, it may not be read, or it is no file.
pub fn open(path: impl AsRef<Path>) -> Result<File> {
    let path = path.as_ref();
    let kind = fs::metadata(path).map_err(Error::io("read", path))?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        let what = "this is a pipe or a device, and only files are read here: copy what it gives into a file";
        return Err(Error::file(path, what));
    }
    File::open(path).map_err(Error::io("read", path))
}

/// All of a file of at most `limit` bytes.
///
/// # Errors
/// Those of [`open`], or the file cannot be read, or is larger.
pub fn read(path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > limit {
        let what = format!("more than {} MiB, the most that is read of such a file: is it the right one?", limit >> 20);
        return Err(Error::file(path, what));
    }
    Ok(bytes)
}

/// As [`read`], as text.
///
/// # Errors
/// Those, and bytes that are no UTF-8, with their line.
pub fn read_text(path: impl AsRef<Path>, limit: u64) -> Result<String> {
    let path = path.as_ref();
    let bytes = read(path, limit)?;
    if is_utf16(&bytes) {
        return Err(Error::file(path, UTF_16));
    }
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = good.iter().filter(|&&byte| byte == b'\n').count() + 1;
        Error::line(path, line, "not UTF-8; is this a text file?")
    })
}

/// What is wrong with a text for which [`is_utf16`] holds.
pub const UTF_16: &str = "this is UTF-16, not UTF-8: save it as UTF-8, or convert it with `iconv -f utf-16 -t utf-8`";

/// Whether a file begins with the byte order mark of UTF-16, as some programs for Windows write. No UTF-8 text does.
pub fn is_utf16(head: &[u8]) -> bool {
    head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff")
}
