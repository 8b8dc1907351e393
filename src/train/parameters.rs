//! The hyper-parameters of training. Each is defined here and nowhere else: [`Settings`](super::Settings), the keys of a recipe's
//! stage, and the flags of `t5 train` with their help all follow from this list.

/// Calls the macro `$with` with the list. An entry is a meaning, a key with its type and its default, that default in words where
/// the value does not say it, and the flag's value and heading in `t5 train`, if it is one.
///
/// - `plain`: a field of the settings.
/// - `open`: an optional field of the settings, which without a value follows from others.
/// - `stage`: a key of a stage that the settings hold in another form.
macro_rules! hyper_parameters {
    ($with:ident) => {
        $with! {
            stage {
                /// Train for about so many minutes instead of a number of steps: the speed is measured first, which fixes the steps
                minutes: f64, "none", Some(("M", "Training"));
                /// Train on about so many tokens of sources and targets, padding not counted, instead of a number of steps
                tokens: f64, "none", Some(("N", "Training"));
                /// Train for about so many floating-point operations instead of a number of steps: those of matrix products and
                /// attention, forward and backward
                flops: f64, "none", Some(("N", "Training"));
                /// adamw, adamw-scale (as nanoT5), adafactor (as the T5 paper) or adafactor-hf (which sets its own step size)
                optimizer: String, "adamw", Some(("NAME", "Training"));
                /// Weight decay
                weight_decay: f64, "0", Some(("RATE", "Training"));
            }
            plain {
                /// Optimiser steps of the whole run
                steps: u64 = 1000, None, Some(("N", "Training"));
                /// Which parameters learn: "all"; "norms" (the layer norms); "last-N" (the last N blocks of each stack, and the norms behind
                /// them); "gradual" (embedding and head, and one block of each stack more from time to time); { adapters = 32 } (a network of
                /// that width behind each feed-forward network, and the norms); "ia3" (factors on keys, values and feed-forward networks);
                /// "lora", which is that of the model or else
                /// { lora = { rank = 8, alpha = 16, dropout = 0, targets = ["q", "v"], rs = false } }. The others stay as they are, and take no
                /// memory for gradients and moments
                learns: $crate::model::Learns = Default::default(), None, Some(("WHAT", "Training"));
                /// With learns = "lora" or "ia3": how the model that they add to is held: f32, or f16, bf16, int8, int4 or as-stored, which
                /// take less memory and, but for the last, round it; its files stay as they are
                frozen_weights: $crate::model::Storage = $crate::model::Storage::F32, None, Some(("TYPE", "Training"));
                /// Rows in one pass over the device: examples, unless several are packed into a row
                batch_size: usize = 32, None, Some(("N", "Training"));
                /// Passes whose gradients are added up before a step
                accumulate: usize = 1, None, Some(("N", "Training"));
                /// Rows of a batch: "buckets" (an example a row, those of like length together), or several examples a row:
                /// { packed = { source_len = 512, target_len = 128 } }
                batching: $crate::data::stream::Batching = Default::default(), None, Some(("HOW", "Training"));
                /// How several texts and tasks are mixed
                mixture: $crate::data::mixture::Mixing = Default::default(), Some("rates = \"proportional\""), None;
                /// What the sizes of texts and tasks are multiplied by before they are mixed
                scale: std::collections::BTreeMap<String, f64> = Default::default(), Some("1 for each"), None;
                /// Compute activations again for the gradients instead of keeping them: less memory for up to a third more work,
                /// the same results; may be changed on resuming
                recompute: bool = false, None, Some(("true|false", "Training"));
                /// Threads that make batches ahead of time; the results are the same
                prefetch: usize = 1, None, Some(("N", "Training"));
                /// Peak learning rate
                lr: f64 = 1e-3, Some("1e-3, with adafactor and adamw-scale 1e-2; a tenth of it for a model that was trained before"),
                    Some(("RATE", "Training"));
                /// What follows the warm-up: constant, inverse-sqrt, linear, cosine or wsd (constant, and linear in the last steps)
                schedule: $crate::train::schedule::Decay = $crate::train::schedule::Decay::Linear, None,
                    Some(("NAME", "Training"));
                /// Scale gradients down to this global norm; 0 never does
                clip: f32 = 1.0, None, Some(("NORM", "Training"));
                /// Share of activations that is left out in training
                dropout: f32 = 0.0, Some("the model's"), Some(("RATE", "Training"));
                /// Probability that is spread over the other tokens
                label_smoothing: f32 = 0.0, None, Some(("RATE", "Training"));
                /// Factor of log(Z)^2 in the loss; T5X uses 1e-4
                z_loss: f32 = 0.0, None, Some(("FACTOR", "Training"));
                /// Decay of a moving average of the weights over the steps, such as 0.999, which is evaluated, saved and used in their
                /// place; 0: none
                average: f64 = 0.0, None, Some(("DECAY", "Training"));
                /// Of the first weights, the order of examples, the masks
                seed: u64 = 0, Some("0, in a recipe the recipe's"), Some(("N", "Training"));
                /// Most examples of a task in an evaluation, spread evenly over those there are
                eval_examples: usize = 512, None, Some(("N", "Output"));
                /// Rows that are evaluated side by side
                eval_batch_size: usize = 64, None, Some(("N", "Output"));
                /// Steps between log lines; 0: about one line a second
                log_every: u64 = 0, None, Some(("N", "Output"));
            }
            open {
                /// Steps between log lines with the norm of each tensor and of its gradient and, where `accumulate` is more than 1, the
                /// gradient's noise
                norms_every: u64, "no such lines", Some(("N", "Output"));
                /// Steps of linear warm-up
                warmup: u64, "a twentieth of the steps, at most 1000", Some(("N", "Training"));
                /// With the schedule wsd: steps at the end in which the rate falls to 0
                cooldown: u64, "a fifth of the steps", Some(("N", "Training"));
                /// With learns = "gradual": steps after which one block more of each stack learns
                unfreeze_every: u64, "the steps over the blocks of the deeper stack", Some(("N", "Training"));
                /// Steps between evaluations, besides that after the last step
                eval_every: u64, "a twentieth of the steps, at least 50, at most 1000", Some(("N", "Output"));
                /// The figure that says which checkpoint is the best, TASK/METRIC or TASK/loss; the task of `t5 train` is "pairs" or
                /// "text"
                best: String, "the loss on the first task evaluated on", Some(("FIGURE", "Output"));
                /// End early after so many evaluations without a new best
                patience: u64, "never", Some(("N", "Output"));
                /// Steps between checkpoints
                save_every: u64, "a twentieth of the steps, at most 1000", Some(("N", "Output"));
            }
        }
    };
}

pub(crate) use hyper_parameters;

/// What is known of a key besides its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub key: &'static str,
    pub meaning: String,
    /// In words or as a value.
    pub default: String,
    /// What stands for the value in the help of `t5 train`, and the heading there; `None`: there is no such flag.
    pub flag: Option<(&'static str, &'static str)>,
}

impl Parameter {
    /// `docs`: the lines of a doc comment.
    pub(crate) fn new(
        key: &'static str,
        docs: &[&str],
        default: &str,
        flag: Option<(&'static str, &'static str)>,
    ) -> Parameter {
        let lines: Vec<&str> = docs.iter().map(|line| line.trim()).collect();
        Parameter { key, meaning: lines.join(" "), default: default.to_owned(), flag }
    }
}
