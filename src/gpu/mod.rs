//! The only module that names wgpu: adapters, shaders, pipelines, buffers, readback, timestamps.
//!
//! Above it the engine speaks of [`Gpu`], [`Buffer`], [`Shader`] and [`Program`]; a [`Program`] is a recorded list of
//! dispatches that is replayed into one compute pass and one submit.

mod adapter;
mod buffer;
mod program;
mod shader;
mod work;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

pub use adapter::{AdapterReport, Caps, list_adapters};
pub use buffer::{Buffer, Readback, Slice};
pub use program::{Dispatch, Program, ProgramBuilder, StepTime};
pub use shader::{Header, Param, Shader, Value};
pub use work::{StepWork, Work};

use crate::error::{Error, Result};
use shader::Kernel;

/// How a [`Gpu`] is opened.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Index into [`list_adapters`] or a part of the adapter's name, without regard to case. `None` takes the
    /// environment variable `T5_ADAPTER`, and failing that the most capable adapter.
    pub adapter: Option<String>,
    /// Compile shaders with bounds checks and zeroed workgroup memory, as browsers do. Environment: `T5_CHECKED=1`.
    pub checked: bool,
    /// Split embedding and head into shards of at most this many bytes, even if the adapter could bind more: for tests.
    pub table_bytes: Option<u64>,
}

impl GpuOptions {
    /// The options that the environment asks for.
    pub fn from_env() -> GpuOptions {
        let checked = std::env::var("T5_CHECKED").is_ok_and(|v| !v.is_empty() && v != "0");
        GpuOptions { checked, ..GpuOptions::default() }
    }
}

/// One opened device. Cheap to clone; all clones share the device, its queue and its compiled kernels.
#[derive(Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
}

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    caps: Caps,
    checked: bool,
    kernels: Mutex<HashMap<String, Arc<Kernel>>>,
    /// The first error that the driver reported outside of any call of ours; [`Gpu::check`] hands it out.
    fault: Arc<Mutex<Option<Error>>>,
}

impl Gpu {
    /// Opens an adapter and its device with every limit and optional feature that the engine can use.
    pub async fn open(options: &GpuOptions) -> Result<Gpu> {
        let adapter = adapter::choose(options.adapter.as_deref()).await?;
        let mut caps = Caps::of(&adapter);
        caps.table_bytes = caps.table_bytes.min(options.table_bytes.unwrap_or(u64::MAX));
        let (device, queue) = adapter::request_device(&adapter).await?;
        let fault = Arc::new(Mutex::new(None));
        adapter::watch(&device, &fault);
        let inner = Inner { device, queue, caps, checked: options.checked, kernels: Mutex::new(HashMap::new()), fault };
        Ok(Gpu { inner: Arc::new(inner) })
    }

    /// What this adapter can do.
    pub fn caps(&self) -> &Caps {
        &self.inner.caps
    }

    /// Whether shaders carry bounds checks.
    pub fn checked(&self) -> bool {
        self.inner.checked
    }

    /// Hands out the error that the driver reported since the last call, if any.
    pub fn check(&self) -> Result<()> {
        let mut fault = self.inner.fault.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        fault.take().map_or(Ok(()), Err)
    }

    /// Waits until everything submitted so far has run.
    pub fn wait(&self) -> Result<()> {
        let polled = self.inner.device.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        polled.map(|_| ()).map_err(|e| Error::DeviceLost(e.to_string()))
    }

    /// Waits until everything written so far has arrived, and gives the memory on its way there back.
    pub fn flush(&self) -> Result<()> {
        self.inner.queue.submit([]);
        self.wait()
    }

    /// The compiled kernel for this shader under this header; compiled once per distinct expanded source.
    fn kernel(&self, shader: &Shader, header: &Header) -> Result<Arc<Kernel>> {
        let source = shader.expand(header);
        let mut kernels = self.inner.kernels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(kernel) = kernels.get(&source) {
            return Ok(kernel.clone());
        }
        let kernel = Arc::new(Kernel::compile(&self.inner.device, shader.name, &source, self.inner.checked)?);
        self.check().map_err(|e| Error::Shader(format!("{e}\n{}", shader::numbered(&source))))?;
        kernels.insert(source, kernel.clone());
        Ok(kernel)
    }
}
