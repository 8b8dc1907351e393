//! A reader of rows that ends with an error instead of filling the memory with one row.

use std::io::{self, ErrorKind, Read};

use super::lines::MAX_LINE;

/// Reads at most [`MAX_LINE`] bytes from one call of [`Bounded::next_row`] to the next.
pub(super) struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Bounded<R> {
    pub fn new(inner: R) -> Bounded<R> {
        Bounded { inner, left: MAX_LINE }
    }

    /// Says that a row is complete.
    pub fn next_row(&mut self) {
        self.left = MAX_LINE;
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::new(ErrorKind::InvalidData, "a row of more than 64 MiB: is a quote never closed?")
        })?;
        Ok(n)
    }
}
