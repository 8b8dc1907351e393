//! Which stacks of blocks a model has, and whose parameters they use (Raffel et al. 2020, section 3.2).

use super::config::T5Config;
use crate::error::{Error, Result};

/// The kind of a model: which stacks it has, and what its targets see of their sources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Architecture {
    /// An encoder, and a decoder that attends to the encoder's output: every published T5.
    #[default]
    EncoderDecoder,
    /// The same with one set of blocks, tables of biases included. Of its own, the decoder only has its attention to the encoder's
    /// output.
    Shared,
    /// One stack for source and target, which stand one behind the other in a row: a position sees those up to itself.
    LanguageModel,
    /// The same, but the positions of a source see all of it.
    PrefixLm,
}

impl Architecture {
    pub const ALL: [Architecture; 4] =
        [Architecture::EncoderDecoder, Architecture::Shared, Architecture::LanguageModel, Architecture::PrefixLm];

    /// The value of `architecture` in `config.json` and in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::EncoderDecoder => "encoder-decoder",
            Architecture::Shared => "shared",
            Architecture::LanguageModel => "language-model",
            Architecture::PrefixLm => "prefix-lm",
        }
    }

    /// The architecture of this name, or a sentence that lists the names.
    pub fn parse(name: &str) -> std::result::Result<Architecture, String> {
        Architecture::ALL.into_iter().find(|one| one.name() == name).ok_or_else(|| {
            let known = Architecture::ALL.map(Architecture::name).join(", ");
            format!("is \"{name}\"; known are {known}")
        })
    }

    /// Whether source and target share a row, so that there is neither an encoder nor cross-attention.
    pub fn is_one_stack(self) -> bool {
        matches!(self, Architecture::LanguageModel | Architecture::PrefixLm)
    }

    /// Whose parameters a stack uses.
    fn owner(self, stack: Stack) -> Stack {
        if self == Architecture::Shared { Stack::Encoder } else { stack }
    }
}

/// A stack of blocks. Where there is only one, it is the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stack {
    Encoder,
    Decoder,
}

impl Stack {
    /// What the names of its parameters begin with.
    pub fn name(self) -> &'static str {
        match self {
            Stack::Encoder => "encoder",
            Stack::Decoder => "decoder",
        }
    }
}

/// What the names of the parameters of a block's layers begin with, as "decoder.block.0.layer.1".
pub(super) struct BlockNames {
    pub self_attention: String,
    pub cross_attention: Option<String>,
    pub feed_forward: String,
}

impl T5Config {
    /// Refuses a model of one stack where an encoder is needed.
    ///
    /// # Errors
    /// `Input`: says what the model is, and then `what`, why that does not do.
    pub fn expect_encoder(&self, what: &str) -> Result<()> {
        match self.architecture.is_one_stack() {
            true => Err(Error::Input(format!(
                "the model's architecture is {}, one stack of blocks without an encoder: {what}",
                self.architecture.name()
            ))),
            false => Ok(()),
        }
    }

    /// The model's stacks and their numbers of blocks.
    pub(super) fn stacks(&self) -> Vec<(Stack, usize)> {
        let encoder = (!self.architecture.is_one_stack()).then_some((Stack::Encoder, self.num_layers));
        let stacks = encoder.into_iter().chain([(Stack::Decoder, self.num_decoder_layers)]);
        // An encoder alone has no decoder's blocks. Nothing else has none.
        stacks.filter(|(_, layers)| *layers > 0).collect()
    }

    /// Whether a stack has parameters of its own, or uses another's.
    pub(super) fn owns_blocks(&self, stack: Stack) -> bool {
        self.architecture.owner(stack) == stack
    }

    pub(super) fn block_names(&self, stack: Stack, block: usize) -> BlockNames {
        let owner = self.architecture.owner(stack);
        let layer = |stack: Stack, layer: usize| format!("{}.block.{block}.layer.{layer}", stack.name());
        let has_cross_attention = stack == Stack::Decoder && !self.architecture.is_one_stack();
        BlockNames {
            self_attention: layer(owner, 0),
            cross_attention: has_cross_attention.then(|| layer(stack, 1)),
            // Cross-attention stands before it, where it is of the same owner.
            feed_forward: layer(owner, if has_cross_attention && owner == stack { 2 } else { 1 }),
        }
    }

    /// The norm behind a stack's last block.
    pub(super) fn final_norm(&self, stack: Stack) -> String {
        format!("{}.final_layer_norm.weight", self.architecture.owner(stack).name())
    }

    /// The leaf that says which bucket of a stack's bias each distance has. The paper's code tells what lies behind apart from what
    /// lies before wherever a position can see both.
    pub(super) fn buckets(&self, stack: Stack) -> &'static str {
        match stack {
            Stack::Decoder if self.architecture != Architecture::PrefixLm => "decoder.buckets",
            Stack::Encoder | Stack::Decoder => "encoder.buckets",
        }
    }
}
