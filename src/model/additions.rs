//! What a training adds to projections that stay as they are, under the names that PyPI's peft has for it.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};

use serde::{Deserialize, Serialize};

use super::learns::Learns;
use crate::error::{Error, Result};

/// Low-rank adapters (Hu et al. 2021): a projection `W` becomes `W + scale B A`, of which only `A [rank, in]` and `B [out, rank]` learn.
/// What is left out is that of the LoRA that is trained on, or else the default: rank and targets that PyPI's peft has for T5, and
/// twice its alpha.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// The scale is `alpha / rank`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Share of the inputs of `A` that a training leaves out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Which projections, in every block that has one of the name: of q, k, v, o, wi, wi_0, wi_1, wo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<String>>,
    /// The scale is `alpha / sqrt(rank)` instead (Kalajdzievski 2023).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rs: Option<bool>,
}

impl Lora {
    pub fn rank(&self) -> usize {
        self.rank.unwrap_or(8)
    }

    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(16.0)
    }

    pub fn dropout(&self) -> f64 {
        self.dropout.unwrap_or(0.0)
    }

    pub fn targets(&self) -> Vec<&str> {
        self.targets.as_ref().map_or(vec!["q", "v"], |targets| targets.iter().map(String::as_str).collect())
    }

    pub fn rs(&self) -> bool {
        self.rs.unwrap_or(false)
    }

    /// The factor on `B A`.
    pub fn scale(&self) -> f64 {
        let rank = self.rank() as f64;
        self.alpha() / if self.rs() { rank.sqrt() } else { rank }
    }

    /// The same with nothing left out.
    fn settled(&self) -> Lora {
        Lora {
            rank: Some(self.rank()),
            alpha: Some(self.alpha()),
            dropout: Some(self.dropout()),
            targets: Some(self.targets().into_iter().map(str::to_owned).collect()),
            rs: Some(self.rs()),
        }
    }

    /// That LoRA, to be trained on as this says: the same but for its dropout.
    fn on(&self, there: &Lora) -> Result<Lora> {
        let asked = Lora {
            rank: self.rank.or(there.rank),
            alpha: self.alpha.or(there.alpha),
            dropout: self.dropout.or(there.dropout),
            targets: self.targets.clone().or(there.targets.clone()),
            rs: self.rs.or(there.rs),
        };
        let targets = |lora: &Lora| -> BTreeSet<String> { lora.targets().into_iter().map(str::to_owned).collect() };
        let is_same = asked.rank() == there.rank()
            && targets(&asked) == targets(there)
            && (asked.scale() - there.scale()).abs() <= 1e-9 * there.scale();
        match is_same {
            true => Ok(Lora { dropout: asked.dropout, ..there.clone() }),
            false => {
                let what = format!(
                    "the model has a LoRA of {there}, and asked is one of {asked}: leave these settings out to train on what is there, or \
                     merge that into the model first (`t5 convert`)"
                );
                Err(Error::setting("learns", what))
            }
        }
    }
}

impl Display for Lora {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} and scale {} on {}", self.rank(), self.scale(), self.targets().join(", "))
    }
}

/// What is added to the product with a leaf.
#[derive(Clone, Debug)]
pub(super) enum Addition {
    /// `scale dropout(x) A^T B^T`, to the columns from `at` on.
    LowRank {
        at: usize,
        /// The leaf of `A`.
        down: String,
        /// The leaf of `B`.
        up: String,
        scale: f32,
        dropout: f32,
    },
    /// The columns from `at` on are multiplied by the factors in this leaf.
    Outputs { at: usize, factors: String },
    /// The columns of the product's input are multiplied by the factors in this leaf.
    Inputs { factors: String },
}

impl Learns {
    /// Whether this trains what is added to projections, beside a model that stays as it is and keeps it.
    pub fn adds(&self) -> bool {
        matches!(self, Learns::Lora(_) | Learns::Ia3)
    }

    /// What this means for a model that `there` has added to, or has not: nothing is left out.
    ///
    /// # Errors
    /// `Setting`: what is there is something else, which would be lost.
    pub fn on(&self, there: &Learns) -> Result<Learns> {
        match (self, there) {
            (Learns::Lora(asked), Learns::Lora(there)) => asked.on(there).map(Learns::Lora),
            (asked, there) if there.adds() && asked != there => {
                let there = if *there == Learns::Ia3 { "an IA3" } else { "a LoRA" };
                let what = format!(
                    "the model has {there}, which these settings do not train: merge it into the model first (`t5 convert`)"
                );
                Err(Error::setting("learns", what))
            }
            (Learns::Lora(asked), _) => Ok(Learns::Lora(asked.settled())),
            (other, _) => Ok(other.clone()),
        }
    }

    /// The tensors that this adds to a model of these, by PyPI's names without their prefix.
    pub(super) fn additions(&self, tensors: &[(String, Vec<usize>)]) -> Vec<(String, Vec<usize>)> {
        let of = |(name, shape): &(String, Vec<usize>)| match (self.addition(name, 0), &shape[..]) {
            (Some(Addition::LowRank { down, up, .. }), [out, input]) => {
                let Learns::Lora(lora) = self else { return Vec::new() };
                vec![(down, vec![lora.rank(), *input]), (up, vec![*out, lora.rank()])]
            }
            (Some(Addition::Outputs { factors, .. }), [out, _]) => vec![(factors, vec![*out, 1])],
            (Some(Addition::Inputs { factors }), [_, input]) => vec![(factors, vec![1, *input])],
            _ => Vec::new(),
        };
        tensors.iter().flat_map(of).collect()
    }

    /// What is added to a projection whose rows begin at row `at` of its leaf.
    pub(super) fn addition(&self, tensor: &str, at: usize) -> Option<Addition> {
        let (stem, target) = target_of(tensor)?;
        let factors = format!("{stem}.{FACTORS}");
        match self {
            Learns::Lora(lora) if lora.targets().contains(&target) => {
                let [down, up] = [LORA_A, LORA_B].map(|part| format!("{stem}.{part}.weight"));
                Some(Addition::LowRank { at, down, up, scale: lora.scale() as f32, dropout: lora.dropout() as f32 })
            }
            Learns::Ia3 if IA3_OUTPUTS.contains(&target) => Some(Addition::Outputs { at, factors }),
            Learns::Ia3 if target == IA3_INPUT => Some(Addition::Inputs { factors }),
            _ => None,
        }
    }
}

const LORA_A: &str = "lora_A";
const LORA_B: &str = "lora_B";

const FACTORS: &str = "ia3_l";

/// Whether a tensor is part of what is added, and no checkpoint's without that.
pub(super) fn is_addition(tensor: &str) -> bool {
    [LORA_A, LORA_B, FACTORS].iter().any(|part| tensor.contains(part))
}

/// The projections whose outputs IA3 scales, and that whose inputs, as the paper has it for T5.
const IA3_OUTPUTS: [&str; 2] = ["k", "v"];
const IA3_INPUT: &str = "wo";

/// All that IA3 scales something of.
pub(super) const IA3_TARGETS: [&str; 3] = [IA3_OUTPUTS[0], IA3_OUTPUTS[1], IA3_INPUT];

/// What can be added to: the names of projections.
const TARGETS: [&str; 8] = ["q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"];

/// The name of a projection without its `.weight`, and the last part of it, as in ("...SelfAttention.q", "q").
pub(super) fn target_of(tensor: &str) -> Option<(&str, &str)> {
    let stem = tensor.strip_suffix(".weight")?;
    let target = stem.rsplit('.').next()?;
    TARGETS.contains(&target).then_some((stem, target))
}

/// The names that these projections have, in the order of what can be added to.
pub(super) fn targets_of<'a>(tensors: impl Iterator<Item = &'a str>) -> Vec<String> {
    let named: BTreeSet<&str> = tensors.filter_map(|tensor| Some(target_of(tensor)?.1)).collect();
    TARGETS.iter().filter(|target| named.contains(*target)).map(|&target| target.to_owned()).collect()
}
