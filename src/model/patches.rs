//! What a Chronos-Bolt has in place of an embedding and a head over a vocabulary
//! ([chronos-forecasting](https://github.com/amazon-science/chronos-forecasting), `chronos_bolt.py`).

use serde::Deserialize;
use serde_json::Value;

/// A Chronos-Bolt's settings, `chronos_config` of `config.json`: patches of values go in, and quantiles of all values that follow
/// come out at once.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PatchHead {
    /// Values of a series that the model sees: the last.
    pub context_length: usize,
    /// Values that it forecasts at once.
    pub prediction_length: usize,
    #[serde(rename = "input_patch_size")]
    pub patch_size: usize,
    /// From the first value of a patch to that of the next.
    #[serde(rename = "input_patch_stride")]
    pub stride: usize,
    /// Levels of the quantiles, rising.
    pub quantiles: Vec<f64>,
    /// Whether a place of its own behind the patches sums a series up: token 1.
    #[serde(default)]
    pub use_reg_token: bool,
}

/// Far beyond any model; no product of them overflows.
const MOST: usize = 1 << 20;

impl PatchHead {
    /// The settings that a `chronos_config` has, if it is a Chronos-Bolt's; the error is a sentence.
    pub(super) fn find(chronos: Option<&Value>) -> Result<Option<PatchHead>, String> {
        let Some(settings) = chronos.filter(|value| value.get("input_patch_size").is_some()) else { return Ok(None) };
        if settings.get("output_patch_size").is_some() {
            return Err("is a Chronos-2's, whose layers are not T5's; Chronos-T5 and Chronos-Bolt are known".into());
        }
        let head: PatchHead =
            serde_json::from_value(settings.clone()).map_err(|e| format!("is not that of a Chronos-Bolt: {e}"))?;
        let sizes = [head.context_length, head.prediction_length, head.patch_size, head.stride, head.quantiles.len()];
        let levels = &head.quantiles;
        let rising = levels.windows(2).all(|pair| pair[0] < pair[1]) && levels.iter().all(|l| (0.0..=1.0).contains(l));
        if sizes.iter().any(|size| !(1..=MOST).contains(size)) || head.stride > head.patch_size || !rising {
            let what = "is impossible: sizes start at 1, a stride is at most a patch, and quantiles rise from 0 to 1";
            return Err(what.into());
        }
        Ok(Some(head))
    }

    /// The head's parameters, by the names of chronos-forecasting.
    pub(super) fn tensor_shapes(&self, d_model: usize, d_ff: usize) -> Vec<(String, Vec<usize>)> {
        let block = |name: &str, d_in: usize, d_out: usize| {
            [("hidden_layer", d_in, d_ff), ("output_layer", d_ff, d_out), ("residual_layer", d_in, d_out)]
                .into_iter()
                .flat_map(|(layer, from, to)| {
                    let name = format!("{name}.{layer}");
                    [(format!("{name}.weight"), vec![to, from]), (format!("{name}.bias"), vec![to])]
                })
                .collect::<Vec<_>>()
        };
        [
            block("input_patch_embedding", 2 * self.patch_size, d_model),
            block("output_patch_embedding", d_model, self.quantiles.len() * self.prediction_length),
        ]
        .concat()
    }

    /// Patches that the model sees at most.
    pub fn most_patches(&self) -> usize {
        self.patches_of(self.context_length)
    }

    /// Patches of so many values.
    pub(crate) fn patches_of(&self, values: usize) -> usize {
        (values.max(1).next_multiple_of(self.patch_size) - self.patch_size) / self.stride + 1
    }
}
