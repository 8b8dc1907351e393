//! A model in several files, of whatever format.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::weights::{TensorInfo, WeightSource};
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};

/// The tensors of several files.
pub(super) struct Shards {
    files: Vec<Box<dyn WeightSource>>,
    /// Index into `files`, by tensor.
    home: BTreeMap<String, usize>,
    /// The folder.
    path: PathBuf,
}

#[derive(Deserialize)]
struct ShardIndex {
    /// Tensor name to shard file.
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    fn read(path: &Path) -> Result<ShardIndex> {
        let text = files::read_text(path, SETTINGS_LIMIT)?;
        serde_json::from_str(&text).map_err(|e| Error::line(path, e.line(), format!("not an index of shards: {e}")))
    }

    /// The shards, each once.
    fn names(&self, path: &Path) -> Result<BTreeSet<&str>> {
        let names: BTreeSet<&str> = self.weight_map.values().map(String::as_str).collect();
        // A hostile index must not make us open files elsewhere.
        let inside = |part: Component| matches!(part, Component::Normal(_));
        let leads_out =
            |name: &&&str| name.is_empty() || name.contains('\\') || !Path::new(name).components().all(inside);
        match names.iter().find(leads_out) {
            None => Ok(names),
            Some(name) => {
                let what = format!("shard \"{name}\" lies outside of this folder; refusing to read it");
                Err(Error::file(path, what))
            }
        }
    }
}

/// The files that an index lists.
#[cfg(feature = "hub")]
pub(crate) fn shard_names(index: &Path) -> Result<BTreeSet<String>> {
    Ok(ShardIndex::read(index)?.names(index)?.into_iter().map(str::to_owned).collect())
}

type Open<'a> = &'a dyn Fn(&Path) -> Result<Box<dyn WeightSource>>;

impl Shards {
    /// The files that an index lists, such as `model.safetensors.index.json`; they may lie in folders below. Where two files hold
    /// a tensor of one name, the index says which is meant.
    pub fn of_index(index_path: &Path, open: Open) -> Result<Shards> {
        let dir = index_path.parent().unwrap_or(Path::new(""));
        let index = ShardIndex::read(index_path)?;
        let mut shards = Shards { files: Vec::new(), home: BTreeMap::new(), path: dir.to_path_buf() };
        for name in index.names(index_path)? {
            let path = dir.join(name);
            if !path.exists() {
                let what = format!("shard {name} is missing from {}; download the model again", dir.display());
                return Err(Error::file(index_path, what));
            }
            let file = open(&path)?;
            let wanted = |tensor: &String| index.weight_map.get(tensor).is_some_and(|home| home == name);
            shards.home.extend(file.tensors().into_keys().filter(wanted).map(|tensor| (tensor, shards.files.len())));
            shards.files.push(file);
        }
        match index.weight_map.iter().find(|(tensor, _)| !shards.home.contains_key(tensor.as_str())) {
            None => Ok(shards),
            Some((tensor, shard)) => {
                let what =
                    format!("tensor {tensor} should be in shard {shard}, but is not there; download the model again");
                Err(Error::file(index_path, what))
            }
        }
    }

    /// All tensors of these files, which lie in `dir`.
    pub fn of_files(dir: &Path, names: &[String], open: Open) -> Result<Shards> {
        let mut shards = Shards { files: Vec::new(), home: BTreeMap::new(), path: dir.to_path_buf() };
        for name in names {
            let path = dir.join(name);
            let file = open(&path)?;
            for tensor in file.tensors().into_keys() {
                if let Some(earlier) = shards.home.insert(tensor.clone(), shards.files.len()) {
                    let what = format!("tensor {tensor} is also in {}; are these shards of one model?", names[earlier]);
                    return Err(Error::file(path, what));
                }
            }
            shards.files.push(file);
        }
        Ok(shards)
    }
}

impl WeightSource for Shards {
    fn tensors(&self) -> BTreeMap<String, TensorInfo> {
        let here = |file: usize| move |(name, _): &(String, TensorInfo)| self.home.get(name) == Some(&file);
        let files = self.files.iter().enumerate();
        files.flat_map(|(at, file)| file.tensors().into_iter().filter(here(at))).collect()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match self.home.get(name) {
            Some(&file) => self.files[file].read(name),
            None => Err(Error::file(&self.path, format!("there is no tensor {name}"))),
        }
    }

    fn place(&self, tensor: Option<&str>) -> PathBuf {
        let home = tensor.and_then(|name| self.home.get(name));
        home.map_or_else(|| self.path.clone(), |&file| self.files[file].place(tensor))
    }
}
