//! The configuration of a model in a GGUF file: from the file's settings, and what these lack from its tensors.

use serde_json::json;

use super::config::T5Config;
use crate::checkpoint::{GgufFile, Weights};
use crate::error::{Error, Result};

const DISTANCE: usize = 128;

/// The configuration, and a sentence about what was inferred. `None` if the file has no settings of a T5.
///
/// llama.cpp calls every T5 `t5`. It stores neither the activation, nor whether the head is tied, nor the largest distance.
///
/// # Errors
/// The file is another kind of model, or lacks what cannot be inferred.
pub(super) fn config_of(gguf: &GgufFile, weights: &Weights) -> Result<Option<(T5Config, String)>> {
    let Some(architecture) = gguf.text("general.architecture")? else { return Ok(None) };
    if !["t5", "t5encoder"].contains(&architecture) {
        let beside = gguf.path().with_file_name("config.json").exists();
        let what = format!("this is a model of the kind {architecture}, not a T5");
        return if beside { Ok(None) } else { Err(Error::file(gguf.path(), what)) };
    }
    let key = |name: &str| format!("{architecture}.{name}");
    let size = |name: &str| gguf.size(&key(name));
    let needed = |name: &str| {
        let missing = || Error::file(gguf.path(), format!("the setting {} is missing", key(name)));
        size(name)?.ok_or_else(missing)
    };
    let dimension = |tensor: &str, at: usize| weights.shape(tensor).and_then(|shape| shape.get(at)).copied();
    let name = |stack: &str, block: usize, what: &str| format!("{stack}.block.{block}.layer.{what}.weight");
    let bias = |block| name("encoder", block, "0.SelfAttention.relative_attention_bias");
    let heads = needed("attention.head_count")?;
    let inner = dimension(&name("encoder", 0, "0.SelfAttention.q"), 0);
    let d_kv = size("attention.key_length")?.or(inner.map(|inner| inner / heads.max(1)));
    let layers = needed("block_count")?;
    // Files made before 2025 have no setting for the decoder's depth.
    let decoder_blocks =
        || (0..).take_while(|&block| weights.contains(&name("decoder", block, "0.SelfAttention.q"))).count();
    let decoder_layers = size("decoder_block_count")?.unwrap_or_else(decoder_blocks);
    let embedding = weights.embedding_name()?;
    let gated = weights.contains(&name("encoder", 0, "1.DenseReluDense.wi_0"));
    let activation = if gated { "gated-gelu" } else { "relu" };
    let umt5 = layers > 1 && weights.contains(&bias(1));
    let untied = weights.contains("lm_head.weight");
    let eps = match gguf.number(&key("attention.layer_norm_rms_epsilon"))? {
        None => gguf.number(&key("attention.layer_norm_epsilon"))?,
        eps => eps,
    };
    // f32 in the file: 1e-6, and not its neighbour.
    let eps = eps.and_then(|eps| (eps as f32).to_string().parse::<f64>().ok());
    let settings = json!({
        "model_type": if umt5 { "umt5" } else { "t5" },
        "vocab_size": dimension(embedding, 0),
        "d_model": needed("embedding_length")?,
        "d_kv": d_kv,
        "d_ff": needed("feed_forward_length")?,
        "num_layers": layers,
        "num_decoder_layers": if decoder_layers == 0 { layers } else { decoder_layers },
        "num_heads": heads,
        "relative_attention_num_buckets": match size("attention.relative_buckets_count")? {
            None => dimension(&bias(0), 0),
            buckets => buckets,
        },
        "relative_attention_max_distance": DISTANCE,
        "layer_norm_epsilon": eps,
        "feed_forward_proj": activation,
        "tie_word_embeddings": !untied,
        "pad_token_id": gguf.size("tokenizer.ggml.padding_token_id")?,
        "eos_token_id": gguf.size("tokenizer.ggml.eos_token_id")?,
        "decoder_start_token_id": size("decoder_start_token_id")?,
    });
    let config = T5Config::from_json(&settings.to_string(), gguf.path())?;
    let why = if gated { "there are gates" } else { "there are no gates" };
    let head = if untied { "of its own, not scaled" } else { "the embedding" };
    let family = if umt5 { "UMT5, since every block has a bias table" } else { "T5" };
    let remark = format!(
        "{}: not said there, and inferred: {family}; activation {activation}, since {why}; the head is {head}; the largest relative \
         distance is {DISTANCE}; where another program gives other answers, use the folder that it was converted from",
        gguf.path().display()
    );
    Ok(Some((config, remark)))
}
