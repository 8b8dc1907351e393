//! The cases of `t5 verify` as plain data, for WebGPU implementations other than wgpu: what to dispatch on what memory, and
//! what the f64 oracle says of the result.

use std::collections::HashMap;

use naga::TypeInner;
use serde_json::{Value, json};
use t5_wgpu::gpu::{Caps, Param};
use t5_wgpu::graph::{Dtype, Launch, Launcher, Place, ValueId, interpret};
use t5_wgpu::verify::{CaseBuilder, KERNEL_TOLERANCE, cases};

use crate::translate::parse;
use crate::variants::VARIANTS;

/// Cases for one kind of adapter: a description, and the numbers that it gives the places of.
#[derive(Default)]
pub struct Recorded {
    pub cases: Vec<Value>,
    /// Little-endian words of the leaves, f64 of the references.
    pub data: Vec<u8>,
    kernels: HashMap<String, Kernel>,
}

/// What a source binds: its id, the places of its variables by name, the members of its uniform `p`.
struct Kernel {
    id: String,
    bindings: HashMap<String, u32>,
    params: Vec<(String, usize)>,
}

/// What has a buffer of its own: a leaf or a value that is stored in none, or a node's scratch.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Memory {
    Value(ValueId),
    Scratch(usize, usize),
}

impl Recorded {
    /// Every forward pass and every gradient as an adapter with these capabilities would run it.
    pub fn of(caps: &Caps) -> Recorded {
        let mut recorded = Recorded::default();
        for case in cases() {
            let tolerance = KERNEL_TOLERANCE * case.slack;
            let forward = case.build();
            recorded.add(caps, format!("{} forward", case.name), &forward, &forward.outputs, tolerance);
            if !forward.differentiable.is_empty() {
                for (accumulate, part) in [(true, "gradient"), (false, "gradient mid-graph")] {
                    let (built, gradients) = case.build_backward(accumulate);
                    recorded.add(caps, format!("{} {part}", case.name), &built, &gradients, tolerance);
                }
            }
        }
        recorded
    }

    fn add(&mut self, caps: &Caps, name: String, built: &CaseBuilder, outputs: &[(String, ValueId)], tolerance: f64) {
        let graph = &built.graph;
        let wanted: Vec<ValueId> = outputs.iter().map(|(_, value)| *value).collect();
        let live = graph.live_nodes(&wanted);
        let mut buffers: Vec<Value> = Vec::new();
        let mut known: HashMap<Memory, usize> = HashMap::new();
        let mut steps = Vec::new();
        for (n, node) in graph.nodes().iter().enumerate().filter(|(n, _)| live[*n]) {
            let mut launcher = Launcher::new(caps, graph, node);
            node.op.launch(&mut launcher);
            for launch in launcher.launches.iter().filter(|l| l.workgroups > 0) {
                let mut bound: HashMap<&str, usize> = HashMap::new();
                for (name, operand) in &launch.bindings {
                    let memory = match operand.place {
                        Place::Value(value) => Memory::Value(graph.home(value)),
                        Place::Scratch(number) => Memory::Scratch(n, number),
                    };
                    let buffer = *known.entry(memory).or_insert_with(|| {
                        buffers.push(match memory {
                            Memory::Value(value) => self.memory(built, value),
                            Memory::Scratch(..) => json!({ "bytes": 4 * operand.len }),
                        });
                        buffers.len() - 1
                    });
                    bound.insert(name, buffer);
                }
                steps.push(self.step(launch, &bound, caps));
            }
        }
        let references = interpret(graph, &wanted, &mut built.leaves.clone());
        let outputs: Vec<_> = outputs
            .iter()
            .zip(references)
            .map(|((name, value), reference)| {
                let buffer = known[&Memory::Value(graph.home(*value))];
                let at = self.data.len().next_multiple_of(8);
                self.data.resize(at, 0);
                self.data.extend(reference.data.iter().flat_map(|x| x.to_le_bytes()));
                let whole = graph.value(*value).dtype == Dtype::U32;
                json!({ "name": name, "buffer": buffer, "at": at, "len": reference.data.len(), "whole": whole })
            })
            .collect();
        let case =
            json!({ "name": name, "tolerance": tolerance, "buffers": buffers, "steps": steps, "outputs": outputs });
        self.cases.push(case);
    }

    /// A value's buffer; a leaf's has its contents at `at`.
    fn memory(&mut self, built: &CaseBuilder, value: ValueId) -> Value {
        let (info, bytes) = (built.graph.value(value), built.graph.bytes(value));
        let words = built.memory(info).expect("a case's numbers fit its types").filter(|_| info.is_leaf);
        let Some(words) = words else { return json!({ "bytes": bytes }) };
        let at = self.data.len();
        self.data.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        json!({ "bytes": bytes, "at": at })
    }

    fn step(&mut self, launch: &Launch, bound: &HashMap<&str, usize>, caps: &Caps) -> Value {
        let source = launch.shader.expand(&launch.header);
        let kernel = self.kernels.entry(source).or_insert_with_key(|source| Kernel::read(source));
        let limit = u64::from(caps.max_workgroups_per_dim);
        let rows = launch.workgroups.div_ceil(limit);
        let grid = [launch.workgroups.div_ceil(rows), rows];
        let words: HashMap<&str, u32> = launch
            .params
            .iter()
            .map(|&(name, value)| match value {
                Param::U32(v) => (name, v),
                Param::F32(v) => (name, v.to_bits()),
            })
            .chain([("grid_x", grid[0] as u32), ("first_group", 0)])
            .collect();
        let mut params = vec![0; kernel.params.iter().map(|(_, word)| word + 1).max().unwrap_or(0).next_multiple_of(4)];
        for (name, word) in &kernel.params {
            params[*word] = words[name.as_str()];
        }
        let bindings: Vec<_> = kernel
            .bindings
            .iter()
            .map(|(name, index)| json!([index, if name == "p" { Value::Null } else { bound[name.as_str()].into() }]))
            .collect();
        json!({ "kernel": kernel.id, "params": params, "bindings": bindings, "grid": grid })
    }
}

impl Kernel {
    fn read(source: &str) -> Kernel {
        let variant = VARIANTS.iter().find(|v| v.source == source).expect("every launch is among the variants");
        let parsed = parse(&variant.id, source);
        let used = parsed.info.get_entry_point(0);
        let mut kernel = Kernel { id: variant.id.clone(), bindings: HashMap::new(), params: Vec::new() };
        for (_, variable) in parsed.module.global_variables.iter().filter(|(handle, _)| !used[*handle].is_empty()) {
            let (Some(name), Some(place)) = (&variable.name, variable.binding) else { continue };
            if let (TypeInner::Struct { members, .. }, "p") = (&parsed.module.types[variable.ty].inner, name.as_str()) {
                let member = |m: &naga::StructMember| (m.name.clone().unwrap_or_default(), m.offset as usize / 4);
                kernel.params = members.iter().map(member).collect();
            }
            kernel.bindings.insert(name.clone(), place.binding);
        }
        kernel
    }
}
