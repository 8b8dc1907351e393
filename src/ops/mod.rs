//! The ops of a T5, one file each: shape rule, kernel launches, backward rule, f64 oracle.

mod accept_drafts;
mod activation;
mod add_columns;
mod adjust_logits;
mod append_kv;
mod attention;
mod attention_decode;
mod attention_oracle;
mod beam_search;
mod block_sums;
mod choices;
mod cross_entropy;
mod dropout;
mod gather;
mod join_attention;
mod logits;
mod matmul;
mod mean_pool;
mod position_bias;
mod prefix_table;
mod rms_norm;
mod rows;
mod sample;
mod scale_columns;
mod segments;
mod select_rows;
mod token_choice;
mod token_scores;
mod top_tokens;
mod weights;

pub use accept_drafts::AcceptDrafts;
pub use activation::{Activation, Function};
pub use add_columns::{AddColumns, TakeColumns};
pub use adjust_logits::AdjustLogits;
pub use append_kv::AppendKv;
pub use attention::{Attention, Mask, Tiling};
pub use attention_decode::AttentionDecode;
pub use beam_search::BeamSearch;
pub use block_sums::BlockSums;
pub use cross_entropy::CrossEntropy;
pub use dropout::{Dropout, DropoutMask};
pub use gather::{Gather, NO_ID, gather_index, gather_index_len};
pub use join_attention::JoinAttention;
pub use logits::Logits;
pub use matmul::{Matmul, MatmulLayout, Variant};
pub use mean_pool::MeanPool;
pub use position_bias::{PositionBias, distance_buckets, relative_bucket};
pub use prefix_table::PrefixTable;
pub use rms_norm::RmsNorm;
pub use sample::Sample;
pub use scale_columns::ScaleColumns;
pub use segments::{Sight, segment_ranges};
pub use select_rows::{NO_ROW, SelectRows};
pub use token_choice::{BAD_TOKEN, ChoiceSettings, MAX_EOS, NO_TOKEN, SETTINGS_LEN, UNCHOOSABLE};
pub use token_scores::TokenScores;
pub use top_tokens::TopTokens;

/// Every op by name. A test fails if one of them has no case in `verify`.
pub const NAMES: &[&str] = &[
    "accept_drafts",
    "activation",
    "activation_backward",
    "add",
    "add_columns",
    "add_into",
    "adjust_logits",
    "append_kv",
    "attention",
    "attention_backward",
    "attention_decode",
    "beam_search",
    "block_sums",
    "cross_entropy",
    "cross_entropy_backward",
    "dropout",
    "gather",
    "gather_backward",
    "join_attention",
    "logits",
    "matmul",
    "mean_pool",
    "position_bias",
    "position_bias_backward",
    "prefix_table",
    "rms_norm",
    "rms_norm_backward",
    "sample",
    "scale_columns",
    "scale_columns_backward",
    "select_rows",
    "take_columns",
    "token_scores",
    "top_tokens",
];
