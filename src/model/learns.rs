//! Which parameters a training changes (Raffel et al. 2020, section 3.5.1). The others are frozen: they have no gradients, no
//! moments, and take no part in the gradient's norm.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::config::T5Config;
use super::layout::{Layout, Piece};
use super::{Model, init};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Slice};
use crate::graph::Dtype;

/// Which parameters learn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Learns {
    #[default]
    All,
    /// The scales of all layer norms.
    Norms,
    /// The last blocks of each stack, so many, and the norms behind them.
    Last(usize),
    /// All in the end, one block of each stack more from time to time, from the last one on; embedding and head always.
    Gradual,
    /// Adapters of this width, a small network behind each feed-forward network, and the scales of all layer norms.
    Adapters(usize),
    /// Products of two small matrices, which are added to projections.
    Lora(Lora),
}

/// Low-rank adapters (Hu et al. 2021): a projection `W` becomes `W + scale B A`, of which only `A [rank, in]` and `B [out, rank]` learn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    pub rank: usize,
    /// The scale is `alpha / rank`.
    pub alpha: f64,
    /// Which projections, in every block that has one of the name: of q, k, v, o, wi, wi_0, wi_1, wo.
    pub targets: Vec<String>,
    /// The scale is `alpha / sqrt(rank)` instead (Kalajdzievski 2023).
    pub rs: bool,
}

impl Default for Lora {
    /// The rank and the targets that PyPI's peft has for T5, and twice its alpha.
    fn default() -> Lora {
        Lora { rank: 8, alpha: 16.0, targets: vec!["q".into(), "v".into()], rs: false }
    }
}

impl Lora {
    /// The factor on `B A`.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rs { rank.sqrt() } else { rank }
    }
}

/// What LoRA adds to the columns of a product from `at` on: `scale x A^T B^T`.
#[derive(Clone, Debug)]
pub(super) struct LowRank {
    pub at: usize,
    /// The leaf of `A`.
    pub down: String,
    /// The leaf of `B`.
    pub up: String,
    pub scale: f32,
}

/// How recipes, flags and runs say it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "known are \"all\", \"norms\", \"last-N\", \"gradual\", { adapters = 32 }, \"lora\" and \
    { lora = { rank = 8, alpha = 16, targets = [\"q\", \"v\"], rs = false } }"
)]
enum Written {
    Name(String),
    Adapter(Adapter),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Adapter {
    Adapters(usize),
    Lora(Lora),
}

impl TryFrom<Written> for Learns {
    type Error = String;

    fn try_from(written: Written) -> std::result::Result<Learns, String> {
        let name = match written {
            Written::Name(name) => name,
            Written::Adapter(Adapter::Lora(lora)) => return Ok(Learns::Lora(lora)),
            Written::Adapter(Adapter::Adapters(width)) => return Ok(Learns::Adapters(width)),
        };
        match name.as_str() {
            "lora" => Ok(Learns::Lora(Lora::default())),
            "all" => Ok(Learns::All),
            "norms" => Ok(Learns::Norms),
            "gradual" => Ok(Learns::Gradual),
            other => match other.strip_prefix("last-").and_then(|n| n.parse().ok()) {
                Some(blocks) if blocks > 0 => Ok(Learns::Last(blocks)),
                _ => Err(format!(
                    "unknown `{other}`: known are all, norms, last-N for the last N blocks of each stack, gradual, lora, and \
                     {{ adapters = WIDTH }}"
                )),
            },
        }
    }
}

impl From<Learns> for Written {
    fn from(learns: Learns) -> Written {
        match learns {
            Learns::All => Written::Name("all".into()),
            Learns::Norms => Written::Name("norms".into()),
            Learns::Last(blocks) => Written::Name(format!("last-{blocks}")),
            Learns::Gradual => Written::Name("gradual".into()),
            Learns::Adapters(width) => Written::Adapter(Adapter::Adapters(width)),
            Learns::Lora(lora) => Written::Adapter(Adapter::Lora(lora)),
        }
    }
}

impl Learns {
    /// Whether a tensor learns, by its HuggingFace name.
    pub(super) fn includes(&self, config: &T5Config, tensor: &str) -> bool {
        match *self {
            Learns::All | Learns::Gradual => true,
            Learns::Norms => is_norm(tensor),
            Learns::Adapters(_) => is_norm(tensor) || tensor.contains(ADAPTER),
            Learns::Last(blocks) => match is_of_last(config, tensor, blocks) {
                Some(last) => last,
                None => is_norm(tensor),
            },
            Learns::Lora(_) => is_addition(tensor),
        }
    }

    /// Whether a tensor learns while the last `blocks` blocks of each stack do.
    pub(super) fn includes_now(&self, config: &T5Config, tensor: &str, blocks: usize) -> bool {
        *self != Learns::Gradual || is_of_last(config, tensor, blocks).unwrap_or(true)
    }

    /// The tensors that this adds to a model of these, by PyPI's names without their prefix.
    pub(super) fn additions(&self, tensors: &[(String, Vec<usize>)]) -> Vec<(String, Vec<usize>)> {
        let Learns::Lora(lora) = self else { return Vec::new() };
        let mut added = Vec::new();
        for (name, shape) in tensors {
            if let (Some((_, target)), Some([a, b]), [out, input]) = (target_of(name), pair_of(name), &shape[..])
                && lora.targets.iter().any(|wanted| wanted == target)
            {
                added.extend([(a, vec![lora.rank, *input]), (b, vec![*out, lora.rank])]);
            }
        }
        added
    }

    /// What is added to a projection whose rows begin at row `at` of its leaf.
    pub(super) fn low_rank(&self, tensor: &str, at: usize) -> Option<LowRank> {
        let (Learns::Lora(lora), Some((_, target))) = (self, target_of(tensor)) else { return None };
        let [down, up] = pair_of(tensor)?;
        let found = lora.targets.iter().any(|wanted| wanted == target);
        found.then(|| LowRank { at, down, up, scale: lora.scale() as f32 })
    }

    /// # Errors
    /// `Setting`: the model has nothing of the kind, or a number cannot be used.
    pub fn check(&self, config: &T5Config) -> Result<()> {
        let wrong = |what: String| Err(Error::setting("learns", what));
        match self {
            Learns::All | Learns::Norms | Learns::Gradual => Ok(()),
            Learns::Adapters(width) => match (*width, config.adapter_width) {
                (0, _) => wrong("adapters have a width of 1 or more".into()),
                (wanted, there) if there > 0 && wanted != there => {
                    wrong(format!("the model has adapters of width {there}, not {wanted}"))
                }
                (width, _) => T5Config { adapter_width: width, ..config.clone() }.validate(),
            },
            Learns::Last(blocks) => {
                let most = config.num_layers.max(config.num_decoder_layers);
                match *blocks > most {
                    true => wrong(format!("the model has {most} blocks in a stack, not {blocks}")),
                    false => Ok(()),
                }
            }
            Learns::Lora(Lora { rank, alpha, targets, .. }) => {
                let shapes = config.tensor_shapes(!config.tie_word_embeddings);
                let known: BTreeSet<&str> = shapes.iter().filter_map(|(name, _)| Some(target_of(name)?.1)).collect();
                let all = || known.iter().copied().collect::<Vec<_>>().join(", ");
                if !(1..=MOST_RANK).contains(rank) {
                    return wrong(format!("the rank of LoRA must lie between 1 and {MOST_RANK}, not {rank}"));
                }
                if !(*alpha > 0.0 && alpha.is_finite()) {
                    return wrong(format!("alpha of LoRA must be a positive number, not {alpha}"));
                }
                if let Some(target) = targets.iter().find(|target| !known.contains(target.as_str())) {
                    return wrong(format!("the model has no projection `{target}`; LoRA's targets are of {}", all()));
                }
                match targets.is_empty() {
                    true => wrong(format!("LoRA needs targets, of {}", all())),
                    false => Ok(()),
                }
            }
        }
    }
}

/// Larger ones cost more than the whole projection.
const MOST_RANK: usize = 4096;

const LORA_A: &str = "lora_A";
const LORA_B: &str = "lora_B";

/// What the tensors of an adapter behind a feed-forward network are called.
const ADAPTER: &str = ".Adapter.";

/// Whether a tensor is part of a LoRA, and no checkpoint's without one.
pub(super) fn is_addition(tensor: &str) -> bool {
    [LORA_A, LORA_B].iter().any(|part| tensor.contains(part))
}

/// What LoRA's matrices for a projection are called.
pub(super) fn pair_of(tensor: &str) -> Option<[String; 2]> {
    let (stem, _) = target_of(tensor)?;
    Some([LORA_A, LORA_B].map(|part| format!("{stem}.{part}.weight")))
}

/// What LoRA can be told to add to: the names of projections.
const TARGETS: [&str; 8] = ["q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"];

/// The name of a projection without its `.weight`, and the last part of it, as in ("...SelfAttention.q", "q").
fn target_of(tensor: &str) -> Option<(&str, &str)> {
    let stem = tensor.strip_suffix(".weight")?;
    let target = stem.rsplit('.').next()?;
    TARGETS.contains(&target).then_some((stem, target))
}

impl Model {
    /// The same parameters, laid out for a training that changes what `learns` says. What that adds to the model is drawn by `seed`, and
    /// changes nothing of what the model computes. Takes memory for the parameters once more while they are copied, which happens on
    /// the device.
    ///
    /// # Errors
    /// `Setting`: the model has nothing of the kind. `OutOfMemory`.
    pub fn learning(self, learns: &Learns, seed: u64) -> Result<Model> {
        learns.check(&self.config)?;
        if self.layout.learns() == learns {
            return Ok(self);
        }
        let mut config = self.config.clone();
        if let Learns::Adapters(width) = learns {
            config.adapter_width = *width;
        }
        let held = |name: &str| self.layout.tensor(name).map_or(Dtype::F32, |tensor| self.layout.dtype(tensor));
        let layout = Layout::learning(&config, self.layout.untied, self.gpu.caps(), &held, learns)?;
        let params = layout.allocate(&self.gpu, "parameters")?;
        for tensor in layout.tensors() {
            let (Some(before), cols) = (self.layout.tensor(&tensor.name), tensor.shape[1..].iter().product()) else {
                continue;
            };
            let dtype = layout.dtype(tensor);
            let window = |piece: &Piece, arenas: &[Buffer]| -> Slice {
                arenas[piece.window].slice(4 * piece.offset as u64, dtype.bytes(&[piece.rows, cols]))
            };
            for (from, to) in before.pieces.iter().zip(&tensor.pieces) {
                self.gpu.copy(&window(from, &self.params), &window(to, &params));
            }
        }
        let known = self.layout.clone();
        let model = Model { config, layout, params, ..self };
        for tensor in model.layout.tensors().iter().filter(|tensor| known.tensor(&tensor.name).is_none()) {
            model.write_tensor(tensor, &init::weights(&model.config, tensor, seed))?;
        }
        model.gpu.flush()?;
        Ok(model)
    }
}

/// Whether a tensor lies in one of the last blocks of its stack; `None`: it lies in no block.
fn is_of_last(config: &T5Config, tensor: &str, blocks: usize) -> Option<bool> {
    let (stack, block) = block_of(tensor)?;
    let layers = if stack == "encoder" { config.num_layers } else { config.num_decoder_layers };
    Some(block.saturating_add(blocks) >= layers)
}

fn is_norm(tensor: &str) -> bool {
    tensor.ends_with("layer_norm.weight")
}

/// The stack and the number of the block that a tensor lies in, as of "encoder.block.3.layer.0.layer_norm.weight".
fn block_of(tensor: &str) -> Option<(&str, usize)> {
    let (stack, rest) = tensor.split_once(".block.")?;
    Some((stack, rest.split('.').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let lora = r#"{"lora":{"rank":4,"alpha":2.5,"targets":["wo"],"rs":true}}"#;
        for text in ["\"all\"", "\"norms\"", "\"last-2\"", "\"gradual\"", "{\"adapters\":32}", lora] {
            let learns: Learns = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&learns).unwrap(), text);
        }
        for wrong in ["\"last-0\"", "\"last-\"", "\"some\"", "3", "{\"norms\": 1}", "{\"lora\": {\"r\": 1}}"] {
            let error = serde_json::from_str::<Learns>(wrong).unwrap_err().to_string();
            assert!(error.contains("known are"), "{error}");
        }
    }
}
