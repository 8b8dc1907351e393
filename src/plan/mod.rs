//! From a graph to a program: liveness decides which values share memory, ops choose kernel variants, and the result is
//! replayed in one pass and one submit.

mod recent;
mod slots;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::gpu::{Buffer, Caps, Dispatch, Gpu, Program, ProgramBuilder, Sequence, Slice, StepTime, StepWork};
use crate::graph::{Choices, Graph, Launch, Launcher, Place, ValueId};
pub use recent::Plans;
use slots::{Lifetime, assign};

/// Whole buffers for activations, shared by all plans of a model: plans run one after the other.
#[derive(Clone, Default)]
pub struct SlotPool {
    buffers: Arc<Mutex<Vec<Buffer>>>,
}

impl SlotPool {
    pub fn new() -> SlotPool {
        SlotPool::default()
    }

    /// Buffers of at least these sizes (bytes, descending): existing ones where they are large enough.
    fn take(&self, gpu: &Gpu, sizes: &[u64]) -> Result<Vec<Buffer>> {
        let mut buffers = self.buffers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for (i, &bytes) in sizes.iter().enumerate() {
            match buffers.get(i) {
                Some(buffer) if buffer.bytes() >= bytes => {}
                Some(_) => buffers[i] = gpu.buffer(&format!("slot {i}"), bytes)?,
                None => buffers.push(gpu.buffer(&format!("slot {i}"), bytes)?),
            }
        }
        Ok(buffers[..sizes.len()].to_vec())
    }

    /// Gives the buffers up; plans keep those that they have.
    pub fn clear(&self) {
        self.buffers.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        let buffers = self.buffers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        buffers.iter().map(Buffer::bytes).sum()
    }
}

/// How a graph is compiled.
pub struct PlanOptions<'a> {
    /// Memory of leaves by name. Leaves without get a buffer of the plan's own, to be filled by [`Plan::write`].
    pub bind: &'a dyn Fn(&str) -> Option<Slice>,
    pub pool: &'a SlotPool,
}

/// A compiled graph.
pub struct Plan {
    gpu: Gpu,
    program: Program,
    /// Leaves that nothing else holds, by name: their bytes, and their memory if a kernel reads it.
    inputs: HashMap<String, (u64, Option<Buffer>)>,
    outputs: HashMap<String, Slice>,
    text: String,
    /// For each step, the memory that it writes (kept for the debug mode).
    written: Vec<(String, Slice)>,
    kernels: Vec<KernelUse>,
    memory: Memory,
}

/// A kernel that a plan runs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct KernelUse {
    /// The part of the model that it works for.
    pub label: String,
    pub shader: &'static str,
    /// The constants that specialise the shader: `LANES=8 RESIDUAL=true`.
    pub variant: String,
    pub workgroups: u64,
}

/// What a plan holds, in bytes.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Memory {
    /// Activations and scratch after sharing.
    pub slots: u64,
    /// The most bytes that are in use at one time: no assignment can need less.
    pub live_maximum: u64,
    /// What every value apart would need.
    pub unshared: u64,
}

impl Plan {
    /// Compiles the nodes that `outputs` (name, value) and the values stored in leaves need. Ops choose their
    /// kernels by their own rules.
    pub fn compile(gpu: &Gpu, graph: &Graph, outputs: &[(&str, ValueId)], options: &PlanOptions<'_>) -> Result<Plan> {
        Plan::compile_with(gpu, graph, outputs, options, &Choices::none())
    }

    /// [`Plan::compile`] with the kernels that `choices` name.
    pub fn compile_with(
        gpu: &Gpu,
        graph: &Graph,
        outputs: &[(&str, ValueId)],
        options: &PlanOptions<'_>,
        choices: &Choices,
    ) -> Result<Plan> {
        graph.check_sizes()?;
        let wanted: Vec<ValueId> = outputs.iter().map(|(_, v)| *v).collect();
        let live = graph.live_nodes(&wanted);
        let nodes: Vec<_> = graph.nodes().iter().enumerate().filter(|(n, _)| live[*n]).map(|(_, node)| node).collect();

        let mut steps = Vec::new();
        let mut lifetimes: Vec<Lifetime<Memo>> = Vec::new();
        let mut known: HashMap<ValueId, usize> = HashMap::new();
        let mut inputs: HashMap<String, (u64, Option<Buffer>)> =
            graph.leaves().map(|(leaf, info)| (info.label.clone(), (graph.bytes(leaf), None))).collect();
        let mut leaves: HashMap<ValueId, Slice> = HashMap::new();
        for (n, node) in nodes.iter().enumerate() {
            for (i, &value) in node.inputs.iter().chain(&node.outputs).enumerate() {
                let home = graph.home(value);
                let info = graph.value(home);
                if info.is_leaf {
                    if let std::collections::hash_map::Entry::Vacant(entry) = leaves.entry(home) {
                        let bytes = graph.bytes(home);
                        let slice = match (options.bind)(&info.label) {
                            Some(slice) => {
                                inputs.remove(&info.label);
                                slice
                            }
                            None => {
                                let buffer = gpu.buffer(&info.label, bytes)?;
                                inputs.insert(info.label.clone(), (bytes, Some(buffer.clone())));
                                buffer.slice(0, bytes)
                            }
                        };
                        assert_eq!(slice.bytes, bytes, "memory bound to leaf `{}`", info.label);
                        entry.insert(slice);
                    }
                } else if let Some(&index) = known.get(&value) {
                    lifetimes[index].last = n;
                } else {
                    assert!(i >= node.inputs.len(), "{} reads a value that is never made", node.op.name());
                    known.insert(value, lifetimes.len());
                    let last = if wanted.contains(&value) { usize::MAX } else { n };
                    let bytes = graph.bytes(value);
                    lifetimes.push(Lifetime { key: Memo::Value(value), first: n, last, bytes });
                }
            }
            let mut launcher = Launcher::new(gpu.caps(), graph, node).with_choices(choices);
            node.op.launch(&mut launcher);
            if let Some(refusal) = launcher.refusal {
                return Err(refusal);
            }
            for (s, &len) in launcher.scratch.iter().enumerate() {
                let bytes = 4 * len as u64;
                lifetimes.push(Lifetime { key: Memo::Scratch(n, s), first: n, last: n, bytes });
            }
            steps.push((launcher.work(), launcher.launches));
        }
        for lifetime in &mut lifetimes {
            if let Memo::Value(v) = lifetime.key
                && wanted.contains(&v)
            {
                lifetime.last = usize::MAX;
            }
        }

        let (slots, sizes) = assign(&lifetimes);
        let memory = Memory {
            slots: sizes.iter().sum(),
            live_maximum: slots::live_maximum(&lifetimes),
            unshared: lifetimes.iter().map(|l| l.bytes).sum(),
        };
        let buffers = options.pool.take(gpu, &sizes)?;
        let place: HashMap<Memo, usize> = lifetimes.iter().zip(&slots).map(|(l, &slot)| (l.key, slot)).collect();
        let resolve = |n: usize, place_of: Place, len: usize| -> (Slice, String) {
            let memo = match place_of {
                Place::Value(value) => {
                    let home = graph.home(value);
                    if let Some(slice) = leaves.get(&home) {
                        return (slice.clone(), graph.value(home).label.clone());
                    }
                    Memo::Value(value)
                }
                Place::Scratch(s) => Memo::Scratch(n, s),
            };
            let slot = place[&memo];
            (buffers[slot].slice(0, (4 * len as u64).max(4)), format!("s{slot}"))
        };

        let mut text = String::new();
        let mut builder = ProgramBuilder::new(gpu);
        let (mut written, mut kernels) = (Vec::new(), Vec::new());
        for (n, (node, (works, launches))) in nodes.iter().zip(steps).enumerate() {
            for (launch, work) in launches.into_iter().zip(works).filter(|(l, _)| l.workgroups > 0) {
                let Launch { shader, header, bindings, params, workgroups } = launch;
                let bound: Vec<_> = bindings.iter().map(|&(name, o)| (name, resolve(n, o.place, o.len))).collect();
                describe(&mut text, written.len(), shader.name, &node.label, &params, &bound);
                let (out, out_name) = bound.last().map(|(_, b)| b.clone()).expect("a kernel binds something");
                written.push((format!("{} ({}) -> {out_name}", shader.name, node.label), out));
                let label = if node.label.is_empty() { node.op.name().into() } else { node.label.clone() };
                let (name, variant) = (shader.name, header.constants_text());
                kernels.push(KernelUse { label: label.clone(), shader: name, variant, workgroups });
                let bindings = bound.into_iter().map(|(name, (slice, _))| (name, slice)).collect();
                builder.push_counted(Dispatch { label, shader, header, bindings, params, workgroups }, work);
            }
        }
        let outputs = outputs
            .iter()
            .map(|&(name, value)| {
                let home = graph.home(value);
                let slice = match leaves.get(&home) {
                    Some(slice) => slice.clone(),
                    None => buffers[place[&Memo::Value(value)]].slice(0, graph.bytes(value)),
                };
                (name.to_owned(), slice)
            })
            .collect();
        Ok(Plan { gpu: gpu.clone(), program: builder.finish()?, inputs, outputs, text, written, kernels, memory })
    }

    /// Fills a leaf of the graph that [`PlanOptions::bind`] gave no memory, before whatever is submitted next. Where no kernel of
    /// the plan reads it, this only checks the arguments.
    ///
    /// # Panics
    /// If there is no such leaf, or if the data have another length than it: a programmer's errors.
    #[track_caller]
    pub fn write<T: bytemuck::NoUninit>(&self, name: &str, data: &[T]) {
        if let Some(buffer) = self.input(name, size_of_val(data)) {
            self.gpu.write(buffer, 0, data);
        }
    }

    /// [`Plan::write`] as a part of a sequence.
    #[track_caller]
    pub fn write_in<T: bytemuck::NoUninit>(&self, sequence: &mut Sequence, name: &str, data: &[T]) {
        if let Some(buffer) = self.input(name, size_of_val(data)) {
            sequence.write(&buffer.all(), data);
        }
    }

    #[track_caller]
    fn input(&self, name: &str, given: usize) -> Option<&Buffer> {
        let Some((bytes, buffer)) = self.inputs.get(name) else { panic!("the plan has no leaf `{name}` to write to") };
        assert_eq!(given as u64, *bytes, "bytes for the leaf `{name}`");
        buffer.as_ref()
    }

    /// Replays the plan once.
    pub fn run(&self) -> Result<()> {
        pollster::block_on(self.run_until(&|| false))
    }

    /// [`Plan::run`] that blocks no thread of the caller, and ends with `Cancelled` between two submits once `should_stop` says so.
    pub async fn run_until(&self, should_stop: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        let mut sequence = Sequence::new(&self.gpu);
        self.run_in(&mut sequence)?;
        sequence.submit_until(should_stop).await
    }

    /// Replays the plan as a part of a sequence: there may be several, which are then submitted together.
    ///
    /// With [`GpuOptions::check_numbers`](crate::gpu::GpuOptions::check_numbers) it goes step by step instead, right away and after
    /// what the sequence holds, looks at what each step wrote, and names the first that made a number which is not finite.
    pub fn run_in(&self, sequence: &mut Sequence) -> Result<()> {
        if self.gpu.checks_numbers() {
            sequence.submit()?;
            return self.run_checking();
        }
        sequence.run(&self.program);
        Ok(())
    }

    fn run_checking(&self) -> Result<()> {
        for (i, (name, slice)) in self.written.iter().enumerate() {
            self.program.run_step(i)?;
            let data: Vec<f32> =
                pollster::block_on(self.gpu.read(&slice.buffer, slice.offset..slice.offset + slice.bytes))?;
            // Index data passes through buffers too; every id below 2^23 reads as a tiny number.
            if let Some(bad) = data.iter().position(|x| !x.is_finite()) {
                return Err(Error::Numeric(format!("step {i}, {name}: element {bad} is {}", data[bad])));
            }
        }
        Ok(())
    }

    /// Where an output lies.
    pub fn output(&self, name: &str) -> &Slice {
        &self.outputs[name]
    }

    /// Reads an output back.
    pub async fn read<T: bytemuck::Pod>(&self, name: &str) -> Result<Vec<T>> {
        let slice = self.output(name);
        self.gpu.read(&slice.buffer, slice.offset..slice.offset + slice.bytes).await
    }

    /// The kernels of one run, in order.
    pub fn kernels(&self) -> &[KernelUse] {
        &self.kernels
    }

    /// Seconds that `times` runs take in one submit, by the device's own clock where it has one. Whatever was submitted
    /// before should have ended.
    pub async fn time(&self, times: usize) -> Result<f64> {
        self.program.time(times).await
    }

    /// What each dispatch of one run has to do.
    pub fn work(&self) -> Vec<StepWork> {
        self.program.work()
    }

    /// Number of dispatches of one run.
    pub fn dispatches(&self) -> usize {
        self.program.len()
    }

    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// One run with the device time of each step.
    pub async fn profile(&self) -> Result<Vec<StepTime>> {
        self.program.profile().await
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// What each dispatch would have to do if this graph were compiled for such an adapter. Needs no device.
pub fn outline(caps: &Caps, graph: &Graph, outputs: &[ValueId]) -> Result<Vec<StepWork>> {
    let live = graph.live_nodes(outputs);
    let (mut steps, mut known) = (Vec::new(), HashMap::new());
    for (_, node) in graph.nodes().iter().enumerate().filter(|(n, _)| live[*n]) {
        let mut launcher = Launcher::new(caps, graph, node);
        node.op.launch(&mut launcher);
        let works = launcher.work();
        if let Some(refusal) = launcher.refusal {
            return Err(refusal);
        }
        let label = if node.label.is_empty() { node.op.name() } else { &node.label };
        for (launch, work) in launcher.launches.iter().zip(works).filter(|(l, _)| l.workgroups > 0) {
            let workgroup = match known.entry((launch.shader.name, launch.header.clone())) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(place) => *place.insert(launch.shader.workgroup(&launch.header)?),
            };
            let (kernel, label, workgroups) = (launch.shader.name, label.to_owned(), launch.workgroups);
            steps.push(StepWork { kernel, label, work, workgroups, workgroup });
        }
    }
    Ok(steps)
}

/// What occupies a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Memo {
    Value(ValueId),
    Scratch(usize, usize),
}

/// One line of a printed plan: `12 matmul encoder.block.0.layer.0.SelfAttention [m=512 n=512 k=64] a=s3 b=... out=s7`.
fn describe(
    text: &mut String,
    step: usize,
    kernel: &str,
    label: &str,
    params: &[(&'static str, crate::gpu::Param)],
    bound: &[(&'static str, (Slice, String))],
) {
    let sizes: Vec<String> = params
        .iter()
        .map(|(name, value)| match value {
            crate::gpu::Param::U32(v) => format!("{name}={v}"),
            crate::gpu::Param::F32(v) => format!("{name}={v}"),
        })
        .collect();
    let operands: Vec<String> = bound.iter().map(|(name, (_, place))| format!("{name}={place}")).collect();
    let _ = writeln!(text, "{step:4} {kernel} {label} [{}] {}", sizes.join(" "), operands.join(" "));
}
