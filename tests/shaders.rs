//! Every shader under every header that the program gives it, without a GPU: valid for WebGPU's base limits, and
//! translatable to what the drivers of other systems want.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use naga::valid::{Capabilities, ModuleInfo, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, Module};
use t5_wgpu::bench;
use t5_wgpu::gpu::{Caps, Header, Shader};
use t5_wgpu::graph::{Dtype, Graph, Launcher};
use t5_wgpu::model::T5Config;
use t5_wgpu::ops::{Attention, Mask};
use t5_wgpu::train::optimizer;
use t5_wgpu::verify::{cases, large_cases};

/// Adapters that make the ops choose differently: software ones with fixed subgroups, a GPU without any.
fn adapters() -> Vec<Caps> {
    let caps = |kind, subgroup| Caps { kind, subgroup, max_binding: 128 << 20, ..Caps::default() };
    vec![caps("CPU", Some((8, 8))), caps("CPU", Some((4, 4))), caps("discrete GPU", None)]
}

/// Expanded sources, with their shader's name.
#[derive(Default)]
struct Sources(BTreeMap<String, &'static str>);

impl Sources {
    fn add(&mut self, shader: &'static Shader, header: &Header) {
        self.0.insert(shader.expand(header), shader.name);
        // The constants' defaults must do as well.
        let defaults = Header { constants: Vec::new(), ..header.clone() };
        self.0.insert(shader.expand(&defaults), shader.name);
    }

    fn add_graph(&mut self, graph: &Graph) {
        for caps in adapters() {
            for node in graph.nodes() {
                let mut launcher = Launcher::new(&caps, graph, node);
                node.op.launch(&mut launcher);
                for launch in &launcher.launches {
                    self.add(launch.shader, &launch.header);
                }
            }
        }
    }

    fn all() -> Sources {
        let mut sources = Sources::default();
        for case in cases().iter().chain(&large_cases()) {
            let forward = case.build();
            sources.add_graph(&forward.graph);
            if !forward.differentiable.is_empty() {
                sources.add_graph(&case.build_backward(true).0.graph);
                sources.add_graph(&case.build_backward(false).0.graph);
            }
        }
        for (d_kv, reach) in [(64, 128), (128, T5Config::MAX_DISTANCE)] {
            for mask in [Mask::Padded, Mask::Segments] {
                sources.add_graph(&attention(d_kv, reach, mask));
            }
        }
        for (shader, header) in [optimizer::kernels(), bench::kernels()].concat() {
            sources.add(shader, &header);
        }
        sources
    }
}

/// Encoder self-attention with dropout and its gradient.
fn attention(d_kv: usize, reach: usize, mask: Mask) -> Graph {
    let [batch, heads, len] = [2, 3, 50];
    let op = Attention {
        batch,
        heads,
        d_kv,
        q_len: len,
        kv_len: len,
        mask,
        fused: true,
        reach: Some(reach),
        dropout: 0.1,
        site: 1,
        tiling: None,
    };
    let mut graph = Graph::new();
    let qkv = graph.leaf("qkv", &[batch * len, 3 * heads * d_kv], Dtype::F32);
    let bias = graph.leaf("bias", &[heads, 2 * reach + 1], Dtype::F32);
    let sees = match mask {
        Mask::Segments => ["keys", "queries"].map(|name| graph.leaf(name, &[batch * len, 2], Dtype::U32)).to_vec(),
        _ => vec![graph.leaf("lens", &[batch], Dtype::U32)],
    };
    let key = graph.leaf("key", &[4], Dtype::U32);
    let seed = graph.leaf("seed", &[batch * len, heads * d_kv], Dtype::F32);
    let out = graph.push(op, &[[qkv, bias].as_slice(), &sees, &[key]].concat())[0];
    graph.backward(&[(out, seed)], &[(qkv, None), (bias, None)]);
    graph
}

/// Parses and validates with what every WebGPU adapter grants, and subgroup operations where the source uses them.
fn validate(name: &str, source: &str) -> (Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|e| panic!("{name}: {}\n{source}", e.emit_to_string(source)));
    // WebGPU has unpack2x16float on every adapter, without the type f16.
    let base = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let capabilities = if uses_subgroups(source) { base | Capabilities::SUBGROUP } else { base };
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{name}: {}\n{source}", e.emit_to_string(source)));
    (module, info)
}

fn uses_subgroups(source: &str) -> bool {
    source.contains("subgroup")
}

#[test]
fn sources_keep_to_the_limits_of_webgpu() {
    let sources = Sources::all();
    assert!(sources.0.len() > 100, "{} sources", sources.0.len());
    for (source, name) in &sources.0 {
        let (module, info) = validate(name, source);
        assert_eq!(module.entry_points.len(), 1, "{name}");
        let invocations: u32 = module.entry_points[0].workgroup_size.iter().product();
        assert!(invocations <= 256, "{name} has {invocations} invocations a workgroup");
        let used = info.get_entry_point(0);
        let (mut storage, mut uniform, mut shared) = (0, 0, 0);
        for (handle, variable) in module.global_variables.iter() {
            match variable.space {
                _ if used[handle].is_empty() => {}
                AddressSpace::Storage { .. } => storage += 1,
                AddressSpace::Uniform => uniform += 1,
                AddressSpace::WorkGroup => {
                    let bytes = module.types[variable.ty].inner.size(module.to_ctx());
                    shared += bytes.next_multiple_of(16);
                }
                _ => {}
            }
        }
        assert!(storage <= 8, "{name} binds {storage} storage buffers");
        assert!(uniform <= 12, "{name} binds {uniform} uniform buffers");
        assert!(shared <= 16 << 10, "{name} uses {shared} bytes of workgroup memory\n{source}");
    }
}

#[test]
fn sources_translate_to_every_backend() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut files = Vec::new();
    for (index, (source, name)) in Sources::all().0.iter().enumerate() {
        let (module, info) = validate(name, source);
        let spirv = to_spirv(&module, &info).unwrap_or_else(|e| panic!("{name} to SPIR-V: {e}"));
        to_hlsl(&module, &info).unwrap_or_else(|e| panic!("{name} to HLSL: {e}"));
        to_msl(&module, &info).unwrap_or_else(|e| panic!("{name} to MSL: {e}"));
        let file = folder.path().join(format!("{name}.{index}.spv"));
        std::fs::write(&file, spirv.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>()).expect("space");
        files.push(file);
    }
    let options = ["--target-env", "vulkan1.1"];
    check_files("spirv-val", "of the package spirv-tools", &options, &files);
}

/// Chromium's compiler is stricter than naga: barriers must lie in uniform control flow.
#[test]
fn browsers_accept_the_sources() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut files = Vec::new();
    for (index, (source, name)) in Sources::all().0.iter().enumerate() {
        // naga knows no `enable subgroups`, browsers demand it.
        let enable = if uses_subgroups(source) { "enable subgroups;\n" } else { "" };
        let file = folder.path().join(format!("{name}.{index}.wgsl"));
        std::fs::write(&file, format!("{enable}{source}")).expect("space");
        files.push(file);
    }
    check_files("tint", "of Dawn", &["--format", "wgsl"], &files);
}

/// Runs a program on each file, where it is installed.
fn check_files(program: &str, whose: &str, options: &[&str], files: &[PathBuf]) {
    if Command::new(program).arg("--help").output().is_err() {
        eprintln!("{program} ({whose}) is not in PATH: what it would check stays unchecked");
        return;
    }
    for file in files {
        let checked = Command::new(program).args(options).arg(file).output().expect("it runs");
        let message = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success(), "{program} {}: {message}", file.display());
    }
    eprintln!("{program} accepts {} files", files.len());
}

fn to_spirv(module: &Module, info: &ModuleInfo) -> Result<Vec<u32>, naga::back::spv::Error> {
    let options = naga::back::spv::Options { lang_version: (1, 3), ..Default::default() };
    naga::back::spv::write_vec(module, info, &options, None)
}

fn to_hlsl(module: &Module, info: &ModuleInfo) -> Result<String, naga::back::hlsl::Error> {
    let options = naga::back::hlsl::Options { shader_model: naga::back::hlsl::ShaderModel::V6_0, ..Default::default() };
    let (mut text, pipeline) = (String::new(), Default::default());
    let written = naga::back::hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None)?;
    for name in written.entry_point_names {
        name.expect("bindings are made up");
    }
    Ok(text)
}

fn to_msl(module: &Module, info: &ModuleInfo) -> Result<String, naga::back::msl::Error> {
    let options = naga::back::msl::Options { lang_version: (2, 4), ..Default::default() };
    let (text, written) = naga::back::msl::write_string(module, info, &options, &Default::default())?;
    for name in written.entry_point_names {
        name.expect("bindings are made up");
    }
    Ok(text)
}

#[test]
fn every_file_is_used() {
    let sources = Sources::all();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let files = std::fs::read_dir(folder).expect("shaders/").map(|f| f.expect("an entry").path());
    let unused: BTreeSet<_> = files
        .filter(|file| {
            let text = std::fs::read_to_string(file).expect("a shader is readable");
            !sources.0.keys().any(|source| source.contains(&text))
        })
        .collect();
    assert!(unused.is_empty(), "no case reaches {unused:?}");
}
