//! A T5 as pure data: nodes, shapes and reverse-mode differentiation. Nothing here touches a device.
//!
//! A [`Graph`] is a list of nodes in the order in which they run. A node applies an [`Op`] to values and yields values.
//! Leaves (parameters, inputs, caches, gradients) have names and are bound to memory when a plan is compiled. A node's
//! output may be *stored in* a leaf: a gradient accumulates into its arena, a cache is written in place.

mod add;
mod backward;
mod choice;
mod dtype;
mod interpret;
mod op;
mod packing;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::{Error, Result};

pub use add::{Add, AddInto};
pub use backward::Backward;
pub use choice::{Candidate, Choices, Class, Fill, Question, Trial, questions};
pub use dtype::{BLOCK, Dtype};
pub use interpret::{Tensor64, interpret};
pub use op::{Launch, Launcher, Op, Operand, Place};
pub use packing::{GROUP, Packing};

/// A value of a [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) usize);

/// What is known of a value.
#[derive(Clone, Debug)]
pub struct ValueInfo {
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    /// The name of a leaf; for other values the scope in which they were made.
    pub label: String,
    pub is_leaf: bool,
    /// The leaf whose memory holds this value, for outputs written in place.
    pub stored_in: Option<ValueId>,
}

/// One application of an op.
#[derive(Clone, Debug)]
pub struct Node {
    pub op: Arc<dyn Op>,
    pub inputs: Vec<ValueId>,
    pub outputs: Vec<ValueId>,
    pub label: String,
}

/// A static computation.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    values: Vec<ValueInfo>,
    scope: String,
    /// Nodes whose values the backward pass computes again instead of keeping them.
    blocks: Vec<Range<usize>>,
    /// Forward values that a later node computes again: see [`Graph::replayed`].
    replays: HashMap<ValueId, ValueId>,
}

impl Graph {
    pub fn new() -> Graph {
        Graph::default()
    }

    /// Labels the nodes that follow, by convention with the HuggingFace prefix of the parameters that they use.
    pub fn scope(&mut self, scope: impl Into<String>) {
        self.scope = scope.into();
    }

    /// A named value that lives outside of the graph. Asking twice for one name gives the same value.
    ///
    /// # Panics
    /// If the name is known with another shape or type.
    #[track_caller]
    pub fn leaf(&mut self, name: impl Into<String>, shape: &[usize], dtype: Dtype) -> ValueId {
        let name = name.into();
        if let Some(i) = self.values.iter().position(|v| v.is_leaf && v.label == name) {
            assert_eq!(self.values[i].shape, shape, "leaf `{name}` is used with two shapes");
            assert_eq!(self.values[i].dtype, dtype, "leaf `{name}` is used with two types");
            return ValueId(i);
        }
        self.values.push(ValueInfo { shape: shape.to_vec(), dtype, label: name, is_leaf: true, stored_in: None });
        ValueId(self.values.len() - 1)
    }

    /// Adds a node and gives its outputs.
    ///
    /// # Panics
    /// If the op refuses the shapes: a programmer's error.
    #[track_caller]
    pub fn push(&mut self, op: impl Op + 'static, inputs: &[ValueId]) -> Vec<ValueId> {
        self.push_shared(Arc::new(op), inputs)
    }

    /// [`Graph::push`] for ops of one output.
    #[track_caller]
    pub fn push1(&mut self, op: impl Op + 'static, inputs: &[ValueId]) -> ValueId {
        let outputs = self.push(op, inputs);
        assert_eq!(outputs.len(), 1);
        outputs[0]
    }

    #[track_caller]
    fn push_shared(&mut self, op: Arc<dyn Op>, inputs: &[ValueId]) -> Vec<ValueId> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|&v| self.shape(v)).collect();
        let made = op.infer(&shapes);
        let first = self.values.len();
        let outputs: Vec<ValueId> = (first..first + made.len()).map(ValueId).collect();
        for (shape, dtype) in made {
            let label = self.scope.clone();
            self.values.push(ValueInfo { shape, dtype, label, is_leaf: false, stored_in: None });
        }
        let node = Node { op, inputs: inputs.to_vec(), outputs: outputs.clone(), label: self.scope.clone() };
        self.nodes.push(node);
        outputs
    }

    /// Declares that `value`, an output that its op only updates in part or adds to, lives in `leaf`.
    pub fn store_in(&mut self, value: ValueId, leaf: ValueId) {
        debug_assert!(self.values[leaf.0].is_leaf);
        self.values[value.0].stored_in = Some(leaf);
    }

    /// Adds `value` to the contents of `leaf` when the plan runs.
    pub fn add_into(&mut self, value: ValueId, leaf: ValueId) {
        self.accumulate(value, leaf, None);
    }

    /// Adds `value` to the contents of `leaf`; inside the kernel that makes it if it is `fresh`, made for this alone.
    fn accumulate(&mut self, value: ValueId, leaf: ValueId, fresh: Option<usize>) {
        if let Some(node) = fresh
            && let Some(output) = self.nodes[node].outputs.iter().position(|&o| o == value)
            && let Some(op) = self.nodes[node].op.accumulating(output)
        {
            self.nodes[node].op = op;
            self.store_in(value, leaf);
            return;
        }
        let shape = self.shape(value).to_vec();
        let sum = self.push1(AddInto { shape }, &[value]);
        self.store_in(sum, leaf);
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn value(&self, value: ValueId) -> &ValueInfo {
        &self.values[value.0]
    }

    pub fn shape(&self, value: ValueId) -> &[usize] {
        &self.values[value.0].shape
    }

    /// Number of elements of a value.
    pub fn len(&self, value: ValueId) -> usize {
        self.shape(value).iter().product()
    }

    /// Bytes that a value takes.
    pub fn bytes(&self, value: ValueId) -> u64 {
        self.value(value).dtype.bytes(self.shape(value))
    }

    /// Whether the graph has no node.
    /// # Errors
    /// `OutOfMemory`: a value has so many elements that kernels, which count in 32 bits, cannot reach them.
    pub fn check_sizes(&self) -> Result<()> {
        let elements = |value: &ValueInfo| value.shape.iter().map(|&n| n as u128).product::<u128>();
        match self.values.iter().find(|value| elements(value) > u128::from(u32::MAX)) {
            None => Ok(()),
            Some(value) => Err(Error::OutOfMemory(format!(
                "{}: a tensor of {:?} elements is more than kernels can count; use a smaller batch or shorter sequences",
                value.label, value.shape
            ))),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Every leaf with its value, in order of first use.
    pub fn leaves(&self) -> impl Iterator<Item = (ValueId, &ValueInfo)> {
        self.values.iter().enumerate().filter(|(_, v)| v.is_leaf).map(|(i, v)| (ValueId(i), v))
    }

    /// The memory in which a value lives: itself, or the leaf that it is stored in.
    pub fn home(&self, value: ValueId) -> ValueId {
        self.values[value.0].stored_in.unwrap_or(value)
    }

    /// Begins a block: until [`Graph::end_block`], nodes whose values [`Graph::backward`] shall compute again instead of
    /// keeping them. Blocks do not nest.
    ///
    /// # Panics
    /// If a block is open.
    pub fn begin_block(&mut self) {
        assert!(self.blocks.last().is_none_or(|b| b.start < b.end), "blocks do not nest");
        self.blocks.push(self.nodes.len()..self.nodes.len());
    }

    /// Ends the block that [`Graph::begin_block`] began.
    ///
    /// # Panics
    /// If none is open.
    pub fn end_block(&mut self) {
        let end = self.nodes.len();
        self.blocks.last_mut().filter(|b| b.start == b.end).expect("an open block").end = end;
    }

    /// The value to read instead of `value` where a later node computes it again: the insides of a block, ahead of its
    /// gradients; the loss, since cross-entropy makes it in one go with its gradient, so that a training plan runs the
    /// vocabulary projection once.
    pub fn replayed(&self, value: ValueId) -> ValueId {
        self.replays.get(&value).copied().unwrap_or(value)
    }

    /// Which nodes are needed for these outputs: those that lead to them or write into leaves that are not among `dead`.
    pub fn live_nodes(&self, outputs: &[ValueId]) -> Vec<bool> {
        let mut wanted = vec![false; self.values.len()];
        for output in outputs {
            wanted[output.0] = true;
        }
        let mut live = vec![false; self.nodes.len()];
        for (n, node) in self.nodes.iter().enumerate().rev() {
            let writes = node.outputs.iter().any(|&o| self.values[o.0].stored_in.is_some());
            if writes || node.outputs.iter().any(|&o| wanted[o.0]) {
                live[n] = true;
                for input in &node.inputs {
                    wanted[input.0] = true;
                }
            }
        }
        live
    }
}

/// One line a node: `12 matmul encoder.block.0.layer.0: v3[24x32] encoder...qkv.weight[96x32] -> v4[24x96]`.
impl std::fmt::Display for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |v: &ValueId| {
            let home = self.value(self.home(*v));
            let name = if home.is_leaf { home.label.clone() } else { format!("v{}", v.0) };
            let shape: Vec<String> = self.shape(*v).iter().map(usize::to_string).collect();
            format!("{name}[{}]", shape.join("x"))
        };
        let list = |values: &[ValueId]| values.iter().map(show).collect::<Vec<_>>().join(" ");
        for (n, node) in self.nodes.iter().enumerate() {
            let (inputs, outputs) = (list(&node.inputs), list(&node.outputs));
            writeln!(f, "{n} {} {}: {inputs} -> {outputs}", node.op.name(), node.label)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kernels_cannot_count_is_refused() {
        let mut graph = Graph::new();
        graph.leaf("fits", &[1 << 16, (1 << 16) - 1], Dtype::F32);
        assert!(graph.check_sizes().is_ok());
        graph.leaf("logits", &[1 << 16, 1 << 16], Dtype::F32);
        let error = graph.check_sizes().unwrap_err();
        assert!(
            matches!(&error, Error::OutOfMemory(what) if what.starts_with("logits: a tensor of [65536, 65536]")),
            "{error}"
        );
    }
}
