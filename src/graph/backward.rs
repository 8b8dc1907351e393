//! Reverse mode: gradients are ordinary nodes of the same graph.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::{Add, Graph, Node, ValueId};

/// The view that a backward rule has of its node.
pub struct Backward<'a> {
    pub graph: &'a mut Graph,
    node: Node,
    grads: &'a mut HashMap<ValueId, ValueId>,
    /// Gradient leaves of parameters: contributions add up there.
    targets: &'a HashMap<ValueId, ValueId>,
    needed: &'a [bool],
    /// Nodes from here on were emitted by this rule.
    start: usize,
    given: Vec<ValueId>,
}

impl Backward<'_> {
    /// An input, as it is to be read by gradient nodes.
    pub fn input(&self, index: usize) -> ValueId {
        self.graph.replayed(self.node.inputs[index])
    }

    pub fn n_inputs(&self) -> usize {
        self.node.inputs.len()
    }

    /// An output, as it is to be read by gradient nodes.
    pub fn output(&self, index: usize) -> ValueId {
        self.graph.replayed(self.node.outputs[index])
    }

    /// The gradient of an output; `None` if nothing depends on it.
    pub fn grad(&self, output: usize) -> Option<ValueId> {
        self.grads.get(&self.node.outputs[output]).copied()
    }

    /// Whether the gradient of this input is wanted at all.
    pub fn needs(&self, input: usize) -> bool {
        self.needed[self.node.inputs[input].0]
    }

    /// Hands over a contribution to the gradient of an input.
    pub fn give(&mut self, input: usize, gradient: ValueId) {
        let value = self.node.inputs[input];
        if !self.needed[value.0] {
            return;
        }
        assert_eq!(self.graph.shape(value), self.graph.shape(gradient), "{}: gradient {input}", self.node.op.name());
        let fresh = self.fresh(gradient);
        self.given.push(gradient);
        if let Some(&leaf) = self.targets.get(&value) {
            self.graph.accumulate(gradient, leaf, fresh);
            return;
        }
        let sum = match self.grads.get(&value) {
            None => gradient,
            Some(&before) => self.graph.sum_with(gradient, before, fresh),
        };
        self.grads.insert(value, sum);
    }

    /// The node that makes `gradient`, if this rule emitted it and nothing else uses the value: only then may the node
    /// be changed to add to something.
    fn fresh(&self, gradient: ValueId) -> Option<usize> {
        let emitted = &self.graph.nodes[self.start..];
        let used = self.given.contains(&gradient) || emitted.iter().any(|n| n.inputs.contains(&gradient));
        let node = emitted.iter().position(|n| n.outputs.contains(&gradient))?;
        (!used).then_some(self.start + node)
    }

    /// Says that output `index` is computed again by a backward node as `again`.
    pub fn replay(&mut self, index: usize, again: ValueId) {
        self.graph.replays.insert(self.node.outputs[index], again);
    }
}

impl Graph {
    /// Vector-Jacobian product: given `seeds`, pairs of a value and its gradient, emits the nodes for the gradients of
    /// `targets`. Each target is a leaf and, where its gradient shall add up in memory, the leaf that holds it.
    ///
    /// Gives the gradients of the targets without a gradient leaf, in order of the targets.
    ///
    /// Values inside of the blocks that [`Graph::begin_block`] began are computed again ahead of the block's gradients,
    /// so that they need no memory from the forward pass on; not so the last block, whose turn comes first.
    ///
    /// # Panics
    /// If a target without a gradient leaf does not influence any seed.
    pub fn backward(&mut self, seeds: &[(ValueId, ValueId)], targets: &[(ValueId, Option<ValueId>)]) -> Vec<ValueId> {
        let mut needed = vec![false; self.values.len()];
        for (target, _) in targets {
            needed[target.0] = true;
        }
        for node in &self.nodes {
            if node.inputs.iter().any(|i| needed[i.0]) {
                node.outputs.iter().for_each(|o| needed[o.0] = true);
            }
        }
        let leaves: HashMap<_, _> = targets.iter().filter_map(|&(t, leaf)| Some((t, leaf?))).collect();
        let mut grads: HashMap<ValueId, ValueId> = seeds.iter().copied().collect();
        let scope = std::mem::take(&mut self.scope);
        let blocks = std::mem::take(&mut self.blocks);
        let n_forward = self.nodes.len();
        for n in (0..n_forward).rev() {
            if let Some((_, before)) = blocks.split_last()
                && let Some(block) = before.iter().find(|b| b.end == n + 1)
            {
                self.replay_block(block.clone(), n_forward);
            }
            let node = self.nodes[n].clone();
            let wanted = node.outputs.iter().any(|o| grads.contains_key(o));
            if wanted && node.inputs.iter().any(|i| needed[i.0]) {
                self.scope = node.label.clone();
                let op = node.op.clone();
                let (start, given) = (self.nodes.len(), Vec::new());
                let (grads, targets, needed) = (&mut grads, &leaves, needed.as_slice());
                op.backward(&mut Backward { graph: self, node, grads, targets, needed, start, given });
            }
        }
        self.scope = scope;
        let plain = targets.iter().filter(|(_, leaf)| leaf.is_none());
        plain.map(|(target, _)| *grads.get(target).expect("a target that does not influence the seeds")).collect()
    }

    /// Emits the nodes of a block once more for the gradients that follow. Values read outside of the block stay as they
    /// are: they are in memory anyway. Nodes that no gradient reads fall away in the plan.
    fn replay_block(&mut self, block: Range<usize>, n_forward: usize) {
        let outside = (0..n_forward).filter(|n| !block.contains(n));
        let kept: HashSet<ValueId> = outside.flat_map(|n| self.nodes[n].inputs.iter().copied()).collect();
        for n in block {
            let node = self.nodes[n].clone();
            if node.outputs.iter().all(|o| kept.contains(o)) {
                continue;
            }
            self.scope = node.label;
            let inputs: Vec<ValueId> = node.inputs.iter().map(|&v| self.replayed(v)).collect();
            let again = self.push_shared(node.op, &inputs);
            let inner = node.outputs.into_iter().zip(again).filter(|(value, _)| !kept.contains(value));
            self.replays.extend(inner);
        }
    }

    /// `gradient + before`, inside the kernel that makes `gradient` where it is fresh and its op can.
    fn sum_with(&mut self, gradient: ValueId, before: ValueId, fresh: Option<usize>) -> ValueId {
        if let Some(n) = fresh
            && self.nodes[n].outputs[0] == gradient
            && let Some(op) = self.nodes[n].op.plus()
        {
            self.nodes[n].op = op;
            self.nodes[n].inputs.push(before);
            return gradient;
        }
        self.push1(Add, &[gradient, before])
    }
}
