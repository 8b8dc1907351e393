//! Which files of a model are fetched: those that would be read of a folder that had them all.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::cache::RepositoryCache;
use crate::checkpoint::{ModelFiles, NO_WEIGHTS, files_among, not_in_this_build, other_format_among, shard_names};
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};
use crate::forward::module_folders;
use crate::model::GENERATION_FILE;
use crate::tokenizer::FILES as TOKENIZER_FILES;

const CONFIG: &str = "config.json";
const MODULES: &str = "modules.json";

/// The files of a model that are wanted, in the order in which they are fetched.
pub(super) struct Selection {
    /// What is small, and what names other files.
    settings: Vec<String>,
    weights: ModelFiles,
}

impl Selection {
    /// `place` is for messages, `names` are the files that there are.
    ///
    /// # Errors
    /// There is no model among them that could be read.
    pub fn of(place: &Path, names: &BTreeSet<String>) -> Result<Selection> {
        let Some((weights, _)) = files_among(place, &at_top(names))? else {
            return Err(Error::file(place, other_format_among(names).unwrap_or_else(|| NO_WEIGHTS.into())));
        };
        if let Some(why) = not_in_this_build(weights.name()) {
            return Err(Error::file(place, format!("its weights, {}, are {why}", weights.name())));
        }
        if !names.contains(CONFIG) && !is_gguf(&weights) {
            return Err(Error::file(place, format!("has weights ({}), and no {CONFIG}", weights.name())));
        }
        let mut settings: Vec<String> = [CONFIG, GENERATION_FILE, MODULES]
            .into_iter()
            .chain(TOKENIZER_FILES)
            .filter(|name| names.contains(*name))
            .map(str::to_owned)
            .collect();
        if let ModelFiles::Index(name) = &weights {
            settings.push(name.clone());
        }
        Ok(Selection { settings, weights })
    }

    pub fn settings(&self) -> &[String] {
        &self.settings
    }

    /// What these settings name, now that they lie in `folder`: shards, and the modules behind an encoder.
    ///
    /// # Errors
    /// They name files that there are not, or are damaged.
    pub fn named_in(&self, folder: &Path, names: &BTreeSet<String>) -> Result<Vec<String>> {
        let mut found = Vec::new();
        if self.settings.iter().any(|name| name == MODULES) {
            for module in module_folders(&folder.join(MODULES))? {
                let before = format!("{module}/");
                let inside: BTreeSet<String> =
                    names.iter().filter_map(|name| name.strip_prefix(&before)).map(str::to_owned).collect();
                let of_module = Selection::of_module(&folder.join(&module), &inside)?;
                found.extend(of_module.into_iter().map(|name| format!("{before}{name}")));
            }
        }
        if let ModelFiles::Index(index) = &self.weights {
            let shards = shard_names(&folder.join(index))?;
            if let Some(missing) = shards.iter().find(|shard| !names.contains(*shard)) {
                return Err(Error::file(
                    folder.join(index),
                    format!("names {missing:?}, which the model does not have"),
                ));
            }
            found.extend(shards);
        }
        Ok(found)
    }

    /// Settings and weights of a module behind the encoder, some of which have no weights.
    fn of_module(folder: &Path, names: &BTreeSet<String>) -> Result<Vec<String>> {
        let mut found: Vec<String> = names.get(CONFIG).into_iter().cloned().collect();
        match files_among(folder, &at_top(names))? {
            Some((ModelFiles::Whole(name), _)) => found.push(name),
            Some((ModelFiles::Shards(shards), _)) => found.extend(shards),
            Some((ModelFiles::Index(name), _)) => {
                return Err(Error::file(folder, format!("has {name}, and a module in shards is not known")));
            }
            None => {}
        }
        Ok(found)
    }

    /// The weights, unless an index names them.
    pub fn whole(&self) -> &[String] {
        match &self.weights {
            ModelFiles::Whole(name) => std::slice::from_ref(name),
            ModelFiles::Shards(names) => names,
            ModelFiles::Index(_) => &[],
        }
    }
}

/// Whether a snapshot has a model, so that no hub need be asked. Weights come last (see `Hub::bring`); other programs may have fetched them
/// alone, and what shows that is the lack of a tokenizer. Models of time series have none.
pub(super) fn is_whole(cache: &RepositoryCache, commit: &str) -> bool {
    let (names, folder) = (cache.names(commit), cache.snapshot(commit));
    let has_tokenizer = || TOKENIZER_FILES.into_iter().any(|name| names.contains(name)) || forecasts(&folder);
    Selection::of(&folder, &names).is_ok_and(|selection| {
        selection.named_in(&folder, &names).is_ok_and(|named| named.iter().all(|name| names.contains(name)))
            && (is_gguf(&selection.weights) || has_tokenizer())
    })
}

fn forecasts(folder: &Path) -> bool {
    let config = files::read_text(folder.join(CONFIG), SETTINGS_LIMIT).ok();
    let config = config.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    config.is_some_and(|config| config.get("chronos_config").is_some())
}

fn is_gguf(weights: &ModelFiles) -> bool {
    weights.name().to_ascii_lowercase().ends_with(".gguf")
}

/// The files that lie in no folder.
fn at_top(names: &BTreeSet<String>) -> BTreeSet<String> {
    names.iter().filter(|name| !name.contains('/')).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Result<Vec<String>> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Selection::of(Path::new("a/b"), &names).map(|found| [found.settings(), found.whole()].concat())
    }

    #[test]
    fn nothing_is_fetched_that_would_not_be_read() {
        let t5_small = [
            ".gitattributes",
            "README.md",
            "config.json",
            "flax_model.msgpack",
            "generation_config.json",
            "model.safetensors",
            "onnx/decoder_model.onnx",
            "pytorch_model.bin",
            "rust_model.ot",
            "spiece.model",
            "tf_model.h5",
            "tokenizer.json",
            "tokenizer_config.json",
            "../model.safetensors",
            "/model.safetensors",
        ];
        let wanted = [
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "spiece.model",
            "tokenizer_config.json",
            "model.safetensors",
        ];
        assert_eq!(of(&t5_small).unwrap(), wanted);
        assert_eq!(of(&["t5.Q8_0.gguf", "README.md"]).unwrap(), ["t5.Q8_0.gguf"]);
        let sharded = ["config.json", "model.safetensors.index.json", "model-00001-of-00001.safetensors"];
        assert_eq!(
            of(&sharded).unwrap(),
            ["config.json", "model.safetensors.index.json"],
            "the index names its shards"
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (names, says) in [
            (&["config.json", "tf_model.h5"][..], "tf_model.h5"),
            (&["config.json", "onnx/model.onnx"], "has onnx/model.onnx, an ONNX graph"),
            (&["model.onnx"], "ONNX"),
            (&["adapter_config.json", "adapter_model.safetensors"], "adapter"),
            (&["model.safetensors"], "no config.json"),
            (&["a.gguf", "b.gguf"], "a.gguf, b.gguf"),
            (&["model-00001-of-00002.safetensors", "config.json"], "shard 2 of 2"),
            (&[], "holds no weights"),
        ] {
            let error = of(names).unwrap_err().to_string();
            assert!(error.starts_with("a/b: ") && error.contains(says), "{error}");
        }
    }
}
