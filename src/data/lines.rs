//! Lines of text files, packed or not, with errors that name the file and the line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

use crate::{Error, Result};

/// No UTF-8 text can begin with these bytes, so the contents decide and not the file's name.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const XZ_MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Bytes of a line beyond which a file is taken for something else than text.
const LONGEST_LINE: u64 = 1 << 30;

const BUFFER: usize = 1 << 16;

/// The lines of a file that are not blank, one after the other.
pub struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    /// Of the line read last, from 1.
    number: usize,
    bytes: Vec<u8>,
    /// Bytes of the file, as it lies on the disk, that have been read.
    consumed: Arc<AtomicU64>,
}

impl Lines {
    /// # Errors
    /// The file cannot be read.
    pub fn open(path: &Path) -> Result<Lines> {
        let consumed = Arc::new(AtomicU64::new(0));
        let reader = unpacked(path, consumed.clone())?;
        Ok(Lines { path: path.to_path_buf(), reader, number: 0, bytes: Vec::new(), consumed })
    }

    /// (line number from 1, line without its line end) of the next line that is not blank; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read or its archive is damaged, a line is not UTF-8.
    pub fn next(&mut self) -> Result<Option<(usize, &str)>> {
        while self.read()? {
            // Not in one pass: a borrow that is returned from a loop outlives it.
            if !self.is_blank() {
                return self.line().map(|line| Some((self.number, line)));
            }
        }
        Ok(None)
    }

    /// The number of bytes of the next line that is not blank, which is not decoded; `None` at the end.
    pub fn skip(&mut self) -> Result<Option<(usize, usize)>> {
        while self.read()? {
            if !self.is_blank() {
                return Ok(Some((self.number, trimmed(&self.bytes, self.number).len())));
            }
        }
        Ok(None)
    }

    /// Bytes of the file that have been read, packed as it is.
    pub fn consumed(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }

    fn read(&mut self) -> Result<bool> {
        self.bytes.clear();
        let mut limited = (&mut self.reader).take(LONGEST_LINE);
        let read = limited.read_until(b'\n', &mut self.bytes).map_err(Error::io("read", &self.path))? as u64;
        self.number += 1;
        if read == LONGEST_LINE && !self.bytes.ends_with(b"\n") {
            let what = "a line of more than a GiB: is this text, a document or a paragraph a line?";
            return Err(Error::line(&self.path, self.number, what));
        }
        Ok(read > 0)
    }

    fn is_blank(&self) -> bool {
        let line = trimmed(&self.bytes, self.number);
        // A visible ASCII character decides for most lines.
        !line.iter().any(|&b| b.is_ascii_graphic()) && std::str::from_utf8(line).is_ok_and(|line| line.trim().is_empty())
    }

    fn line(&self) -> Result<&str> {
        std::str::from_utf8(trimmed(&self.bytes, self.number)).map_err(|e| {
            Error::line(&self.path, self.number, format!("{e}; the text must be UTF-8 (convert it with iconv)"))
        })
    }
}

/// Without line end and byte order mark.
fn trimmed(bytes: &[u8], number: usize) -> &[u8] {
    let line = if number == 1 { bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes) } else { bytes };
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Calls `visit(line number from 1, line without its line end)` for every line that is not blank.
///
/// # Errors
/// The file cannot be read, a line is not UTF-8, or there is no line but blank ones.
pub fn for_each_line(path: &Path, mut visit: impl FnMut(usize, &str) -> Result<()>) -> Result<()> {
    let mut lines = Lines::open(path)?;
    let mut visited = false;
    while let Some((number, line)) = lines.next()? {
        visited = true;
        visit(number, line)?;
    }
    if visited { Ok(()) } else { Err(Error::file(path, "the file holds no text")) }
}

/// All lines of these files that are not blank, file after file. After an error the stream ends.
pub fn text_lines(paths: Vec<PathBuf>) -> impl Iterator<Item = Result<String>> {
    let mut paths = paths.into_iter();
    let mut open: Option<Lines> = None;
    let mut failed = false;
    let mut next = move || -> Result<Option<String>> {
        loop {
            if let Some(lines) = &mut open
                && let Some((_, line)) = lines.next()?
            {
                return Ok(Some(line.to_owned()));
            }
            match paths.next() {
                Some(path) => open = Some(Lines::open(&path)?),
                None => return Ok(None),
            }
        }
    };
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let line = next().transpose();
        failed = matches!(line, Some(Err(_)));
        line
    })
}

/// The bytes of a file, unpacked.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    unpacked(path, Arc::default())
}

fn unpacked(path: &Path, consumed: Arc<AtomicU64>) -> Result<Box<dyn BufRead + Send>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut reader = BufReader::with_capacity(BUFFER, Counting { file, consumed });
    let head = reader.fill_buf().map_err(Error::io("read", path))?;
    Ok(if head.starts_with(&GZIP_MAGIC) {
        Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(reader)))
    } else if head.starts_with(&XZ_MAGIC) {
        Box::new(BufReader::with_capacity(BUFFER, XzReader::new(reader, true)))
    } else if head.starts_with(&ZSTD_MAGIC) {
        Box::new(BufReader::with_capacity(BUFFER, Frames { source: Some(reader), frame: None }))
    } else {
        Box::new(reader)
    })
}

/// Counts what is read of a file.
struct Counting {
    file: File,
    consumed: Arc<AtomicU64>,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.consumed.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// A Zstandard file: frames, one after the other (RFC 8878, section 3). The crate's decoder reads a single one.
struct Frames<R: BufRead> {
    /// Between frames.
    source: Option<R>,
    frame: Option<Box<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>>,
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let read = frame.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
            }
            self.source = self.frame.take().map(|frame| frame.into_inner()).or_else(|| self.source.take());
            let Some(mut source) = self.source.take() else { return Ok(0) };
            if source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            if skip_extra_frame(&mut source)? {
                self.source = Some(source);
                continue;
            }
            self.frame = Some(Box::new(StreamingDecoder::new(source).map_err(io::Error::other)?));
        }
    }
}

/// Skips a frame that holds something else than data, as parallel compressors write them.
fn skip_extra_frame(source: &mut impl BufRead) -> io::Result<bool> {
    const EXTRA: std::ops::RangeInclusive<u8> = 0x50..=0x5f;
    let head = source.fill_buf()?;
    let is_extra = head.len() >= 4 && EXTRA.contains(&head[0]) && head[1..4] == [0x2a, 0x4d, 0x18];
    if is_extra {
        source.consume(4);
        let mut length = [0; 4];
        source.read_exact(&mut length)?;
        let length = u64::from(u32::from_le_bytes(length));
        if io::copy(&mut source.take(length), &mut io::sink())? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(is_extra)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_follow_each_other_and_an_error_is_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "one\n\ntwo").unwrap();
        fs::write(path("b"), b"three\n\xff\nfour\n").unwrap();
        let lines: Vec<_> = text_lines(vec![path("a"), path("b")]).collect();
        let texts: Vec<&str> = lines.iter().filter_map(|line| line.as_deref().ok()).collect();
        assert_eq!((texts, lines.len()), (vec!["one", "two", "three"], 4));
        assert!(lines[3].as_ref().unwrap_err().to_string().contains("b:2"));
    }
}
