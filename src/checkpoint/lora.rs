//! Folders of PyPI's peft with a LoRA: `adapter_config.json` and `adapter_model.safetensors`; and a checkpoint with what such a folder
//! adds to it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Dtype;
use super::weights::{Encoding, TensorInfo, WeightSource, Weights};
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};

/// The name of the settings in the folder.
const ADAPTER_CONFIG: &str = "adapter_config.json";

const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// What peft puts before every name.
const PREFIX: &str = "base_model.model.";

/// `adapter_config.json`, as far as it is used. peft has defaults for what is missing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LoraConfig {
    peft_type: String,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    #[serde(default = "default_rank")]
    r: usize,
    #[serde(default = "default_alpha")]
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    /// All others.
    #[serde(flatten)]
    others: Map<String, Value>,
}

fn default_rank() -> usize {
    8
}

fn default_alpha() -> f64 {
    8.0
}

impl LoraConfig {
    /// The settings of a new folder for PyPI's peft.
    pub fn new(base: &Path, rank: usize, alpha: f64, targets: &[String], rs: bool) -> LoraConfig {
        let others = serde_json::json!({
            "task_type": "SEQ_2_SEQ_LM", "target_modules": targets, "bias": "none", "lora_dropout": 0.0, "inference_mode": true,
            "init_lora_weights": true, "modules_to_save": null, "rank_pattern": {}, "alpha_pattern": {},
        });
        LoraConfig {
            peft_type: "LORA".into(),
            base_model_name_or_path: Some(base.to_string_lossy().into_owned()),
            r: rank,
            lora_alpha: alpha,
            use_rslora: rs,
            fan_in_fan_out: false,
            others: others.as_object().cloned().unwrap_or_default(),
        }
    }

    /// What of it changes what is computed and is not known here.
    fn check(&self) -> Result<(), String> {
        if self.peft_type != "LORA" {
            return Err(format!("is an adapter of the kind {}; only LORA is read", self.peft_type));
        }
        let is_set = |key: &str| {
            self.others.get(key).is_some_and(|value| match value {
                Value::Null | Value::Bool(false) => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(items) => !items.is_empty(),
                Value::String(text) => key != "bias" || text != "none",
                Value::Bool(true) | Value::Number(_) => true,
            })
        };
        match UNKNOWN.iter().find(|key| is_set(key)) {
            Some(key) => {
                Err(format!("sets {key}, which is not supported; merge this adapter with peft (merge_and_unload)"))
            }
            None if self.fan_in_fan_out => Err("sets fan_in_fan_out, which no T5 has".into()),
            None if self.r == 0 => Err("has the rank 0".into()),
            None if !self.lora_alpha.is_finite() => Err(format!("has the alpha {}", self.lora_alpha)),
            None => Ok(()),
        }
    }
}

/// Settings of peft under which LoRA is something else.
const UNKNOWN: [&str; 14] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "bias",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "megatron_config",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "target_parameters",
];

/// The LoRA of a folder.
#[derive(Debug)]
pub struct LoraFolder {
    dir: PathBuf,
    config: LoraConfig,
    /// By the name of the tensor that they add to: the names of A and B.
    pairs: BTreeMap<String, [String; 2]>,
    weights: Weights,
}

impl LoraFolder {
    /// The LoRA that a model's folder holds in place of weights, if it does.
    ///
    /// # Errors
    /// Those of [`LoraFolder::open`].
    pub fn find(model: &Path) -> Result<Option<LoraFolder>> {
        let is_adapter = model.join(ADAPTER_CONFIG).exists() && !super::open::has_weights(model);
        is_adapter.then(|| LoraFolder::open(model)).transpose()
    }

    /// Opens a folder: its settings, and the names and shapes of its tensors.
    ///
    /// # Errors
    /// A file is missing or damaged; it is an adapter of another kind; a tensor is none of LoRA's, has no partner, or another rank
    /// than the settings say.
    pub fn open(dir: &Path) -> Result<LoraFolder> {
        let path = dir.join(ADAPTER_CONFIG);
        let text = files::read_text(&path, SETTINGS_LIMIT)?;
        let config: LoraConfig = serde_json::from_str(&text)
            .map_err(|e| Error::line(&path, e.line(), format!("not the settings of an adapter: {e}")))?;
        config.check().map_err(|what| Error::file(&path, format!("the adapter {what}")))?;
        let file = dir.join(ADAPTER_WEIGHTS);
        let weights = Weights::open_file(&file)?;
        let wrong = |what: String| Error::file(&file, what);
        let mut halves: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
        for name in weights.names() {
            let inner = name.strip_prefix(PREFIX).unwrap_or(name);
            let (stem, half) = match (inner.strip_suffix(".lora_A.weight"), inner.strip_suffix(".lora_B.weight")) {
                (Some(stem), _) => (stem, 0),
                (_, Some(stem)) => (stem, 1),
                _ => return Err(wrong(format!("the tensor {name} is no part of a LoRA"))),
            };
            halves.entry(format!("{stem}.weight")).or_default()[half] = Some(name.to_owned());
        }
        let mut pairs = BTreeMap::new();
        for (target, found) in halves {
            let [Some(a), Some(b)] = found else {
                return Err(wrong(format!("of the two matrices that are added to {target}, one is missing")));
            };
            let (Some(shape_a), Some(shape_b)) = (weights.shape(&a), weights.shape(&b)) else { continue };
            let ([rank_a, _], [_, rank_b]) = (shape_a, shape_b) else {
                return Err(wrong(format!("what is added to {target} is no pair of matrices")));
            };
            if *rank_a != config.r || *rank_b != config.r {
                return Err(wrong(format!(
                    "the matrices that are added to {target} are {shape_a:?} and {shape_b:?}, but the rank is {} in {ADAPTER_CONFIG}",
                    config.r
                )));
            }
            pairs.insert(target, [a, b]);
        }
        if pairs.is_empty() {
            return Err(wrong("there are no tensors".into()));
        }
        Ok(LoraFolder { dir: dir.to_owned(), config, pairs, weights })
    }

    /// The factor on each product.
    pub fn scale(&self) -> f64 {
        let rank = self.config.r as f64;
        self.config.lora_alpha / if self.config.use_rslora { rank.sqrt() } else { rank }
    }

    /// The folder or file of the model that it was made on.
    ///
    /// # Errors
    /// It is not said, it is not there, or it is an adapter itself.
    pub fn base(&self) -> Result<PathBuf> {
        let wrong = |what: String| Error::file(self.dir.join(ADAPTER_CONFIG), what);
        let Some(name) = self.config.base_model_name_or_path.as_deref().filter(|name| !name.is_empty()) else {
            return Err(wrong(
                "the adapter does not say which model it was made on: name that model, and the adapter beside it"
                    .into(),
            ));
        };
        let base = PathBuf::from(name);
        if !base.exists() {
            let what = format!(
                "the adapter was made on {name}, which is not there: name that model, and the adapter beside it"
            );
            return Err(wrong(what));
        }
        match base.join(ADAPTER_CONFIG).exists() && !super::open::has_weights(&base) {
            true => {
                Err(wrong(format!("the adapter was made on {name}, which is an adapter itself: merge that one first")))
            }
            false => Ok(base),
        }
    }

    /// The tensors that it adds to.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.pairs.keys().map(String::as_str)
    }

    /// A and B of a tensor, row-major, of these shapes.
    ///
    /// # Errors
    /// It adds nothing to that tensor; another shape; a number that is not finite.
    pub fn pair(&self, target: &str, [out, input]: [usize; 2]) -> Result<[Vec<f32>; 2]> {
        let Some([a, b]) = self.pairs.get(target) else {
            let what = format!("nothing in it is added to {target}");
            return Err(Error::file(self.weights.place(None), what));
        };
        Ok([self.weights.read_f32(a, &[self.config.r, input])?, self.weights.read_f32(b, &[out, self.config.r])?])
    }
}

/// The model that the folder of an adapter stands for where it says nothing else about it: peft's hold neither configuration nor
/// tokenizer. `None` for any other folder.
///
/// # Errors
/// The adapter is damaged, or that model is not there.
pub(crate) fn base_of(folder: &Path) -> Result<Option<PathBuf>> {
    match LoraFolder::find(folder)? {
        Some(lora) if !folder.join("config.json").exists() => lora.base().map(Some),
        _ => Ok(None),
    }
}

/// The same tensors, with a LoRA added to some.
struct Merged {
    inner: Weights,
    lora: LoraFolder,
}

impl Weights {
    /// The same with what a LoRA adds: `W + scale B A`, in f32, made when a tensor is read.
    ///
    /// # Errors
    /// The LoRA adds to a tensor that is not there or has another shape.
    pub fn with_lora(self, lora: LoraFolder) -> Result<Weights> {
        for (target, [a, b]) in &lora.pairs {
            let (Some([_, input]), Some([out, _])) = (lora.weights.shape(a), lora.weights.shape(b)) else { continue };
            if self.shape(target) != Some(&[*out, *input]) {
                let found =
                    self.shape(target).map_or("no such tensor".into(), |shape| format!("one of shape {shape:?}"));
                let what = format!(
                    "the adapter adds a matrix [{out}, {input}] to {target}; the model has {found}: was it made on another?"
                );
                return Err(Error::file(lora.weights.place(None), what));
            }
        }
        let remark = self.remark().map(str::to_owned);
        let mut merged = Weights::of(Merged { inner: self, lora })?;
        merged.remark = remark;
        Ok(merged)
    }
}

impl WeightSource for Merged {
    fn tensors(&self) -> BTreeMap<String, TensorInfo> {
        let info = |name: &str| {
            let (encoding, shape) = (self.inner.encoding(name)?, self.inner.shape(name)?.to_vec());
            let plain = self.lora.pairs.contains_key(name).then_some(Encoding::Plain(Dtype::F32));
            Some(TensorInfo { encoding: plain.unwrap_or(encoding), shape })
        };
        self.inner.names().filter_map(|name| Some((name.to_owned(), info(name)?))).collect()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let (Some(encoding), Some(shape)) = (self.inner.encoding(name), self.inner.shape(name)) else {
            return Ok(Cow::Borrowed(&[]));
        };
        let ([out, input], true) = (shape, self.lora.pairs.contains_key(name)) else {
            return self.inner.bytes_of(name, encoding, shape);
        };
        let mut values = self.inner.read_f32(name, shape)?;
        let [a, b] = self.lora.pair(name, [*out, *input])?;
        let (rank, scale) = (self.lora.config.r, self.lora.scale() as f32);
        let rows = values.par_chunks_mut((*input).max(1)).zip(b.par_chunks(rank));
        rows.for_each(|(row, b)| {
            for (a, b) in a.chunks((*input).max(1)).zip(b) {
                row.iter_mut().zip(a).for_each(|(w, a)| *w += scale * b * a);
            }
        });
        Ok(values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>().into())
    }

    fn place(&self, tensor: Option<&str>) -> PathBuf {
        self.inner.place(tensor)
    }
}

/// Writes a folder's two files. `tensors`: the names without peft's prefix, and shapes; `values` gives the numbers of each.
///
/// # Errors
/// They cannot be written; a number is not finite.
pub(crate) fn write_lora(
    dir: &Path,
    config: &LoraConfig,
    tensors: &[(String, Vec<usize>)],
    mut values: impl FnMut(&str) -> Result<Vec<f32>>,
) -> Result<()> {
    let path = dir.join(ADAPTER_CONFIG);
    let text = serde_json::to_vec_pretty(config).map_err(|e| Error::file(&path, e.to_string()))?;
    std::fs::write(&path, text).map_err(Error::io("write", &path))?;
    let inner: HashMap<String, &str> =
        tensors.iter().map(|(name, _)| (format!("{PREFIX}{name}"), name.as_str())).collect();
    let shapes: Vec<_> = tensors.iter().map(|(name, shape)| (format!("{PREFIX}{name}"), shape.clone())).collect();
    super::write_model(dir.join(ADAPTER_WEIGHTS), &shapes, |name| {
        inner.get(name).map_or(Ok(Vec::new()), |name| values(name))
    })
}
