//! Finding an adapter, saying what it can do, opening its device and listening for its faults.

use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};

/// What the engine needs to know of an adapter, as plain data.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Caps {
    pub name: String,
    pub driver: String,
    pub driver_info: String,
    pub backend: String,
    /// "discrete GPU", "integrated GPU", "virtual GPU", "CPU" or "other".
    pub kind: &'static str,
    /// Smallest and largest subgroup; `None` where shaders cannot use subgroup operations.
    pub subgroup: Option<(u32, u32)>,
    pub f16: bool,
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
    pub(super) fn of(adapter: &wgpu::Adapter) -> Caps {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
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
            driver: info.driver,
            driver_info: info.driver_info,
            backend: info.backend.to_string(),
            kind,
            subgroup,
            f16: features.contains(wgpu::Features::SHADER_F16),
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

    /// The subgroup size where it is one fixed number, so that a shader may rely on it.
    pub fn fixed_subgroup(&self) -> Option<u32> {
        self.subgroup.and_then(|(min, max)| (min == max && min > 0).then_some(min))
    }

    /// A warning worth printing about this driver, if there is one.
    pub fn warning(&self) -> Option<String> {
        old_lavapipe(&self.driver, &self.driver_info, 23).then(|| {
            format!(
                "{} is old: it runs shaders 4-6x slower than Mesa 25 (`make test` and `make demo` fetch a newer one \
                 where they can)",
                self.driver_info
            )
        })
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

fn instance() -> wgpu::Instance {
    // Validation layers and debug labels cost time and, in release builds, tell users nothing.
    let flags =
        if cfg!(debug_assertions) { wgpu::InstanceFlags::from_build_config() } else { wgpu::InstanceFlags::empty() };
    wgpu::Instance::new(wgpu::InstanceDescriptor { flags, ..wgpu::InstanceDescriptor::new_without_display_handle() })
}

async fn enumerate() -> Vec<wgpu::Adapter> {
    instance().enumerate_adapters(wgpu::Backends::PRIMARY).await
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

/// Every adapter of this machine, in the order in which `--adapter INDEX` counts them.
pub async fn list_adapters() -> Vec<AdapterReport> {
    let adapters = enumerate().await;
    let best = adapters.iter().enumerate().min_by_key(|(_, a)| rank(a)).map(|(i, _)| i);
    let report = |(index, adapter): (usize, &wgpu::Adapter)| AdapterReport {
        index,
        default: best == Some(index),
        caps: Caps::of(adapter),
        unusable: lacking(&adapter.limits()),
    };
    adapters.iter().enumerate().map(report).collect()
}

pub(super) async fn choose(wanted: Option<&str>) -> Result<wgpu::Adapter> {
    let from_env = std::env::var("T5_ADAPTER").ok().filter(|v| !v.is_empty());
    let wanted = wanted.map(str::to_owned).or(from_env);
    let mut adapters = enumerate().await;
    if adapters.is_empty() {
        return Err(Error::Adapter(
            "no GPU adapter found: install a Vulkan driver (Debian/Ubuntu: `apt-get install mesa-vulkan-drivers`; \
             Fedora: `dnf install mesa-vulkan-drivers`), then see `t5 devices`"
                .into(),
        ));
    }
    let names = || {
        let line = |(i, a): (usize, &wgpu::Adapter)| format!("  {i}: {}", a.get_info().name);
        adapters.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
    };
    let index = match &wanted {
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
    Ok(adapters.swap_remove(index))
}

pub(super) async fn request_device(adapter: &wgpu::Adapter) -> Result<(wgpu::Device, wgpu::Queue)> {
    let wanted = wgpu::Features::SUBGROUP | TIMESTAMPS;
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

/// Keeps the first fault that the driver reports, for [`super::Gpu::check`].
pub(super) fn watch(device: &wgpu::Device, fault: &Arc<Mutex<Option<Error>>>) {
    let keep = |fault: &Mutex<Option<Error>>, error: Error| {
        fault.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
    };
    let slot = fault.clone();
    device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
        let error = match e {
            wgpu::Error::OutOfMemory { source } => {
                Error::OutOfMemory(format!("{source}; use a smaller batch or shorter sequences"))
            }
            wgpu::Error::Validation { description, .. } => Error::Shader(description),
            wgpu::Error::Internal { description, .. } => Error::DeviceLost(description),
        };
        keep(&slot, error);
    }));
    let slot = fault.clone();
    device.set_device_lost_callback(move |reason, message| {
        if reason != wgpu::DeviceLostReason::Destroyed {
            keep(&slot, Error::DeviceLost(message));
        }
    });
}
