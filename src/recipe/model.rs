//! Which model a recipe begins with.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Wrong;
use super::source::set;
use crate::error::{Error, Result};
use crate::model::{Architecture, T5Config};
use crate::ops::Activation;
use crate::tokenizer::Tokenizer;
use crate::train::settings::Parameter;

macro_rules! model_spec {
    ($($(#[doc = $doc:literal])+ $key:ident: $type:ty, $value:literal, $default:literal;)*) => {
        /// A folder to start from, or the sizes of a model from scratch.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct ModelSpec {
            /// A HuggingFace folder to start from, or a model of the hub.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub from: Option<PathBuf>,
            /// From scratch at the size of a published model, such as "t5-small"; single sizes may be given besides.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub preset: Option<String>,
            /// From scratch as this config.json says.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub config: Option<PathBuf>,
            $($(#[doc = $doc])+ #[serde(skip_serializing_if = "Option::is_none")] pub $key: Option<$type>,)*
            /// In training, unless a stage says otherwise (that of the model's configuration).
            #[serde(skip_serializing_if = "Option::is_none")]
            pub dropout: Option<f32>,
        }

        impl ModelSpec {
            /// The sizes of a model from scratch: keys in a recipe, flags of `t5 train`.
            pub fn sizes() -> Vec<Parameter> {
                let heading = "Sizes of a model from scratch";
                vec![$(Parameter::new(stringify!($key), &[$($doc),+], $default, Some(($value, heading))),)*]
            }

            /// Whether a size is given.
            pub fn has_sizes(&self) -> bool {
                $(self.$key.is_some())||*
            }
        }
    };
}

model_spec! {
    /// encoder-decoder, shared (one set of blocks for both), language-model (one stack that reads source and target in a row) or prefix-lm
    /// (the same, and all of a source sees all of it)
    architecture: String, "NAME", "encoder-decoder";
    /// Width of the residual stream
    d_model: usize, "N", "256";
    /// Width of a head
    d_kv: usize, "N", "64";
    /// Width of the feed-forward layers
    d_ff: usize, "N", "512";
    /// Attention heads
    heads: usize, "N", "4";
    /// Layers of the encoder, and of the decoder unless given; or of the only stack
    layers: usize, "N", "3";
    /// Layers of the decoder
    decoder_layers: usize, "N", "as many";
    /// relu, gelu, silu, gated-gelu, gated-silu ...
    activation: String, "NAME", "gated-gelu";
    /// Rows of the embedding
    vocab: usize, "N", "the tokenizer's size, rounded up to a multiple of 64";
    /// Whether the output head is the embedding, as in T5 1.0
    tie: bool, "true|false", "false";
}

impl ModelSpec {
    /// Gives a key a value as `--set` reads it.
    ///
    /// # Errors
    /// `Setting`: no such key, or no value for it.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        set(self, key, value)
    }

    /// The configuration: that of the folder, or of a model from scratch for the tokenizer.
    ///
    /// # Errors
    /// An unknown name, sizes that do not fit together, a file that cannot be read.
    pub fn config(&self, tokenizer: &Tokenizer) -> Result<T5Config> {
        if let Some(folder) = &self.from {
            crate::run_folder::recover(folder)?;
            return T5Config::from_dir(folder);
        }
        let mut config = match (&self.preset, &self.config) {
            (Some(name), _) => T5Config::preset(name)?,
            (None, Some(file)) => T5Config::from_file(file)?,
            (None, None) => small_config(tokenizer)?,
        };
        self.apply(&mut config)?;
        config.validate().map_err(|e| match e {
            Error::Setting { key, what } => Error::Setting { key: recipe_key(&key).into(), what },
            other => other,
        })?;
        Ok(config)
    }

    /// The same with everything said: the sizes of a model from scratch but for its vocabulary, which may follow from a
    /// tokenizer that is still to be trained; and the dropout.
    ///
    /// # Errors
    /// As [`ModelSpec::config`].
    pub fn spelled_out(&self) -> Result<ModelSpec> {
        let config = self.config(&Tokenizer::bytes())?;
        let dropout = Some(self.dropout.unwrap_or(config.dropout_rate as f32));
        if self.from.is_some() {
            return Ok(ModelSpec { dropout, ..self.clone() });
        }
        Ok(ModelSpec {
            architecture: Some(config.architecture.name().into()),
            d_model: Some(config.d_model),
            d_kv: Some(config.d_kv),
            d_ff: Some(config.d_ff),
            heads: Some(config.num_heads),
            layers: Some(config.num_layers),
            decoder_layers: Some(config.num_decoder_layers),
            activation: Some(config.feed_forward_proj.config_name().into()),
            tie: Some(config.tie_word_embeddings),
            dropout,
            ..self.clone()
        })
    }

    pub(super) fn check(&self) -> Result<(), Wrong> {
        if let Some(folder) = &self.from {
            if self.preset.is_some() || self.config.is_some() || self.has_sizes() {
                let what = "the model in this folder has its sizes already: leave preset, config and sizes out";
                return Err(Wrong::new("model.from", what));
            }
            return T5Config::from_dir(folder).map(drop).map_err(|e| Wrong::new("model.from", e.to_string()));
        }
        if self.preset.is_some() && self.config.is_some() {
            return Err(Wrong::new("model.config", "name a preset or a file, not both"));
        }
        if let Some(file) = self.config.as_ref().filter(|file| !file.exists()) {
            return Err(Wrong::new("model.config", format!("there is no {}", file.display())));
        }
        // The vocabulary is that of a tokenizer that may have to be trained first.
        self.config(&Tokenizer::bytes()).map(drop).map_err(|e| Wrong::within("model", e, self.first_key()))
    }

    fn first_key(&self) -> &'static str {
        let keys = [("model.preset", self.preset.is_some()), ("model.config", self.config.is_some())];
        keys.iter().find(|(_, set)| *set).map_or("model", |(key, _)| key)
    }

    /// Writes the sizes that are given over those of a configuration.
    fn apply(&self, config: &mut T5Config) -> Result<()> {
        if let Some(name) = &self.architecture {
            config.architecture = Architecture::parse(name).map_err(|what| Error::setting("architecture", what))?;
        }
        let set = |place: &mut usize, given: Option<usize>| *place = given.unwrap_or(*place);
        set(&mut config.d_model, self.d_model);
        set(&mut config.d_kv, self.d_kv);
        set(&mut config.d_ff, self.d_ff);
        set(&mut config.num_heads, self.heads);
        set(&mut config.num_layers, self.layers);
        set(&mut config.num_decoder_layers, self.decoder_layers.or(self.layers));
        set(&mut config.vocab_size, self.vocab);
        config.tie_word_embeddings = self.tie.unwrap_or(config.tie_word_embeddings);
        if let Some(name) = &self.activation {
            let Some(parsed) = Activation::parse(name) else {
                let what = format!("unknown `{name}`: use relu, gelu, gelu_new, silu, or one of them behind `gated-`");
                return Err(Error::setting("activation", what));
            };
            config.feed_forward_proj = parsed;
        }
        if let Some(dropout) = self.dropout {
            config.dropout_rate = dropout.into();
        }
        Ok(())
    }
}

/// What recipes call a key of `config.json`.
fn recipe_key(key: &str) -> &str {
    match key {
        "num_heads" => "heads",
        "num_layers" => "layers",
        "num_decoder_layers" => "decoder_layers",
        "feed_forward_proj" => "activation",
        "vocab_size" => "vocab",
        "dropout_rate" => "dropout",
        same => same,
    }
}

/// A small T5 1.1 for the tokenizer.
fn small_config(tokenizer: &Tokenizer) -> Result<T5Config> {
    let t5_1_1 = r#"{"model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false}"#;
    let mut config = T5Config::from_json(t5_1_1, Path::new(""))?;
    config.vocab_size = tokenizer.vocab_size().next_multiple_of(64);
    (config.d_model, config.d_kv, config.d_ff, config.num_heads) = (256, 64, 512, 4);
    (config.num_layers, config.num_decoder_layers) = (3, 3);
    config.pad_token_id = tokenizer.pad();
    config.decoder_start_token_id = tokenizer.pad();
    config.eos_token_id = vec![tokenizer.eos()];
    Ok(config)
}
