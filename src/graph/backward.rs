//! Reverse mode: gradients are ordinary nodes of the same graph.

use std::collections::HashMap;

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
    pub fn input(&self, index: usize) -> ValueId {
        self.node.inputs[index]
    }

    pub fn n_inputs(&self) -> usize {
        self.node.inputs.len()
    }

    pub fn output(&self, index: usize) -> ValueId {
        self.node.outputs[index]
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

    /// Says that `value` is computed again by a backward node as `again`.
    pub fn replay(&mut self, value: ValueId, again: ValueId) {
        self.graph.replays.push((value, again));
    }
}

impl Graph {
    /// Vector-Jacobian product: given `seeds`, pairs of a value and its gradient, emits the nodes for the gradients of
    /// `targets`. Each target is a leaf and, where its gradient shall add up in memory, the leaf that holds it.
    ///
    /// Gives the gradients of the targets without a gradient leaf, in order of the targets.
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
        for n in (0..self.nodes.len()).rev() {
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
