//! The parameters of a configuration: names, shapes and their number.

use super::config::{Family, T5Config};
use super::encoder_attention::EncoderAttention;

impl T5Config {
    /// `num_heads * d_kv`: the width of queries, keys and values.
    pub fn inner_dim(&self) -> usize {
        self.num_heads.saturating_mul(self.d_kv)
    }

    /// Number of parameters, with a head of its own unless `tie_word_embeddings`; saturates instead of overflowing.
    pub fn param_count(&self) -> u64 {
        let product = |factors: &[usize]| factors.iter().fold(1u64, |acc, &f| acc.saturating_mul(f as u64));
        let d = self.d_model;
        let attention = product(&[4, d, self.inner_dim()]);
        let feed_forward = product(&[if self.feed_forward_proj.gated { 3 } else { 2 }, d, self.d_ff]);
        let encoder_block = [attention, feed_forward, product(&[2, d])];
        let decoder_block = [attention, attention, feed_forward, product(&[3, d])];
        let tables = match self.model_type {
            Family::Umt5 => self.num_layers.saturating_add(self.num_decoder_layers),
            Family::T5 | Family::Mt5 | Family::LongT5 => 2,
        };
        // Of transient-global attention: one more table, and a norm in each block.
        let (global_tables, global_norms) = match self.encoder_attention {
            EncoderAttention::TransientGlobal { .. } => (1, self.num_layers),
            EncoderAttention::Full | EncoderAttention::Local { .. } => (0, 0),
        };
        let blocks = |layers: usize, parts: &[u64]| {
            parts.iter().fold(0u64, |acc, &part| acc.saturating_add(part)).saturating_mul(layers as u64)
        };
        [
            product(&[if self.tie_word_embeddings { 1 } else { 2 }, self.vocab_size, d]),
            blocks(self.num_layers, &encoder_block),
            blocks(self.num_decoder_layers, &decoder_block),
            product(&[tables.saturating_add(global_tables), self.relative_attention_num_buckets, self.num_heads]),
            product(&[2, d]),
            product(&[global_norms, d]),
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// Every parameter's HuggingFace name and shape, in the order of the model's modules. Matrices are `[out, in]`.
    pub fn tensor_shapes(&self, untied_head: bool) -> Vec<(String, Vec<usize>)> {
        let mut shapes = vec![("shared.weight".to_owned(), vec![self.vocab_size, self.d_model])];
        for (stack, layers) in [("encoder", self.num_layers), ("decoder", self.num_decoder_layers)] {
            // An encoder alone: nothing has no layers else.
            if layers == 0 {
                continue;
            }
            for block in 0..layers {
                self.block_shapes(stack, block, &mut shapes);
            }
            shapes.push((format!("{stack}.final_layer_norm.weight"), vec![self.d_model]));
        }
        if untied_head {
            shapes.push(("lm_head.weight".to_owned(), vec![self.vocab_size, self.d_model]));
        }
        shapes.extend(self.patches.iter().flat_map(|head| head.tensor_shapes(self.d_model, self.d_ff)));
        shapes.extend(self.classifier.iter().flat_map(|head| head.tensor_shapes(self.d_model)));
        shapes
    }

    /// Whether self-attention in this block owns a relative bias table `[buckets, heads]`.
    pub fn has_relative_bias(&self, block: usize) -> bool {
        block == 0 || self.model_type == Family::Umt5
    }

    fn block_shapes(&self, stack: &str, block: usize, shapes: &mut Vec<(String, Vec<usize>)>) {
        let (d, inner) = (self.d_model, self.inner_dim());
        let mut add = |layer: usize, name: &str, shape: &[usize]| {
            shapes.push((format!("{stack}.block.{block}.layer.{layer}.{name}.weight"), shape.to_vec()));
        };
        let attentions: &[&str] = match stack {
            "encoder" => &[self.encoder_attention.module()],
            _ => &["SelfAttention", "EncDecAttention"],
        };
        let is_global =
            stack == "encoder" && matches!(self.encoder_attention, EncoderAttention::TransientGlobal { .. });
        for (layer, attention) in attentions.iter().enumerate() {
            for projection in ["q", "k", "v"] {
                add(layer, &format!("{attention}.{projection}"), &[inner, d]);
            }
            add(layer, &format!("{attention}.o"), &[d, inner]);
            if layer == 0 && self.has_relative_bias(block) {
                let table = [self.relative_attention_num_buckets, self.num_heads];
                add(layer, &format!("{attention}.relative_attention_bias"), &table);
                if is_global {
                    add(layer, &format!("{attention}.global_relative_attention_bias"), &table);
                }
            }
            if is_global {
                add(layer, &format!("{attention}.global_input_layer_norm"), &[d]);
            }
            add(layer, "layer_norm", &[d]);
        }
        let layer = attentions.len();
        let inputs: &[&str] = if self.feed_forward_proj.gated { &["wi_0", "wi_1"] } else { &["wi"] };
        for input in inputs {
            add(layer, &format!("DenseReluDense.{input}"), &[self.d_ff, d]);
        }
        add(layer, "DenseReluDense.wo", &[d, self.d_ff]);
        add(layer, "layer_norm", &[d]);
    }
}
