//! Runs a graph on the ops' f64 oracles: the reference for every kernel and, by finite differences, for every gradient.

use std::collections::HashMap;

use super::{Graph, ValueId};

/// A tensor of the oracle; integers are kept as whole numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor64 {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Tensor64 {
    /// # Panics
    /// If the data does not fill the shape.
    #[track_caller]
    pub fn new(shape: &[usize], data: Vec<f64>) -> Tensor64 {
        assert_eq!(shape.iter().product::<usize>(), data.len());
        Tensor64 { shape: shape.to_vec(), data }
    }

    pub fn zeros(shape: &[usize]) -> Tensor64 {
        Tensor64::new(shape, vec![0.0; shape.iter().product()])
    }

    /// Rows of a matrix.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.data.chunks_exact(self.shape[self.shape.len() - 1])
    }
}

/// Runs the nodes needed for `outputs` in f64. `leaves` holds the leaves' contents by name and receives what is stored
/// in them.
///
/// # Panics
/// If a leaf that is read has no contents.
pub fn interpret(graph: &Graph, outputs: &[ValueId], leaves: &mut HashMap<String, Tensor64>) -> Vec<Tensor64> {
    let mut values: HashMap<ValueId, Tensor64> = HashMap::new();
    let read = |values: &HashMap<ValueId, Tensor64>, leaves: &HashMap<String, Tensor64>, v: ValueId| {
        let info = graph.value(graph.home(v));
        let found = if info.is_leaf { leaves.get(&info.label) } else { values.get(&v) };
        found.unwrap_or_else(|| panic!("nothing is known of `{}`", info.label)).clone()
    };
    let live = graph.live_nodes(outputs);
    for node in graph.nodes().iter().enumerate().filter(|(n, _)| live[*n]).map(|(_, node)| node) {
        let mut inputs: Vec<Tensor64> = node.inputs.iter().map(|&v| read(&values, leaves, v)).collect();
        for &output in &node.outputs {
            if graph.value(output).stored_in.is_some() {
                inputs.push(read(&values, leaves, output));
            }
        }
        for (&output, tensor) in node.outputs.iter().zip(node.op.oracle(&inputs)) {
            assert_eq!(graph.shape(output), tensor.shape, "oracle of {}", node.op.name());
            if graph.value(output).stored_in.is_some() {
                leaves.insert(graph.value(graph.home(output)).label.clone(), tensor);
            } else {
                values.insert(output, tensor);
            }
        }
    }
    outputs.iter().map(|&v| read(&values, leaves, v)).collect()
}
