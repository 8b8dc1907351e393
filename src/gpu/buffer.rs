//! Buffers on the device, uploads, and readback that never blocks a browser.

use std::ops::Range;

use super::Gpu;
use super::poller::Mapping;
use crate::error::{Error, Result};

/// A buffer on the device. Clones share it.
#[derive(Clone)]
pub struct Buffer {
    pub(super) raw: wgpu::Buffer,
    pub(super) bytes: u64,
}

/// A window of a buffer, in bytes.
#[derive(Clone)]
pub struct Slice {
    pub buffer: Buffer,
    pub offset: u64,
    pub bytes: u64,
}

impl Buffer {
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
    /// `OutOfMemory` if the device refuses it or it is larger than the device's largest buffer.
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
        Ok(Buffer { raw, bytes })
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

    /// Sets a window to zero.
    pub fn clear(&self, slice: &Slice) {
        self.inner.submit(|encoder| encoder.clear_buffer(&slice.buffer.raw, slice.offset, Some(slice.bytes)));
    }

    /// Copies `bytes` (a multiple of 4) between two buffers.
    pub fn copy(&self, from: &Buffer, from_offset: u64, to: &Buffer, to_offset: u64, bytes: u64) {
        self.inner.submit(|encoder| encoder.copy_buffer_to_buffer(&from.raw, from_offset, &to.raw, to_offset, bytes));
    }

    /// Reads `range` (bytes, multiples of 4) back to the host.
    pub async fn read<T: bytemuck::Pod>(&self, buffer: &Buffer, range: Range<u64>) -> Result<Vec<T>> {
        self.start_read(buffer, range)?.finish().await
    }

    /// Begins a readback; work submitted afterwards does not delay it.
    pub fn start_read<T: bytemuck::Pod>(&self, buffer: &Buffer, range: Range<u64>) -> Result<Readback<T>> {
        let bytes = range.end - range.start;
        let mapping = Mapping::default();
        let to = mapping.clone();
        let (staging, submission) = self.inner.call(|device, queue| {
            let staging = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("readback"),
                size: bytes.max(4),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let mut encoder = device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(&buffer.raw, range.start, &staging, 0, bytes);
            let submission = queue.submit([encoder.finish()]);
            staging.map_async(wgpu::MapMode::Read, .., move |result| to.end(result.is_ok()));
            (staging, submission)
        });
        self.check()?;
        Ok(Readback { gpu: self.clone(), staging, submission, mapping, marker: std::marker::PhantomData })
    }
}

/// A copy on its way to the host.
pub struct Readback<T> {
    gpu: Gpu,
    staging: wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
    mapping: Mapping,
    marker: std::marker::PhantomData<fn() -> T>,
}

impl<T: bytemuck::Pod> Readback<T> {
    /// The data, once it has arrived. Waiting for it blocks no thread.
    pub async fn finish(self) -> Result<Vec<T>> {
        self.gpu.ended(self.submission, self.mapping.clone(), true).await?;
        let view = self.staging.slice(..).get_mapped_range().map_err(|e| Error::Driver(e.to_string()))?;
        Ok(bytemuck::pod_collect_to_vec::<u8, T>(&view))
    }
}
