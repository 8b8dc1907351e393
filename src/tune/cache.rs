//! The file of measurements: one for each adapter.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Decision;
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};
use crate::gpu::Gpu;

/// Raised whenever the meaning of the file changes.
const FORMAT: u32 = 1;

/// The file of one adapter.
#[derive(Clone, Debug)]
pub struct Cache {
    path: PathBuf,
    identity: Identity,
}

/// What measurements hold for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub adapter: String,
    pub backend: String,
    /// The driver, its version and the compiler in front of it.
    pub driver: String,
    /// Whether shaders check bounds.
    pub checked: bool,
}

/// What is kept of a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheEntry {
    /// Fingerprint of the candidates and their shaders.
    pub sources: String,
    pub variant: String,
    /// Milliseconds of a run of the trial, by candidate.
    pub ms: BTreeMap<String, f64>,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    format: u32,
    #[serde(flatten)]
    identity: Identity,
    classes: BTreeMap<String, CacheEntry>,
}

impl Identity {
    pub fn of(gpu: &Gpu) -> Identity {
        let caps = gpu.caps();
        Identity {
            adapter: caps.name.clone(),
            backend: caps.backend.clone(),
            driver: format!("{} {} ({})", caps.driver, caps.driver_info, caps.compiler),
            checked: gpu.checked(),
        }
    }
}

impl Cache {
    /// The file for this adapter in a folder, neither of which need exist.
    pub fn new(folder: &Path, identity: Identity) -> Cache {
        let Identity { adapter, backend, checked, .. } = &identity;
        let full = format!("{adapter} {backend}{}", if *checked { " checked" } else { "" });
        let words = full.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let name = words.collect::<Vec<_>>().join("-").to_lowercase();
        Cache { path: folder.join(format!("kernels-{name}.json")), identity }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file holds for this adapter and its driver, and a warning if it cannot be used. A file of another driver, or
    /// none, is no reason for a warning.
    pub fn load(&self) -> (BTreeMap<String, CacheEntry>, Option<String>) {
        if !self.path.exists() {
            return Default::default();
        }
        let text = match files::read(&self.path, SETTINGS_LIMIT) {
            Ok(text) => text,
            Err(e) => return (BTreeMap::new(), Some(e.to_string())),
        };
        let unusable = |e: serde_json::Error| {
            let what = format!("not a file of kernel timings ({e}): it is left aside and will be replaced");
            (BTreeMap::new(), Some(Error::line(&self.path, e.line(), what).to_string()))
        };
        let contents: Contents = match serde_json::from_slice(&text) {
            Ok(contents) => contents,
            Err(e) => return unusable(e),
        };
        let fits = contents.format == FORMAT && contents.identity == self.identity;
        (if fits { contents.classes } else { BTreeMap::new() }, None)
    }

    /// Adds classes to the file, or replaces them. Processes take turns, and readers see the old file or the new one.
    pub fn add(&self, entries: &BTreeMap<String, CacheEntry>) -> Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let turn = self.path.with_extension("lock");
        let turn = File::options().append(true).create(true).open(&turn).map_err(Error::io("create", &turn))?;
        // A file system without locks loses at worst one of two additions.
        let _ = turn.lock();
        let (mut classes, _) = self.load();
        classes.extend(entries.iter().map(|(class, entry)| (class.clone(), entry.clone())));
        let contents = Contents { format: FORMAT, identity: self.identity.clone(), classes };
        let text = serde_json::to_vec_pretty(&contents).map_err(|e| Error::file(&self.path, e.to_string()))?;
        files::write_atomic(&self.path, &text)
    }
}

impl CacheEntry {
    pub(super) fn of(decision: &Decision, sources: String) -> CacheEntry {
        CacheEntry { sources, variant: decision.variant.clone(), ms: decision.ms.clone() }
    }
}
