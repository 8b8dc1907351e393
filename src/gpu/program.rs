//! A recorded list of dispatches. Pipelines, bind groups and parameters are made once; a replay is a plain loop.

use std::sync::Arc;

use web_time::Instant;

use super::buffer::{Buffer, Slice};
use super::shader::{Header, Kernel, Param, Shader};
use super::work::{StepWork, Work};
use super::{Caps, Gpu};
use crate::error::{Error, Result};

/// One kernel launch as plain data.
pub struct Dispatch {
    /// What the step is called in profiles and printed plans.
    pub label: String,
    pub shader: &'static Shader,
    pub header: Header,
    /// Windows for the kernel's storage variables, by name.
    pub bindings: Vec<(&'static str, Slice)>,
    /// Members of the kernel's `Params`, by name; `grid_x` is filled in by [`ProgramBuilder::finish`].
    pub params: Vec<(&'static str, Param)>,
    /// Workgroups in all; folded to two dimensions where one does not hold them.
    pub workgroups: u64,
}

struct Step {
    label: String,
    kernel: Arc<Kernel>,
    bind_group: wgpu::BindGroup,
    grid: [u32; 2],
    work: Work,
}

/// Dispatches ready to be replayed.
pub struct Program {
    gpu: Gpu,
    steps: Vec<Step>,
}

/// A submit that is underway.
struct Piece {
    submission: wgpu::SubmissionIndex,
    /// As [`Pace::seconds`](super::pace::Pace::seconds) guesses them.
    seconds: f64,
}

/// Time that one step took on the device.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StepTime {
    pub kernel: &'static str,
    pub label: String,
    /// Since the program began.
    pub start: f64,
    pub seconds: f64,
    #[serde(flatten)]
    pub work: Work,
}

/// Collects dispatches for a [`Program`].
pub struct ProgramBuilder {
    gpu: Gpu,
    /// With the work that the caller counted.
    pending: Vec<(Dispatch, Option<Work>)>,
}

impl ProgramBuilder {
    pub fn new(gpu: &Gpu) -> ProgramBuilder {
        ProgramBuilder { gpu: gpu.clone(), pending: Vec::new() }
    }

    /// Records a launch that reads and writes the whole of its bindings, and updates in place those that it may write.
    /// Launches of no workgroups are dropped.
    pub fn push(&mut self, dispatch: Dispatch) {
        self.pending.push((dispatch, None));
    }

    /// [`ProgramBuilder::push`] for a launch that does `work`.
    pub fn push_counted(&mut self, dispatch: Dispatch, work: Work) {
        self.pending.push((dispatch, Some(work)));
    }

    /// Compiles the kernels that are new, uploads the parameters and builds every bind group.
    ///
    /// # Errors
    /// `Shader` if a kernel does not compile, `OutOfMemory` for a binding beyond the adapter's limit.
    pub fn finish(mut self) -> Result<Program> {
        self.pending.retain(|(dispatch, _)| dispatch.workgroups > 0);
        let caps = self.gpu.caps();
        self.pending.iter().try_for_each(|(dispatch, _)| dispatch.check(caps))?;
        let wanted = self.pending.iter().map(|(d, _)| (d.shader, d.header.clone())).collect();
        let kernels = self.gpu.kernels(wanted)?;
        let (mut bytes, mut windows) = (Vec::new(), Vec::new());
        for ((dispatch, _), kernel) in self.pending.iter_mut().zip(&kernels) {
            dispatch.params.push(("grid_x", Param::U32(dispatch.grid(caps)[0])));
            let packed = kernel.pack_params(&dispatch.params);
            bytes.resize(bytes.len().next_multiple_of(caps.alignment as usize), 0);
            windows.push((bytes.len() as u64, packed.len() as u64));
            bytes.extend_from_slice(&packed);
        }
        let params = self.gpu.buffer_of("params", &bytes)?;
        let built =
            self.pending.into_iter().zip(kernels).zip(windows).map(|(((dispatch, work), kernel), (at, len))| {
                let work = work.unwrap_or_else(|| dispatch.whole(&kernel));
                dispatch.build(&self.gpu, kernel, params.slice(at, len), work)
            });
        let steps = built.collect();
        self.gpu.check()?;
        Ok(Program { gpu: self.gpu, steps })
    }
}

impl Dispatch {
    fn check(&self, caps: &Caps) -> Result<()> {
        match self.bindings.iter().find(|(_, slice)| slice.bytes > caps.max_binding) {
            None => Ok(()),
            Some((name, slice)) => Err(Error::OutOfMemory(format!(
                "{}: `{name}` spans {} MiB, {} binds at most {} MiB; use a smaller batch or shorter sequences",
                self.label,
                slice.bytes >> 20,
                caps.name,
                caps.max_binding >> 20
            ))),
        }
    }

    /// The workgroups in as many dimensions as it takes.
    fn grid(&self, caps: &Caps) -> [u32; 2] {
        let rows = self.workgroups.div_ceil(u64::from(caps.max_workgroups_per_dim));
        [self.workgroups.div_ceil(rows) as u32, rows as u32]
    }

    /// The work of moving every binding as a whole.
    fn whole(&self, kernel: &Kernel) -> Work {
        let writable = |name: &str| kernel.bindings.iter().any(|b| b.name == name && b.writable);
        let times = |name: &str| if writable(name) { 2.0 } else { 1.0 };
        let bytes = self.bindings.iter().map(|(name, slice)| times(name) * slice.bytes as f64).sum();
        Work { flops: 0.0, bytes }
    }

    fn build(self, gpu: &Gpu, kernel: Arc<Kernel>, params: Slice, work: Work) -> Step {
        let find = |name: &str| {
            let given = self.bindings.iter().find(|(n, _)| *n == name).map(|(_, slice)| slice);
            given.unwrap_or_else(|| panic!("{}: nothing is bound to `{name}` of {}.wgsl", self.label, kernel.name))
        };
        for (name, _) in &self.bindings {
            let known = kernel.bindings.iter().any(|b| b.name == *name);
            assert!(known, "{}: {}.wgsl has no binding `{name}`", self.label, kernel.name);
        }
        let entry = |binding: &super::shader::Binding| {
            let slice = if binding.name == "p" { &params } else { find(&binding.name) };
            wgpu::BindGroupEntry {
                binding: binding.index,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &slice.buffer.raw,
                    offset: slice.offset,
                    size: wgpu::BufferSize::new(slice.bytes),
                }),
            }
        };
        let entries: Vec<_> = kernel.bindings.iter().map(entry).collect();
        let (label, layout) = (Some(&*self.label), &kernel.layout);
        let descriptor = wgpu::BindGroupDescriptor { label, layout, entries: &entries };
        let bind_group = gpu.inner.call(|device, _| device.create_bind_group(&descriptor));
        let grid = self.grid(gpu.caps());
        Step { label: self.label, kernel, bind_group, grid, work }
    }
}

impl Program {
    /// Number of dispatches of one replay.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What each dispatch of one replay has to do.
    pub fn work(&self) -> Vec<StepWork> {
        let step = |s: &Step| StepWork {
            kernel: s.kernel.name,
            label: s.label.clone(),
            work: s.work,
            workgroups: s.grid.iter().map(|&n| u64::from(n)).product(),
            workgroup: s.kernel.workgroup,
        };
        self.steps.iter().map(step).collect()
    }

    /// Replays the program `times` over: [`Program::run_all`], blocking.
    pub fn run(&self, times: usize) -> Result<()> {
        pollster::block_on(Program::run_all(&self.gpu, &vec![self; times], &|| false))
    }

    /// Replays several programs one after the other, in one pass and one submit where that is within the budget of a submit
    /// ([`Gpu::set_submit_budget`]). What is longer goes out in pieces; this waits until all but the last two have run.
    ///
    /// # Errors
    /// `Cancelled` if `should_stop` says so between two pieces.
    pub async fn run_all(gpu: &Gpu, programs: &[&Program], should_stop: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        let pace = &gpu.inner.pace;
        let steps: Vec<&Step> = programs.iter().flat_map(|p| &p.steps).collect();
        let mut rest = steps.as_slice();
        let mut before: Option<Piece> = None;
        // When the piece that is underway began, as far as that is known.
        let mut began = None;
        while !rest.is_empty() {
            if should_stop() {
                return Err(Error::Cancelled);
            }
            let (budget, mut seconds) = (pace.budget(), 0.0);
            let fits = |step: &&&Step| {
                let is_first = seconds == 0.0;
                seconds += pace.seconds(&step.work);
                is_first || seconds <= budget
            };
            let (now, after) = rest.split_at(rest.iter().take_while(fits).count());
            rest = after;
            let seconds = now.iter().map(|step| pace.seconds(&step.work)).sum();
            let submission = gpu.inner.submit(|encoder| {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                now.iter().for_each(|step| step.encode(&mut pass));
            });
            gpu.check()?;
            // The device works at this piece while the one before it is waited for.
            let submitted = Instant::now();
            if let Some(piece) = before.take() {
                gpu.submission_ended(piece.submission).await?;
                if let Some(began) = began.replace(Instant::now()) {
                    pace.learn(piece.seconds, began.elapsed().as_secs_f64());
                }
            } else if !rest.is_empty() {
                began = Some(submitted);
            }
            before = Some(Piece { submission, seconds });
        }
        Ok(())
    }

    /// Runs one step and waits for it: the debug mode that names the first bad step.
    pub fn run_step(&self, index: usize) -> Result<()> {
        self.gpu.inner.submit(|encoder| self.steps[index].encode(&mut encoder.begin_compute_pass(&Default::default())));
        self.gpu.wait()
    }

    /// Seconds that `times` replays take in one pass: by the device's clock where it has one, else from submit to end.
    pub async fn time(&self, times: usize) -> Result<f64> {
        let device = &self.gpu.inner.device;
        let clock = self.gpu.caps().timestamps.then(|| Clock::new(device, 2));
        let mut encoder = device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("time"),
            timestamp_writes: clock.as_ref().map(|clock| clock.writes(0)),
        });
        for step in (0..times).flat_map(|_| &self.steps) {
            step.encode(&mut pass);
        }
        drop(pass);
        if let Some(clock) = &clock {
            clock.resolve(&mut encoder);
        }
        let start = Instant::now();
        self.gpu.inner.queue.submit([encoder.finish()]);
        self.gpu.wait()?;
        let by_host = start.elapsed().as_secs_f64();
        let Some(clock) = clock else { return Ok(by_host) };
        let by_device = clock.read(&self.gpu).await?[0].1;
        // Some drivers promise timestamps and never write them.
        Ok(if by_device > 0.0 { by_device } else { by_host })
    }

    /// Replays once with a timestamp before and after each step.
    ///
    /// # Errors
    /// `Adapter` where the device has no timestamps.
    pub async fn profile(&self) -> Result<Vec<StepTime>> {
        if !self.gpu.caps().timestamps {
            return Err(Error::Adapter(format!("{} offers no timestamp queries", self.gpu.caps().name)));
        }
        let device = &self.gpu.inner.device;
        let mut times = Vec::with_capacity(self.steps.len());
        let mut zero = None;
        // A query set holds 4096 queries.
        for steps in self.steps.chunks(2048) {
            let clock = Clock::new(device, 2 * steps.len() as u32);
            let mut encoder = device.create_command_encoder(&Default::default());
            for (i, step) in steps.iter().enumerate() {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: Some(&step.label),
                    timestamp_writes: Some(clock.writes(2 * i as u32)),
                });
                step.encode(&mut pass);
            }
            clock.resolve(&mut encoder);
            self.gpu.inner.queue.submit([encoder.finish()]);
            times.extend(steps.iter().zip(clock.read(&self.gpu).await?).map(|(step, (begin, seconds))| StepTime {
                kernel: step.kernel.name,
                label: step.label.clone(),
                start: begin - *zero.get_or_insert(begin),
                seconds,
                work: step.work,
            }));
        }
        Ok(times)
    }
}

/// Timestamps in pairs, and where they are read from.
struct Clock {
    queries: wgpu::QuerySet,
    ticks: Buffer,
    count: u32,
}

impl Clock {
    fn new(device: &wgpu::Device, count: u32) -> Clock {
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("clock"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let raw = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("clock"),
            size: u64::from(count) * 8,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Clock { queries, ticks: Buffer { bytes: raw.size(), raw }, count }
    }

    /// A pass's begin and end as queries `first` and the one after it.
    fn writes(&self, first: u32) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        }
    }

    fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.resolve_query_set(&self.queries, 0..self.count, &self.ticks.raw, 0);
    }

    /// The first of each pair and the time between the two, in seconds.
    async fn read(&self, gpu: &Gpu) -> Result<Vec<(f64, f64)>> {
        let period = f64::from(gpu.inner.queue.get_timestamp_period()) * 1e-9;
        let read: Vec<u64> = gpu.read(&self.ticks, 0..self.ticks.bytes()).await?;
        let seconds = |pair: &[u64]| (pair[0] as f64 * period, pair[1].saturating_sub(pair[0]) as f64 * period);
        Ok(read.chunks(2).map(seconds).collect())
    }
}

impl Step {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.kernel.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], 1);
    }
}
