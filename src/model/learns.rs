//! Which parameters a training changes (Raffel et al. 2020, section 3.5.1). The others are frozen: they have no gradients, no
//! moments, and take no part in the gradient's norm.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::additions::{Lora, is_addition, target_of};
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
    /// Factors on the outputs of keys and values, and on the inputs of a feed-forward network's last projection (Liu et al. 2022).
    Ia3,
}

/// How recipes, flags and runs say it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "known are \"all\", \"norms\", \"last-N\", \"gradual\", { adapters = 32 }, \"ia3\", \"lora\" and \
    { lora = { rank = 8, alpha = 16, dropout = 0, targets = [\"q\", \"v\"], rs = false } }"
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
            "ia3" => Ok(Learns::Ia3),
            "all" => Ok(Learns::All),
            "norms" => Ok(Learns::Norms),
            "gradual" => Ok(Learns::Gradual),
            other => match other.strip_prefix("last-").and_then(|n| n.parse().ok()) {
                Some(blocks) if blocks > 0 => Ok(Learns::Last(blocks)),
                _ => Err(format!(
                    "unknown `{other}`: known are all, norms, last-N for the last N blocks of each stack, gradual, ia3, lora, and \
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
            Learns::Ia3 => Written::Name("ia3".into()),
            Learns::Adapters(width) => Written::Adapter(Adapter::Adapters(width)),
            Learns::Lora(lora) if lora == Lora::default() => Written::Name("lora".into()),
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
            Learns::Lora(_) | Learns::Ia3 => is_addition(tensor),
        }
    }

    /// Whether a tensor learns while the last `blocks` blocks of each stack do.
    pub(super) fn includes_now(&self, config: &T5Config, tensor: &str, blocks: usize) -> bool {
        *self != Learns::Gradual || is_of_last(config, tensor, blocks).unwrap_or(true)
    }

    /// # Errors
    /// `Setting`: the model has nothing of the kind, or a number cannot be used.
    pub fn check(&self, config: &T5Config) -> Result<()> {
        let wrong = |what: String| Err(Error::setting("learns", what));
        match self {
            Learns::All | Learns::Norms | Learns::Gradual | Learns::Ia3 => Ok(()),
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
            Learns::Lora(lora) => {
                let (rank, alpha, dropout, targets) = (lora.rank(), lora.alpha(), lora.dropout(), lora.targets());
                let shapes = config.tensor_shapes(!config.tie_word_embeddings);
                let known: BTreeSet<&str> = shapes.iter().filter_map(|(name, _)| Some(target_of(name)?.1)).collect();
                let all = || known.iter().copied().collect::<Vec<_>>().join(", ");
                if !(1..=MOST_RANK).contains(&rank) {
                    return wrong(format!("the rank of LoRA must lie between 1 and {MOST_RANK}, not {rank}"));
                }
                if !(alpha > 0.0 && alpha.is_finite()) {
                    return wrong(format!("alpha of LoRA must be a positive number, not {alpha}"));
                }
                if !(0.0..1.0).contains(&dropout) {
                    return wrong(format!("the dropout of LoRA lies between 0 and 1, not at {dropout}"));
                }
                if let Some(target) = targets.iter().find(|target| !known.contains(*target)) {
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

/// What the tensors of an adapter behind a feed-forward network are called.
const ADAPTER: &str = ".Adapter.";

impl Model {
    /// The same parameters, laid out for a training that changes what `learns` says. What that adds to the model is drawn by `seed`, and
    /// changes nothing of what the model computes. Takes memory for the parameters once more while they are copied, which happens on
    /// the device.
    ///
    /// # Errors
    /// `Setting`: the model has nothing of the kind, or something beside its weights that would be lost. `OutOfMemory`.
    pub fn learning(self, learns: &Learns, seed: u64) -> Result<Model> {
        let learns = learns.on(self.layout.learns())?;
        learns.check(&self.config)?;
        if *self.layout.learns() == learns {
            return Ok(self);
        }
        let mut config = self.config.clone();
        if let Learns::Adapters(width) = learns {
            config.adapter_width = width;
        }
        let held = |name: &str| self.layout.tensor(name).map_or(Dtype::F32, |tensor| self.layout.dtype(tensor));
        let layout = Layout::learning(&config, self.layout.untied, self.gpu.caps(), &held, &learns)?;
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
        let lora = r#"{"lora":{"rank":4,"alpha":2.5,"dropout":0.1,"targets":["wo"],"rs":true}}"#;
        let names = ["\"all\"", "\"norms\"", "\"last-2\"", "\"gradual\"", "\"lora\"", "\"ia3\""];
        for text in [&names[..], &["{\"adapters\":32}", "{\"lora\":{\"rank\":4}}", lora]].concat() {
            let learns: Learns = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&learns).unwrap(), text);
        }
        for wrong in ["\"last-0\"", "\"last-\"", "\"some\"", "3", "{\"norms\": 1}", "{\"lora\": {\"r\": 1}}"] {
            let error = serde_json::from_str::<Learns>(wrong).unwrap_err().to_string();
            assert!(error.contains("known are"), "{error}");
        }
    }
}
