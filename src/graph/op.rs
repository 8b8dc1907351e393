//! The trait of ops: a shape rule, launches, a backward rule and a naive f64 oracle, in one file per op under `ops/`.

use std::fmt::Debug;
use std::sync::Arc;

use super::choice::{Candidate, Choices, Class, Question, Trial};
use super::{Backward, Dtype, Graph, Node, Tensor64, ValueId};
use crate::error::Error;
use crate::gpu::{Caps, Header, Param, Shader, Work};

/// One kind of computation. Ops hold their sizes and settings as plain fields.
pub trait Op: Debug + Send + Sync {
    /// The op's name: also that of its file and of its main shader.
    fn name(&self) -> &'static str;

    /// Shapes and types of the outputs for inputs of these shapes.
    ///
    /// # Panics
    /// On shapes that do not fit: a programmer's error, reported with the op, its settings and the shapes.
    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)>;

    /// Records the kernel launches, choosing variants by the adapter's capabilities and with [`Launcher::choose`].
    fn launch(&self, l: &mut Launcher<'_>);

    /// Emits nodes for the gradients of the inputs and hands them to [`Backward::give`].
    fn backward(&self, b: &mut Backward<'_>) {
        let _ = b;
        panic!("{} has no backward rule", self.name());
    }

    /// The same computation, naively, in f64. Outputs written in place receive their old contents as further inputs.
    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64>;

    /// This op with output `output` added to what its memory holds.
    fn accumulating(&self, output: usize) -> Option<Arc<dyn Op>> {
        let _ = output;
        None
    }

    /// This op with one more input, which is added to output 0.
    fn plus(&self) -> Option<Arc<dyn Op>> {
        None
    }

    /// Floating-point operations of one run, where the op knows them without its inputs' shapes.
    fn flops(&self) -> f64 {
        0.0
    }
}

/// Where an operand lives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    Value(ValueId),
    /// Scratch memory of this node, by number.
    Scratch(usize),
}

/// A tensor operand of a launch: `len` elements of a type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Operand {
    pub place: Place,
    pub len: usize,
    pub dtype: Dtype,
}

/// A kernel launch whose operands are not yet bound to memory.
#[derive(Debug)]
pub struct Launch {
    pub shader: &'static Shader,
    pub header: Header,
    pub bindings: Vec<(&'static str, Operand)>,
    pub params: Vec<(&'static str, Param)>,
    pub workgroups: u64,
}

/// Collects the launches of one node.
pub struct Launcher<'a> {
    pub caps: &'a Caps,
    graph: &'a Graph,
    node: &'a Node,
    pub launches: Vec<Launch>,
    /// What is declared of each launch.
    counts: Vec<Counts>,
    pub(crate) scratch: Vec<usize>,
    choices: &'a Choices,
    pub(super) questions: Vec<Question>,
    /// Why this adapter cannot run the node.
    pub(crate) refusal: Option<Error>,
}

static BY_RULE: Choices = Choices::none();

impl<'a> Launcher<'a> {
    /// A launcher with which every op goes by its own rules.
    pub fn new(caps: &'a Caps, graph: &'a Graph, node: &'a Node) -> Launcher<'a> {
        let (launches, counts, scratch, questions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Launcher { caps, graph, node, launches, counts, scratch, choices: &BY_RULE, questions, refusal: None }
    }

    pub fn with_choices(self, choices: &'a Choices) -> Launcher<'a> {
        Launcher { choices, ..self }
    }

    fn operand(&self, value: ValueId) -> Operand {
        let dtype = self.graph.value(value).dtype;
        Operand { place: Place::Value(value), len: self.graph.len(value), dtype }
    }

    /// # Panics
    /// If the input is packed: an op that can read such operands asks for [`Launcher::weights`].
    #[track_caller]
    pub fn input(&self, index: usize) -> Operand {
        let input = self.weights(index);
        assert!(!input.dtype.is_packed(), "{} cannot read input {index} as {:?}", self.node.op.name(), input.dtype);
        input
    }

    /// An input of any type.
    pub fn weights(&self, index: usize) -> Operand {
        self.operand(self.node.inputs[index])
    }

    pub fn n_inputs(&self) -> usize {
        self.node.inputs.len()
    }

    pub fn output(&self, index: usize) -> Operand {
        self.operand(self.node.outputs[index])
    }

    pub fn shape(&self, input: usize) -> &'a [usize] {
        self.graph.shape(self.node.inputs[input])
    }

    /// Memory of `len` f32 for this node alone.
    pub fn scratch(&mut self, len: usize) -> Operand {
        self.scratch.push(len);
        Operand { place: Place::Scratch(self.scratch.len() - 1), len, dtype: Dtype::F32 }
    }

    /// Which of `candidates` to launch: the one that the choices name for this class, else the first. `flops`: of the work
    /// at hand; `trial` makes what a candidate can be timed on, at the sizes of the class that it is given.
    pub fn choose(
        &mut self,
        class: Class,
        candidates: &[&'static str],
        flops: f64,
        trial: impl Fn(&Class, usize) -> Trial,
    ) -> usize {
        if candidates.len() < 2 {
            return 0;
        }
        let (class, chosen) = self.choices.answer(class, candidates);
        let candidate = |(i, &name): (usize, &&'static str)| Candidate { name, trial: trial(&class, i) };
        let candidates = candidates.iter().enumerate().map(candidate).collect();
        self.questions.push(Question { class: class.to_string(), candidates, flops });
        chosen
    }

    /// Declares the iterations of all loops of one invocation, where they grow with something that a launch cannot split.
    /// `what` names it and its size.
    pub fn iterations(&mut self, count: usize, what: &str) {
        // An eighth is left for loops that a compiler may or may not unroll.
        if let Some(most) = self.caps.max_iterations
            && count > most as usize / 8 * 7
        {
            self.refusal = Some(Error::Adapter(format!(
                "{} ({}) cannot run {what}: it ends a shader's loops after {most} iterations; install a newer driver (Mesa \
                 25 or later), or use a smaller size",
                self.caps.name, self.caps.driver_info
            )));
        }
    }

    pub fn launch(&mut self, launch: Launch) {
        self.launches.push(launch);
        self.counts.push(Counts::default());
    }

    /// Declares the floating-point operations of the launch just recorded, if it multiplies matrices.
    pub fn flops(&mut self, flops: f64) {
        if let Some(counts) = self.counts.last_mut() {
            counts.flops = flops;
        }
    }

    /// Declares how many elements of one binding the launch just recorded moves, where that is not each of them once: a
    /// table of which it reads some rows, an output that it adds to.
    #[track_caller]
    pub fn moves(&mut self, binding: &'static str, elements: usize) {
        let known = self.launches.last().is_some_and(|l| l.bindings.iter().any(|(name, _)| *name == binding));
        assert!(known, "the launch binds no `{binding}`");
        if let Some(counts) = self.counts.last_mut() {
            counts.moves.push((binding, elements));
        }
    }

    /// What each launch has to do. Operands move once unless declared otherwise, outputs that live in a leaf twice: they
    /// are updated in place.
    pub fn work(&self) -> Vec<Work> {
        let in_place = |place: Place| match place {
            Place::Value(value) => self.graph.value(value).stored_in.is_some(),
            Place::Scratch(_) => false,
        };
        let work = |(launch, counts): (&Launch, &Counts)| {
            let mut seen: Vec<Place> = Vec::new();
            let mut bytes = 0.0;
            for &(name, operand) in &launch.bindings {
                if seen.contains(&operand.place) {
                    continue;
                }
                seen.push(operand.place);
                let declared = counts.moves.iter().find(|(binding, _)| *binding == name).map(|(_, elements)| *elements);
                let whole = match operand.place {
                    Place::Value(value) => self.graph.bytes(value),
                    Place::Scratch(_) => 4 * operand.len as u64,
                };
                let share = declared.map_or(1.0, |elements| elements as f64 / operand.len.max(1) as f64);
                let passes = if declared.is_none() && in_place(operand.place) { 2.0 } else { 1.0 };
                bytes += whole as f64 * share * passes;
            }
            Work { flops: counts.flops, bytes }
        };
        self.launches.iter().zip(&self.counts).map(work).collect()
    }
}

#[derive(Debug, Default)]
struct Counts {
    flops: f64,
    moves: Vec<(&'static str, usize)>,
}
