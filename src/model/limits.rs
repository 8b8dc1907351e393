//! Which configurations are refused: sizes from a file must neither exhaust the memory nor contradict one another.

use super::architecture::Architecture;
use super::config::{Family, T5Config};
use super::encoder_attention::EncoderAttention;
use crate::error::{Error, Result};

impl T5Config {
    /// The largest `relative_attention_max_distance`. The backward pass of attention adds up each distance's gradient in
    /// workgroup memory, of which 16 KiB are sure: see attention_distances.wgsl. Every published T5 has 128.
    pub const MAX_DISTANCE: usize = 896;

    /// Refuses sizes that are zero, absurd (they would exhaust the memory) or that contradict one another.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|(key, what)| Error::setting(key, what))
    }

    /// # Errors
    /// A tokenizer of so many pieces has ids that the model has no embedding for.
    pub fn check_vocabulary(&self, pieces: usize) -> Result<()> {
        if pieces <= self.vocab_size {
            return Ok(());
        }
        Err(Error::Vocabulary { ids: pieces, rows: self.vocab_size })
    }

    /// The offending key and a sentence that follows it.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let limits = [
            ("vocab_size", self.vocab_size, 1 << 20),
            ("d_model", self.d_model, 1 << 16),
            ("d_kv", self.d_kv, 1 << 12),
            ("d_ff", self.d_ff, 1 << 20),
            ("num_layers", self.num_layers, 1 << 10),
            ("num_decoder_layers", self.num_decoder_layers, 1 << 10),
            ("num_heads", self.num_heads, 1 << 12),
            ("relative_attention_num_buckets", self.relative_attention_num_buckets, 1 << 12),
            ("relative_attention_max_distance", self.relative_attention_max_distance, Self::MAX_DISTANCE),
        ];
        for (key, value, most) in limits {
            if value == 0 || value > most {
                return Err((key, format!("is {value}; it must lie between 1 and {most}")));
            }
        }
        if self.adapter_width > MOST_ADAPTER {
            return Err(("adapter_width", format!("is {}; it must be {MOST_ADAPTER} at most", self.adapter_width)));
        }
        if self.architecture != Architecture::EncoderDecoder {
            let name = self.architecture.name();
            if self.num_decoder_layers != self.num_layers {
                let (layers, decoder_layers) = (self.num_layers, self.num_decoder_layers);
                let what = format!("is {decoder_layers} beside {layers} layers; {name} has one set of blocks");
                return Err(("num_decoder_layers", what));
            }
            if self.model_type == Family::LongT5 || self.patches.is_some() {
                let what = format!("is {name}; LongT5 and Chronos-Bolt are encoder-decoders");
                return Err(("architecture", what));
            }
        }
        if let Some(radius) = self.encoder_attention.radius()
            && (radius == 0 || radius > MAX_RADIUS)
        {
            return Err(("local_radius", format!("is {radius}; it must lie between 1 and {MAX_RADIUS}")));
        }
        if let EncoderAttention::TransientGlobal { block, .. } = self.encoder_attention
            && (block == 0 || block > MAX_BLOCK)
        {
            return Err(("global_block_size", format!("is {block}; it must lie between 1 and {MAX_BLOCK}")));
        }
        if self.inner_dim() > MAX_INNER_DIM {
            let inner = self.inner_dim();
            return Err(("num_heads", format!("* d_kv is {inner}; at most {MAX_INNER_DIM} is supported")));
        }
        let buckets = self.relative_attention_num_buckets;
        if buckets < 4 || !buckets.is_multiple_of(2) {
            return Err(("relative_attention_num_buckets", format!("is {buckets}; it must be even and at least 4")));
        }
        // The causal buckets are exact up to buckets/2 and logarithmic from there to the largest distance.
        if self.relative_attention_max_distance <= buckets / 2 {
            let (distance, half) = (self.relative_attention_max_distance, buckets / 2);
            let what = format!("is {distance}; it must exceed half the number of buckets, {half}");
            return Err(("relative_attention_max_distance", what));
        }
        if !(0.0..1.0).contains(&self.dropout_rate) {
            return Err(("dropout_rate", format!("is {}; it must be at least 0 and less than 1", self.dropout_rate)));
        }
        for (key, value) in
            [("layer_norm_epsilon", self.layer_norm_epsilon), ("initializer_factor", self.initializer_factor)]
        {
            // As f32, since that is what the computation uses: 1e-60 would be an epsilon of 0.
            if !(value as f32 > 0.0 && (value as f32).is_finite()) {
                return Err((key, format!("is {value}; it must be a positive 32-bit float")));
            }
        }
        if self.eos_token_id.is_empty() {
            return Err(("eos_token_id", "is empty; generation could never stop".to_owned()));
        }
        if self.patches.as_ref().is_some_and(|head| head.use_reg_token) && self.vocab_size < 2 {
            return Err(("vocab_size", "is 1; use_reg_token needs token 1".to_owned()));
        }
        let ids = [("pad_token_id", self.pad_token_id), ("decoder_start_token_id", self.decoder_start_token_id)];
        // A Chronos-Bolt ends nothing, and has no token for it if it sums nothing up either.
        let ends = self.eos_token_id.iter().filter(|_| self.patches.is_none());
        for (key, id) in ids.into_iter().chain(ends.map(|&id| ("eos_token_id", id))) {
            if id as usize >= self.vocab_size {
                return Err((key, format!("is {id}, outside of the vocabulary of {}", self.vocab_size)));
            }
        }
        if self.param_count() > MAX_PARAMETERS {
            let what =
                format!("and the other sizes make {} parameters; more than {MAX_PARAMETERS}", self.param_count());
            return Err(("d_model", what));
        }
        Ok(())
    }
}

/// Published are 127.
const MAX_RADIUS: usize = 1 << 20;
/// Published are 16. The sum of a block is one loop.
const MAX_BLOCK: usize = 1 << 12;
/// Beyond the largest T5 (T5-11B: 16,384) by a factor of 16.
const MAX_INNER_DIM: usize = 1 << 18;
/// Five times the largest T5 (mT5-XXL, 13 billion).
const MAX_PARAMETERS: u64 = 1 << 36;

/// Units of an adapter. Those of the paper have up to 2048.
const MOST_ADAPTER: usize = 1 << 16;
