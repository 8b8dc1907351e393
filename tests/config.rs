//! `config.json`: defaults, refusals, the head rule, sizes of the published models.

use std::path::Path;

use t5_wgpu::Error;
use t5_wgpu::model::config::{Family, T5Config};
use t5_wgpu::model::presets::preset_names;
use t5_wgpu::model::{Architecture, EncoderAttention};
use t5_wgpu::ops::{Activation, Function};

fn parse(text: &str) -> Result<T5Config, Error> {
    T5Config::from_json(text, Path::new("dir/config.json"))
}

/// The error of a configuration with these keys besides `model_type`.
fn refusal(keys: &str) -> String {
    parse(&format!("{{\n\"model_type\": \"t5\",\n{keys}\n}}")).unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_transformers() {
    let t5 = parse(r#"{"model_type": "t5"}"#).unwrap();
    let sizes = (t5.vocab_size, t5.d_model, t5.d_kv, t5.d_ff, t5.num_layers, t5.num_decoder_layers, t5.num_heads);
    assert_eq!(sizes, (32_128, 512, 64, 2048, 6, 6, 8));
    assert_eq!((t5.relative_attention_num_buckets, t5.relative_attention_max_distance), (32, 128));
    assert_eq!((t5.dropout_rate, t5.layer_norm_epsilon, t5.initializer_factor), (0.1, 1e-6, 1.0));
    assert_eq!(t5.feed_forward_proj, Activation { gated: false, function: Function::Relu });
    assert_eq!((t5.pad_token_id, t5.eos_token_id.as_slice(), t5.decoder_start_token_id), (0, [1].as_slice(), 0));
    assert!(t5.tie_word_embeddings && t5.scale_decoder_outputs.is_none());

    for (name, family, tied) in [("mt5", Family::Mt5, false), ("umt5", Family::Umt5, true)] {
        let config = parse(&format!(r#"{{"model_type": "{name}", "num_layers": 3}}"#)).unwrap();
        assert_eq!((config.vocab_size, config.d_ff, config.num_heads), (250_112, 1024, 6));
        assert_eq!((config.num_layers, config.num_decoder_layers), (3, 3));
        assert_eq!(config.feed_forward_proj, Activation { gated: true, function: Function::GeluTanh });
        assert_eq!((config.model_type, config.tie_word_embeddings), (family, tied));
    }
}

#[test]
fn null_counts_as_absent_and_lists_of_eos_are_kept() {
    let config = parse(
        r#"{"model_type": "t5", "num_layers": 4, "num_decoder_layers": null, "pad_token_id": 3,
            "decoder_start_token_id": null, "eos_token_id": [1, 7], "hidden_size": 48}"#,
    )
    .unwrap();
    assert_eq!((config.num_decoder_layers, config.decoder_start_token_id, config.d_model), (4, 3, 48));
    assert_eq!(config.eos_token_id, [1, 7]);
    assert_eq!(parse(&config.to_json()).unwrap(), config);
}

#[test]
fn family_comes_from_the_architecture_if_model_type_is_absent() {
    for (name, family) in [
        ("T5ForConditionalGeneration", Family::T5),
        ("MT5EncoderModel", Family::Mt5),
        ("UMT5ForConditionalGeneration", Family::Umt5),
        ("LongT5Model", Family::LongT5),
    ] {
        let config = parse(&format!(r#"{{"architectures": ["{name}"]}}"#)).unwrap();
        assert_eq!(config.model_type, family, "{name}");
    }
    assert!(parse("{}").unwrap_err().to_string().contains("model_type is missing"));
    assert!(parse(r#"{"architectures": ["SwitchModel"]}"#).unwrap_err().to_string().contains("\"switch\""));
}

#[test]
fn activations() {
    let cases = [
        ("relu", false, Function::Relu),
        ("gelu", false, Function::GeluErf),
        ("gelu_new", false, Function::GeluTanh),
        ("gated-relu", true, Function::Relu),
        ("gated-gelu", true, Function::GeluTanh),
        ("gated-silu", true, Function::Silu),
        ("gated-gelu_python", true, Function::GeluErf),
        ("silu", false, Function::Silu),
        ("tanh", false, Function::Tanh),
    ];
    for (name, gated, function) in cases {
        let parsed = Activation::parse(name).unwrap();
        assert_eq!(parsed, Activation { gated, function }, "{name}");
        assert_eq!(parsed.config_name(), name);
    }
    for name in ["", "gated", "gated-", "gate-gelu", "gated-gelu-x", "tan"] {
        assert_eq!(Activation::parse(name), None, "{name}");
    }
}

#[test]
fn refusals_name_file_line_key_and_value() {
    assert_eq!(
        refusal("\"d_model\": 1000000000"),
        "dir/config.json:3: d_model is 1000000000; it must lie between 1 and 65536"
    );
    assert!(refusal("\"d_ff\": 0").contains(":3: d_ff is 0;"));
    assert!(refusal("\"d_ff\": -5").contains("d_ff is -5, not a positive whole number"));
    assert!(refusal("\"d_ff\": \"64\"").contains("d_ff is \"64\", not a positive whole number"));
    assert!(refusal("\"num_heads\": 18446744073709551615").contains("num_heads is 18446744073709551615"));
    assert!(refusal("\"num_heads\": 4096, \"d_kv\": 4096").contains("num_heads * d_kv is 16777216"));
    let large = "\"d_model\": 65536, \"d_ff\": 1048576, \"num_layers\": 1024";
    assert!(refusal(large).contains("make 281"), "{}", refusal(large));
    assert!(refusal("\"relative_attention_num_buckets\": 31").contains("must be even"));
    assert!(refusal("\"relative_attention_num_buckets\": 2").contains("at least 4"));
    assert!(refusal("\"relative_attention_max_distance\": 16").contains("must exceed half the number of buckets, 16"));
    assert!(refusal("\"dropout_rate\": 1.0").contains("dropout_rate is 1"));
    assert!(refusal("\"layer_norm_epsilon\": 0").contains("layer_norm_epsilon is 0"));
    assert!(refusal("\"layer_norm_epsilon\": 1e-60").contains("layer_norm_epsilon is"));
    assert!(refusal("\"eos_token_id\": 40000").contains("eos_token_id is 40000, outside of the vocabulary of 32128"));
    assert!(refusal("\"eos_token_id\": []").contains("eos_token_id is empty"));
    assert!(refusal("\"eos_token_id\": -1").contains("eos_token_id is -1, not a token id"));
    assert!(refusal("\"feed_forward_proj\": \"swiglu\"").contains("feed_forward_proj is \"swiglu\"; known are relu"));
    assert!(refusal("\"tie_word_embeddings\": 1").contains("tie_word_embeddings is 1, not true or false"));
    assert!(refusal("\"d_ff\": 1,").starts_with("dir/config.json:4: not a JSON object of settings:"));
    assert!(parse("[1]").unwrap_err().to_string().contains("not a JSON object"));
    let other = parse(r#"{"model_type": "t5gemma"}"#).unwrap_err().to_string();
    let said =
        "model_type is \"t5gemma\"; only t5, mt5, umt5 and longt5 models are supported: T5Gemma is made of Gemma 2's";
    assert!(other.contains(said), "{other}");
    let missing = T5Config::from_file("no/such/config.json").unwrap_err().to_string();
    assert!(missing.starts_with("cannot read no/such/config.json:"), "{missing}");
    let other = T5Config::from_dir(Path::new("src")).unwrap_err().to_string();
    assert!(other.starts_with("src: there is no config.json in this folder"), "{other}");
}

/// LongT5's defaults are T5's; what its encoder sees is written back as it was read.
#[test]
fn longt5_says_what_its_encoder_sees() {
    let of = |keys: &str| parse(&format!("{{\"model_type\": \"longt5\"{keys}}}"));
    let config = of("").unwrap();
    assert_eq!((config.vocab_size, config.d_ff, config.num_heads, config.num_layers), (32_128, 2048, 8, 6));
    assert_eq!(config.encoder_attention, EncoderAttention::Local { radius: 127 });
    assert!(config.output_scale(false).0 < 1.0);
    let global =
        of(r#", "encoder_attention_type": "transient-global", "local_radius": 63, "tie_word_embeddings": false"#);
    let global = global.unwrap();
    assert_eq!(global.encoder_attention, EncoderAttention::TransientGlobal { radius: 63, block: 16 });
    assert_eq!(global.output_scale(true).0, 1.0);
    for config in [&config, &global] {
        assert_eq!(parse(&config.to_json()).unwrap(), *config);
        let counted: usize =
            config.tensor_shapes(!config.tie_word_embeddings).iter().map(|(_, s)| s.iter().product::<usize>()).sum();
        assert_eq!(counted as u64, config.param_count());
    }
    let refused = |keys: &str| of(keys).unwrap_err().to_string();
    assert!(
        refused(r#", "encoder_attention_type": "global""#).contains("known are \"local\" and \"transient-global\"")
    );
    assert!(refused(r#", "local_radius": 0"#).contains("local_radius is 0; it must lie between 1 and"));
    let no_block = refused(r#", "encoder_attention_type": "transient-global", "global_block_size": 0"#);
    assert!(no_block.contains("global_block_size is 0; it must lie between 1 and"), "{no_block}");
    // In other families the key means nothing.
    let t5 = parse(r#"{"model_type": "t5", "encoder_attention_type": "local"}"#).unwrap();
    assert_eq!(t5.encoder_attention, EncoderAttention::Full);
}

/// A key of our own. transformers, which would make up what it misses, does not know the name that stands beside it.
#[test]
fn architectures_are_written_back() {
    for family in ["t5", "mt5", "umt5"] {
        for architecture in Architecture::ALL {
            let name = architecture.name();
            let config = parse(&format!(r#"{{"model_type": "{family}", "architecture": "{name}"}}"#)).unwrap();
            assert_eq!(config.architecture, architecture);
            let written = config.to_json();
            assert_eq!(parse(&written).unwrap(), config);
            let is_ours = architecture != Architecture::EncoderDecoder;
            assert_eq!(written.contains("\"architecture\""), is_ours, "{written}");
            assert_eq!(written.contains(&format!("\"model_type\": \"{family}\"")), !is_ours, "{written}");
            assert_eq!(written.contains("\"is_encoder_decoder\": false"), architecture.is_one_stack(), "{written}");
            for tied in [false, true] {
                let config = T5Config { tie_word_embeddings: tied, ..config.clone() };
                let shapes = config.tensor_shapes(!tied);
                let count: usize = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
                assert_eq!(count as u64, config.param_count(), "{family} {name} tied {tied}");
            }
        }
    }
    assert_eq!(parse(r#"{"model_type": "t5"}"#).unwrap().architecture, Architecture::EncoderDecoder);
    let unknown = refusal("\"architecture\": \"encoder\"");
    assert!(
        unknown.ends_with("architecture is \"encoder\"; known are encoder-decoder, shared, language-model, prefix-lm")
    );
    let depths = refusal("\"architecture\": \"prefix-lm\", \"num_decoder_layers\": 2");
    assert!(depths.ends_with("num_decoder_layers is 2 beside 6 layers; prefix-lm has one set of blocks"), "{depths}");
    let long = parse(r#"{"model_type": "longt5", "architecture": "shared"}"#).unwrap_err().to_string();
    assert!(long.ends_with("architecture is shared; LongT5 and Chronos-Bolt are encoder-decoders"), "{long}");
}

#[test]
fn validate_survives_sizes_that_overflow() {
    let huge = T5Config { d_model: usize::MAX, num_heads: usize::MAX, ..T5Config::preset("tiny").unwrap() };
    assert_eq!(huge.param_count(), u64::MAX);
    assert!(huge.validate().unwrap_err().to_string().starts_with("d_model: is"));
}

/// Every combination of the tie flag, transformers 5's key and a head in the file.
#[test]
fn head_rule() {
    let cases = [
        ("t5", Some(true), None, true),
        ("t5", None, None, true),
        ("t5", Some(false), None, false),
        ("t5", Some(true), Some(false), false),
        ("t5", Some(false), Some(true), true),
        ("mt5", Some(true), None, false),
        ("mt5", Some(false), None, false),
        ("umt5", Some(true), None, false),
        ("umt5", None, Some(true), true),
    ];
    for (family, tied, key, scaled) in cases {
        let mut text = format!(r#"{{"model_type": "{family}", "d_model": 64"#);
        for (name, flag) in [("tie_word_embeddings", tied), ("scale_decoder_outputs", key)] {
            if let Some(flag) = flag {
                text += &format!(", \"{name}\": {flag}");
            }
        }
        let config = parse(&(text + "}")).unwrap();
        for has_head in [false, true] {
            let (scale, rule) = config.output_scale(has_head);
            assert_eq!(scale, if scaled { 0.125 } else { 1.0 }, "{family} {tied:?} {key:?}");
            assert_eq!(rule.starts_with("head is lm_head.weight"), has_head);
            // Saving as it is must not change the scale, and the flag must say where the head is.
            let saved = config.for_head(has_head);
            let read = parse(&saved.to_json()).unwrap();
            assert_eq!(read.output_scale(has_head).0, scale, "{family} {tied:?} {key:?} saved");
            assert_eq!(read.tie_word_embeddings, !has_head);
        }
    }
    let t5 = parse(r#"{"model_type": "t5"}"#).unwrap();
    assert!(t5.output_scale(true).1.contains("transformers before version 5 would use the embedding"));
    assert_eq!(t5.for_head(false), t5, "no key is added where none is needed");
    assert_eq!(
        T5Config::preset("flan-t5-base").unwrap().output_scale(true).1,
        "head is lm_head.weight (the file has it), output scale 1 (tie_word_embeddings is false)"
    );
}

/// transformers 5 saves an untied T5 1.1 as tied, with its own key; the next save must suit version 4 as well.
#[test]
fn files_saved_by_transformers_5_become_readable_by_4() {
    let config = parse(r#"{"model_type": "t5", "tie_word_embeddings": true, "scale_decoder_outputs": false}"#).unwrap();
    let saved = config.for_head(true);
    assert!(!saved.tie_word_embeddings);
    assert_eq!(saved.scale_decoder_outputs, Some(false));
}

#[test]
fn unknown_keys_survive_and_derived_ones_do_not() {
    let text = r#"{"model_type": "t5", "task_specific_params": {"summarization": {"num_beams": 4}}, "n_positions": 512,
                   "dense_act_fn": "silu", "is_gated_act": true, "torch_dtype": "bfloat16", "architectures": ["T5Model"]}"#;
    let json: serde_json::Value = serde_json::from_str(&parse(text).unwrap().to_json()).unwrap();
    assert_eq!(json["task_specific_params"]["summarization"]["num_beams"], 4);
    assert_eq!(json["n_positions"], 512);
    assert_eq!(json["architectures"][0], "T5ForConditionalGeneration");
    for gone in ["dense_act_fn", "is_gated_act", "torch_dtype", "scale_decoder_outputs"] {
        assert!(json.get(gone).is_none(), "{gone}");
    }
}

#[test]
fn serde_round_trip() {
    let config = T5Config::preset("byt5-small").unwrap();
    let value = serde_json::to_value(&config).unwrap();
    assert_eq!(serde_json::from_value::<T5Config>(value).unwrap(), config);
    assert!(serde_json::from_str::<T5Config>(r#"{"model_type": "t5", "d_ff": 0}"#).is_err());
}

#[test]
fn presets_have_the_published_sizes() {
    let exact = [
        ("t5-small", 60_506_624),
        ("t5-base", 222_903_552),
        ("t5-large", 737_668_096),
        ("t5-v1_1-small", 76_961_152),
        ("t5-v1_1-base", 247_577_856),
        ("t5-v1_1-large", 783_150_080),
        ("flan-t5-large", 783_150_080),
    ];
    for (name, count) in exact {
        assert_eq!(T5Config::preset(name).unwrap().param_count(), count, "{name}");
    }
    // In millions. mT5 and ByT5: Xue et al. 2022 (ByT5), Table 1. T5: the usual figures for the released weights.
    let rounded = [
        ("t5-3b", 2852.0),
        ("t5-11b", 11_307.0),
        ("flan-t5-xl", 2850.0),
        ("flan-t5-xxl", 11_135.0),
        ("mt5-small", 300.0),
        ("mt5-base", 582.0),
        ("mt5-large", 1230.0),
        ("mt5-xl", 3740.0),
        ("mt5-xxl", 12_900.0),
        ("byt5-small", 300.0),
        ("byt5-base", 582.0),
        ("byt5-large", 1230.0),
        ("byt5-xl", 3740.0),
        ("byt5-xxl", 12_900.0),
    ];
    for (name, millions) in rounded {
        let count = T5Config::preset(name).unwrap().param_count() as f64 / 1e6;
        assert!((count / millions - 1.0).abs() < 0.006, "{name}: {count} million, published {millions}");
    }
}

#[test]
fn presets_are_valid_and_count_what_they_list() {
    assert_eq!(preset_names().len(), 5 * 5 + 4 + 1);
    for name in preset_names() {
        let config = T5Config::preset(&name).unwrap();
        config.validate().unwrap();
        for tied in [false, true] {
            let config = T5Config { tie_word_embeddings: tied, ..config.clone() };
            let shapes = config.tensor_shapes(!tied);
            let count: u64 = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum();
            assert_eq!(count, config.param_count(), "{name} tied {tied}");
        }
    }
    let error = T5Config::preset("t5-huge").unwrap_err().to_string();
    assert!(error.contains("\"t5-huge\"") && error.contains("t5-v1_1-xxl") && error.contains("tiny"), "{error}");
}

#[test]
fn umt5_has_a_bias_table_in_every_block() {
    let tables = |name: &str| {
        let shapes = T5Config::preset(name).unwrap().tensor_shapes(true);
        shapes.iter().filter(|(name, _)| name.ends_with("SelfAttention.relative_attention_bias.weight")).count()
    };
    assert_eq!((tables("mt5-small"), tables("umt5-small")), (2, 16));
}
