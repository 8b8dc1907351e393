//! What sentence embedding models have behind the encoder: `modules.json` of sentence-transformers, as Sentence-T5 and GTR use it.

use std::path::Path;

use serde::Deserialize;

use crate::checkpoint::Weights;
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};
use crate::gpu::{Buffer, Gpu, Slice};

/// The modules behind the encoder: the mean, then what is here.
pub struct SentenceHead {
    pub(super) dense: Option<Dense>,
    pub(super) normalize: bool,
}

/// A linear layer without bias.
pub(super) struct Dense {
    pub rows: usize,
    weight: Buffer,
}

#[derive(Deserialize)]
struct Module {
    path: String,
    r#type: String,
}

impl Module {
    fn kind(&self) -> &str {
        self.r#type.rsplit('.').next().unwrap_or_default()
    }
}

/// The modules that a `modules.json` lists.
fn modules_in(path: &Path) -> Result<Vec<Module>> {
    let modules: Vec<Module> = read_json(path)?;
    // A hostile file must not make us read elsewhere.
    let leads_out = |module: &Module| !module.path.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match modules.iter().position(leads_out) {
        None => Ok(modules),
        Some(i) => Err(Error::file(path, format!("module {i} ({}): its path is no plain name", modules[i].r#type))),
    }
}

/// The folders, beside this `modules.json`, of the modules that have files of their own to be read.
#[cfg(feature = "hub")]
pub(crate) fn module_folders(path: &Path) -> Result<Vec<String>> {
    let mut modules = modules_in(path)?;
    modules.retain(|module| !module.path.is_empty() && matches!(module.kind(), "Pooling" | "Dense"));
    Ok(modules.into_iter().map(|module| module.path).collect())
}

#[derive(Deserialize)]
struct PoolingConfig {
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct DenseConfig {
    in_features: usize,
    out_features: usize,
    #[serde(default)]
    bias: bool,
    #[serde(default)]
    activation_function: Option<String>,
}

impl SentenceHead {
    /// Reads `modules.json` of a model and what it names; `None` where there is no such file. `width`: the model's d_model.
    ///
    /// # Errors
    /// `File` for a module that this program does not have, or a dense layer that is missing or of another width.
    pub fn open(gpu: &Gpu, model: &Path, width: usize) -> Result<Option<SentenceHead>> {
        let dir = files::model_folder(model);
        let path = dir.join("modules.json");
        if !path.exists() {
            return Ok(None);
        }
        let modules = modules_in(&path)?;
        let mut head = SentenceHead { dense: None, normalize: false };
        let mut has_pooling = false;
        for (i, module) in modules.iter().enumerate() {
            let refuse = |why: &str| Err(Error::file(&path, format!("module {i} ({}): {why}", module.r#type)));
            match (module.kind(), i) {
                ("Transformer", 0) => {}
                ("Pooling", 1) => {
                    let config = dir.join(&module.path).join("config.json");
                    let pooling: PoolingConfig = read_json(&config)?;
                    let others = pooling.others.iter().filter(|(k, _)| k.starts_with("pooling_mode_"));
                    if !pooling.pooling_mode_mean_tokens || others.into_iter().any(|(_, v)| *v == true) {
                        return Err(Error::file(
                            config,
                            "only the mean over tokens (pooling_mode_mean_tokens) is known",
                        ));
                    }
                    has_pooling = true;
                }
                ("Dense", _) if has_pooling && head.dense.is_none() && !head.normalize => {
                    head.dense = Some(Dense::open(gpu, &dir.join(&module.path), width)?);
                }
                ("Normalize", _) if has_pooling => head.normalize = true,
                _ => return refuse("known are Transformer, Pooling, Dense and Normalize, in this order"),
            }
        }
        if has_pooling { Ok(Some(head)) } else { Err(Error::file(&path, "lists no Pooling")) }
    }

    /// Numbers in a vector, for a model of `d_model`.
    pub(super) fn width(&self, d_model: usize) -> usize {
        self.dense.as_ref().map_or(d_model, |dense| dense.rows)
    }

    pub(super) fn weight(&self) -> Option<Slice> {
        self.dense.as_ref().map(|dense| dense.weight.all())
    }

    /// Bytes on the device.
    pub(super) fn bytes(&self) -> u64 {
        self.dense.as_ref().map_or(0, |dense| dense.weight.bytes())
    }
}

impl Dense {
    fn open(gpu: &Gpu, dir: &Path, width: usize) -> Result<Dense> {
        let path = dir.join("config.json");
        let config: DenseConfig = read_json(&path)?;
        let DenseConfig { in_features, out_features, bias, activation_function } = config;
        let is_identity = activation_function.as_deref().is_none_or(|name| name.ends_with("Identity"));
        if bias || !is_identity {
            return Err(Error::file(path, "only a dense layer without bias and activation is known"));
        }
        if in_features != width || !(1..=1 << 20).contains(&out_features) {
            return Err(Error::file(
                path,
                format!("{in_features} x {out_features} does not fit a model of width {width}"),
            ));
        }
        let weight = Weights::open(dir)?.read_f32("linear.weight", &[out_features, in_features])?;
        // The kernel takes rows of whole vec4s.
        if !in_features.is_multiple_of(4) {
            return Err(Error::file(path, format!("{in_features} in_features are no multiple of 4")));
        }
        Ok(Dense { rows: out_features, weight: gpu.buffer_of("dense", &weight)? })
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = files::read_text(path, SETTINGS_LIMIT)?;
    serde_json::from_str(&text).map_err(|e| Error::line(path, e.line(), format!("not what it should hold: {e}")))
}
