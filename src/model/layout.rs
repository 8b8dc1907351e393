//! Where each parameter lies: leaves of the graph in arenas, HuggingFace tensors as rows of leaves.
//!
//! Projections that are applied to the same input are one leaf (q, k and v; k and v of cross-attention; the two halves of
//! a gated feed-forward network): one matmul instead of two or three. Tables larger than one storage binding are cut
//! into shards of rows, each a leaf of its own. The keys and values of cross-attention are leaves by block for training and,
//! in the same memory, runs of blocks for decoding, which makes them all from one input.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::additions::Addition;
use super::config::T5Config;
use super::learns::Learns;
use super::storage::fitting;
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Caps, Gpu, Slice};
use crate::graph::{Dtype, GROUP};

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
    /// 32-bit words to the first row: as many as elements, unless the tensor is packed.
    pub offset: usize,
    pub rows: usize,
    /// Elements in all.
    pub len: usize,
}

/// The arenas of a model. What learns lies in the first windows, what is frozen in the others, so that gradients and moments are
/// arenas of the first windows alone; in those, nothing is packed.
#[derive(Clone, Debug)]
pub struct Layout {
    pub untied: bool,
    learns: Learns,
    /// Leaves that learn, but not now.
    waiting: HashSet<String>,
    /// What is added to the products of leaves.
    added: HashMap<String, Vec<Addition>>,
    /// Windows of what learns.
    learning: usize,
    tensors: Vec<TensorSpan>,
    leaves: HashMap<String, Leaf>,
    /// 32-bit words of each window.
    windows: Vec<usize>,
    /// Rows of each shard of the embedding and the head.
    shards: Vec<usize>,
    /// Blocks with cross-attention.
    cross_blocks: usize,
    /// The most elements of one binding.
    window_len: usize,
}

#[derive(Clone, Debug)]
struct Leaf {
    window: usize,
    /// In words.
    offset: usize,
    shape: Vec<usize>,
    dtype: Dtype,
}

/// A leaf that is to be given a place.
struct Placing {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    learns: bool,
}

impl Leaf {
    fn words(&self) -> usize {
        (self.dtype.bytes(&self.shape) / 4) as usize
    }
}

/// Words to which leaves are aligned: 256 bytes, the strictest alignment of a binding.
const ALIGN: usize = 64;

impl Layout {
    /// `wanted`: the type that each tensor should have. A leaf gets it if all its tensors want it and it fits, else it is
    /// f32. All parameters learn.
    ///
    /// # Errors
    /// `Adapter` if a projection by itself is larger than a binding.
    pub fn new(config: &T5Config, untied: bool, caps: &Caps, wanted: &dyn Fn(&str) -> Dtype) -> Result<Layout> {
        Layout::learning(config, untied, caps, wanted, &Learns::All)
    }

    /// [`Layout::new`] where only some parameters learn.
    ///
    /// # Errors
    /// `Adapter` if a projection by itself is larger than a binding.
    pub fn learning(
        config: &T5Config,
        untied: bool,
        caps: &Caps,
        wanted: &dyn Fn(&str) -> Dtype,
        learns: &Learns,
    ) -> Result<Layout> {
        let window_len = (caps.max_binding / 4) as usize / ALIGN * ALIGN;
        let mut tensors = config.tensor_shapes(untied);
        tensors.extend(learns.additions(&tensors));
        // The rows of each leaf, those of all its members, and their type.
        let mut wholes: HashMap<String, (usize, Dtype)> = HashMap::new();
        for (name, shape) in &tensors {
            let dtype = fitting(wanted(name), name, shape);
            let whole = wholes.entry(leaf_of(name)).or_insert((0, dtype));
            whole.0 += shape[0];
            // Within a leaf, packed members must begin with a group of rows.
            let begins = !dtype.is_packed() || leaf_of(name) == *name || shape[0].is_multiple_of(GROUP);
            if whole.1 != dtype || !begins {
                whole.1 = Dtype::F32;
            }
        }
        // A packed shard must fit a binding once it is unpacked, too.
        let shard_len = ((caps.table_bytes / 4) as usize).min(window_len);
        let whole_groups = (shard_len / config.d_model / GROUP * GROUP).max(GROUP);
        let n_shards = config.vocab_size.div_ceil(whole_groups);
        let even = config.vocab_size.div_ceil(n_shards).next_multiple_of(GROUP);
        let shards: Vec<usize> =
            (0..config.vocab_size).step_by(even).map(|first| even.min(config.vocab_size - first)).collect();
        let cross_blocks = if config.architecture.is_one_stack() { 0 } else { config.num_decoder_layers };
        let mut layout = Layout {
            untied,
            learns: learns.clone(),
            waiting: HashSet::new(),
            added: HashMap::new(),
            learning: 0,
            tensors: vec![],
            leaves: HashMap::new(),
            windows: vec![0],
            shards,
            cross_blocks,
            window_len,
        };
        // In the order of their places. All tensors of a leaf learn, or none.
        let mut leaves: Vec<Placing> = (0..cross_blocks)
            .map(|block| {
                let name = cross_leaf(&(block..block + 1));
                let (rows, dtype) = wholes[&name];
                Placing { learns: learns.includes(config, &name), name, shape: vec![rows, config.d_model], dtype }
            })
            .collect();
        let mut met: HashSet<String> = leaves.iter().map(|leaf| leaf.name.clone()).collect();
        for (name, shape) in &tensors {
            let leaf = leaf_of(name);
            let (rows, dtype) = wholes[&leaf];
            if !met.insert(leaf.clone()) {
                continue;
            }
            let learns = learns.includes(config, name);
            let of_rows = |rows: usize| [&[rows], &shape[1..]].concat();
            if TABLES.contains(&name.as_str()) {
                let shard = |(s, &rows)| Placing { name: shard_leaf(name, s), shape: of_rows(rows), dtype, learns };
                leaves.extend(layout.shards.iter().enumerate().map(shard));
            } else {
                leaves.push(Placing { name: leaf, shape: of_rows(rows), dtype, learns });
            }
        }
        let (learning, frozen): (Vec<Placing>, Vec<Placing>) = leaves.into_iter().partition(|leaf| leaf.learns);
        learning.into_iter().try_for_each(|leaf| layout.place(leaf))?;
        layout.learning = layout.windows.len();
        if !frozen.is_empty() {
            layout.windows.push(0);
        }
        frozen.into_iter().try_for_each(|leaf| layout.place(leaf))?;
        let mut filled: HashMap<String, usize> = HashMap::new();
        let mut rows_before: HashMap<String, usize> = HashMap::new();
        for (name, shape) in tensors {
            let cols: usize = shape[1..].iter().product();
            let row = rows_before.entry(leaf_of(&name)).or_default();
            if let Some(added) = learns.addition(&name, *row) {
                layout.added.entry(leaf_of(&name)).or_default().push(added);
            }
            *row += shape[0];
            let piece = |leaf: &Leaf, before: usize, rows: usize| Piece {
                window: leaf.window,
                offset: leaf.offset + before,
                rows,
                len: rows * cols,
            };
            let pieces = if TABLES.contains(&name.as_str()) {
                let shards = layout.shards.iter().enumerate();
                shards.map(|(s, &rows)| piece(&layout.leaves[&shard_leaf(&name, s)], 0, rows)).collect()
            } else {
                let leaf = &layout.leaves[&leaf_of(&name)];
                // Members follow one another in the order of the checkpoint: q, k, v; wi_0, wi_1.
                let before = filled.entry(leaf_of(&name)).or_default();
                let found = piece(leaf, *before, shape[0]);
                *before += shape[0] * leaf.dtype.row_words(cols);
                vec![found]
            };
            layout.tensors.push(TensorSpan { name, shape, pieces });
        }
        layout.join_cross_leaves();
        Ok(layout)
    }

    /// Finds an aligned place for a leaf, in a new window if the last one is full.
    fn place(&mut self, Placing { name, shape, dtype, .. }: Placing) -> Result<()> {
        let len = (dtype.bytes(&shape) / 4) as usize;
        if len > self.window_len {
            return Err(Error::Adapter(format!(
                "`{name}` takes {} MiB, this adapter binds at most {} MiB at once: the model is too large for it",
                len >> 18,
                self.window_len >> 18
            )));
        }
        let mut window = self.windows.len() - 1;
        let mut offset = self.windows[window].next_multiple_of(ALIGN);
        if offset + len > self.window_len {
            self.windows.push(0);
            (window, offset) = (window + 1, 0);
        }
        self.windows[window] = offset + len;
        self.leaves.insert(name, Leaf { window, offset, shape, dtype });
        Ok(())
    }

    /// Makes leaves of the runs of decoder blocks whose cross-attention keys and values lie next to one another. What is added to
    /// products is added to those of single blocks.
    fn join_cross_leaves(&mut self) {
        for first in 0..self.cross_blocks {
            if !self.added(&cross_leaf(&(first..first + 1))).is_empty() {
                continue;
            }
            let mut joint = self.leaves[&cross_leaf(&(first..first + 1))].clone();
            for block in first + 1..self.cross_blocks {
                let next = &self.leaves[&cross_leaf(&(block..block + 1))];
                // Packed rows lie in groups, none of which may be filled up in the middle of a run.
                let whole_groups = !joint.dtype.is_packed() || joint.shape[0].is_multiple_of(GROUP);
                let follows = (next.window, next.offset) == (joint.window, joint.offset + joint.words());
                let is_plain = self.added(&cross_leaf(&(block..block + 1))).is_empty();
                if !(follows && whole_groups && is_plain && next.dtype == joint.dtype) {
                    break;
                }
                joint.shape[0] += next.shape[0];
                self.leaves.insert(cross_leaf(&(first..block + 1)), joint.clone());
            }
        }
    }

    /// The blocks with cross-attention in the longest runs of which each has one leaf of cross-attention keys and values, and fits
    /// a binding with those of `positions` source positions.
    pub fn cross_runs(&self, positions: usize) -> Vec<Range<usize>> {
        let fits = |run: &Range<usize>| {
            let leaf = self.leaves.get(&cross_leaf(run));
            leaf.is_some_and(|leaf| leaf.shape[0] * positions <= self.window_len)
        };
        let mut runs: Vec<Range<usize>> = Vec::new();
        for block in 0..self.cross_blocks {
            match runs.last_mut() {
                Some(run) if fits(&(run.start..block + 1)) => run.end = block + 1,
                _ => runs.push(block..block + 1),
            }
        }
        runs
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

    /// Shape and type of a leaf.
    ///
    /// # Panics
    /// If there is no such leaf.
    #[track_caller]
    pub fn leaf(&self, leaf: &str) -> (&[usize], Dtype) {
        let leaf = self.leaves.get(leaf).unwrap_or_else(|| panic!("no parameter leaf `{leaf}`"));
        (&leaf.shape, leaf.dtype)
    }

    /// The type in which a tensor is held.
    pub fn dtype(&self, tensor: &TensorSpan) -> Dtype {
        let name = match TABLES.contains(&tensor.name.as_str()) {
            true => shard_leaf(&tensor.name, 0),
            false => leaf_of(&tensor.name),
        };
        self.leaf(&name).1
    }

    /// Whether anything that learns is held in a type in which nothing can.
    pub fn learns_packed(&self) -> bool {
        self.leaves.values().any(|leaf| leaf.window < self.learning && leaf.dtype.is_packed())
    }

    /// A leaf's window of arenas with this layout.
    pub fn slice(&self, leaf: &str, arenas: &[Buffer]) -> Option<Slice> {
        let leaf = self.leaves.get(leaf)?;
        Some(arenas[leaf.window].slice(4 * leaf.offset as u64, leaf.dtype.bytes(&leaf.shape)))
    }

    /// Zeroed arenas of this layout.
    pub fn allocate(&self, gpu: &Gpu, label: &str) -> Result<Vec<Buffer>> {
        self.windows.iter().map(|&len| gpu.buffer(label, 4 * len as u64)).collect()
    }

    /// What is added to the product with a leaf.
    pub(super) fn added(&self, leaf: &str) -> &[Addition] {
        self.added.get(leaf).map_or(&[], Vec::as_slice)
    }

    /// Whether a training leaves inputs of what is added out.
    pub fn has_dropout(&self) -> bool {
        self.added.values().flatten().any(|added| matches!(added, Addition::LowRank { dropout, .. } if *dropout > 0.0))
    }

    /// Which parameters learn.
    pub fn learns(&self) -> &Learns {
        &self.learns
    }

    /// Whether a leaf is a parameter that learns.
    pub fn is_learning(&self, leaf: &str) -> bool {
        self.leaves.get(leaf).is_some_and(|leaf| leaf.window < self.learning)
    }

    /// Whether a leaf is a parameter that learns now: see [`Layout::unfreeze`].
    pub fn learns_now(&self, leaf: &str) -> bool {
        self.is_learning(leaf) && !self.waiting.contains(leaf)
    }

    /// Under [`Learns::Gradual`], has the last `blocks` blocks of each stack learn from now on, and nothing in the others.
    pub fn unfreeze(&mut self, config: &T5Config, blocks: usize) {
        let waits = |leaf: &&String| !self.learns.includes_now(config, leaf, blocks);
        self.waiting = self.leaves.keys().filter(waits).cloned().collect();
    }

    /// The tensors that learn.
    pub fn learning_tensors(&self) -> Vec<TensorSpan> {
        let learns = |tensor: &&TensorSpan| tensor.pieces.iter().all(|piece| piece.window < self.learning);
        self.tensors.iter().filter(learns).cloned().collect()
    }

    /// Of arenas of this layout, the windows of what learns.
    pub fn learning_windows<'a>(&self, arenas: &'a [Buffer]) -> &'a [Buffer] {
        &arenas[..self.learning]
    }

    /// Arenas of this layout, with those of what is frozen out of `arenas`.
    pub fn with_learning(&self, learning: Vec<Buffer>, arenas: &[Buffer]) -> Vec<Buffer> {
        learning.into_iter().chain(arenas[self.learning..].iter().cloned()).collect()
    }

    /// Zeroed arenas for what learns: gradients.
    pub fn allocate_learning(&self, gpu: &Gpu, label: &str) -> Result<Vec<Buffer>> {
        self.windows[..self.learning].iter().map(|&len| gpu.buffer(label, 4 * len as u64)).collect()
    }

    /// Bytes of arenas of this layout.
    pub fn bytes(&self) -> u64 {
        self.windows.iter().map(|&len| 4 * len as u64).sum()
    }

    /// Number of parameters.
    pub fn n_params(&self) -> usize {
        self.tensors.iter().map(TensorSpan::len).sum()
    }

    /// Number of parameters that learn.
    pub fn n_learning(&self) -> usize {
        self.learning_tensors().iter().map(TensorSpan::len).sum()
    }
}

/// Tensors that are cut into shards of rows.
const TABLES: [&str; 2] = ["shared.weight", "lm_head.weight"];

/// The leaf for shard `s` of a table.
pub fn shard_leaf(name: &str, s: usize) -> String {
    format!("{name}#{s}")
}

/// The leaf of the keys and values of cross-attention in a run of decoder blocks: `[blocks 2 heads d_kv, d_model]`.
pub fn cross_leaf(run: &Range<usize>) -> String {
    match run.len() {
        1 => format!("decoder.block.{}.layer.1.EncDecAttention.kv.weight", run.start),
        _ => format!("decoder.block.{}-{}.layer.1.EncDecAttention.kv.weight", run.start, run.end - 1),
    }
}

/// The leaf that a tensor belongs to: fused projections share one.
fn leaf_of(name: &str) -> String {
    for (member, fused) in [
        // Its keys and values are made of sums of blocks, too, of which there are no queries.
        ("TransientGlobalSelfAttention.q", "TransientGlobalSelfAttention.q"),
        ("TransientGlobalSelfAttention.k", "TransientGlobalSelfAttention.kv"),
        ("TransientGlobalSelfAttention.v", "TransientGlobalSelfAttention.kv"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_attention_runs_fit_a_binding() {
        let text = r#"{"model_type": "t5", "vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 6,
            "num_heads": 4, "feed_forward_proj": "relu"}"#;
        let config = T5Config::from_json(text, "test").unwrap();
        let leaf = 4 * 64 * 32;
        let layout = |bytes: usize| {
            let caps = Caps { max_binding: bytes as u64, table_bytes: bytes as u64, ..Caps::default() };
            Layout::new(&config, false, &caps, &|_| Dtype::F32).unwrap()
        };
        let (small, layout) = (layout(4 * leaf), layout(100 * leaf));
        assert_eq!(layout.leaves[&cross_leaf(&(0..6))].shape, [6 * 64, 32]);
        assert_eq!(layout.leaves[&cross_leaf(&(2..3))].shape, [64, 32]);
        let positions = |n: usize| layout.cross_runs(n);
        assert_eq!(positions(1), std::slice::from_ref(&(0..6)));
        // A position takes 1/32 of a leaf: 1,600 positions take half a binding for each block.
        assert_eq!(positions(1600), [0..2, 2..4, 4..6]);
        assert_eq!(positions(9999), [0..1, 1..2, 2..3, 3..4, 4..5, 5..6]);
        // Arenas of four leaves.
        assert_eq!(small.cross_runs(1), [0..4, 4..6]);
        let place = |run| small.leaves[&cross_leaf(&run)].clone();
        assert_eq!((place(0..4).window, place(0..4).offset), (place(0..1).window, place(0..1).offset));
        assert_ne!(place(4..6).window, place(0..1).window);
        assert!(small.tensor("decoder.block.5.layer.1.EncDecAttention.v.weight").is_some());
    }
}
