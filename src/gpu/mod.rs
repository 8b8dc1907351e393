//! The only module that names wgpu: adapters, shaders, pipelines, buffers, readback, timestamps.
//!
//! Above it the engine speaks of [`Gpu`], [`Buffer`], [`Shader`], [`Program`] and [`Sequence`]; a [`Program`] is a recorded list of
//! dispatches, a [`Sequence`] what programs, writes and clears make one submit.

mod adapter;
mod buffer;
mod compile;
mod fault;
mod pace;
mod pipelines;
mod poller;
mod program;
mod sequence;
mod shader;
mod unroll;
mod work;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use adapter::{AdapterReport, Caps, NO_ADAPTER, list_adapters};
pub use buffer::{Buffer, Readback, Slice};
pub use compile::{Compiling, Stopwatch};
pub use program::{Dispatch, Program, ProgramBuilder, StepTime};
pub use sequence::Sequence;
pub use shader::{Constant, Header, Param, Shader, Workgroup};
/// The version of wgpu that [`Gpu::from_wgpu`] takes devices of.
pub use wgpu;
pub use work::{StepWork, Work};

use crate::error::{Error, Result};
use compile::{Kernels, Observer};
use fault::Faults;
use pace::Pace;
use pipelines::PipelineCache;
use poller::Mapping;

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
    /// Cut each dispatch in at least so many pieces, as is done for those that take long: for tests.
    pub pieces: u32,
    /// The most bytes that buffers may take together, for applications that need the rest. `None`: as many as the driver grants.
    pub memory: Option<u64>,
    /// The folder that keeps compiled kernels for the next process, where the driver hands them out (Vulkan). `None`: nothing
    /// is read or written.
    pub cache_folder: Option<PathBuf>,
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
    kernels: Mutex<Kernels>,
    pipelines: Option<PipelineCache>,
    faults: Arc<Faults>,
    /// Whether an application uses the device for other things, too.
    shared: bool,
    pace: Pace,
    /// Where the writes of a [`Sequence`] wait for their turn.
    upload: Mutex<Option<Buffer>>,
    /// Buffers for reading that nobody uses.
    staging: Mutex<Vec<wgpu::Buffer>>,
    #[cfg(not(target_arch = "wasm32"))]
    poller: poller::Poller,
    observer: Observer,
    /// Microseconds that went into compiling.
    compiling: AtomicU64,
    /// That all buffers take.
    bytes_held: Arc<AtomicU64>,
}

impl Gpu {
    /// Opens an adapter and its device with every limit and optional feature that the engine can use.
    pub async fn open(options: &GpuOptions) -> Result<Gpu> {
        let (adapter, mut caps) = adapter::choose(options).await?;
        caps.table_bytes = caps.table_bytes.min(options.table_bytes.unwrap_or(u64::MAX));
        let (device, queue) = adapter::request_device(&adapter).await?;
        let faults = Faults::watch(&device);
        Ok(Gpu::new(device, queue, caps, options.clone(), faults, false))
    }

    /// Works on the device and queue of an application, such as those of its window. The engine keeps to the features and
    /// limits that the device was opened with: ask for the adapter's limits and for `Features::SUBGROUP` where it has it.
    ///
    /// The device's callbacks stay the application's. Its uncaptured-error handler hears nothing of the engine's errors, which
    /// come back as [`Error`]s. If the device is lost, the application hears of it, and calls of the engine in progress end
    /// with [`Error::DeviceLost`].
    ///
    /// So that the application's own frames are not kept waiting, long work goes out in submits of 8 ms: see
    /// [`Gpu::set_submit_budget`].
    ///
    /// # Errors
    /// `Adapter` if the device lacks what the kernels need.
    pub fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue) -> Result<Gpu> {
        let caps = Caps::of_device(&device)?;
        Ok(Gpu::new(device, queue, caps, GpuOptions::default(), Arc::default(), true))
    }

    fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        caps: Caps,
        options: GpuOptions,
        faults: Arc<Faults>,
        shared: bool,
    ) -> Gpu {
        let pipelines = options.cache_folder.as_deref().and_then(|dir| PipelineCache::open(&device, &caps, dir));
        let pace = Pace::new(if shared { SHARED_BUDGET } else { OWN_BUDGET }, caps.is_cpu());
        Gpu {
            inner: Arc::new(Inner {
                device,
                queue,
                caps,
                options,
                kernels: Mutex::default(),
                pipelines,
                faults,
                shared,
                pace,
                upload: Mutex::default(),
                staging: Mutex::default(),
                #[cfg(not(target_arch = "wasm32"))]
                poller: poller::Poller::default(),
                observer: Observer::new(),
                compiling: AtomicU64::new(0),
                bytes_held: Arc::default(),
            }),
        }
    }

    /// About how long the device may be busy with one submit. Longer work is cut in pieces, of which at most two are on their
    /// way; between them it can be stopped, and the submits of others run. 100 ms for a device of the engine's own, 8 ms for
    /// one of [`Gpu::from_wgpu`]. A kernel with much to do is several dispatches, of which one is never cut.
    pub fn set_submit_budget(&self, budget: Duration) {
        self.inner.pace.set_budget(budget);
    }

    /// What this adapter can do.
    pub fn caps(&self) -> &Caps {
        &self.inner.caps
    }

    /// How it was opened.
    pub fn options(&self) -> &GpuOptions {
        &self.inner.options
    }

    /// Whether it is an application's: see [`Gpu::from_wgpu`].
    pub fn is_shared(&self) -> bool {
        self.inner.shared
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

    /// Gives the device up, with everything in its memory: every call in progress and every later one ends with `DeviceLost`, for
    /// all that use it.
    pub fn destroy(&self) {
        self.inner.device.destroy();
    }

    /// Bytes in use on the device, those of an application that shares it included; `None` where the backend does not say.
    pub fn allocated(&self) -> Option<u64> {
        self.inner.device.generate_allocator_report().map(|report| report.total_allocated_bytes)
    }

    /// Waits until everything submitted so far has run. Blocks the calling thread.
    pub fn wait(&self) -> Result<()> {
        self.wait_for(None)
    }

    /// Waits for a submission, or for all. Blocks the calling thread.
    fn wait_for(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let poll = wgpu::PollType::Wait { submission_index, timeout: None };
        // wgpu panics if the device is lost while it waits, after it has told `faults`.
        let polled = catch_unwind(AssertUnwindSafe(|| self.inner.device.poll(poll)));
        self.check()?;
        match polled {
            Ok(polled) => polled.map(|_| ()).map_err(|e| Error::Driver(e.to_string())),
            Err(_) if self.inner.shared => Err(self.no_answer()),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Waits for what was asked for with `submission`: with `has_callback`, for `mapping` to be called back. Blocks no thread of
    /// the caller.
    async fn ended(&self, submission: wgpu::SubmissionIndex, mapping: Mapping, has_callback: bool) -> Result<()> {
        #[cfg(not(target_arch = "wasm32"))]
        self.inner.poller.watch(&self.inner.device, submission, mapping.clone(), has_callback);
        #[cfg(target_arch = "wasm32")]
        let _ = (submission, has_callback);
        let mapped = mapping.await;
        self.check()?;
        if mapped { Ok(()) } else { Err(self.no_answer()) }
    }

    /// Waits until the device has done everything up to `submission`. Blocks no thread of the caller. In a browser, which cuts
    /// work by itself, it does not wait.
    async fn submission_ended(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        if cfg!(target_arch = "wasm32") {
            return self.check();
        }
        self.ended(submission, Mapping::default(), false).await
    }

    /// A device that does not answer is lost, even where nobody has said so: an application has the callback of its own.
    fn no_answer(&self) -> Error {
        self.inner.faults.lose(fault::NO_ANSWER.into());
        self.check().err().unwrap_or_else(|| Error::Driver("no answer".into()))
    }

    /// Has the device begin to copy what was written so far, without waiting for it.
    pub fn send(&self) -> Result<()> {
        self.inner.call(|_, queue| queue.submit([]));
        self.check()
    }

    /// Waits until everything written so far has arrived, and gives the memory on its way there back. Blocks the calling thread.
    pub fn flush(&self) -> Result<()> {
        self.send()?;
        self.wait()?;
        if self.inner.shared {
            // Writes to a lost device are silent. A readback is not.
            let any = self.buffer("flush", 16)?;
            pollster::block_on(self.read::<u32>(&any, 0..4))?;
        }
        Ok(())
    }
}

impl Inner {
    /// Runs `call` on the device and its queue; [`Gpu::check`] tells of errors. Those of a device of our own are reported to us
    /// in any case. An application's device reports elsewhere, so there they are caught here.
    fn call<T>(&self, call: impl FnOnce(&wgpu::Device, &wgpu::Queue) -> T) -> T {
        if !self.shared {
            return call(&self.device, &self.queue);
        }
        let (made, error) = fault::caught(&self.device, || call(&self.device, &self.queue));
        error.into_iter().for_each(|e| self.faults.report(e));
        made
    }

    /// Submits what `record` records.
    fn submit(&self, record: impl FnOnce(&mut wgpu::CommandEncoder)) -> wgpu::SubmissionIndex {
        self.call(|device, queue| {
            let mut encoder = device.create_command_encoder(&Default::default());
            record(&mut encoder);
            queue.submit([encoder.finish()])
        })
    }
}

/// Milliseconds that a submit may take on a device that nobody else uses: far below the two seconds after which Windows takes a
/// device away, and short enough to stop soon.
const OWN_BUDGET: Duration = Duration::from_millis(100);

/// The same on an application's device: half a frame of 60 a second.
const SHARED_BUDGET: Duration = Duration::from_millis(8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destroyed_device_is_lost_to_every_call() {
        let gpu = pollster::block_on(Gpu::open(&GpuOptions::default())).expect("an adapter");
        let buffer = gpu.buffer_of("data", &[1u32, 2, 3, 4]).unwrap();
        gpu.destroy();
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
