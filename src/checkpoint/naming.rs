//! What files call the parameters of a T5: HuggingFace's names, which the rest of the crate knows, and those of others.
//!
//! A naming is a table. What is in none of them keeps its name, and is later reported as unused.

use std::collections::BTreeMap;

/// What wraps whole models put before every name; `transformer.` stands before all but the head of classifiers.
const WRAPPERS: [&str; 6] = ["model.", "module.", "_orig_mod.", "transformer.", "state_dict.", "model_state_dict."];

/// What the names of classifiers' heads begin with.
const HEADS: [&str; 2] = ["classification_head.", "classifier."];

/// A tensor of a file under HuggingFace's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The file's own name.
    pub name: String,
    /// The file holds `[in, out]` where HuggingFace holds `[out, in]`.
    pub transposed: bool,
}

/// A naming: rules from the file's name to HuggingFace's. `{}` stands for a block's number.
struct Naming {
    /// A name that every model with this naming has.
    sign: &'static str,
    rules: &'static [(&'static str, &'static str)],
}

const LLAMA_CPP: Naming = Naming {
    sign: "token_embd.weight",
    rules: &[
        ("token_embd.weight", "shared.weight"),
        ("output.weight", "lm_head.weight"),
        ("enc.output_norm.weight", "encoder.final_layer_norm.weight"),
        ("enc.blk.{}.attn_norm.weight", "encoder.block.{}.layer.0.layer_norm.weight"),
        ("enc.blk.{}.attn_q.weight", "encoder.block.{}.layer.0.SelfAttention.q.weight"),
        ("enc.blk.{}.attn_k.weight", "encoder.block.{}.layer.0.SelfAttention.k.weight"),
        ("enc.blk.{}.attn_v.weight", "encoder.block.{}.layer.0.SelfAttention.v.weight"),
        ("enc.blk.{}.attn_o.weight", "encoder.block.{}.layer.0.SelfAttention.o.weight"),
        ("enc.blk.{}.attn_rel_b.weight", "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"),
        ("enc.blk.{}.ffn_norm.weight", "encoder.block.{}.layer.1.layer_norm.weight"),
        ("enc.blk.{}.ffn_gate.weight", "encoder.block.{}.layer.1.DenseReluDense.wi_0.weight"),
        ("enc.blk.{}.ffn_up.weight", "encoder.block.{}.layer.1.DenseReluDense.wi.weight"),
        ("enc.blk.{}.ffn_down.weight", "encoder.block.{}.layer.1.DenseReluDense.wo.weight"),
        ("dec.output_norm.weight", "decoder.final_layer_norm.weight"),
        ("dec.blk.{}.attn_norm.weight", "decoder.block.{}.layer.0.layer_norm.weight"),
        ("dec.blk.{}.attn_q.weight", "decoder.block.{}.layer.0.SelfAttention.q.weight"),
        ("dec.blk.{}.attn_k.weight", "decoder.block.{}.layer.0.SelfAttention.k.weight"),
        ("dec.blk.{}.attn_v.weight", "decoder.block.{}.layer.0.SelfAttention.v.weight"),
        ("dec.blk.{}.attn_o.weight", "decoder.block.{}.layer.0.SelfAttention.o.weight"),
        ("dec.blk.{}.attn_rel_b.weight", "decoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"),
        ("dec.blk.{}.cross_attn_norm.weight", "decoder.block.{}.layer.1.layer_norm.weight"),
        ("dec.blk.{}.cross_attn_q.weight", "decoder.block.{}.layer.1.EncDecAttention.q.weight"),
        ("dec.blk.{}.cross_attn_k.weight", "decoder.block.{}.layer.1.EncDecAttention.k.weight"),
        ("dec.blk.{}.cross_attn_v.weight", "decoder.block.{}.layer.1.EncDecAttention.v.weight"),
        ("dec.blk.{}.cross_attn_o.weight", "decoder.block.{}.layer.1.EncDecAttention.o.weight"),
        (
            "dec.blk.{}.cross_attn_rel_b.weight",
            "decoder.block.{}.layer.1.EncDecAttention.relative_attention_bias.weight",
        ),
        ("dec.blk.{}.ffn_norm.weight", "decoder.block.{}.layer.2.layer_norm.weight"),
        ("dec.blk.{}.ffn_gate.weight", "decoder.block.{}.layer.2.DenseReluDense.wi_0.weight"),
        ("dec.blk.{}.ffn_up.weight", "decoder.block.{}.layer.2.DenseReluDense.wi.weight"),
        ("dec.blk.{}.ffn_down.weight", "decoder.block.{}.layer.2.DenseReluDense.wo.weight"),
    ],
};

/// T5X, whose matrices are `[in, out]`, as are its tables of position bias: `[heads, buckets]`.
const T5X: Naming = Naming {
    sign: "target/token_embedder/embedding",
    rules: &[
        ("target/token_embedder/embedding", "shared.weight"),
        ("target/decoder/logits_dense/kernel", "lm_head.weight"),
        (
            "target/encoder/relpos_bias/rel_embedding",
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        ("target/encoder/encoder_norm/scale", "encoder.final_layer_norm.weight"),
        (
            "target/encoder/layers_{}/relpos_bias/rel_embedding",
            "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        ("target/encoder/layers_{}/pre_attention_layer_norm/scale", "encoder.block.{}.layer.0.layer_norm.weight"),
        ("target/encoder/layers_{}/attention/query/kernel", "encoder.block.{}.layer.0.SelfAttention.q.weight"),
        ("target/encoder/layers_{}/attention/key/kernel", "encoder.block.{}.layer.0.SelfAttention.k.weight"),
        ("target/encoder/layers_{}/attention/value/kernel", "encoder.block.{}.layer.0.SelfAttention.v.weight"),
        ("target/encoder/layers_{}/attention/out/kernel", "encoder.block.{}.layer.0.SelfAttention.o.weight"),
        ("target/encoder/layers_{}/pre_mlp_layer_norm/scale", "encoder.block.{}.layer.1.layer_norm.weight"),
        ("target/encoder/layers_{}/mlp/wi/kernel", "encoder.block.{}.layer.1.DenseReluDense.wi.weight"),
        ("target/encoder/layers_{}/mlp/wi_0/kernel", "encoder.block.{}.layer.1.DenseReluDense.wi_0.weight"),
        ("target/encoder/layers_{}/mlp/wi_1/kernel", "encoder.block.{}.layer.1.DenseReluDense.wi_1.weight"),
        ("target/encoder/layers_{}/mlp/wo/kernel", "encoder.block.{}.layer.1.DenseReluDense.wo.weight"),
        (
            "target/decoder/relpos_bias/rel_embedding",
            "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        ("target/decoder/decoder_norm/scale", "decoder.final_layer_norm.weight"),
        (
            "target/decoder/layers_{}/relpos_bias/rel_embedding",
            "decoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        ("target/decoder/layers_{}/pre_self_attention_layer_norm/scale", "decoder.block.{}.layer.0.layer_norm.weight"),
        ("target/decoder/layers_{}/self_attention/query/kernel", "decoder.block.{}.layer.0.SelfAttention.q.weight"),
        ("target/decoder/layers_{}/self_attention/key/kernel", "decoder.block.{}.layer.0.SelfAttention.k.weight"),
        ("target/decoder/layers_{}/self_attention/value/kernel", "decoder.block.{}.layer.0.SelfAttention.v.weight"),
        ("target/decoder/layers_{}/self_attention/out/kernel", "decoder.block.{}.layer.0.SelfAttention.o.weight"),
        ("target/decoder/layers_{}/pre_cross_attention_layer_norm/scale", "decoder.block.{}.layer.1.layer_norm.weight"),
        (
            "target/decoder/layers_{}/encoder_decoder_attention/query/kernel",
            "decoder.block.{}.layer.1.EncDecAttention.q.weight",
        ),
        (
            "target/decoder/layers_{}/encoder_decoder_attention/key/kernel",
            "decoder.block.{}.layer.1.EncDecAttention.k.weight",
        ),
        (
            "target/decoder/layers_{}/encoder_decoder_attention/value/kernel",
            "decoder.block.{}.layer.1.EncDecAttention.v.weight",
        ),
        (
            "target/decoder/layers_{}/encoder_decoder_attention/out/kernel",
            "decoder.block.{}.layer.1.EncDecAttention.o.weight",
        ),
        ("target/decoder/layers_{}/pre_mlp_layer_norm/scale", "decoder.block.{}.layer.2.layer_norm.weight"),
        ("target/decoder/layers_{}/mlp/wi/kernel", "decoder.block.{}.layer.2.DenseReluDense.wi.weight"),
        ("target/decoder/layers_{}/mlp/wi_0/kernel", "decoder.block.{}.layer.2.DenseReluDense.wi_0.weight"),
        ("target/decoder/layers_{}/mlp/wi_1/kernel", "decoder.block.{}.layer.2.DenseReluDense.wi_1.weight"),
        ("target/decoder/layers_{}/mlp/wo/kernel", "decoder.block.{}.layer.2.DenseReluDense.wo.weight"),
    ],
};

/// HuggingFace's names in its Flax models: the same modules, but other words for what they hold.
const FLAX: Naming = Naming {
    sign: "shared/embedding",
    rules: &[("{}/embedding", "{}.weight"), ("{}/kernel", "{}.weight"), ("{}/weight", "{}.weight")],
};

/// llama.cpp's name of a parameter that HuggingFace calls `name`, if it has one.
#[cfg(any(feature = "train", test))]
pub(crate) fn llama_cpp_name(name: &str) -> Option<String> {
    // Of a gate's two halves, llama.cpp calls the second as the one matrix of a network without a gate.
    let name = name.replace(".wi_1.", ".wi.");
    let of = |(from, to): &(&str, &str)| Some(from.replace("{}", matched(to, &name)?));
    LLAMA_CPP.rules.iter().find_map(of)
}

/// HuggingFace's names of tensors that a file has under these names. An error are two tensors that mean the same parameter.
pub(super) fn huggingface_names<'a>(
    names: impl Iterator<Item = &'a str> + Clone,
) -> Result<BTreeMap<String, Origin>, String> {
    let unwrapped = unwrapped(names);
    let has = |wanted: &str| unwrapped.iter().any(|(_, inner)| *inner == wanted);
    let naming = [&LLAMA_CPP, &T5X, &FLAX].into_iter().find(|naming| has(naming.sign));
    let mut found: BTreeMap<String, Origin> = BTreeMap::new();
    for &(name, inner) in &unwrapped {
        let renamed = naming.and_then(|naming| naming.rename(inner, &has)).unwrap_or_else(|| inner.to_owned());
        let transposed = naming.is_some() && (inner.ends_with("/kernel") || inner.ends_with("/rel_embedding"));
        if let Some(other) = found.insert(renamed.clone(), Origin { name: name.to_owned(), transposed }) {
            return Err(format!("the tensors {} and {name} are both {renamed}", other.name));
        }
    }
    Ok(found)
}

/// Names, each with what is left of it without the wrappers that all of them name.
fn unwrapped<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(&'a str, &'a str)> {
    let mut all: Vec<(&str, &str)> = names.map(|name| (name, name)).collect();
    let is_head = |name: &str| HEADS.iter().any(|head| name.starts_with(head));
    let begins = |name: &str, prefix: &str| name.len() > prefix.len() && name.starts_with(prefix);
    let wraps = |all: &[(&str, &str)], prefix: &str| {
        all.iter().any(|(_, inner)| begins(inner, prefix))
            && all.iter().all(|(_, inner)| begins(inner, prefix) || is_head(inner))
    };
    while let Some(prefix) = WRAPPERS.iter().find(|prefix| wraps(&all, prefix)) {
        for (_, inner) in &mut all {
            *inner = inner.strip_prefix(prefix).unwrap_or(inner);
        }
    }
    all
}

impl Naming {
    /// `has` says whether the file holds a name.
    fn rename(&self, name: &str, has: &dyn Fn(&str) -> bool) -> Option<String> {
        let (from, to, part) = self.rules.iter().find_map(|(from, to)| Some((from, to, matched(from, name)?)))?;
        let renamed = to.replace("{}", &part.replace('/', "."));
        // llama.cpp calls a gate and its other half `gate` and `up`, and the one matrix of a network without a gate `up`, too.
        let gate = from.contains("ffn_up").then(|| name.replace("ffn_up", "ffn_gate"));
        Some(if gate.is_some_and(|gate| has(&gate)) { renamed.replace(".wi.", ".wi_1.") } else { renamed })
    }
}

/// What `{}` stands for in a name: a number, or where the pattern begins with it anything. Nothing where the pattern has none.
fn matched<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
    let Some((before, after)) = pattern.split_once("{}") else { return (pattern == name).then_some("") };
    let part = name.strip_prefix(before)?.strip_suffix(after)?;
    let fits = if before.is_empty() { !part.is_empty() } else { part.parse::<u16>().is_ok() };
    fits.then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(names: &[&str]) -> Vec<(String, String, bool)> {
        let found = huggingface_names(names.iter().copied()).unwrap();
        found.into_iter().map(|(name, origin)| (name, origin.name, origin.transposed)).collect()
    }

    #[test]
    fn wrappers_go_only_where_all_names_have_them() {
        let names = renamed(&["module.model.shared.weight", "module.model.encoder.final_layer_norm.weight"]);
        assert_eq!(names[1], ("shared.weight".into(), "module.model.shared.weight".into(), false));
        let names = renamed(&["transformer.shared.weight", "x.dense.weight"]);
        assert_eq!(names[0].0, "transformer.shared.weight");
        for head in ["classification_head.dense.weight", "classifier.bias"] {
            let wrapped = format!("module.{head}");
            let names = renamed(&["module.transformer.shared.weight", &wrapped]);
            assert_eq!((names[0].0.as_str(), names[1].0.as_str()), (head, "shared.weight"));
        }
        assert_eq!(renamed(&["classifier.bias"])[0].0, "classifier.bias");
        assert_eq!(renamed(&["model."])[0].0, "model.");
        assert!(renamed(&[]).is_empty());
    }

    #[test]
    fn gates_tell_what_up_means() {
        let up = "enc.blk.1.ffn_up.weight";
        let wi = |names: &[&str]| huggingface_names(names.iter().copied()).unwrap();
        let gated = wi(&["token_embd.weight", up, "enc.blk.1.ffn_gate.weight", "enc.blk.0.ffn_up.weight"]);
        assert_eq!(gated["encoder.block.1.layer.1.DenseReluDense.wi_1.weight"].name, up);
        assert!(gated.contains_key("encoder.block.1.layer.1.DenseReluDense.wi_0.weight"));
        assert!(gated.contains_key("encoder.block.0.layer.1.DenseReluDense.wi.weight"));
    }

    #[test]
    fn llama_cpp_has_names_for_all() {
        for (from, to) in LLAMA_CPP.rules {
            let (from, to) = (from.replace("{}", "11"), to.replace("{}", "11"));
            assert_eq!(llama_cpp_name(&to), Some(from));
        }
        let up = llama_cpp_name("decoder.block.3.layer.2.DenseReluDense.wi_1.weight");
        assert_eq!(up.as_deref(), Some("dec.blk.3.ffn_up.weight"));
        assert_eq!(llama_cpp_name("classification_head.dense.weight"), None);
    }

    #[test]
    fn flax_kernels_are_transposed() {
        let names = renamed(&["params/shared/embedding", "shared/embedding", "lm_head/kernel", "x/layer_norm/weight"]);
        assert_eq!(names[0], ("lm_head.weight".into(), "lm_head/kernel".into(), true));
        assert_eq!(names[2], ("shared.weight".into(), "shared/embedding".into(), false));
        assert_eq!(names[3].0, "x.layer_norm.weight");
    }

    #[test]
    fn a_name_that_two_tensors_mean_is_refused() {
        let both = ["shared/embedding", "shared.weight"];
        let refused = huggingface_names(both.into_iter()).unwrap_err();
        assert!(refused.contains("shared/embedding and shared.weight are both shared.weight"), "{refused}");
        assert_eq!(matched("enc.blk.{}.x", "enc.blk.-1.x"), None);
        assert_eq!(matched("enc.blk.{}.x", "enc.blk.99999999.x"), None);
    }
}
