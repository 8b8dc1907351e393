//! For ops with several kernels: the question which one to take, and the answers as plain data.
//!
//! An op that has a choice calls [`Launcher::choose`] with the class of its shape and its candidates, best first by rule.
//! Without answers the first is taken. [`questions`] collects what a graph asks, so that someone can measure first.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Dtype, Graph, Launcher, Op, ValueId};
use crate::gpu::Caps;

/// Shapes for which the same kernel is expected to be the best: an op with its settings, and sizes rounded up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    name: String,
    sizes: Vec<Size>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Size {
    name: &'static str,
    bucket: usize,
    /// The largest of a size that depends on the batch.
    of_batch: Option<usize>,
    open: bool,
}

impl Class {
    /// A class of the op and the settings that `name` spells out, so far without sizes.
    pub fn new(name: impl Into<String>) -> Class {
        Class { name: name.into(), sizes: Vec::new() }
    }

    /// Adds a size that the model alone determines, rounded up to a power of two or to three quarters of one; `most` stands
    /// for all that are larger.
    pub fn model_size(mut self, name: &'static str, n: usize, most: usize) -> Class {
        let power = n.next_power_of_two();
        let rounded = if power >= 16 && n <= power / 4 * 3 { power / 4 * 3 } else { power };
        self.sizes.push(Size { name, bucket: rounded.min(most), of_batch: None, open: false });
        self
    }

    /// Adds a size that depends on the batch, rounded up to a power of two.
    pub fn batch_size(mut self, name: &'static str, n: usize, most: usize) -> Class {
        self.sizes.push(Size { name, bucket: n.next_power_of_two().min(most), of_batch: Some(most), open: false });
        self
    }

    /// A size as it was rounded; a trial has this one. 1 if there is none of this name.
    pub fn size(&self, name: &str) -> usize {
        self.sizes.iter().find(|s| s.name == name).map_or(1, |s| s.bucket)
    }

    /// The class of all batches: sizes that depend on the batch are left open, and a trial has the largest.
    fn of_any_batch(mut self) -> Class {
        for size in &mut self.sizes {
            if let Some(most) = size.of_batch {
                (size.bucket, size.open) = (most, true);
            }
        }
        self
    }
}

/// As a line of text: `matmul nt f32 m256 n1536 k512`; `m*` where a size is left open.
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for Size { name, bucket, open, .. } in &self.sizes {
            if *open { write!(f, " {name}*")? } else { write!(f, " {name}{bucket}")? }
        }
        Ok(())
    }
}

/// Which kernel each class gets; a class that is not among them gets the one that its op's rules prefer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// One answer for all batches, so that a row's result does not depend on how many others there are.
    pub any_batch: bool,
    /// Name of the candidate by the text of the class.
    pub by_class: BTreeMap<String, String>,
}

impl Choices {
    /// No answers: every op goes by its rules.
    pub const fn none() -> Choices {
        Choices { any_batch: false, by_class: BTreeMap::new() }
    }

    /// The class in the terms of these answers, and which of the candidates it gets.
    pub(super) fn answer(&self, class: Class, candidates: &[&str]) -> (Class, usize) {
        let class = if self.any_batch { class.of_any_batch() } else { class };
        let name = self.by_class.get(&class.to_string());
        let position = name.and_then(|name| candidates.iter().position(|c| c == name));
        (class, position.unwrap_or(0))
    }
}

/// A choice that an op had while it was launched.
#[derive(Clone, Debug)]
pub struct Question {
    /// As in [`Choices::by_class`].
    pub class: String,
    /// Best first, as the op's rules see it.
    pub candidates: Vec<Candidate>,
    /// Floating-point operations of the op itself, which may be larger than the trials.
    pub flops: f64,
}

/// One way to do the work, with something to time it on.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub name: &'static str,
    pub trial: Trial,
}

/// An op, forced to one candidate, on inputs of a class's sizes. All candidates of a question get equal inputs.
#[derive(Clone, Debug)]
pub struct Trial {
    pub op: Arc<dyn Op>,
    pub inputs: Vec<(Vec<usize>, Fill)>,
    /// Floating-point operations of one run.
    pub flops: f64,
}

/// What an input of a trial holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Floats in [-0.5, 0.5).
    Random,
    /// The same whole number everywhere.
    Number(u32),
}

impl Trial {
    /// The op alone; its inputs are leaves by the names of [`Trial::leaf`].
    pub fn graph(&self) -> (Graph, Vec<ValueId>) {
        let mut graph = Graph::new();
        let leaf = |(i, (shape, fill)): (usize, &(Vec<usize>, Fill))| {
            let dtype = if *fill == Fill::Random { Dtype::F32 } else { Dtype::U32 };
            graph.leaf(Trial::leaf(i), shape, dtype)
        };
        let inputs: Vec<ValueId> = self.inputs.iter().enumerate().map(leaf).collect();
        let outputs = graph.push_shared(self.op.clone(), &inputs);
        (graph, outputs)
    }

    /// The name of an input's leaf.
    pub fn leaf(input: usize) -> String {
        format!("input {input}")
    }
}

/// The choices that compiling this graph for this adapter would make, one for each time that an op has one.
pub fn questions(caps: &Caps, graph: &Graph, outputs: &[ValueId], choices: &Choices) -> Vec<Question> {
    let live = graph.live_nodes(outputs);
    let mut questions = Vec::new();
    for (_, node) in graph.nodes().iter().enumerate().filter(|(n, _)| live[*n]) {
        let mut launcher = Launcher::new(caps, graph, node).with_choices(choices);
        node.op.launch(&mut launcher);
        questions.append(&mut launcher.questions);
    }
    questions
}
