//! Files in and out: read up to a limit, written whole or not at all.

mod atomic;

use std::fs::File;
use std::io::Read;
use std::path::Path;

#[cfg(feature = "train")]
pub(crate) use atomic::{LEFT_OVER, folder_of, sync_folder};
pub use atomic::{write_all_atomic, write_atomic};

use crate::error::{Error, Result};

/// The most that is read of a file of settings, such as `config.json`, a recipe or a report.
pub const SETTINGS_LIMIT: u64 = 64 << 20;

/// The most that is read of a vocabulary or a log.
pub const LARGE_LIMIT: u64 = 1 << 30;

/// All of a file of at most `limit` bytes. A device or a pipe that gives more, without an end perhaps, is an error too.
///
/// # Errors
/// The file cannot be read, or is larger.
pub fn read(path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let file = File::open(path).map_err(Error::io("read", path))?;
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
    String::from_utf8(read(path, limit)?).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = good.iter().filter(|&&byte| byte == b'\n').count() + 1;
        Error::line(path, line, "not UTF-8; is this a text file?")
    })
}
