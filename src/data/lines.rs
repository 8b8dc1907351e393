//! The one reader of lines of text files, plain or packed. Its errors name the file and the line.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::unpack::{self, Reader};
use crate::{Error, Result};

/// A line longer than this is not text but some other kind of file.
pub(super) const MAX_LINE: u64 = 64 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The lines of a file, one after the other.
pub struct Lines {
    reader: Reader,
    /// Whether the reader's first bytes were looked at: an archive is unpacked from then on.
    begun: bool,
    path: PathBuf,
    /// Lines read.
    number: usize,
    read: Arc<AtomicU64>,
    line: Vec<u8>,
}

impl Lines {
    /// # Errors
    /// The file cannot be opened or read.
    pub fn open(path: &Path) -> Result<Lines> {
        let (reader, read) = unpack::open_counted(path)?;
        Ok(Lines { reader, begun: true, path: path.to_path_buf(), number: 0, read, line: Vec::new() })
    }

    /// Lines that do not come from a file, but may be packed like one; `name` stands for it in messages. Nothing is read before
    /// the first line is asked for.
    pub fn from_reader(reader: Reader, name: &str) -> Lines {
        Lines { reader, begun: false, path: name.into(), number: 0, read: Arc::default(), line: Vec::new() }
    }

    /// The lines of standard input.
    pub fn stdin() -> Lines {
        Lines::from_reader(Box::new(BufReader::new(io::stdin())), "stdin")
    }

    /// (number from 1, the line's bytes without its line end and without a byte order mark); `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read, is a damaged archive, or has a line of more than 64 MiB.
    pub fn next_bytes(&mut self) -> Result<Option<(usize, &[u8])>> {
        self.line.clear();
        if !std::mem::replace(&mut self.begun, true) {
            let reader = std::mem::replace(&mut self.reader, Box::new(io::empty()));
            self.reader = unpack::unpacked(reader).map_err(Error::io("read", &self.path))?;
        }
        let mut bounded = self.reader.by_ref().take(MAX_LINE + 1);
        if bounded.read_until(b'\n', &mut self.line).map_err(Error::io("read", &self.path))? == 0 {
            return Ok(None);
        }
        self.number += 1;
        if self.line.len() as u64 > MAX_LINE {
            return Err(Error::line(
                &self.path,
                self.number,
                "a line of more than 64 MiB: is this a text file? Break it into lines",
            ));
        }
        Ok(Some((self.number, bare(&self.line, self.number))))
    }

    /// As [`Lines::next_bytes`], as text.
    ///
    /// # Errors
    /// Those, and a line that is not UTF-8.
    pub fn next_text(&mut self) -> Result<Option<(usize, &str)>> {
        if self.next_bytes()?.is_none() {
            return Ok(None);
        }
        Ok(Some((self.number, utf8(&self.path, self.number, bare(&self.line, self.number))?)))
    }

    /// Bytes of the file (packed ones, where it is packed) that have been read, ahead of the lines by a buffer.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

/// # Errors
/// `line` of `path` is not UTF-8.
pub(super) fn utf8<'a>(path: &Path, number: usize, line: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(line).map_err(|e| Error::line(path, number, not_utf8(e.valid_up_to())))
}

/// What is wrong with a line that is UTF-8 up to a byte.
pub(super) fn not_utf8(valid: usize) -> String {
    format!("not UTF-8 at byte {} of the line: convert the file, e.g. with `iconv -f latin1 -t utf-8`", valid + 1)
}

/// Calls `visit(line number from 1, line without its line end)` for every line that is not blank.
///
/// Errors: the file cannot be read, a line is not UTF-8, or there is no line but blank ones.
pub(super) fn for_each_line(path: &Path, mut visit: impl FnMut(usize, &str) -> Result<()>) -> Result<()> {
    for_each_row(path, |number, line| visit(number, line.map_err(|what| Error::line(path, number, what))?))
}

/// As [`for_each_line`], except that `visit` gets the error of a line that is not UTF-8.
pub(super) fn for_each_row(
    path: &Path,
    mut visit: impl FnMut(usize, Result<&str, String>) -> Result<()>,
) -> Result<()> {
    let mut lines = Lines::open(path)?;
    let mut visited = false;
    while let Some((number, line)) = lines.next_bytes()? {
        let line = str::from_utf8(line).map_err(|e| not_utf8(e.valid_up_to()));
        if !line.as_ref().is_ok_and(|line| line.trim().is_empty()) {
            visited = true;
            visit(number, line)?;
        }
    }
    if visited { Ok(()) } else { Err(Error::file(path, "the file holds no text")) }
}

fn bare(line: &[u8], number: usize) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if number == 1 { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line) } else { line }
}
