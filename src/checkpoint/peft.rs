//! Folders of PyPI's peft with a LoRA or an IA3: `adapter_config.json` and `adapter_model.safetensors`; and a checkpoint with what such
//! a folder adds to it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Dtype;
use super::weights::{Encoding, TensorInfo, WeightSource, Weights};
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};

/// The name of the settings in the folder.
const ADAPTER_CONFIG: &str = "adapter_config.json";

const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// What peft puts before every name.
const PREFIX: &str = "base_model.model.";

/// What a folder adds, with the settings that it has of its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PeftKind {
    /// `W + scale B A`, see [`PeftKind::scale`].
    Lora { rank: usize, alpha: f64, dropout: f64, rs: bool },
    /// Factors on rows or on columns of `W` (Liu et al. 2022).
    Ia3,
}

impl PeftKind {
    /// The factor on each product of a LoRA.
    fn scale(&self) -> f64 {
        match *self {
            PeftKind::Lora { rank, alpha, rs, .. } => alpha / if rs { (rank as f64).sqrt() } else { rank as f64 },
            PeftKind::Ia3 => 1.0,
        }
    }

    /// `adapter_config.json` of a new folder. `feedforward`: of the targets of an IA3, those whose inputs are scaled.
    fn settings(&self, base: &Path, targets: &[&str], feedforward: &[&str]) -> Value {
        let mut settings = json!({
            "task_type": "SEQ_2_SEQ_LM", "base_model_name_or_path": base.to_string_lossy(), "target_modules": targets,
            "inference_mode": true, "modules_to_save": null, "fan_in_fan_out": false,
        });
        let own = match *self {
            PeftKind::Lora { rank, alpha, dropout, rs } => json!({
                "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "use_rslora": rs, "bias": "none",
                "init_lora_weights": true, "rank_pattern": {}, "alpha_pattern": {},
            }),
            PeftKind::Ia3 => {
                json!({"peft_type": "IA3", "feedforward_modules": feedforward, "init_ia3_weights": true})
            }
        };
        if let (Value::Object(settings), Value::Object(own)) = (&mut settings, own) {
            settings.extend(own);
        }
        settings
    }
}

/// `adapter_config.json`, as far as it is used. peft has defaults for what is missing.
#[derive(Debug, Deserialize)]
struct PeftConfig {
    peft_type: String,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    #[serde(default = "default_rank")]
    r: usize,
    #[serde(default = "default_alpha")]
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
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

impl PeftConfig {
    /// What it says, or what of it changes what is computed and is not known here.
    fn kind(&self) -> Result<PeftKind, String> {
        let PeftConfig { r: rank, lora_alpha: alpha, lora_dropout: dropout, use_rslora: rs, .. } = *self;
        let kind = match self.peft_type.as_str() {
            "LORA" => PeftKind::Lora { rank, alpha, dropout, rs },
            "IA3" => PeftKind::Ia3,
            other => return Err(format!("is an adapter of the kind {other}; only LORA and IA3 are read")),
        };
        let is_set = |key: &str| {
            self.others.get(key).is_some_and(|value| match value {
                Value::Null | Value::Bool(false) => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(items) => !items.is_empty(),
                Value::String(text) => key != "bias" || text != "none",
                Value::Bool(true) | Value::Number(_) => true,
            })
        };
        if let Some(key) = UNKNOWN.iter().find(|key| is_set(key)) {
            return Err(format!("sets {key}, which is not supported; merge this adapter with peft (merge_and_unload)"));
        }
        if self.fan_in_fan_out {
            return Err("sets fan_in_fan_out, which no T5 has".into());
        }
        match kind {
            PeftKind::Lora { rank: 0, .. } => Err("has the rank 0".into()),
            PeftKind::Lora { alpha, .. } if !alpha.is_finite() => Err(format!("has the alpha {alpha}")),
            PeftKind::Lora { dropout, .. } if !(0.0..1.0).contains(&dropout) => {
                Err(format!("has the dropout {dropout}"))
            }
            kind => Ok(kind),
        }
    }
}

/// Settings of peft under which what is added is something else.
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

/// What is added to one tensor, by the names of its own tensors in the file.
#[derive(Debug)]
enum Added {
    /// A and B.
    LowRank([String; 2]),
    /// Factors, of rows `[out, 1]` or of columns `[1, in]`.
    Factors(String),
}

/// What a folder of PyPI's peft adds to a model: a LoRA or an IA3.
#[derive(Debug)]
pub struct PeftFolder {
    dir: PathBuf,
    base: Option<String>,
    kind: PeftKind,
    /// By the name of the tensor that it is added to.
    added: BTreeMap<String, Added>,
    weights: Weights,
}

impl PeftFolder {
    /// What a model's folder holds in place of weights, if that is something of peft's.
    ///
    /// # Errors
    /// Those of [`PeftFolder::open`].
    pub fn find(model: &Path) -> Result<Option<PeftFolder>> {
        let is_adapter = model.join(ADAPTER_CONFIG).exists() && !super::open::has_weights(model);
        is_adapter.then(|| PeftFolder::open(model)).transpose()
    }

    /// Opens a folder: its settings, and the names and shapes of its tensors.
    ///
    /// # Errors
    /// A file is missing or damaged; it is an adapter of another kind; a tensor is none of that kind, has no partner, or another rank
    /// than the settings say.
    pub fn open(dir: &Path) -> Result<PeftFolder> {
        let path = dir.join(ADAPTER_CONFIG);
        let text = files::read_text(&path, SETTINGS_LIMIT)?;
        let config: PeftConfig = serde_json::from_str(&text)
            .map_err(|e| Error::line(&path, e.line(), format!("not the settings of an adapter: {e}")))?;
        let kind = config.kind().map_err(|what| Error::file(&path, format!("the adapter {what}")))?;
        let file = dir.join(ADAPTER_WEIGHTS);
        let weights = Weights::open_file(&file)?;
        let added = match kind {
            PeftKind::Lora { rank, .. } => pairs(&weights, rank),
            PeftKind::Ia3 => factors(&weights),
        };
        let added = added.map_err(|what| Error::file(&file, what))?;
        if added.is_empty() {
            return Err(Error::file(&file, "there are no tensors"));
        }
        Ok(PeftFolder { dir: dir.to_owned(), base: config.base_model_name_or_path, kind, added, weights })
    }

    pub(crate) fn kind(&self) -> &PeftKind {
        &self.kind
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What was done where it was merged.
    pub(crate) fn about(&self) -> String {
        let (dir, count) = (self.dir.display(), self.added.len());
        match self.kind {
            PeftKind::Lora { .. } => format!("{dir}: merged into {count} projections, scale {}", self.kind.scale()),
            PeftKind::Ia3 => format!("{dir}: factors merged into {count} projections"),
        }
    }

    /// The folder or file of the model that it was made on.
    ///
    /// # Errors
    /// It is not said, it is not there, or it is an adapter itself.
    pub fn base(&self) -> Result<PathBuf> {
        let wrong = |what: String| Error::file(self.dir.join(ADAPTER_CONFIG), what);
        let Some(name) = self.base.as_deref().filter(|name| !name.is_empty()) else {
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
        self.added.keys().map(String::as_str)
    }

    /// How many tensors it has.
    pub(crate) fn count(&self) -> usize {
        self.weights.names().count()
    }

    /// The numbers of one of its tensors, by the name without peft's prefix, row-major, of this shape.
    ///
    /// # Errors
    /// There is none; it has another shape; a number is not finite.
    pub(crate) fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let whole = format!("{PREFIX}{name}");
        let found = if self.weights.contains(&whole) { &whole } else { name };
        self.weights.read_f32(found, shape)
    }
}

/// The pairs of a LoRA.
fn pairs(weights: &Weights, rank: usize) -> Result<BTreeMap<String, Added>, String> {
    let mut halves: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
    for name in weights.names() {
        let inner = name.strip_prefix(PREFIX).unwrap_or(name);
        let (stem, half) = match (inner.strip_suffix(".lora_A.weight"), inner.strip_suffix(".lora_B.weight")) {
            (Some(stem), _) => (stem, 0),
            (_, Some(stem)) => (stem, 1),
            _ => return Err(format!("the tensor {name} is no part of a LoRA")),
        };
        halves.entry(format!("{stem}.weight")).or_default()[half] = Some(name.to_owned());
    }
    let mut pairs = BTreeMap::new();
    for (target, found) in halves {
        let [Some(a), Some(b)] = found else {
            return Err(format!("of the two matrices that are added to {target}, one is missing"));
        };
        let (Some(shape_a), Some(shape_b)) = (weights.shape(&a), weights.shape(&b)) else { continue };
        let ([rank_a, _], [_, rank_b]) = (shape_a, shape_b) else {
            return Err(format!("what is added to {target} is no pair of matrices"));
        };
        if *rank_a != rank || *rank_b != rank {
            return Err(format!(
                "the matrices that are added to {target} are {shape_a:?} and {shape_b:?}, but the rank is {rank} in {ADAPTER_CONFIG}"
            ));
        }
        pairs.insert(target, Added::LowRank([a, b]));
    }
    Ok(pairs)
}

/// The factors of an IA3. Their shapes say whether they are those of outputs or of inputs.
fn factors(weights: &Weights) -> Result<BTreeMap<String, Added>, String> {
    let mut factors = BTreeMap::new();
    for name in weights.names() {
        let Some(stem) = name.strip_prefix(PREFIX).unwrap_or(name).strip_suffix(".ia3_l") else {
            return Err(format!("the tensor {name} is no part of an IA3"));
        };
        let Some([_, 1] | [1, _]) = weights.shape(name) else {
            return Err(format!("the factors {name} are neither a row nor a column"));
        };
        factors.insert(format!("{stem}.weight"), Added::Factors(name.to_owned()));
    }
    Ok(factors)
}

/// The model that the folder of an adapter stands for where it says nothing else about it: peft's hold neither configuration nor
/// tokenizer. `None` for any other folder.
///
/// # Errors
/// The adapter is damaged, or that model is not there.
pub(crate) fn base_of(folder: &Path) -> Result<Option<PathBuf>> {
    match PeftFolder::find(folder)? {
        Some(adapter) if !folder.join("config.json").exists() => adapter.base().map(Some),
        _ => Ok(None),
    }
}

/// The same tensors, with what a folder adds to some.
struct Merged {
    inner: Weights,
    adapter: PeftFolder,
}

impl Weights {
    /// The same with what a folder of PyPI's peft adds, in f32, made when a tensor is read: `W + scale B A`, or `W` with its rows or
    /// columns multiplied.
    ///
    /// # Errors
    /// Something is added to a tensor that is not there or has another shape.
    pub fn with_peft(self, adapter: PeftFolder) -> Result<Weights> {
        for (target, added) in &adapter.added {
            let shape = |name: &str| adapter.weights.shape(name).unwrap_or_default().to_vec();
            let (fits, what) = match added {
                Added::LowRank([a, b]) => {
                    let (input, out) = (shape(a).last().copied(), shape(b).first().copied());
                    let added = [out.unwrap_or(0), input.unwrap_or(0)];
                    (self.shape(target) == Some(&added), format!("adds a matrix {added:?} to {target}"))
                }
                Added::Factors(name) => {
                    let factors = shape(name);
                    let fit =
                        |own: &[usize]| matches!(*own, [out, input] if factors == [out, 1] || factors == [1, input]);
                    (self.shape(target).is_some_and(fit), format!("multiplies {target} by factors {factors:?}"))
                }
            };
            if !fits {
                let found =
                    self.shape(target).map_or("no such tensor".into(), |shape| format!("one of shape {shape:?}"));
                let what = format!("the adapter {what}; the model has {found}: was it made on another?");
                return Err(Error::file(adapter.weights.place(None), what));
            }
        }
        let remark = self.remark().map(str::to_owned);
        let mut merged = Weights::of(Merged { inner: self, adapter })?;
        merged.remark = remark;
        Ok(merged)
    }
}

impl WeightSource for Merged {
    fn tensors(&self) -> BTreeMap<String, TensorInfo> {
        let info = |name: &str| {
            let (encoding, shape) = (self.inner.encoding(name)?, self.inner.shape(name)?.to_vec());
            let plain = self.adapter.added.contains_key(name).then_some(Encoding::Plain(Dtype::F32));
            Some(TensorInfo { encoding: plain.unwrap_or(encoding), shape })
        };
        self.inner.names().filter_map(|name| Some((name.to_owned(), info(name)?))).collect()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let (Some(encoding), Some(shape)) = (self.inner.encoding(name), self.inner.shape(name)) else {
            return Ok(Cow::Borrowed(&[]));
        };
        let ([out, input], Some(added)) = (shape, self.adapter.added.get(name)) else {
            return self.inner.bytes_of(name, encoding, shape);
        };
        let mut values = self.inner.read_f32(name, shape)?;
        let (weights, cols) = (&self.adapter.weights, (*input).max(1));
        match added {
            Added::LowRank([a, b]) => {
                let [a, b] = [a, b].map(|name| weights.read_f32(name, weights.shape(name).unwrap_or_default()));
                let (a, b, scale) = (a?, b?, self.adapter.kind.scale() as f32);
                let rank = (b.len() / (*out).max(1)).max(1);
                values.par_chunks_mut(cols).zip(b.par_chunks(rank)).for_each(|(row, b)| {
                    for (a, b) in a.chunks(cols).zip(b) {
                        row.iter_mut().zip(a).for_each(|(w, a)| *w += scale * b * a);
                    }
                });
            }
            Added::Factors(factors) => {
                let shape = weights.shape(factors).unwrap_or_default();
                let by = weights.read_f32(factors, shape)?;
                let of_columns = shape == [1, *input];
                values.par_chunks_mut(cols).enumerate().for_each(|(r, row)| {
                    row.iter_mut().enumerate().for_each(|(c, w)| *w *= by[if of_columns { c } else { r }]);
                });
            }
        }
        Ok(values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>().into())
    }

    fn place(&self, tensor: Option<&str>) -> PathBuf {
        self.inner.place(tensor)
    }
}

/// Writes a folder's two files, of something that is added to the projections called `targets` of the model in `base`.
/// `tensors`: the names without peft's prefix, and shapes; `values` gives the numbers of each.
///
/// # Errors
/// They cannot be written; a number is not finite.
pub(crate) fn write_peft(
    dir: &Path,
    base: &Path,
    kind: &PeftKind,
    targets: &[&str],
    tensors: &[(String, Vec<usize>)],
    mut values: impl FnMut(&str) -> Result<Vec<f32>>,
) -> Result<()> {
    let path = dir.join(ADAPTER_CONFIG);
    let scales_inputs = |target: &&&str| {
        let end = format!(".{target}.ia3_l");
        tensors.iter().any(|(name, shape)| name.ends_with(&end) && shape.first() == Some(&1))
    };
    let feedforward: Vec<&str> = targets.iter().filter(scales_inputs).copied().collect();
    let settings = kind.settings(base, targets, &feedforward);
    let text = serde_json::to_vec_pretty(&settings).map_err(|e| Error::file(&path, e.to_string()))?;
    std::fs::write(&path, text).map_err(Error::io("write", &path))?;
    let inner: HashMap<String, &str> =
        tensors.iter().map(|(name, _)| (format!("{PREFIX}{name}"), name.as_str())).collect();
    let shapes: Vec<_> = tensors.iter().map(|(name, shape)| (format!("{PREFIX}{name}"), shape.clone())).collect();
    super::write_model(dir.join(ADAPTER_WEIGHTS), &shapes, |name| {
        inner.get(name).map_or(Ok(Vec::new()), |name| values(name))
    })
}
