//! Every shader under every header that the program gives it, without a GPU: valid for WebGPU's base limits, translatable to
//! what the drivers of other systems want, and free of what their compilers are known to refuse.
//!
//! `T5_SHADERS_TO=FOLDER` keeps the sources and their translations there: scripts/portability.sh has the compilers
//! themselves read them.

mod addresses;
mod replay;
mod translate;
mod variants;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use naga::back::hlsl::ShaderModel;
use naga::{AddressSpace, ArraySize, Expression, Function, Module, Statement, TypeInner};
use replay::Recorded;
use t5_wgpu::batch::BatchShape;
use t5_wgpu::gpu::Caps;
use t5_wgpu::graph::{Dtype, Launch, Launcher};
use t5_wgpu::model::{Builder, Layout, T5Config};
use t5_wgpu::ops::{Attention, Mask, Tiling};
use translate::{Parsed, parse, to_hlsl, to_msl, to_spirv};
use variants::{PROFILES, VARIANTS};

#[test]
fn sources_keep_to_the_limits_of_webgpu() {
    assert!(VARIANTS.len() > 500, "{} variants", VARIANTS.len());
    for variant in &*VARIANTS {
        let (id, Parsed { module, info }) = (&variant.id, parse(&variant.id, &variant.source));
        let invocations: u32 = module.entry_points[0].workgroup_size.iter().product();
        assert!(invocations <= 256, "{id} has {invocations} invocations a workgroup");
        let used = info.get_entry_point(0);
        let (mut storage, mut uniform, mut shared) = (0, 0, 0);
        for (_, variable) in module.global_variables.iter().filter(|(handle, _)| !used[*handle].is_empty()) {
            match variable.space {
                AddressSpace::Storage { .. } => storage += 1,
                AddressSpace::Uniform => uniform += 1,
                AddressSpace::WorkGroup => {
                    let bytes = module.types[variable.ty].inner.size(module.to_ctx());
                    shared += bytes.next_multiple_of(16);
                }
                _ => {}
            }
        }
        assert!(storage <= 8, "{id} binds {storage} storage buffers");
        assert!(uniform <= 12, "{id} binds {uniform} uniform buffers");
        assert!(shared <= 16 << 10, "{id} uses {shared} bytes of workgroup memory\n{}", variant.source);
    }
}

#[test]
fn sources_translate_to_every_backend() {
    let mut index = String::from("id\tprofiles\tfirst\tconstants\n");
    for variant in &*VARIANTS {
        let id = &variant.id;
        let (parsed, as_written) = (parse(id, &variant.source), parse(id, &variant.as_written));
        let profiles = variant.profiles.iter().copied().collect::<Vec<_>>().join(",");
        let _ = writeln!(index, "{id}\t{profiles}\t{}\t{}", variant.is_first, variant.constants);
        // naga knows no `enable subgroups`, browsers demand it.
        let enable = if variant.uses_subgroups() { "enable subgroups;\n" } else { "" };
        keep(format!("wgsl/{id}.wgsl"), format!("{enable}{}", variant.source).as_bytes());
        for checked in [false, true] {
            let checks = if checked { "checked" } else { "unchecked" };
            // Before 6.0 HLSL has no subgroup operations, before 2.1 Metal, before 1.3 SPIR-V.
            for model in [ShaderModel::V5_1, ShaderModel::V6_0] {
                if variant.needs_dxc() && model == ShaderModel::V5_1 {
                    continue;
                }
                // Model 5.1 is FXC's.
                let parsed = if model == ShaderModel::V5_1 { &as_written } else { &parsed };
                let text = to_hlsl(parsed, model, checked).unwrap_or_else(|e| panic!("{id} to HLSL: {e}"));
                keep(format!("hlsl/{id}.{checks}.{}.hlsl", model.to_str()), text.as_bytes());
            }
            for version in [(2, 0), (2, 4), (3, 1)] {
                if variant.uses_subgroups() && version == (2, 0) {
                    continue;
                }
                let text = to_msl(&parsed, version, checked).unwrap_or_else(|e| panic!("{id} to MSL: {e}"));
                keep(format!("msl/{id}.{checks}.{}_{}.metal", version.0, version.1), text.as_bytes());
            }
            for version in [(1, 0), (1, 3), (1, 5), (1, 6)] {
                if variant.uses_subgroups() && version == (1, 0) {
                    continue;
                }
                let words = to_spirv(&parsed, version, checked).unwrap_or_else(|e| panic!("{id} to SPIR-V: {e}"));
                let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
                keep(format!("spv/{id}.{checks}.{}_{}.spv", version.0, version.1), &bytes);
            }
        }
    }
    keep("index.tsv".into(), index.as_bytes());
}

/// What each case dispatches can be said without a device: every operand has memory, every parameter a value.
#[test]
fn cases_can_be_replayed_elsewhere() {
    for (profile, caps) in PROFILES.iter().filter(|(profile, _)| ["webgpu", "cpu4", "cpu8"].contains(profile)) {
        let recorded = Recorded::of(caps);
        assert!(recorded.cases.len() > 200, "{} cases", recorded.cases.len());
        keep(format!("cases/{profile}.json"), serde_json::to_string(&recorded.cases).expect("plain data").as_bytes());
        keep(format!("cases/{profile}.bin"), &recorded.data);
    }
}

/// Writes a file of `T5_SHADERS_TO`, where that is set.
fn keep(name: String, data: &[u8]) {
    if let Some(folder) = std::env::var_os("T5_SHADERS_TO") {
        let file = PathBuf::from(folder).join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, data).expect("space");
    }
}

/// What compilers behind naga refuse or get wrong, found in what naga makes of a source.
#[test]
fn sources_keep_clear_of_what_other_compilers_refuse() {
    let mut found = BTreeSet::new();
    for variant in &*VARIANTS {
        for source in [&variant.source, &variant.as_written] {
            let module = parse(&variant.id, source).module;
            found.extend(refused(&module).map(|why| format!("{}: {why}", variant.shader)));
        }
    }
    assert!(found.is_empty(), "{}", found.into_iter().collect::<Vec<_>>().join("\n"));
}

/// The check itself: what it must see.
#[test]
fn the_check_sees_what_is_refused() {
    let refusals = |body: &str| {
        let source = format!("alias Load = vec4<f32>;\n@compute @workgroup_size(1) fn main() {{ var i = 1u; {body} }}");
        refused(&parse("planted", &source).module).collect::<Vec<_>>()
    };
    assert_eq!(
        refusals("var v = vec4(0.0); v.y = 1.0; var a = array<vec4<f32>, 2>(v, v); a[i].x = a[i][i];"),
        [] as [&str; 0]
    );
    assert!(refusals("var v = vec4(0.0); v[i] = 1.0;")[0].contains("component"));
    assert!(refusals("var a = array<vec4<f32>, 2>(); a[i][i] = 1.0;")[0].contains("component"));
    assert!(refusals("let l = Load(); var a = array(l, l);")[0].contains("alias"));
    assert!(refusals("var dx = 1.0;")[0].contains("`dx`"));
}

/// naga forgives operators that the grammar of WGSL keeps apart (section 8.19); Tint does not.
#[test]
fn operators_that_do_not_mix_stand_in_brackets() {
    assert_eq!(
        mixed("x = a & b & c; y = (a >> 3u) & 1u; if a + b < c && f(d | e, g << 2u) == 1u { z += a % (b | c); }"),
        [""; 0]
    );
    for line in ["a >> 3u & 1u", "a & b == c", "(a\n | b ^ c)", "a << b + 1u", "f(a && b || c)"] {
        assert_eq!(mixed(line).len(), 1, "{line}");
    }
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders")).expect("shaders/") {
        let file = file.expect("an entry").path();
        let found = mixed(&fs::read_to_string(&file).expect("a shader is readable"));
        assert!(found.is_empty(), "{}: {found:#?}", file.display());
    }
}

/// Expressions of a source that mix operators without brackets, up to the operator that is one too many. Operators have a
/// space on both sides, as all sources here write them: that tells a shift from the end of `vec2<vec2<u32>>`.
fn mixed(source: &str) -> Vec<String> {
    // What may stand beside `<<` and `>>`, beside `&` and so on: nothing but, for the last three, more of the same.
    let kind = |operator: &str| match operator {
        "+" | "-" | "*" | "/" | "%" => Some("arithmetic"),
        "<<" | ">>" => Some("shift"),
        "<" | ">" | "<=" | ">=" | "==" | "!=" => Some("comparison"),
        "&" | "|" | "^" | "&&" | "||" => Some("logic"),
        _ => None,
    };
    let mixes = |a: &str, b: &str| match (kind(a), kind(b)) {
        (Some("shift"), Some("comparison")) | (Some("comparison"), Some("shift")) => true,
        (Some("shift"), Some(_)) | (Some(_), Some("shift")) => false,
        (Some("logic"), Some("logic")) => a == b,
        (Some("logic"), _) => a == "&&" || a == "||",
        (_, Some("logic")) => b == "&&" || b == "||",
        _ => true,
    };
    let text: Vec<&str> = source.lines().map(|line| line.split("//").next().unwrap_or_default().trim()).collect();
    let spaced =
        text.join(" ").replace(['(', '['], " ( ").replace([')', ']'], " ) ").replace([',', ';', '{', '}'], " ; ");
    let mut found = Vec::new();
    // The operators of each expression that is open, and its text.
    let mut open = vec![(Vec::<&str>::new(), String::new())];
    for word in spaced.split_whitespace() {
        if word == "(" {
            open.push(Default::default());
        } else if word == ")" && open.len() > 1 {
            open.pop();
        } else if word == ";" || (word.ends_with('=') && kind(word).is_none()) {
            open.last_mut().map(std::mem::take);
        } else if let Some((operators, text)) = open.last_mut() {
            text.push_str(word);
            text.push(' ');
            if kind(word).is_some() {
                if !operators.iter().all(|other| mixes(other, word)) {
                    found.push(text.clone());
                }
                operators.push(word);
            }
        }
    }
    found
}

/// What a card's compiler leaves in memory: naga writes loops that no compiler counts, and an array that such a loop indexes
/// finds no place in registers. `/* unroll */` writes a loop out.
#[test]
fn products_and_attention_of_cards_stay_in_registers() {
    // But for what is made for processors, with walks inside its loops that would be written out eight times. The rules give cards
    // another kernel.
    let for_cards = |variant: &&variants::Variant| {
        ["card", "webgpu"].iter().any(|p| variant.profiles.contains(p))
            && ["matmul", "attention"].iter().any(|name| variant.shader.starts_with(name))
            && variant.shader != "matmul_rows"
    };
    assert!(VARIANTS.iter().filter(for_cards).count() > 300);
    let mut found = BTreeSet::new();
    for variant in VARIANTS.iter().filter(for_cards) {
        let parsed = parse(&variant.id, &variant.source);
        found.extend(indexed_arrays(&parsed).map(|name| format!("{}: {name}", variant.shader)));
    }
    assert!(found.is_empty(), "indexed by variables: {found:#?}");
}

#[test]
fn indexed_arrays_are_seen() {
    let seen = |body: &str| {
        let source = format!(
            "const N = 2u; var<workgroup> w: array<u32, N>; fn f() -> array<u32, N> {{ return array(1u, 2u); }}
            @compute @workgroup_size(1) fn main() {{ var i = 1u; var a: array<u32, N>; var v = vec2(0u); {body} }}"
        );
        indexed_arrays(&parse("planted", &source)).collect::<Vec<_>>()
    };
    assert_eq!(seen("a[0u * N + 1u] = w[i] + v[i];"), [""; 0]);
    assert_eq!(seen("a[i] = 1u;"), ["a"]);
    assert_eq!(seen("let b = f(); let c = a; i = b[i] + c[i] + a[i];").len(), 3);
}

#[test]
fn fxc_is_spared_staged_attention() {
    let sizes = Attention {
        batch: 1,
        heads: 8,
        d_kv: 64,
        q_len: 512,
        kv_len: 512,
        mask: Mask::Padded,
        fused: true,
        reach: None,
        query_block: 1,
        dropout: 0.0,
        site: 0,
        tiling: None,
    };
    let first = |compiler| sizes.candidates(&Caps { kind: "discrete GPU", compiler, ..Caps::default() })[0];
    assert_eq!(first("naga to HLSL, then DXC, built in"), Tiling::Staged);
    for compiler in ["naga to HLSL, then FXC (d3dcompiler_47.dll)", "naga to HLSL, then DXC or FXC"] {
        assert_eq!(first(compiler), Tiling::Workgroup { side: 8 });
    }
}

/// A card fetches memory in lines for all invocations that run side by side: a step of decoding, which takes as long as its
/// weights take to come, must use all of each.
#[test]
fn neighbours_read_neighbouring_weights() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8, Dtype::Q4, Dtype::Q5K, Dtype::Q6K] {
        let shares = used_shares("card", dtype);
        assert!(shares.len() > 60, "{} products", shares.len());
        // Rows of these, with their scales, are no whole number of lines: each eight loads, half a kilobyte, begin within a line,
        // whose other part is that of the turn before.
        let least = if matches!(dtype, Dtype::Q5K | Dtype::Q6K) { 0.88 } else { 0.99 };
        for (kernel, share) in shares {
            assert!(share > least, "{kernel}: {dtype:?} weights are {share} of the lines that 32 neighbours fetch");
        }
    }
    // Software adapters have kernels that do not care: what the test must see.
    assert!(used_shares("cpu", Dtype::F32).iter().all(|(_, share)| *share < 0.5));
}

/// For each product of a step of T5-base, how much of the lines that neighbours fetch they use.
fn used_shares(profile: &str, dtype: Dtype) -> Vec<(String, f64)> {
    let caps: &Caps = &PROFILES.iter().find(|(name, _)| *name == profile).expect("a known kind").1;
    let config = T5Config::preset("t5-base").expect("a known name");
    let layout = Layout::new(&config, false, caps, &|_| dtype).expect("no table is too large");
    let shape = BatchShape { batch: 1, src_len: 512, tgt_len: 480, packed: false };
    let mut builder = Builder::on_layout(&config, &layout, 1.0, shape, 0.0);
    builder.decode_step(1, 0);
    let mut shares = Vec::new();
    for node in builder.graph.nodes() {
        let mut launcher = Launcher::new(caps, &builder.graph, node);
        node.op.launch(&mut launcher);
        for launch in launcher.launches.iter().filter(|l| l.bindings.iter().any(|(name, _)| *name == "b")) {
            let name = format!("{} {}", launch.shader.name, launch.header.constants_text());
            shares.push((name, used_share(launch)));
        }
    }
    shares
}

/// How much of the lines of weights `b` that 32 neighbours fetch in one turn of their innermost loop they use.
fn used_share(launch: &Launch) -> f64 {
    const LINE: u32 = 64;
    let module = parse(launch.shader.name, &launch.shader.expand(&launch.header)).module;
    let mut words = BTreeSet::new();
    for lane in 0..32 {
        let reads = addresses::reads(&module, &launch.params, launch.workgroups as u32 / 2, lane);
        let own: Vec<_> = reads.iter().filter(|read| read.variable == "b").collect();
        // A row of few loads leaves the last lanes without one.
        let Some(first) = own.first().map(|read| read.turn) else { continue };
        words.extend(own.iter().filter(|read| read.turn == first).flat_map(|read| read.bytes.clone().step_by(4)));
    }
    assert!(!words.is_empty(), "a product reads its weights");
    let lines: BTreeSet<u32> = words.iter().map(|word| word / LINE).collect();
    f64::from(4 * words.len() as u32) / f64::from(LINE * lines.len() as u32)
}

/// The arrays of its own that a function indexes by what is no constant.
fn indexed_arrays(Parsed { module, info }: &Parsed) -> impl Iterator<Item = String> {
    let functions = module.functions.iter().map(|(handle, f)| (f, &info[handle]));
    let main = (&module.entry_points[0].function, info.get_entry_point(0));
    let mut found = Vec::new();
    for (function, info) in functions.chain([main]) {
        for (_, expression) in function.expressions.iter() {
            let Expression::Access { base, .. } = *expression else { continue };
            let is_array = match *info[base].ty.inner_with(&module.types) {
                TypeInner::Array { .. } => true,
                TypeInner::Pointer { base, space: AddressSpace::Function } => {
                    matches!(module.types[base].inner, TypeInner::Array { .. })
                }
                _ => false,
            };
            if is_array {
                let name = match function.expressions[base] {
                    Expression::LocalVariable(v) => function.local_variables[v].name.clone(),
                    _ => function.named_expressions.get(&base).cloned(),
                };
                found.push(name.unwrap_or_else(|| "an array without a name".into()));
            }
        }
    }
    found.into_iter()
}

fn refused(module: &Module) -> impl Iterator<Item = String> {
    let mut found = Vec::new();
    for (_, ty) in module.types.iter() {
        if let TypeInner::Array { base, size: ArraySize::Constant(_), .. } = ty.inner
            && let base = &module.types[base]
            && let (Some(alias), false) = (&base.name, matches!(base.inner, TypeInner::Struct { .. }))
        {
            found.push(format!("an array of the alias {alias}: naga writes the helpers of such a type twice, and DXC and FXC refuse that"));
        }
    }
    let functions = || module.functions.iter().map(|(_, f)| f).chain(module.entry_points.iter().map(|e| &e.function));
    let globals = module.global_variables.iter().filter_map(|(_, v)| v.name.as_ref());
    let locals = functions().flat_map(|f| {
        let arguments = f.arguments.iter().filter_map(|a| a.name.as_ref());
        arguments
            .chain(f.local_variables.iter().filter_map(|(_, v)| v.name.as_ref()))
            .chain(f.named_expressions.values())
    });
    for name in globals.chain(locals).filter(|name| RESERVED.contains(&name.as_str())) {
        found.push(format!("`{name}` is a namespace of DXC's, which naga does not rename"));
    }
    for function in functions() {
        statements(&function.body, &mut |statement| {
            if let Statement::Store { pointer, .. } = *statement
                && let Expression::Access { base, .. } = function.expressions[pointer]
                && points_to_vector(module, function, base)
            {
                found
                    .push("a store to a vector's component by an index that is no constant: FXC refuses it".to_owned());
            }
        });
    }
    found.into_iter()
}

/// Names that naga does not know as reserved.
const RESERVED: [&str; 2] = ["dx", "vk"];

fn statements(block: &naga::Block, see: &mut dyn FnMut(&Statement)) {
    for statement in block.iter() {
        see(statement);
        match statement {
            Statement::Block(b) => statements(b, see),
            Statement::If { accept, reject, .. } => [accept, reject].into_iter().for_each(|b| statements(b, see)),
            Statement::Switch { cases, .. } => cases.iter().for_each(|c| statements(&c.body, see)),
            Statement::Loop { body, continuing, .. } => [body, continuing].into_iter().for_each(|b| statements(b, see)),
            _ => {}
        }
    }
}

/// Whether a pointer leads to a vector, or to a matrix's column.
fn points_to_vector(module: &Module, function: &Function, pointer: naga::Handle<Expression>) -> bool {
    inner_of(module, function, pointer).is_some_and(|inner| matches!(inner, TypeInner::Vector { .. }))
}

/// The type that a pointer leads to; `None` for a component's.
fn inner_of(module: &Module, function: &Function, pointer: naga::Handle<Expression>) -> Option<TypeInner> {
    let ty = |handle: naga::Handle<naga::Type>| module.types[handle].inner.clone();
    match function.expressions[pointer] {
        Expression::LocalVariable(v) => Some(ty(function.local_variables[v].ty)),
        Expression::GlobalVariable(v) => Some(ty(module.global_variables[v].ty)),
        Expression::FunctionArgument(i) => match ty(function.arguments[i as usize].ty) {
            TypeInner::Pointer { base, .. } => Some(ty(base)),
            TypeInner::ValuePointer { size: Some(size), scalar, .. } => Some(TypeInner::Vector { size, scalar }),
            _ => None,
        },
        Expression::Access { base, .. } => element(module, inner_of(module, function, base)?, 0),
        Expression::AccessIndex { base, index } => element(module, inner_of(module, function, base)?, index as usize),
        _ => None,
    }
}

fn element(module: &Module, inner: TypeInner, index: usize) -> Option<TypeInner> {
    match inner {
        TypeInner::Array { base, .. } => Some(module.types[base].inner.clone()),
        TypeInner::Struct { members, .. } => Some(module.types[members.get(index)?.ty].inner.clone()),
        TypeInner::Matrix { rows, scalar, .. } => Some(TypeInner::Vector { size: rows, scalar }),
        _ => None,
    }
}

#[test]
fn every_file_is_used() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let files = fs::read_dir(folder).expect("shaders/").map(|f| f.expect("an entry").path());
    let code = |line: &str| line.split("//").next().unwrap_or_default().trim_end().to_owned();
    let lines: Vec<BTreeSet<String>> =
        VARIANTS.iter().map(|variant| variant.source.lines().map(code).collect()).collect();
    let unused: BTreeSet<_> = files
        .filter(|file| {
            let text = fs::read_to_string(file).expect("a shader is readable");
            if text.contains("@compute") {
                return !VARIANTS.iter().any(|variant| file.file_stem().is_some_and(|stem| stem == variant.shader));
            }
            // A part: what it declares outside of functions, since their bodies may be written out.
            let own = |line: &String| !line.is_empty() && !line.starts_with([' ', '}']);
            let declared: Vec<String> = text.lines().map(code).filter(own).collect();
            !lines.iter().any(|lines| declared.iter().all(|line| lines.contains(line)))
        })
        .collect();
    assert!(unused.is_empty(), "no variant holds {unused:?}");
}
