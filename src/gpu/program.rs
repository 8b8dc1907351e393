//! A recorded list of dispatches: pipelines, bind groups and parameters are made once, replaying is a bare loop.

use std::sync::Arc;
use std::time::Instant;

use super::Gpu;
use super::buffer::{Buffer, Slice};
use super::shader::{Header, Kernel, Param, Shader};
use super::work::{StepWork, Work};
use crate::error::{Error, Result};

/// One kernel launch as plain data.
pub struct Dispatch {
    /// What the step is called in profiles and printed plans.
    pub label: String,
    pub shader: &'static Shader,
    pub header: Header,
    /// Windows for the kernel's storage variables, by name.
    pub bindings: Vec<(&'static str, Slice)>,
    /// Members of the kernel's `Params`, by name; `grid_x` is filled in by [`ProgramBuilder::push`].
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
    pending: Vec<Pending>,
    params: Vec<u8>,
}

struct Pending {
    label: String,
    kernel: Arc<Kernel>,
    bindings: Vec<(&'static str, Slice)>,
    params: (u64, u64),
    grid: [u32; 2],
    work: Work,
}

impl ProgramBuilder {
    pub fn new(gpu: &Gpu) -> ProgramBuilder {
        ProgramBuilder { gpu: gpu.clone(), pending: Vec::new(), params: Vec::new() }
    }

    /// [`ProgramBuilder::push_counted`] for a launch that reads and writes the whole of its bindings, and updates in place
    /// those that it may write.
    pub fn push(&mut self, dispatch: Dispatch) -> Result<()> {
        let kernel = self.gpu.kernel(dispatch.shader, &dispatch.header)?;
        let writable = |name: &str| kernel.bindings.iter().any(|b| b.name == name && b.writable);
        let times = |name: &str| if writable(name) { 2.0 } else { 1.0 };
        let bytes = dispatch.bindings.iter().map(|(name, slice)| times(name) * slice.bytes as f64).sum();
        self.push_counted(dispatch, Work { flops: 0.0, bytes })
    }

    /// Compiles the kernel if it is new and records the launch, which does `work`. Launches of no workgroups are dropped.
    pub fn push_counted(&mut self, dispatch: Dispatch, work: Work) -> Result<()> {
        if dispatch.workgroups == 0 {
            return Ok(());
        }
        let caps = self.gpu.caps();
        for (name, slice) in &dispatch.bindings {
            if slice.bytes > caps.max_binding {
                return Err(Error::OutOfMemory(format!(
                    "{}: `{name}` spans {} MiB, {} binds at most {} MiB; use a smaller batch or shorter sequences",
                    dispatch.label,
                    slice.bytes >> 20,
                    caps.name,
                    caps.max_binding >> 20
                )));
            }
        }
        let limit = u64::from(caps.max_workgroups_per_dim);
        let rows = dispatch.workgroups.div_ceil(limit);
        let grid = [dispatch.workgroups.div_ceil(rows) as u32, rows as u32];
        let kernel = self.gpu.kernel(dispatch.shader, &dispatch.header)?;
        let mut params = dispatch.params;
        params.push(("grid_x", Param::U32(grid[0])));
        let packed = kernel.pack_params(&params);
        let offset = (self.params.len() as u64).next_multiple_of(caps.alignment);
        self.params.resize(offset as usize, 0);
        self.params.extend_from_slice(&packed);
        let params = (offset, packed.len() as u64);
        self.pending.push(Pending { label: dispatch.label, kernel, bindings: dispatch.bindings, params, grid, work });
        Ok(())
    }

    /// Uploads the parameters and builds every bind group.
    pub fn finish(self) -> Result<Program> {
        let params = self.gpu.buffer_of("params", &self.params)?;
        let steps = self.pending.iter().map(|p| p.build(&self.gpu, &params)).collect();
        self.gpu.check()?;
        Ok(Program { gpu: self.gpu, steps })
    }
}

impl Pending {
    fn build(&self, gpu: &Gpu, params: &Buffer) -> Step {
        let window = params.slice(self.params.0, self.params.1);
        let find = |name: &str| {
            let given = self.bindings.iter().find(|(n, _)| *n == name).map(|(_, slice)| slice);
            given.unwrap_or_else(|| panic!("{}: nothing is bound to `{name}` of {}.wgsl", self.label, self.kernel.name))
        };
        for (name, _) in &self.bindings {
            let known = self.kernel.bindings.iter().any(|b| b.name == *name);
            assert!(known, "{}: {}.wgsl has no binding `{name}`", self.label, self.kernel.name);
        }
        let entry = |binding: &super::shader::Binding| {
            let slice = if binding.name == "p" { &window } else { find(&binding.name) };
            wgpu::BindGroupEntry {
                binding: binding.index,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &slice.buffer.raw,
                    offset: slice.offset,
                    size: wgpu::BufferSize::new(slice.bytes),
                }),
            }
        };
        let entries: Vec<_> = self.kernel.bindings.iter().map(entry).collect();
        let bind_group = gpu.inner.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&self.label),
            layout: &self.kernel.layout,
            entries: &entries,
        });
        Step { label: self.label.clone(), kernel: self.kernel.clone(), bind_group, grid: self.grid, work: self.work }
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
        let step = |s: &Step| StepWork { kernel: s.kernel.name, label: s.label.clone(), work: s.work };
        self.steps.iter().map(step).collect()
    }

    /// Replays the program `times` over, in one pass and one submit.
    pub fn run(&self, times: usize) -> Result<()> {
        Program::run_all(&self.gpu, &vec![self; times])
    }

    /// Replays several programs one after the other, in one pass and one submit.
    pub fn run_all(gpu: &Gpu, programs: &[&Program]) -> Result<()> {
        let mut encoder = gpu.inner.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for step in programs.iter().flat_map(|p| &p.steps) {
            step.encode(&mut pass);
        }
        drop(pass);
        gpu.inner.queue.submit([encoder.finish()]);
        gpu.check()
    }

    /// Runs one step and waits for it: the debug mode that names the first bad step.
    pub fn run_step(&self, index: usize) -> Result<()> {
        let mut encoder = self.gpu.inner.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        self.steps[index].encode(&mut pass);
        drop(pass);
        self.gpu.inner.queue.submit([encoder.finish()]);
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
