//! A recorded list of dispatches. Pipelines, bind groups and parameters are made once; a replay is a plain loop.

use std::sync::Arc;

use web_time::Instant;

use super::buffer::{Buffer, Slice};
use super::sequence::Sequence;
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
    /// Members of the kernel's `Params`, by name; [`ProgramBuilder::finish`] fills in where its workgroups are: `grid_x`, `first_group`.
    pub params: Vec<(&'static str, Param)>,
    /// Workgroups in all; folded to two dimensions where one does not hold them, and cut in pieces where they have much to do.
    pub workgroups: u64,
}

pub(super) struct Step {
    label: String,
    kernel: Arc<Kernel>,
    bind_group: wgpu::BindGroup,
    grid: [u32; 2],
    pub work: Work,
}

/// A part of a [`Dispatch`].
struct DispatchPart {
    /// The first of its workgroups.
    first: u32,
    workgroups: u64,
    /// These in as many dimensions as it takes; where there are more in it, the kernel sees that they lie behind the last.
    grid: [u32; 2],
}

/// The work of one dispatch, beyond which it is cut: a twentieth of a second of a slow card at its best. Watchdogs end what takes
/// two seconds, and frames of other programs wait while a dispatch runs.
const MOST_WORK: Work = Work { flops: 50e9, bytes: 2.5e9 };

/// Dispatches ready to be replayed.
pub struct Program {
    gpu: Gpu,
    pub(super) steps: Arc<[Step]>,
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
        let mut bytes = Vec::new();
        let mut pieces = Vec::new();
        for ((dispatch, work), kernel) in self.pending.iter().zip(&kernels) {
            let work = work.unwrap_or_else(|| dispatch.whole(kernel));
            for DispatchPart { first, workgroups, grid } in dispatch.pieces(&work, &self.gpu) {
                let mut params = dispatch.params.clone();
                params.extend([("grid_x", Param::U32(grid[0])), ("first_group", first.into())]);
                let packed = kernel.pack_params(&params);
                bytes.resize(bytes.len().next_multiple_of(caps.alignment as usize), 0);
                let share = workgroups as f64 / dispatch.workgroups as f64;
                let work = Work { flops: share * work.flops, bytes: share * work.bytes };
                pieces.push((dispatch, kernel, bytes.len() as u64, packed.len() as u64, grid, work));
                bytes.extend_from_slice(&packed);
            }
        }
        let params = self.gpu.buffer_of("params", &bytes)?;
        let steps = pieces.into_iter().map(|(dispatch, kernel, at, len, grid, work)| {
            dispatch.build(&self.gpu, kernel, params.slice(at, len), grid, work)
        });
        let steps = steps.collect();
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

    /// The dispatches that this one becomes: one, or several where one would keep a slow card busy for too long.
    fn pieces(&self, work: &Work, gpu: &Gpu) -> impl Iterator<Item = DispatchPart> {
        let row = u64::from(gpu.caps().max_workgroups_per_dim);
        let wanted = (work.flops / MOST_WORK.flops).max(work.bytes / MOST_WORK.bytes).ceil() as u64;
        let wanted = wanted.max(u64::from(gpu.options().pieces)).max(1);
        let size = self.workgroups.div_ceil(wanted);
        // Nothing beyond a piece may run, since it belongs to the next: several rows of workgroups are whole rows.
        let size = if size > row { size.next_multiple_of(row) } else { size };
        let total = self.workgroups;
        (0..total).step_by(size as usize).map(move |first| {
            let workgroups = size.min(total - first);
            let rows = workgroups.div_ceil(row);
            let columns = if rows > 1 && first + workgroups < total { row } else { workgroups.div_ceil(rows) };
            DispatchPart { first: first as u32, workgroups, grid: [columns as u32, rows as u32] }
        })
    }

    /// The work of moving every binding as a whole.
    fn whole(&self, kernel: &Kernel) -> Work {
        let writable = |name: &str| kernel.bindings.iter().any(|b| b.name == name && b.writable);
        let times = |name: &str| if writable(name) { 2.0 } else { 1.0 };
        let bytes = self.bindings.iter().map(|(name, slice)| times(name) * slice.bytes as f64).sum();
        Work { flops: 0.0, bytes }
    }

    fn build(&self, gpu: &Gpu, kernel: &Arc<Kernel>, params: Slice, grid: [u32; 2], work: Work) -> Step {
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
        Step { label: self.label.clone(), kernel: kernel.clone(), bind_group, grid, work }
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

    /// Replays the program `times` over, in one submit where that is within the budget of one.
    pub fn run(&self, times: usize) -> Result<()> {
        let mut sequence = Sequence::new(&self.gpu);
        (0..times).for_each(|_| sequence.run(self));
        sequence.submit()
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
        for step in (0..times).flat_map(|_| self.steps.iter()) {
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
        Clock { queries, ticks: Buffer::uncounted(raw), count }
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
    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.kernel.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], 1);
    }
}
