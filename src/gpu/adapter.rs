//! Finds an adapter, describes it, and opens its device.

use std::sync::OnceLock;

use super::GpuOptions;
use crate::error::{Error, Result};

/// What the engine needs to know of an adapter, as plain data.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Caps {
    pub name: String,
    /// The maker's number in PCI's list, or in Khronos's where it is above 65,535; 0 where the backend does not say.
    pub vendor: u32,
    pub driver: String,
    pub driver_info: String,
    pub backend: String,
    /// What compiles its shaders.
    pub compiler: &'static str,
    /// "discrete GPU", "integrated GPU", "virtual GPU", "CPU" or "other".
    pub kind: &'static str,
    /// Smallest and largest subgroup; `None` where shaders cannot use subgroup operations.
    pub subgroup: Option<(u32, u32)>,
    pub f16: bool,
    /// Products of small matrices that it has units for: `16x16x16 f16 to f32`, where wgpu can use them. No kernel does so far.
    pub matrix_units: Vec<String>,
    pub timestamps: bool,
    /// Bytes that one storage binding may span; bigger tables are split by rows.
    pub max_binding: u64,
    /// Bytes of one shard of such a table.
    pub table_bytes: u64,
    pub max_buffer: u64,
    pub max_invocations: u32,
    pub max_workgroup_bytes: u32,
    pub max_storage_bindings: u32,
    pub max_workgroups_per_dim: u32,
    /// Iterations, of all its loops together, after which the driver silently ends an invocation's loops.
    pub max_iterations: Option<u32>,
    /// Bytes to which the start of a storage or uniform window must be aligned.
    pub alignment: u64,
}

impl Caps {
    pub(super) fn of(adapter: &wgpu::Adapter, dx12: &wgpu::Dx12Compiler) -> Caps {
        let compiler = compiler(adapter.get_info().backend, dx12);
        let caps = Caps::new(adapter.get_info(), &adapter.limits(), adapter.features(), compiler);
        let unit = |unit: &wgpu::CooperativeMatrixProperties| {
            let wgpu::CooperativeMatrixProperties { m_size, n_size, k_size, ab_type, cr_type, .. } = unit;
            format!("{m_size}x{n_size}x{k_size} {ab_type:?} to {cr_type:?}").to_lowercase()
        };
        Caps { matrix_units: adapter.cooperative_matrix_properties().iter().map(unit).collect(), ..caps }
    }

    /// Whether kernels gain from loops that are written out: FXC takes two to six times as long over them.
    pub fn unrolls(&self) -> bool {
        !self.compiler.contains("FXC")
    }

    /// What a device can do that somebody else has opened.
    pub(super) fn of_device(device: &wgpu::Device) -> Result<Caps> {
        let (info, limits) = (device.adapter_info(), device.limits());
        if let Some(lack) = lacking(&limits) {
            return Err(Error::Adapter(format!(
                "the device of {} {lack}: open it with the adapter's limits",
                info.name
            )));
        }
        // Which compiler of DirectX 12 was chosen, nobody says.
        let compiler = compiler(info.backend, &wgpu::Dx12Compiler::Auto);
        Ok(Caps::new(info, &limits, device.features(), compiler))
    }

    fn new(info: wgpu::AdapterInfo, limits: &wgpu::Limits, features: wgpu::Features, compiler: &'static str) -> Caps {
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete GPU",
            wgpu::DeviceType::IntegratedGpu => "integrated GPU",
            wgpu::DeviceType::VirtualGpu => "virtual GPU",
            wgpu::DeviceType::Cpu => "CPU",
            wgpu::DeviceType::Other => "other",
        };
        let subgroup =
            features.contains(wgpu::Features::SUBGROUP).then_some((info.subgroup_min_size, info.subgroup_max_size));
        // LP_MAX_TGSI_LOOP_ITERATIONS of Mesa's gallivm: there in 22.3.6, gone in 25.0.7.
        let max_iterations = old_lavapipe(&info.driver, &info.driver_info, 25).then_some(65_535);
        Caps {
            name: info.name,
            vendor: info.vendor,
            driver: info.driver,
            driver_info: info.driver_info,
            backend: info.backend.to_string(),
            compiler,
            kind,
            subgroup,
            f16: features.contains(wgpu::Features::SHADER_F16),
            matrix_units: Vec::new(),
            timestamps: features.contains(TIMESTAMPS),
            max_binding: limits.max_storage_buffer_binding_size,
            table_bytes: limits.max_storage_buffer_binding_size,
            max_buffer: limits.max_buffer_size,
            max_invocations: limits.max_compute_invocations_per_workgroup,
            max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
            max_storage_bindings: limits.max_storage_buffers_per_shader_stage,
            max_workgroups_per_dim: limits.max_compute_workgroups_per_dimension,
            max_iterations,
            alignment: u64::from(
                limits.min_storage_buffer_offset_alignment.max(limits.min_uniform_buffer_offset_alignment),
            ),
        }
    }

    /// Software rasterisers run shaders on the processor: other kernels suit them than suit a GPU.
    pub fn is_cpu(&self) -> bool {
        self.kind == "CPU"
    }

    /// Whether the driver compiles a kernel at its first dispatch and not when its pipeline is made: Mesa's lavapipe.
    pub(super) fn compiles_late(&self) -> bool {
        self.driver == "llvmpipe"
    }

    /// The subgroup size where it is one fixed number, so that a shader may rely on it.
    pub fn fixed_subgroup(&self) -> Option<u32> {
        self.subgroup.and_then(|(min, max)| (min == max && min > 0).then_some(min))
    }

    /// A warning worth printing about this driver, if there is one.
    pub fn warning(&self) -> Option<String> {
        old_lavapipe(&self.driver, &self.driver_info, 23)
            .then(|| format!("{} is old: it runs shaders 4-6x slower than Mesa 25", self.driver_info))
    }
}

/// Name, kind, backend and driver: what belongs beside every measurement.
impl std::fmt::Display for Caps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Caps { name, kind, backend, driver, driver_info, .. } = self;
        write!(f, "{name} ({kind}, {backend}, {driver} {driver_info})")
    }
}

/// Whether the driver is Mesa's software one, of a version before `major`.
fn old_lavapipe(driver: &str, driver_info: &str, major: u32) -> bool {
    let version = driver_info.strip_prefix("Mesa ").and_then(|v| v.split('.').next()?.parse().ok());
    driver == "llvmpipe" && version.is_some_and(|version: u32| version < major)
}

/// One row of `t5 devices`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AdapterReport {
    pub index: usize,
    /// Whether the engine would take this adapter if none were named.
    pub default: bool,
    #[serde(flatten)]
    pub caps: Caps,
    /// `None` if the engine can use the adapter, else what it lacks.
    pub unusable: Option<String>,
}

const TIMESTAMPS: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY;

/// Limits without which the base kernels cannot run: those of WebGPU, except where our kernels need less.
fn lacking(limits: &wgpu::Limits) -> Option<String> {
    let needs = [
        ("storage buffers per shader", limits.max_storage_buffers_per_shader_stage, 8),
        ("invocations per workgroup", limits.max_compute_invocations_per_workgroup, 256),
        ("bytes of workgroup memory", limits.max_compute_workgroup_storage_size, 16384),
    ];
    needs
        .into_iter()
        .find(|(_, has, needed)| has < needed)
        .map(|(what, has, needed)| format!("offers {has} {what}, the engine needs {needed}"))
}

/// Whether DXC is part of this program: Cargo.toml asks for it on the same targets.
const BUILT_IN_DXC: bool = cfg!(all(windows, target_arch = "x86_64", target_env = "msvc"));

/// The compilers of DirectX 12 to try one after the other. `named` is one of wgpu's names.
fn dx12_compilers(named: Option<&str>, built_in: bool) -> Result<Vec<wgpu::Dx12Compiler>> {
    use wgpu::Dx12Compiler::{Auto, Fxc, StaticDxc};
    let refuse = |why: &str| Error::Adapter(format!("no DirectX 12 compiler `{}`: {why}", named.unwrap_or_default()));
    match named.map_or(Ok(Auto), str::parse).map_err(refuse)? {
        StaticDxc if !built_in => Err(refuse("this program was built without it; there are `dxc` and `fxc`")),
        // wgpu would look for the same ones in the same order, but not say which it found.
        Auto if built_in => Ok(vec![StaticDxc]),
        Auto => Ok(vec![wgpu::Dx12Compiler::default_dynamic_dxc(), Fxc]),
        named => Ok(vec![named]),
    }
}

fn compiler(backend: wgpu::Backend, dx12: &wgpu::Dx12Compiler) -> &'static str {
    match (backend, dx12) {
        (wgpu::Backend::Vulkan, _) => "naga to SPIR-V, then the driver's",
        (wgpu::Backend::Metal, _) => "naga to MSL, then Metal's",
        (wgpu::Backend::Dx12, wgpu::Dx12Compiler::StaticDxc) => "naga to HLSL, then DXC, built in",
        (wgpu::Backend::Dx12, wgpu::Dx12Compiler::DynamicDxc { .. }) => "naga to HLSL, then DXC (dxcompiler.dll)",
        (wgpu::Backend::Dx12, wgpu::Dx12Compiler::Auto) => "naga to HLSL, then DXC or FXC",
        (wgpu::Backend::Dx12, _) => "naga to HLSL, then FXC (d3dcompiler_47.dll)",
        (wgpu::Backend::BrowserWebGpu, _) => "the browser's",
        (wgpu::Backend::Gl | wgpu::Backend::Noop, _) => "unknown",
    }
}

/// All adapters, and the compiler that those of DirectX 12 use.
async fn enumerate(options: &GpuOptions) -> Result<(Vec<wgpu::Adapter>, wgpu::Dx12Compiler)> {
    // Only Windows uses it.
    let compilers = match cfg!(windows) {
        true => dx12_compilers(options.dx12_compiler.as_deref(), BUILT_IN_DXC)?,
        false => vec![wgpu::Dx12Compiler::Fxc],
    };
    let mut found = (Vec::new(), wgpu::Dx12Compiler::Fxc);
    for compiler in compilers {
        let instance = instance(&compiler);
        KEPT.get_or_init(|| instance.clone());
        found = (instance.enumerate_adapters(wgpu::Backends::PRIMARY).await, compiler);
        // A compiler that cannot be loaded leaves DirectX 12 without adapters.
        if found.0.iter().any(|adapter| adapter.get_info().backend == wgpu::Backend::Dx12) {
            break;
        }
    }
    Ok(found)
}

/// Keeps the drivers' libraries loaded until the process ends. With the last instance they are unloaded, and Mesa 22's lavapipe and
/// SwiftShader have been seen to be called afterwards, which ends the process with a segmentation fault.
static KEPT: OnceLock<wgpu::Instance> = OnceLock::new();

/// Percent of the memory that the driver grants this process, up to which it is taken (Vulkan and DirectX 12 say how much).
const MEMORY_BUDGET: u8 = 95;

fn instance(dx12: &wgpu::Dx12Compiler) -> wgpu::Instance {
    // Validation layers and debug labels cost time and, in release builds, tell users nothing.
    let flags =
        if cfg!(debug_assertions) { wgpu::InstanceFlags::from_build_config() } else { wgpu::InstanceFlags::empty() };
    let mut descriptor = wgpu::InstanceDescriptor { flags, ..wgpu::InstanceDescriptor::new_without_display_handle() };
    descriptor.backend_options.dx12.shader_compiler = dx12.clone();
    // Beyond it the system moves memory out of the card, and everything on it slows down: an error is better.
    descriptor.memory_budget_thresholds.for_resource_creation = Some(MEMORY_BUDGET);
    wgpu::Instance::new(descriptor)
}

/// Discrete before integrated before virtual before software.
fn rank(adapter: &wgpu::Adapter) -> usize {
    match adapter.get_info().device_type {
        _ if lacking(&adapter.limits()).is_some() => 5,
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

/// Every adapter of this machine, in the order that [`GpuOptions::adapter`] counts them in.
///
/// # Errors
/// `Adapter` if the options name what this system does not have; no adapter at all is an empty list.
pub async fn list_adapters(options: &GpuOptions) -> Result<Vec<AdapterReport>> {
    let (adapters, dx12) = enumerate(options).await?;
    let best = adapters.iter().enumerate().min_by_key(|(_, a)| rank(a)).map(|(i, _)| i);
    let report = |(index, adapter): (usize, &wgpu::Adapter)| AdapterReport {
        index,
        default: best == Some(index),
        caps: Caps::of(adapter, &dx12),
        unusable: lacking(&adapter.limits()),
    };
    Ok(adapters.iter().enumerate().map(report).collect())
}

/// What to say where there is none.
pub const NO_ADAPTER: &str = if cfg!(windows) {
    "no GPU adapter found: install the graphics card's driver. Where DXC is to compile shaders, dxcompiler.dll must lie \
     beside the program"
} else {
    "no GPU adapter found: install a Vulkan driver (Debian/Ubuntu: `apt-get install mesa-vulkan-drivers`; Fedora: \
     `dnf install mesa-vulkan-drivers`; Arch: `pacman -S vulkan-swrast`)"
};

/// The adapter to open, and what it can do.
pub(super) async fn choose(options: &GpuOptions) -> Result<(wgpu::Adapter, Caps)> {
    let wanted = options.adapter.as_deref();
    let (mut adapters, dx12) = enumerate(options).await?;
    if adapters.is_empty() {
        return Err(Error::Adapter(NO_ADAPTER.into()));
    }
    let names = || {
        let line = |(i, a): (usize, &wgpu::Adapter)| format!("  {i}: {}", a.get_info().name);
        adapters.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
    };
    let index = match wanted {
        None => adapters.iter().enumerate().min_by_key(|(_, a)| rank(a)).map(|(i, _)| i),
        Some(text) => match text.parse::<usize>() {
            Ok(index) => (index < adapters.len()).then_some(index),
            Err(_) => {
                let text = text.to_lowercase();
                adapters.iter().position(|a| a.get_info().name.to_lowercase().contains(&text))
            }
        },
    };
    let Some(index) = index else {
        let wanted = wanted.unwrap_or_default();
        return Err(Error::Adapter(format!("no adapter `{wanted}`; there are:\n{}", names())));
    };
    if let Some(lack) = lacking(&adapters[index].limits()) {
        return Err(Error::Adapter(format!("{} {lack}; there are:\n{}", adapters[index].get_info().name, names())));
    }
    let adapter = adapters.swap_remove(index);
    let caps = Caps::of(&adapter, &dx12);
    Ok((adapter, caps))
}

pub(super) async fn request_device(adapter: &wgpu::Adapter) -> Result<(wgpu::Device, wgpu::Queue)> {
    let wanted = wgpu::Features::SUBGROUP | wgpu::Features::PIPELINE_CACHE | TIMESTAMPS;
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("t5"),
        required_features: adapter.features() & wanted,
        required_limits: adapter.limits(),
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    };
    let opened = adapter.request_device(&descriptor).await;
    opened.map_err(|e| Error::Adapter(format!("{} cannot be opened: {e}", adapter.get_info().name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_compiler_is_taken_or_refused() {
        let tried = |named, built_in| -> Result<Vec<&str>> {
            let compilers = dx12_compilers(named, built_in)?;
            Ok(compilers.iter().map(|c| compiler(wgpu::Backend::Dx12, c)).collect())
        };
        let (built_in, dll) = ("naga to HLSL, then DXC, built in", "naga to HLSL, then DXC (dxcompiler.dll)");
        let fxc = "naga to HLSL, then FXC (d3dcompiler_47.dll)";
        for unsaid in [None, Some("auto")] {
            assert_eq!(tried(unsaid, true).unwrap(), [built_in]);
            assert_eq!(tried(unsaid, false).unwrap(), [dll, fxc]);
        }
        assert_eq!(tried(Some("fxc"), true).unwrap(), [fxc]);
        assert_eq!(tried(Some("DXC"), true).unwrap(), [dll]);
        assert_eq!(tried(Some("StaticDxc"), true).unwrap(), [built_in]);
        for named in ["staticdxc", "gcc", ""] {
            let error = tried(Some(named), false).unwrap_err().to_string();
            assert!(error.contains(&format!("`{named}`")) && error.contains("fxc"), "{error}");
        }
    }
}
