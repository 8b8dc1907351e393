//! The parameters of a configuration: names, shapes and their number.

use super::architecture::Stack;
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
        let adapter = product(&[2, d, self.adapter_width]);
        let block = [attention, feed_forward, adapter, product(&[2, d])];
        let cross_attention = [attention, d as u64];
        let owned: Vec<_> = self.stacks().into_iter().filter(|(stack, _)| self.owns_blocks(*stack)).collect();
        let layers = owned.iter().fold(0usize, |sum, (_, layers)| sum.saturating_add(*layers));
        let tables = match self.model_type {
            Family::Umt5 => layers,
            Family::T5 | Family::Mt5 | Family::LongT5 => owned.len(),
        };
        let cross_layers = if self.architecture.is_one_stack() { 0 } else { self.num_decoder_layers };
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
            blocks(layers, &block),
            blocks(cross_layers, &cross_attention),
            product(&[tables.saturating_add(global_tables), self.relative_attention_num_buckets, self.num_heads]),
            product(&[owned.len(), d]),
            product(&[global_norms, d]),
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// Every parameter's HuggingFace name and shape, in the order of the model's modules. Matrices are `[out, in]`.
    pub fn tensor_shapes(&self, untied_head: bool) -> Vec<(String, Vec<usize>)> {
        let mut shapes = vec![("shared.weight".to_owned(), vec![self.vocab_size, self.d_model])];
        for (stack, layers) in self.stacks() {
            for block in 0..layers {
                self.block_shapes(stack, block, &mut shapes);
            }
            if self.owns_blocks(stack) {
                shapes.push((self.final_norm(stack), vec![self.d_model]));
            }
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

    fn block_shapes(&self, stack: Stack, block: usize, shapes: &mut Vec<(String, Vec<usize>)>) {
        let (d, inner) = (self.d_model, self.inner_dim());
        let mut add = |layer: &str, name: &str, shape: &[usize]| {
            shapes.push((format!("{layer}.{name}.weight"), shape.to_vec()));
        };
        let names = self.block_names(stack, block);
        let (own, is_encoder) = (self.owns_blocks(stack), stack == Stack::Encoder);
        let is_global = is_encoder && matches!(self.encoder_attention, EncoderAttention::TransientGlobal { .. });
        let module = if is_encoder { self.encoder_attention.module() } else { "SelfAttention" };
        let self_attention = own.then_some((names.self_attention, module, true));
        let cross_attention = names.cross_attention.map(|layer| (layer, "EncDecAttention", false));
        for (layer, attention, is_self) in self_attention.into_iter().chain(cross_attention) {
            for projection in ["q", "k", "v"] {
                add(&layer, &format!("{attention}.{projection}"), &[inner, d]);
            }
            add(&layer, &format!("{attention}.o"), &[d, inner]);
            if is_self && self.has_relative_bias(block) {
                let table = [self.relative_attention_num_buckets, self.num_heads];
                add(&layer, &format!("{attention}.relative_attention_bias"), &table);
                if is_global {
                    add(&layer, &format!("{attention}.global_relative_attention_bias"), &table);
                }
            }
            if is_global {
                add(&layer, &format!("{attention}.global_input_layer_norm"), &[d]);
            }
            add(&layer, "layer_norm", &[d]);
        }
        if !own {
            return;
        }
        let inputs: &[&str] = if self.feed_forward_proj.gated { &["wi_0", "wi_1"] } else { &["wi"] };
        for input in inputs {
            add(&names.feed_forward, &format!("DenseReluDense.{input}"), &[self.d_ff, d]);
        }
        add(&names.feed_forward, "DenseReluDense.wo", &[d, self.d_ff]);
        if self.adapter_width > 0 {
            add(&names.feed_forward, "Adapter.down", &[self.adapter_width, d]);
            add(&names.feed_forward, "Adapter.up", &[d, self.adapter_width]);
        }
        add(&names.feed_forward, "layer_norm", &[d]);
    }
}
