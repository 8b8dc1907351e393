//! Buffers on the device, uploads, and readback that never blocks a browser.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use super::Gpu;
use super::poller::Mapping;
use super::sequence::Sequence;
use crate::error::{Error, Result};

/// A buffer on the device. Clones share it.
#[derive(Clone)]
pub struct Buffer {
    pub(super) raw: wgpu::Buffer,
    pub(super) bytes: u64,
    /// None of buffers for a moment.
    _share: Option<Arc<Share>>,
}

/// A buffer's part of what a [`Gpu`]'s buffers take together.
struct Share {
    bytes: u64,
    all: Arc<AtomicU64>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A window of a buffer, in bytes.
#[derive(Clone)]
pub struct Slice {
    pub buffer: Buffer,
    pub offset: u64,
    pub bytes: u64,
}

impl Buffer {
    /// One that counts as nothing.
    pub(super) fn uncounted(raw: wgpu::Buffer) -> Buffer {
        Buffer { bytes: raw.size(), raw, _share: None }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The whole buffer as a window.
    pub fn all(&self) -> Slice {
        self.slice(0, self.bytes)
    }

    /// A window of it, in bytes.
    pub fn slice(&self, offset: u64, bytes: u64) -> Slice {
        Slice { buffer: self.clone(), offset, bytes }
    }
}

impl Gpu {
    /// A zeroed storage buffer of at least `bytes` bytes.
    ///
    /// # Errors
    /// `OutOfMemory` if the device refuses it, it is larger than the device's largest buffer, or all buffers together would take more than
    /// [`GpuOptions::memory`](super::GpuOptions::memory) allows.
    pub fn buffer(&self, label: &str, bytes: u64) -> Result<Buffer> {
        let bytes = bytes.max(16).next_multiple_of(16);
        let limit = self.caps().max_buffer;
        if bytes > limit {
            return Err(Error::OutOfMemory(format!(
                "{label} needs one buffer of {} MiB, {} allows {} MiB; use a smaller batch or shorter sequences",
                bytes >> 20,
                self.caps().name,
                limit >> 20
            )));
        }
        let all = self.inner.bytes_held.clone();
        let share = Share { bytes, all };
        let held = share.all.fetch_add(bytes, Ordering::Relaxed);
        if let Some(most) = self.inner.options.memory.filter(|&most| held + bytes > most) {
            return Err(Error::OutOfMemory(format!(
                "{label} needs {} MiB, and {} of the {} MiB that may be used are taken; use a smaller batch or shorter sequences",
                bytes >> 20,
                held >> 20,
                most >> 20
            )));
        }
        use wgpu::BufferUsages as Usage;
        let raw = self.inner.call(|device, _| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: bytes,
                usage: Usage::STORAGE | Usage::UNIFORM | Usage::COPY_SRC | Usage::COPY_DST,
                mapped_at_creation: false,
            })
        });
        self.check()?;
        Ok(Buffer { raw, bytes, _share: Some(Arc::new(share)) })
    }

    /// A storage buffer holding `data`.
    pub fn buffer_of<T: bytemuck::NoUninit>(&self, label: &str, data: &[T]) -> Result<Buffer> {
        let buffer = self.buffer(label, std::mem::size_of_val(data) as u64)?;
        self.write(&buffer, 0, data);
        Ok(buffer)
    }

    /// Writes `data` at byte `offset`; it lands before the next submit.
    pub fn write<T: bytemuck::NoUninit>(&self, buffer: &Buffer, offset: u64, data: &[T]) {
        // Staging memory of one write lives until the next submit: go in pieces so that a model never doubles.
        const PIECE: usize = 64 << 20;
        let bytes: &[u8] = bytemuck::cast_slice(data);
        self.inner.call(|_, queue| {
            for (i, piece) in bytes.chunks(PIECE).enumerate() {
                queue.write_buffer(&buffer.raw, offset + (i * PIECE) as u64, piece);
                if bytes.len() > PIECE {
                    queue.submit([]);
                }
            }
        });
    }

    /// Copies one window to the start of another on the device, behind everything submitted or written before.
    pub fn copy(&self, from: &Slice, to: &Slice) {
        self.inner.submit(|encoder| {
            encoder.copy_buffer_to_buffer(&from.buffer.raw, from.offset, &to.buffer.raw, to.offset, from.bytes);
        });
    }

    /// Reads `range` (bytes, multiples of 4) back to the host.
    pub async fn read<T: bytemuck::Pod>(&self, buffer: &Buffer, range: Range<u64>) -> Result<Vec<T>> {
        self.start_read(buffer, range)?.finish().await
    }

    /// Begins a readback; work submitted afterwards does not delay it.
    pub fn start_read<T: bytemuck::Pod>(&self, buffer: &Buffer, range: Range<u64>) -> Result<Readback<T>> {
        Sequence::new(self).submit_reading(&[buffer.slice(range.start, range.end - range.start)])
    }

    /// A buffer that the host can map, for reading at least so many bytes: one that was used before, or a new one.
    pub(super) fn staging(&self, bytes: u64) -> wgpu::Buffer {
        let mut unused = self.inner.staging.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = unused.iter().position(|buffer| buffer.size() >= bytes) {
            return unused.swap_remove(at);
        }
        self.inner.call(|device, _| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("readback"),
                size: if bytes <= KEPT_STAGING { bytes.next_power_of_two().max(256) } else { bytes },
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })
    }
}

/// Bytes up to which a buffer for reading is kept, and how many of them: the reports of training steps, tokens.
const KEPT_STAGING: u64 = 4 << 10;
const MOST_KEPT: usize = 4;

/// A copy on its way to the host.
pub struct Readback<T> {
    gpu: Gpu,
    staging: wgpu::Buffer,
    bytes: u64,
    submission: wgpu::SubmissionIndex,
    mapping: Mapping,
    marker: std::marker::PhantomData<fn() -> T>,
}

impl<T: bytemuck::Pod> Readback<T> {
    /// `mapping`: that of the first `bytes` of `staging`, which `submission` fills.
    pub(super) fn new(
        gpu: &Gpu,
        staging: wgpu::Buffer,
        bytes: u64,
        submission: wgpu::SubmissionIndex,
        mapping: Mapping,
    ) -> Readback<T> {
        Readback { gpu: gpu.clone(), staging, bytes, submission, mapping, marker: std::marker::PhantomData }
    }

    /// The data, once it has arrived. Waiting for it blocks no thread.
    pub async fn finish(self) -> Result<Vec<T>> {
        self.gpu.ended(self.submission, self.mapping.clone(), true).await?;
        // What was mapped a moment ago goes with its device alone.
        let view = self.staging.slice(..self.bytes).get_mapped_range().map_err(|_| self.gpu.no_answer())?;
        let data = bytemuck::pod_collect_to_vec::<u8, T>(&view);
        drop(view);
        self.staging.unmap();
        let mut unused = self.gpu.inner.staging.lock().unwrap_or_else(PoisonError::into_inner);
        if self.staging.size() <= KEPT_STAGING && unused.len() < MOST_KEPT {
            unused.push(self.staging);
        }
        Ok(data)
    }
}
