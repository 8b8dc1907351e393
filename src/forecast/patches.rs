//! Series in the measure and the patches of a Chronos-Bolt: `InstanceNorm` and `Patch` of chronos-forecasting.

use crate::forward::Patches;
use crate::model::PatchHead;

/// The mean and the standard deviation of the values that the model sees: its measure of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    pub mean: f32,
    pub scale: f32,
}

impl Measure {
    /// Of values of which NaN are missing. Where all are alike, the scale is 1e-5.
    fn of(values: &[f32]) -> Measure {
        let known = || values.iter().filter(|v| !v.is_nan()).map(|&v| f64::from(v));
        let count = known().count().max(1) as f64;
        let mean = (known().sum::<f64>() / count) as f32;
        let variance = known().map(|v| (v - f64::from(mean)).powi(2)).sum::<f64>() / count;
        let scale = variance.sqrt() as f32;
        Measure { mean, scale: if scale == 0.0 { 1e-5 } else { scale } }
    }

    /// The value that a number of the model stands for.
    pub fn value(self, x: f32) -> f32 {
        x * self.scale + self.mean
    }
}

/// The last [`PatchHead::context_length`] values in patches, and their measure. NaN stands for what is not known; patches without a
/// value before the first known one are left out, since nothing sees them.
///
/// # Errors
/// A sentence: no value is known, or one is infinite.
pub fn patches(head: &PatchHead, values: &[f32]) -> Result<(Patches, Measure), String> {
    let values = &values[values.len().saturating_sub(head.context_length)..];
    if values.iter().all(|v| v.is_nan()) {
        return Err("it has no value that is known".into());
    }
    if let Some(at) = values.iter().position(|v| v.is_infinite()) {
        return Err(format!("value {} of those that the model sees is infinite", at + 1));
    }
    let measure = Measure::of(values);
    let (size, stride) = (head.patch_size, head.stride);
    let missing = values.len().next_multiple_of(size) - values.len();
    let value = |at: usize| at.checked_sub(missing).map_or(f32::NAN, |at| values[at]);
    let mut made = Patches { values: Vec::new(), shown: Vec::new() };
    for patch in 0..head.patches_of(values.len()) {
        let raw: Vec<f32> = (0..size).map(|i| value(patch * stride + i)).collect();
        let is_shown = raw.iter().any(|v| !v.is_nan());
        if !is_shown && made.shown.is_empty() {
            continue;
        }
        made.values.extend(raw.iter().map(|v| if v.is_nan() { 0.0 } else { (v - measure.mean) / measure.scale }));
        made.values.extend(raw.iter().map(|v| if v.is_nan() { 0.0 } else { 1.0 }));
        made.shown.push(is_shown);
    }
    Ok((made, measure))
}
