//! The published T5 sizes by name.

use serde_json::Map;

use super::architecture::Architecture;
use super::config::{Family, T5Config};
use super::encoder_attention::EncoderAttention;
use crate::error::{Error, Result};
use crate::ops::{Activation, Function};

impl T5Config {
    /// The configuration of a published model, e.g. `t5-small`, `t5-v1_1-base`, `flan-t5-xl`, `mt5-base`, `byt5-small`,
    /// `umt5-xxl`, or of `tiny`, T5 1.1's size for testing. An unknown name gives an error that lists the known ones.
    pub fn preset(name: &str) -> Result<T5Config> {
        let found = RELEASES.iter().find_map(|release| {
            let suffix = name.strip_prefix(release.prefix)?;
            release.sizes.iter().find(|size| size.name == suffix).map(|size| release.config(size))
        });
        found.ok_or_else(|| {
            Error::Input(format!("no model preset is named \"{name}\"; known are {}", preset_names().join(", ")))
        })
    }
}

/// Every name that [`T5Config::preset`] knows.
pub fn preset_names() -> Vec<String> {
    let names = |release: &Release| -> Vec<_> {
        release.sizes.iter().map(|size| format!("{}{}", release.prefix, size.name)).collect()
    };
    RELEASES.iter().flat_map(names).collect()
}

struct Release {
    prefix: &'static str,
    family: Family,
    vocab_size: usize,
    /// T5 1.0: relu and one matrix for embedding and head. Later ones: gated GELU and a head of its own.
    first_version: bool,
    sizes: &'static [Size],
}

struct Size {
    name: &'static str,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    /// Encoder, decoder.
    layers: [usize; 2],
    num_heads: usize,
}

impl Release {
    fn config(&self, size: &Size) -> T5Config {
        T5Config {
            model_type: self.family,
            architecture: Architecture::EncoderDecoder,
            vocab_size: self.vocab_size,
            d_model: size.d_model,
            d_kv: size.d_kv,
            d_ff: size.d_ff,
            num_layers: size.layers[0],
            num_decoder_layers: size.layers[1],
            num_heads: size.num_heads,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            dropout_rate: 0.1,
            layer_norm_epsilon: 1e-6,
            initializer_factor: 1.0,
            feed_forward_proj: match self.first_version {
                true => Activation { function: Function::Relu, gated: false },
                false => Activation { function: Function::GeluTanh, gated: true },
            },
            tie_word_embeddings: self.first_version,
            scale_decoder_outputs: None,
            pad_token_id: 0,
            eos_token_id: vec![1],
            decoder_start_token_id: 0,
            adapter_width: 0,
            encoder_attention: EncoderAttention::Full,
            classifier: None,
            patches: None,
            extra: Map::new(),
        }
    }
}

const fn size(
    name: &'static str,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    layers: [usize; 2],
    num_heads: usize,
) -> Size {
    Size { name, d_model, d_kv, d_ff, layers, num_heads }
}

/// Raffel et al. 2020, section 3.7.
const T5_1_0: &[Size] = &[
    size("small", 512, 64, 2048, [6, 6], 8),
    size("base", 768, 64, 3072, [12, 12], 12),
    size("large", 1024, 64, 4096, [24, 24], 16),
    size("3b", 1024, 128, 16_384, [24, 24], 32),
    size("11b", 1024, 128, 65_536, [24, 24], 128),
];

const SMALL: Size = size("small", 512, 64, 1024, [8, 8], 6);
const BASE: Size = size("base", 768, 64, 2048, [12, 12], 12);
const LARGE: Size = size("large", 1024, 64, 2816, [24, 24], 16);
const XL: Size = size("xl", 2048, 64, 5120, [24, 24], 32);
const XXL: Size = size("xxl", 4096, 64, 10_240, [24, 24], 64);

const T5_1_1: &[Size] = &[SMALL, BASE, LARGE, XL, XXL];

/// UMT5 has no large model.
const UMT5: &[Size] = &[SMALL, BASE, XL, XXL];

/// Xue et al. 2021, Table 1.
const BYT5: &[Size] = &[
    size("small", 1472, 64, 3584, [12, 4], 6),
    size("base", 1536, 64, 3968, [18, 6], 12),
    size("large", 1536, 64, 3840, [36, 12], 16),
    size("xl", 2560, 64, 6720, [36, 12], 32),
    size("xxl", 4672, 64, 12_352, [36, 12], 64),
];

const TINY: &[Size] = &[size("tiny", 32, 64, 64, [2, 2], 2)];

const fn release(
    prefix: &'static str,
    family: Family,
    vocab_size: usize,
    first_version: bool,
    sizes: &'static [Size],
) -> Release {
    Release { prefix, family, vocab_size, first_version, sizes }
}

const RELEASES: &[Release] = &[
    release("t5-", Family::T5, 32_128, true, T5_1_0),
    release("t5-v1_1-", Family::T5, 32_128, false, T5_1_1),
    release("flan-t5-", Family::T5, 32_128, false, T5_1_1),
    release("mt5-", Family::Mt5, 250_112, false, T5_1_1),
    release("byt5-", Family::T5, 384, false, BYT5),
    release("umt5-", Family::Umt5, 256_384, false, UMT5),
    release("", Family::T5, 32_128, false, TINY),
];
