//! Lines of text files, plain or gzipped, with errors that name the file and the line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::{Error, Result};

/// No UTF-8 text can begin with these bytes, so the contents decide and not the file's name.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Calls `visit(line number from 1, line without its line end)` for every line that is not blank.
///
/// Errors: the file cannot be read, a line is not UTF-8, or there is no line but blank ones.
pub(super) fn for_each_line(path: &Path, mut visit: impl FnMut(usize, &str) -> Result<()>) -> Result<()> {
    let mut reader = open(path)?;
    let mut bytes = Vec::new();
    let mut visited = false;
    for number in 1.. {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(Error::io("read", path))? == 0 {
            break;
        }
        let line = std::str::from_utf8(&bytes)
            .map_err(|e| Error::line(path, number, format!("{e}; the text must be UTF-8 (convert it with iconv)")))?;
        let line = if number == 1 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
        let line = line.strip_suffix('\n').unwrap_or(line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if !line.trim().is_empty() {
            visited = true;
            visit(number, line)?;
        }
    }
    if visited { Ok(()) } else { Err(Error::file(path, "the file holds no text")) }
}

/// The bytes of a file, unpacked.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let head = reader.fill_buf().map_err(Error::io("read", path))?;
    if head.starts_with(&GZIP_MAGIC) {
        Ok(Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(reader))))
    } else {
        Ok(Box::new(reader))
    }
}
