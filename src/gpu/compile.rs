//! Compiles kernels on all cores before they are needed, and tells an observer about the progress.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use web_time::Instant;

use super::pipelines::PipelineCache;
use super::shader::{Address, Header, Kernel, Shader};
use super::{Caps, Gpu, fault};
use crate::error::{Error, Result};

/// What a caller of [`Gpu::on_compile`] is told, about once a second and only where compiling takes so long.
#[derive(Clone, Copy, Debug)]
pub struct Compiling {
    /// Kernels of the program in preparation that the device has not compiled before.
    pub done: usize,
    pub total: usize,
    pub elapsed: Duration,
}

pub(super) type Observer = OnceLock<Box<dyn Fn(Compiling) + Send + Sync>>;

/// The kernels of a device. Plans ask for hundreds at a time, nearly all of them known: those are found without a look at their
/// texts.
#[derive(Default)]
pub(super) struct Kernels {
    by_address: HashMap<Address, Arc<Kernel>>,
    by_source: HashMap<String, Arc<Kernel>>,
}

/// A kernel to compile.
pub(super) struct Job {
    pub shader: &'static Shader,
    pub header: Header,
    /// The two expanded.
    pub source: String,
}

/// A clock that leaves out the time of compiling kernels.
pub struct Stopwatch {
    gpu: Gpu,
    start: Instant,
    compiling: Duration,
}

impl Stopwatch {
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed().saturating_sub(self.gpu.compiling() - self.compiling)
    }
}

impl Gpu {
    /// Has `observer` told of kernels that take long to compile. The first observer stays.
    pub fn on_compile(&self, observer: impl Fn(Compiling) + Send + Sync + 'static) {
        let _ = self.inner.observer.set(Box::new(observer));
    }

    /// Starts a clock that stands still while kernels are compiled.
    pub fn stopwatch(&self) -> Stopwatch {
        Stopwatch { gpu: self.clone(), start: Instant::now(), compiling: self.compiling() }
    }

    fn compiling(&self) -> Duration {
        Duration::from_micros(self.inner.compiling.load(Ordering::Relaxed))
    }

    /// The kernels of these shaders under these headers, in order; each distinct source is compiled once.
    pub(super) fn kernels(&self, wanted: Vec<(&'static Shader, Header)>) -> Result<Vec<Arc<Kernel>>> {
        let mut known = self.inner.kernels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut jobs = Vec::<Job>::new();
        // A kernel, or the place of its job.
        let mut found = Vec::with_capacity(wanted.len());
        for (shader, header) in wanted {
            let address = Address::of(shader, &header);
            if let Some(kernel) = known.by_address.get(&address) {
                found.push(Ok(kernel.clone()));
                continue;
            }
            let source = if self.caps().unrolls() { shader.expand(&header) } else { shader.as_written(&header) };
            if let Some(kernel) = known.by_source.get(&source).cloned() {
                known.by_address.insert(address, kernel.clone());
                found.push(Ok(kernel));
                continue;
            }
            let job = jobs.iter().position(|job| job.source == source).unwrap_or(jobs.len());
            if job == jobs.len() {
                jobs.push(Job { shader, header, source });
            }
            found.push(Err((address, job)));
        }
        let mut made = Vec::new();
        if !jobs.is_empty() {
            let start = Instant::now();
            made = self.compile_all(&jobs)?;
            known.by_source.extend(jobs.into_iter().map(|job| job.source).zip(made.iter().cloned()));
            self.inner.pipelines.iter().for_each(PipelineCache::save);
            self.inner.compiling.fetch_add(start.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
        let kernel = |found: std::result::Result<_, (Address, usize)>| {
            found.unwrap_or_else(|(address, job)| {
                known.by_address.insert(address, made[job].clone());
                made[job].clone()
            })
        };
        Ok(found.into_iter().map(kernel).collect())
    }

    /// A browser's device belongs to one thread.
    #[cfg(target_arch = "wasm32")]
    fn compile_all(&self, jobs: &[Job]) -> Result<Vec<Arc<Kernel>>> {
        jobs.iter().map(|job| self.prepare(job).map(Arc::new)).collect()
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn compile_all(&self, jobs: &[Job]) -> Result<Vec<Arc<Kernel>>> {
        use std::sync::atomic::AtomicUsize;
        use std::sync::mpsc::{RecvTimeoutError, channel};

        /// How often the observer hears something.
        const TICK: Duration = Duration::from_secs(1);
        // The largest first: no core is left with a long one at the end.
        let mut order: Vec<usize> = (0..jobs.len()).collect();
        order.sort_by_key(|&job| std::cmp::Reverse(jobs[job].source.len()));
        let mut made: Vec<Option<Arc<Kernel>>> = vec![None; jobs.len()];
        let (start, next) = (Instant::now(), AtomicUsize::new(0));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            let (sender, receiver) = channel();
            for _ in 0..cores.min(jobs.len()) {
                let (order, next, sender) = (&order, &next, sender.clone());
                scope.spawn(move || {
                    while let Some(&job) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let _ = sender.send((job, self.prepare(&jobs[job])));
                    }
                });
            }
            drop(sender);
            let (mut done, mut told) = (0, Duration::ZERO);
            loop {
                match receiver.recv_timeout(TICK) {
                    Ok((job, kernel)) => {
                        // After a failure the rest is not needed.
                        let kernel = kernel.inspect_err(|_| next.store(jobs.len(), Ordering::Relaxed))?;
                        made[job] = Some(Arc::new(kernel));
                        done += 1;
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
                let elapsed = start.elapsed();
                let last = done == jobs.len() && !told.is_zero();
                if let (true, Some(observer)) = (last || elapsed >= told + TICK, self.inner.observer.get()) {
                    observer(Compiling { done, total: jobs.len(), elapsed });
                    told = elapsed;
                }
            }
        })?;
        Ok(made.into_iter().flatten().collect())
    }

    /// Compiles a kernel so far that its first dispatch is not the one that takes long. A driver that compiles at the first
    /// dispatch (lavapipe) does so one kernel after the other, whatever thread, queue, device or instance asks.
    fn prepare(&self, job: &Job) -> Result<Kernel> {
        let kernel = self.compile(job)?;
        if self.caps().compiles_late() {
            self.dispatch_nothing(&kernel)?;
        }
        Ok(kernel)
    }

    /// Dispatches no workgroups.
    fn dispatch_nothing(&self, kernel: &Kernel) -> Result<()> {
        let device = &self.inner.device;
        let (done, error) = fault::caught(device, || {
            let buffers: Vec<_> =
                kernel.bindings.iter().map(|_| self.buffer("nothing", 4096)).collect::<Result<_>>()?;
            let entries = kernel
                .bindings
                .iter()
                .zip(&buffers)
                .map(|(b, buffer)| wgpu::BindGroupEntry { binding: b.index, resource: buffer.raw.as_entire_binding() });
            let entries: Vec<_> = entries.collect();
            let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(kernel.name),
                layout: &kernel.layout,
                entries: &entries,
            });
            let mut encoder = device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&kernel.pipeline);
            pass.set_bind_group(0, &bind_group, &[]);
            pass.dispatch_workgroups(0, 0, 0);
            drop(pass);
            let submission = self.inner.queue.submit([encoder.finish()]);
            self.wait_for(Some(submission))
        });
        error.map_or(done, |error| Err(fault::translated(error, None)))
    }

    fn compile(&self, job: &Job) -> Result<Kernel> {
        self.check()?;
        let Job { shader, header, source } = job;
        let device = &self.inner.device;
        let cache = self.inner.pipelines.as_ref().map(|cache| &cache.raw);
        let compile = || Kernel::compile(device, shader.name, source, self.checked(), cache);
        let (compiled, error) = fault::caught(device, compile);
        let checked = self.check();
        let Caps { compiler, .. } = self.caps();
        let what = || {
            let (name, constants) = (shader.name, header.constants_text());
            format!("kernel `{name}` [{constants}] on {}, compiled by {compiler},", self.caps())
        };
        match (error, checked) {
            (Some(error), _) => Err(fault::translated(error, Some(&what()))),
            // Vulkan has no word for a shader that the driver refuses: wgpu sees an unknown failure and gives the device up.
            (_, Err(Error::DeviceLost(why))) => Err(Error::Shader(format!("{} lost the device: {why}", what()))),
            (_, Err(error)) => Err(error),
            (None, Ok(())) => compiled,
        }
    }
}
