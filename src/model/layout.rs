//! Where each parameter lies: leaves of the graph in arenas, HuggingFace tensors as rows of leaves.
//!
//! Projections that are applied to the same input are one leaf (q, k and v; k and v of cross-attention; the two halves of
//! a gated feed-forward network): one matmul instead of two or three. Tables larger than one storage binding are cut
//! into shards of rows, each a leaf of its own.

use std::collections::HashMap;

use super::config::T5Config;
use crate::error::Result;
use crate::gpu::{Buffer, Gpu, Slice};

/// A HuggingFace tensor in the arenas.
#[derive(Clone, Debug)]
pub struct TensorSpan {
    pub name: String,
    pub shape: Vec<usize>,
    /// Consecutive rows; nearly always one piece.
    pub pieces: Vec<Piece>,
}

impl TensorSpan {
    /// Elements of the tensor.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Rows of a tensor in one window.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Which arena buffer.
    pub window: usize,
    /// Elements to the first.
    pub offset: usize,
    pub rows: usize,
    /// Elements in all.
    pub len: usize,
}

/// The arenas of a model. Parameters, gradients and moments share one layout.
#[derive(Clone, Debug)]
pub struct Layout {
    pub untied: bool,
    tensors: Vec<TensorSpan>,
    leaves: HashMap<String, Leaf>,
    /// Elements of each window.
    windows: Vec<usize>,
    /// Rows of each shard of the embedding and the head.
    shards: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Leaf {
    window: usize,
    offset: usize,
    shape: Vec<usize>,
}

/// Elements to which leaves are aligned: 256 bytes, the strictest alignment of a binding.
const ALIGN: usize = 64;

impl Layout {
    /// `max_binding`: bytes that one storage binding may span.
    pub fn new(config: &T5Config, untied: bool, max_binding: u64) -> Layout {
        let window_len = (max_binding / 4) as usize / ALIGN * ALIGN;
        let shard_rows = (window_len / config.d_model).clamp(1, config.vocab_size);
        let n_shards = config.vocab_size.div_ceil(shard_rows);
        let even = config.vocab_size.div_ceil(n_shards);
        let shards: Vec<usize> = (0..n_shards)
            .map(|s| even.min(config.vocab_size - s * even))
            .filter(|&rows| rows > 0)
            .collect();
        let mut layout = Layout {
            untied,
            tensors: vec![],
            leaves: HashMap::new(),
            windows: vec![0],
            shards,
        };
        let mut open: Option<(String, usize)> = None;
        for (name, shape) in config.tensor_shapes(untied) {
            if shape[0] == config.vocab_size && is_table(&name) {
                layout.add_table(&name, shape, window_len);
                open = None;
                continue;
            }
            let len: usize = shape.iter().product();
            let leaf = leaf_of(&name);
            // Members of a fused leaf follow one another without a gap.
            let extends = open
                .as_ref()
                .is_some_and(|(l, end)| *l == leaf && end + len <= window_len);
            let offset = if extends {
                layout.windows.last().copied().unwrap_or(0)
            } else {
                layout.place(len, window_len)
            };
            let window = layout.windows.len() - 1;
            layout.windows[window] = offset + len;
            open = Some((leaf.clone(), offset + len));
            let entry = layout.leaves.entry(leaf).or_insert_with(|| {
                let mut empty = shape.clone();
                empty[0] = 0;
                Leaf {
                    window,
                    offset,
                    shape: empty,
                }
            });
            entry.shape[0] += shape[0];
            let piece = Piece {
                window,
                offset,
                rows: shape[0],
                len,
            };
            layout.tensors.push(TensorSpan {
                name,
                shape,
                pieces: vec![piece],
            });
        }
        layout
    }

    /// An aligned place for `len` elements, in a new window if the last is full. A fused leaf's first member reserves no
    /// room for the others: they are at most three of one size, and [`Layout::new`] checks each.
    fn place(&mut self, len: usize, window_len: usize) -> usize {
        let end = self.windows.last().copied().unwrap_or(0).next_multiple_of(ALIGN);
        if end > 0 && end + 3 * len > window_len {
            self.windows.push(0);
            return 0;
        }
        end
    }

    fn add_table(&mut self, name: &str, shape: Vec<usize>, window_len: usize) {
        let cols = shape[1];
        let mut pieces = Vec::new();
        for (s, rows) in self.shards.clone().into_iter().enumerate() {
            let len = rows * cols;
            let end = self.windows.last().copied().unwrap_or(0).next_multiple_of(ALIGN);
            let offset = if end > 0 && end + len > window_len {
                self.windows.push(0);
                0
            } else {
                end
            };
            let window = self.windows.len() - 1;
            self.windows[window] = offset + len;
            pieces.push(Piece {
                window,
                offset,
                rows,
                len,
            });
            self.leaves.insert(
                shard_leaf(name, s),
                Leaf {
                    window,
                    offset,
                    shape: vec![rows, cols],
                },
            );
        }
        self.tensors.push(TensorSpan {
            name: name.to_owned(),
            shape,
            pieces,
        });
    }

    /// Every tensor under its HuggingFace name, in the order of the model's modules.
    pub fn tensors(&self) -> &[TensorSpan] {
        &self.tensors
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorSpan> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// Rows of each shard of the embedding and the head.
    pub fn shards(&self) -> &[usize] {
        &self.shards
    }

    /// Shape of a leaf.
    ///
    /// # Panics
    /// If there is no such leaf.
    #[track_caller]
    pub fn shape(&self, leaf: &str) -> &[usize] {
        &self
            .leaves
            .get(leaf)
            .unwrap_or_else(|| panic!("no parameter leaf `{leaf}`"))
            .shape
    }

    /// A leaf's window of arenas with this layout.
    pub fn slice(&self, leaf: &str, arenas: &[Buffer]) -> Option<Slice> {
        let leaf = self.leaves.get(leaf)?;
        let len: usize = leaf.shape.iter().product();
        Some(arenas[leaf.window].slice(4 * leaf.offset as u64, 4 * len as u64))
    }

    /// Zeroed arenas of this layout.
    pub fn allocate(&self, gpu: &Gpu, label: &str) -> Result<Vec<Buffer>> {
        self.windows
            .iter()
            .map(|&len| gpu.buffer(label, 4 * len as u64))
            .collect()
    }

    /// Number of parameters.
    pub fn n_params(&self) -> usize {
        self.tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum()
    }
}

fn is_table(name: &str) -> bool {
    matches!(name, "shared.weight" | "lm_head.weight")
}

/// The leaf for shard `s` of a table.
pub fn shard_leaf(name: &str, s: usize) -> String {
    format!("{name}#{s}")
}

/// The leaf that a tensor belongs to: fused projections share one.
fn leaf_of(name: &str) -> String {
    for (member, fused) in [
        ("SelfAttention.q", "SelfAttention.qkv"),
        ("SelfAttention.k", "SelfAttention.qkv"),
        ("SelfAttention.v", "SelfAttention.qkv"),
        ("EncDecAttention.k", "EncDecAttention.kv"),
        ("EncDecAttention.v", "EncDecAttention.kv"),
        ("DenseReluDense.wi_0", "DenseReluDense.wi"),
        ("DenseReluDense.wi_1", "DenseReluDense.wi"),
    ] {
        if let Some(prefix) = name.strip_suffix(&format!("{member}.weight")) {
            return format!("{prefix}{fused}.weight");
        }
    }
    name.to_owned()
}
