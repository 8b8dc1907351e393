//! Files as streams of bytes: plain, or packed by gzip, xz or zstd, told apart by their first bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::files::{UTF_16, is_utf16};
use crate::{Error, Result};

/// Bytes, unpacked; can be handed to another thread.
pub type Reader = Box<dyn BufRead + Send>;

/// No UTF-8 text can begin with these bytes, so the contents decide and not the file's name.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const XZ_MAGIC: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// The last three of the four bytes that open a skippable frame of zstd; `pzstd` begins its files with one.
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];

const BUFFER: usize = 1 << 16;

/// The most that an archive may have the reader remember of what it has unpacked. `zstd -d` accepts no larger window by default,
/// and `xz -9` makes one of half the size; a damaged header may ask for 4 GiB.
const MOST_WINDOW: u64 = 1 << 27;

/// Beside the window, in KiB.
const XZ_BUFFERS: u64 = 1 << 10;

/// The bytes of a file, unpacked. Concatenated archives count as one.
///
/// # Errors
/// The file cannot be opened or read. A truncated or damaged archive is an error of the reader, when it gets there.
pub fn open(path: &Path) -> Result<Reader> {
    open_counted(path).map(|(reader, _)| reader)
}

/// As [`open`], with the number of bytes of the file that have been read so far.
pub(super) fn open_counted(path: &Path) -> Result<(Reader, Arc<AtomicU64>)> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let read = Arc::new(AtomicU64::new(0));
    let reader = BufReader::with_capacity(BUFFER, Counting { inner: file, read: read.clone() });
    Ok((unpacked(Box::new(reader)).map_err(Error::io("read", path))?, read))
}

/// The bytes that a packed stream holds; any other stream as it is, unless it is UTF-16: read as anything else, that would
/// be lines of nonsense.
pub(super) fn unpacked(mut reader: Reader) -> io::Result<Reader> {
    let head = reader.fill_buf()?;
    let is_zstd = head.starts_with(ZSTD_MAGIC)
        || head.get(1..4) == Some(ZSTD_SKIPPABLE) && head.first().is_some_and(|first| first >> 4 == 5);
    Ok(if head.starts_with(GZIP_MAGIC) {
        Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(reader)))
    } else if head.starts_with(XZ_MAGIC) {
        Box::new(BufReader::with_capacity(BUFFER, xz_reader(reader)))
    } else if is_zstd {
        Box::new(BufReader::with_capacity(BUFFER, ZstdReader::new(reader)))
    } else if is_utf16(head) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, UTF_16));
    } else {
        reader
    })
}

fn xz_reader(reader: Reader) -> XzReader<Reader> {
    XzReader::new_mem_limit(reader, true, ((MOST_WINDOW >> 10) + XZ_BUFFERS) as u32)
}

/// Counts the bytes that are read through it.
struct Counting<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Frames of zstd one after the other, as `cat a.zst b.zst` and parallel compressors make them.
struct ZstdReader<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> ZstdReader<R> {
    fn new(source: R) -> ZstdReader<R> {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MOST_WINDOW);
        ZstdReader { source, decoder, in_frame: false }
    }

    /// Whether there is another frame.
    fn begin_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut self.source.by_ref().take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(e) => return Err(damaged(e)),
            }
        }
        Ok(false)
    }

    /// The decoder computes the checksum and leaves it to us to compare.
    fn end_frame(&self) -> io::Result<()> {
        match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
            (Some(expected), Some(found)) if expected != found => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum of a zstd frame does not match"))
            }
            _ => Ok(()),
        }
    }
}

fn damaged(cause: FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the zstd archive is damaged or cut off: {cause}"))
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame && !self.begin_frame()? {
                return Ok(0);
            }
            self.in_frame = true;
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder.decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1)).map_err(damaged)?;
            }
            let n = self.decoder.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            self.end_frame()?;
            self.in_frame = false;
        }
    }
}
