//! The only module that names wgpu: adapters, shaders, pipelines, buffers, readback, timestamps.
//!
//! Above it the engine speaks of [`Gpu`], [`Buffer`], [`Shader`] and [`Program`]; a [`Program`] is a recorded list of
//! dispatches that is replayed into one compute pass and one submit.

mod adapter;
mod buffer;
mod compile;
mod fault;
mod program;
mod shader;
mod work;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

pub use adapter::{AdapterReport, Caps, NO_ADAPTER, list_adapters};
pub use buffer::{Buffer, Readback, Slice};
pub use compile::{Compiling, Stopwatch};
pub use program::{Dispatch, Program, ProgramBuilder, StepTime};
pub use shader::{Constant, Header, Param, Shader};
pub use work::{StepWork, Work};

use crate::error::{Error, Result};
use compile::Observer;
use fault::Faults;
use shader::Kernel;

/// How a [`Gpu`] is opened.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Index into [`list_adapters`] or a part of the adapter's name, without regard to case. `None` takes the most capable
    /// adapter.
    pub adapter: Option<String>,
    /// Compile shaders with bounds checks and zeroed workgroup memory, as browsers do.
    pub checked: bool,
    /// Have [`Plan::run`](crate::plan::Plan::run) go step by step and name the first step that made a number which is not
    /// finite: slow, and for finding faults.
    pub check_numbers: bool,
    /// The compiler of DirectX 12: `dxc` (dxcompiler.dll), `fxc` (d3dcompiler_47.dll) or `staticdxc`. `None` takes DXC if it
    /// is built in or found, else FXC.
    pub dx12_compiler: Option<String>,
    /// Split embedding and head into shards of at most this many bytes, even if the adapter could bind more: for tests.
    pub table_bytes: Option<u64>,
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
    options: GpuOptions,
    kernels: Mutex<HashMap<String, Arc<Kernel>>>,
    faults: Arc<Faults>,
    observer: Observer,
    /// Microseconds that went into compiling.
    compiling: AtomicU64,
}

impl Gpu {
    /// Opens an adapter and its device with every limit and optional feature that the engine can use.
    pub async fn open(options: &GpuOptions) -> Result<Gpu> {
        let (adapter, mut caps) = adapter::choose(options).await?;
        caps.table_bytes = caps.table_bytes.min(options.table_bytes.unwrap_or(u64::MAX));
        let (device, queue) = adapter::request_device(&adapter).await?;
        let (faults, kernels) = (Faults::watch(&device), Mutex::default());
        let (observer, compiling, options) = (Observer::new(), AtomicU64::new(0), options.clone());
        let inner = Inner { device, queue, caps, options, kernels, faults, observer, compiling };
        Ok(Gpu { inner: Arc::new(inner) })
    }

    /// What this adapter can do.
    pub fn caps(&self) -> &Caps {
        &self.inner.caps
    }

    /// Whether shaders carry bounds checks.
    pub fn checked(&self) -> bool {
        self.inner.options.checked
    }

    /// Whether plans look at every number that they make.
    pub fn checks_numbers(&self) -> bool {
        self.inner.options.check_numbers
    }

    /// Hands out the error that the driver reported since the last call, if any. A lost device is reported each time.
    pub fn check(&self) -> Result<()> {
        self.inner.faults.check()
    }

    /// Waits until everything submitted so far has run.
    pub fn wait(&self) -> Result<()> {
        self.wait_for(None)
    }

    /// Waits for a submission, or for all.
    fn wait_for(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let poll = wgpu::PollType::Wait { submission_index, timeout: None };
        // wgpu panics if the device is lost while it waits, after it has told `faults`.
        let polled = catch_unwind(AssertUnwindSafe(|| self.inner.device.poll(poll)));
        self.check()?;
        match polled {
            Ok(polled) => polled.map(|_| ()).map_err(|e| Error::Driver(e.to_string())),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Waits until everything written so far has arrived, and gives the memory on its way there back.
    pub fn flush(&self) -> Result<()> {
        self.inner.queue.submit([]);
        self.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destroyed_device_is_lost_to_every_call() {
        let gpu = pollster::block_on(Gpu::open(&GpuOptions::default())).expect("an adapter");
        let buffer = gpu.buffer_of("data", &[1u32, 2, 3, 4]).unwrap();
        gpu.inner.device.destroy();
        for _ in 0..2 {
            let lost = |result: Result<()>| assert!(matches!(result, Err(Error::DeviceLost(_))), "{result:?}");
            lost(gpu.wait());
            lost(gpu.check());
            lost(gpu.flush());
            lost(gpu.buffer("more", 64).map(drop));
            lost(gpu.buffer_of("more", &[1u32]).map(drop));
            lost(pollster::block_on(gpu.read::<u32>(&buffer, 0..16)).map(drop));
        }
    }
}
