//! Shaders as plain files, specialised by a generated header, with names and layouts from naga's reflection.

use std::fmt::Write as _;

use super::unroll::unroll;
use crate::error::{Error, Result};

/// A kernel's source: one `.wgsl` file of `shaders/`, the files that it shares with others, and the header constants
/// with which it is valid as it stands.
#[derive(Debug)]
pub struct Shader {
    /// Kernel = file = debug label.
    pub name: &'static str,
    pub source: &'static str,
    /// Sources of shared functions, put in front.
    pub shared: &'static [&'static str],
    pub defaults: &'static [(&'static str, Constant)],
}

/// The value of a header constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Constant {
    U32(u32),
    Bool(bool),
}

/// Constants that specialise a shader: `const NAME = value;` lines put in front of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Header {
    pub constants: Vec<(&'static str, Constant)>,
    /// Sources chosen for this variant (element width, storage type), put in front.
    pub parts: Vec<&'static str>,
}

impl Header {
    pub fn new() -> Header {
        Header::default()
    }

    pub fn u32(mut self, name: &'static str, value: u32) -> Header {
        self.constants.push((name, Constant::U32(value)));
        self
    }

    pub fn bool(mut self, name: &'static str, value: bool) -> Header {
        self.constants.push((name, Constant::Bool(value)));
        self
    }

    /// The constants as `NAME=value`, in their order.
    pub fn constants_text(&self) -> String {
        let text = |(name, value): &(&str, Constant)| match value {
            Constant::U32(v) => format!("{name}={v}"),
            Constant::Bool(v) => format!("{name}={v}"),
        };
        self.constants.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    /// Adds a source in front: the way to choose a type.
    pub fn part(mut self, source: &'static str) -> Header {
        self.parts.push(source);
        self
    }
}

impl Shader {
    /// The source that is compiled: [`Shader::as_written`], with marked loops written out.
    ///
    /// # Panics
    /// As `as_written`; or if a marked loop has no constant count.
    pub fn expand(&self, header: &Header) -> String {
        unroll(&self.as_written(header)).unwrap_or_else(|why| panic!("{}.wgsl: {why}", self.name))
    }

    /// Header, parts, shared files and the file itself: what adapters are given that are not better off with loops written out
    /// ([`Caps::unrolls`](super::Caps::unrolls)).
    ///
    /// # Panics
    /// If the header names a constant that the shader does not declare as its default.
    pub fn as_written(&self, header: &Header) -> String {
        for (name, _) in &header.constants {
            let known = self.defaults.iter().any(|(default, _)| default == name);
            assert!(known, "{}.wgsl has no header constant {name}", self.name);
        }
        let mut out = String::new();
        for (name, default) in self.defaults {
            let value = header.constants.iter().find(|(n, _)| n == name).map_or(default, |(_, v)| v);
            let _ = match value {
                Constant::U32(v) => writeln!(out, "const {name} = {v}u;"),
                Constant::Bool(v) => writeln!(out, "const {name} = {v};"),
            };
        }
        for source in header.parts.iter().chain(self.shared).chain([&self.source]) {
            out.push_str(source);
            out.push('\n');
        }
        out
    }
}

/// A shader under a header, by the places in memory where their texts lie: cheap to compare. Texts that lie in several places
/// have several of these.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Address {
    shader: *const Shader,
    constants: Vec<(&'static str, Constant)>,
    parts: Vec<*const str>,
}

// SAFETY: the pointers are only compared, and what they point to is static.
unsafe impl Send for Address {}

impl Address {
    pub fn of(shader: &'static Shader, header: &Header) -> Address {
        let parts = header.parts.iter().map(|part| std::ptr::from_ref(*part)).collect();
        Address { shader, constants: header.constants.clone(), parts }
    }
}

/// What one workgroup of a kernel takes of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Workgroup {
    /// Invocations that run side by side.
    pub invocations: u32,
    /// Bytes of memory that they share.
    pub shared_bytes: u32,
}

impl Shader {
    /// What a workgroup of this variant takes. Needs no device.
    pub fn workgroup(&self, header: &Header) -> Result<Workgroup> {
        workgroup(&parse(self.name, &self.expand(header))?)
    }
}

/// A value of the uniform `Params` of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Param {
    U32(u32),
    F32(f32),
}

impl From<u32> for Param {
    fn from(v: u32) -> Param {
        Param::U32(v)
    }
}

impl From<usize> for Param {
    #[track_caller]
    fn from(v: usize) -> Param {
        Param::U32(u32::try_from(v).expect("a kernel parameter exceeds 32 bits"))
    }
}

impl From<f32> for Param {
    fn from(v: f32) -> Param {
        Param::F32(v)
    }
}

/// One storage or uniform variable of a compiled kernel.
pub(super) struct Binding {
    pub name: String,
    pub index: u32,
    pub writable: bool,
}

/// A compiled pipeline with what reflection says of it.
pub(super) struct Kernel {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    pub name: &'static str,
    pub bindings: Vec<Binding>,
    /// Name, byte offset and whether it is a float, of each member of the uniform `p`.
    params: Vec<(String, u32, bool)>,
    pub params_bytes: u32,
    pub workgroup: Workgroup,
}

impl Kernel {
    pub fn compile(
        device: &wgpu::Device,
        name: &'static str,
        source: &str,
        checked: bool,
        cache: Option<&wgpu::PipelineCache>,
    ) -> Result<Kernel> {
        let module = parse(name, source)?;
        let (bindings, params, params_bytes) = reflect(&module)
            .map_err(|e| Error::Shader(format!("{name}.wgsl is invalid: {}", e.emit_to_string(source))))?;
        let workgroup = workgroup(&module)?;
        // A browser reads WGSL and nothing else; for wgpu the source is parsed once.
        #[cfg(target_family = "wasm")]
        let source = wgpu::ShaderSource::Wgsl(source.into());
        #[cfg(not(target_family = "wasm"))]
        let source = wgpu::ShaderSource::Naga(std::borrow::Cow::Owned(module));
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(name), source };
        let checks =
            if checked { wgpu::ShaderRuntimeChecks::checked() } else { wgpu::ShaderRuntimeChecks::unchecked() };
        // SAFETY: every kernel guards its own loads and stores against the sizes in its parameters; the tests run
        // each of them on each size class with the checks on as well, and compare the results.
        let shader = unsafe { device.create_shader_module_trusted(descriptor, checks) };
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: None,
            module: &shader,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: checked,
                ..Default::default()
            },
            cache,
        });
        let layout = pipeline.get_bind_group_layout(0);
        Ok(Kernel { pipeline, layout, name, bindings, params, params_bytes, workgroup })
    }

    /// The bytes of `Params` for these values.
    ///
    /// # Panics
    /// If a value is missing, unknown or of the wrong type: a bug in the op that launches the kernel.
    pub fn pack_params(&self, values: &[(&'static str, Param)]) -> Vec<u8> {
        let mut bytes = vec![0; self.params_bytes as usize];
        for (name, _) in values {
            assert!(self.params.iter().any(|(n, ..)| n == name), "{}.wgsl has no parameter {name}", self.name);
        }
        for (name, offset, is_float) in &self.params {
            let value = values.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
            let word = match (value, is_float) {
                (Some(Param::U32(v)), false) => v.to_le_bytes(),
                (Some(Param::F32(v)), true) => v.to_le_bytes(),
                (other, _) => panic!("{}.wgsl: parameter {name} is given as {other:?}", self.name),
            };
            bytes[*offset as usize..][..4].copy_from_slice(&word);
        }
        bytes
    }
}

fn parse(name: &str, source: &str) -> Result<naga::Module> {
    naga::front::wgsl::parse_str(source)
        .map_err(|e| Error::Shader(format!("{name}.wgsl does not parse:\n{}", e.emit_to_string(source))))
}

fn workgroup(module: &naga::Module) -> Result<Workgroup> {
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).map_err(|e| Error::Shader(format!("a type without a size: {e}")))?;
    let shared = module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
    let invocations = module.entry_points.first().map_or(0, |main| main.workgroup_size.iter().product());
    Ok(Workgroup { invocations, shared_bytes: shared.map(|(_, v)| layouter[v.ty].size).sum() })
}

type Params = Vec<(String, u32, bool)>;

type Invalid = Box<naga::WithSpan<naga::valid::ValidationError>>;

/// The bindings that `main` uses, and the layout of its uniform `p`.
fn reflect(module: &naga::Module) -> Result<(Vec<Binding>, Params, u32), Invalid> {
    let flags = naga::valid::ValidationFlags::all();
    let info =
        naga::valid::Validator::new(flags, naga::valid::Capabilities::all()).validate(module).map_err(Box::new)?;
    let entry = info.get_entry_point(0);
    let (mut bindings, mut params, mut params_bytes) = (Vec::new(), Vec::new(), 0);
    for (handle, variable) in module.global_variables.iter() {
        let Some(binding) = &variable.binding else { continue };
        if entry[handle].is_empty() {
            continue;
        }
        let name = variable.name.clone().unwrap_or_default();
        if variable.space == naga::AddressSpace::Uniform
            && name == "p"
            && let naga::TypeInner::Struct { members, span } = &module.types[variable.ty].inner
        {
            params_bytes = *span;
            for member in members {
                let is_float = matches!(
                    module.types[member.ty].inner,
                    naga::TypeInner::Scalar(naga::Scalar { kind: naga::ScalarKind::Float, .. })
                );
                params.push((member.name.clone().unwrap_or_default(), member.offset, is_float));
            }
        }
        let writable = matches!(
            variable.space,
            naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE)
        );
        bindings.push(Binding { name, index: binding.binding, writable });
    }
    Ok((bindings, params, params_bytes))
}
