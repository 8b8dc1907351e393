//! First weights, as Mesh TensorFlow draws them (see Raffel et al. 2020's code; deviations below).
//!
//! Everything is normal, with the deviation of the table. Mesh TensorFlow truncates the feed-forward weights and draws
//! the bias table uniformly (Glorot); HuggingFace draws an untied head with deviation 1, so that its first loss is about
//! ten times too high (transformers#26441): here it is `d_model^-0.5`, as in the original.

use super::config::T5Config;
use super::layout::TensorSpan;
use crate::rng::{Purpose, Rng, fnv1a};

/// The first contents of a tensor: a function of the seed and the tensor's name.
pub fn weights(config: &T5Config, tensor: &TensorSpan, seed: u64) -> Vec<f32> {
    let len: usize = tensor.shape.iter().product();
    let module = tensor.name.trim_end_matches(".weight").rsplit('.').next().unwrap_or(&tensor.name);
    let mut rng = Rng::new(seed, Purpose::Weights, &[fnv1a(tensor.name.bytes())]);
    match module {
        // As PyPI's peft draws them: kaiming_uniform_(a = sqrt(5)), whose bound comes out as 1 / sqrt(columns).
        "lora_A" => {
            let bound = (tensor.shape[1] as f64).powf(-0.5);
            return (0..len).map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32).collect();
        }
        // What is added changes nothing at first.
        "lora_B" | "up" => return vec![0.0; len],
        "ia3_l" => return vec![1.0; len],
        _ => {}
    }
    let Some(deviation) = deviation(config, module) else {
        return vec![1.0; len];
    };
    let scale = deviation * config.initializer_factor;
    (0..len).map(|_| (rng.normal() * scale) as f32).collect()
}

/// Standard deviation, or `None` for norm scales, which start at 1.
fn deviation(config: &T5Config, module: &str) -> Option<f64> {
    let inverse_root = |n: usize| (n as f64).powf(-0.5);
    let d_model = config.d_model;
    Some(match module {
        "layer_norm" | "final_layer_norm" | "global_input_layer_norm" => return None,
        "shared" => 1.0,
        "q" => inverse_root(d_model * config.d_kv),
        "o" => inverse_root(config.inner_dim()),
        "wo" => inverse_root(config.d_ff),
        // k, v, wi, wi_0, wi_1, the relative bias, an untied head.
        _ => inverse_root(d_model),
    })
}
