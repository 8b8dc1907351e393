//! Compiled pipelines on disk, where the driver hands them out (Vulkan), so that the next process need not compile them again.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::Caps;
use crate::files::{self, LARGE_LIMIT};

/// The pipelines of one adapter, and the file that keeps them: a checksum of 8 bytes, then what the driver gave.
pub(super) struct PipelineCache {
    pub raw: wgpu::PipelineCache,
    file: PathBuf,
    /// What the file is only good for.
    identity: String,
    /// Bytes of the driver's that the file holds.
    kept: Mutex<usize>,
}

impl PipelineCache {
    /// `None` where the device has no such thing. A file that is missing, damaged or another driver's counts as empty.
    pub fn open(device: &wgpu::Device, caps: &Caps, folder: &Path) -> Option<PipelineCache> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let key = wgpu::util::pipeline_cache_key(&device.adapter_info())?;
        let file = folder.join(format!("pipelines-{key}.bin"));
        let Caps { name, driver, driver_info, .. } = caps;
        let identity = format!("{name} {driver} {driver_info}");
        let data = files::read(&file, LARGE_LIMIT).ok().and_then(|bytes| unpack(&identity, &bytes));
        let kept = Mutex::new(data.as_ref().map_or(0, Vec::len));
        // SAFETY: the checksum says that these are the bytes that `save` had from wgpu, which itself compares adapter and driver.
        let raw = unsafe {
            device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                label: Some("t5"),
                data: data.as_deref(),
                fallback: true,
            })
        };
        Some(PipelineCache { raw, file, identity, kept })
    }

    /// Replaces the file if there are more pipelines than it holds. Where that fails, the next process compiles anew.
    pub fn save(&self) {
        let Some(data) = self.raw.get_data() else { return };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = self.file.parent().unwrap_or(Path::new("."));
        if data.len() > *kept
            && std::fs::create_dir_all(folder).is_ok()
            && files::write_atomic(&self.file, &pack(&self.identity, &data)).is_ok()
        {
            *kept = data.len();
        }
    }
}

fn checksum(identity: &str, data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (identity, data).hash(&mut hasher);
    hasher.finish()
}

fn pack(identity: &str, data: &[u8]) -> Vec<u8> {
    [&checksum(identity, data).to_le_bytes(), data].concat()
}

/// What was packed, if it was, for this identity, and no byte of it has changed.
fn unpack(identity: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let (sum, data) = bytes.split_first_chunk()?;
    (u64::from_le_bytes(*sum) == checksum(identity, data)).then(|| data.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_file_of_this_driver_is_taken() {
        let file = pack("adapter driver 1", b"pipelines");
        assert_eq!(unpack("adapter driver 1", &file).as_deref(), Some(&b"pipelines"[..]));
        assert_eq!(unpack("adapter driver 2", &file), None);
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert_eq!(unpack("adapter driver 1", &damaged), None, "byte {at}");
            assert_eq!(unpack("adapter driver 1", &file[..at]), None, "cut at {at}");
        }
    }
}
