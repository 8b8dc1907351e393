//! Work for the device in order, such as a whole training step: recorded first, then submitted at once.

use std::ops::Range;
use std::sync::{Arc, PoisonError};

use web_time::Instant;

use super::Gpu;
use super::buffer::{Readback, Slice};
use super::poller::Mapping;
use super::program::{Program, Step};
use crate::error::{Error, Result};

/// Clears, writes and programs in the order in which they will run. What is recorded does nothing before it is submitted: then it
/// goes out in one submit or, if it takes longer than the budget of one ([`Gpu::set_submit_budget`]), in several.
pub struct Sequence {
    gpu: Gpu,
    commands: Vec<Command>,
    /// What the writes write, one after the other.
    data: Vec<u8>,
}

enum Command {
    Clear(Slice),
    /// Of `data`, from this byte on.
    Write(Slice, usize),
    Run(Arc<[Step]>),
}

/// What a submit is made of.
enum Part<'a> {
    Clear(&'a Slice),
    Write(&'a Slice, usize),
    Step(&'a Step),
}

/// Where the last piece of a sequence copies what is to be read.
struct Reading<'a> {
    from: &'a [Slice],
    staging: wgpu::Buffer,
    mapping: Mapping,
}

impl Sequence {
    /// Nothing so far.
    pub fn new(gpu: &Gpu) -> Sequence {
        Sequence { gpu: gpu.clone(), commands: Vec::new(), data: Vec::new() }
    }

    /// Sets a window to zero.
    pub fn clear(&mut self, slice: &Slice) {
        self.commands.push(Command::Clear(slice.clone()));
    }

    /// Writes `data`, whose size is a multiple of four bytes, to the start of a window.
    ///
    /// # Panics
    /// If the window is smaller than that.
    #[track_caller]
    pub fn write<T: bytemuck::NoUninit>(&mut self, to: &Slice, data: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        assert!(bytes.len() as u64 <= to.bytes, "{} bytes for a window of {}", bytes.len(), to.bytes);
        let to = to.buffer.slice(to.offset, bytes.len() as u64);
        self.commands.push(Command::Write(to, self.data.len()));
        self.data.extend_from_slice(bytes);
    }

    /// Replays a program.
    pub fn run(&mut self, program: &Program) {
        self.commands.push(Command::Run(program.steps.clone()));
    }

    /// Submits what was recorded; blocks while more than two pieces of it are on their way.
    pub fn submit(&mut self) -> Result<()> {
        pollster::block_on(self.submit_until(&|| false))
    }

    /// [`Sequence::submit`] that blocks no thread of the caller.
    ///
    /// # Errors
    /// `Cancelled` if `should_stop` says so before a piece: the rest is forgotten.
    pub async fn submit_until(&mut self, should_stop: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        if self.commands.is_empty() {
            return Ok(());
        }
        self.take().send(None, should_stop).await.map(drop)
    }

    /// Submits what was recorded and behind it, in the same submit, begins to read these windows back, as one list. Work
    /// submitted afterwards does not delay that.
    pub fn submit_reading<T: bytemuck::Pod>(&mut self, from: &[Slice]) -> Result<Readback<T>> {
        let bytes = from.iter().map(|slice| slice.bytes).sum();
        let (staging, mapping) = (self.gpu.staging(bytes), Mapping::default());
        let reading = Reading { from, staging: staging.clone(), mapping: mapping.clone() };
        let submission = pollster::block_on(self.take().send(Some(reading), &|| false))?;
        Ok(Readback::new(&self.gpu, staging, bytes, submission, mapping))
    }

    fn take(&mut self) -> Sequence {
        let empty = Sequence::new(&self.gpu);
        std::mem::replace(self, empty)
    }

    /// Submits everything, in pieces of the budget, and waits until all of them but the last two have run. Gives the last.
    async fn send(
        self,
        mut reading: Option<Reading<'_>>,
        should_stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<wgpu::SubmissionIndex> {
        let pace = &self.gpu.inner.pace;
        let guess = |part: &Part<'_>| if let Part::Step(step) = part { pace.seconds(&step.work) } else { 0.0 };
        let parts = self.parts();
        let mut rest = parts.as_slice();
        // The piece that is underway, with the seconds that were guessed for it, and when it began, as far as that is known.
        let (mut underway, mut began) = (None, None);
        loop {
            if should_stop() {
                return Err(Error::Cancelled);
            }
            let (budget, mut seconds) = (pace.budget(), 0.0);
            let fits = |part: &&Part<'_>| {
                let is_first = seconds == 0.0;
                seconds += guess(part);
                is_first || seconds <= budget
            };
            let (now, after) = rest.split_at(rest.iter().take_while(fits).count());
            rest = after;
            let submission = self.submit_piece(now, reading.take_if(|_| rest.is_empty()))?;
            // The device works at this piece while the one before it is waited for.
            let submitted = Instant::now();
            match underway.replace((submission.clone(), now.iter().map(guess).sum())) {
                None => began = Some(submitted),
                Some((before, guessed)) => {
                    self.gpu.submission_ended(before).await?;
                    if let Some(began) = began.replace(Instant::now()) {
                        pace.learn(guessed, began.elapsed().as_secs_f64());
                    }
                }
            }
            if rest.is_empty() {
                return Ok(submission);
            }
        }
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        for command in &self.commands {
            match command {
                Command::Clear(slice) => parts.push(Part::Clear(slice)),
                Command::Write(slice, at) => parts.push(Part::Write(slice, *at)),
                Command::Run(steps) => parts.extend(steps.iter().map(Part::Step)),
            }
        }
        parts
    }

    fn submit_piece(&self, parts: &[Part<'_>], reading: Option<Reading<'_>>) -> Result<wgpu::SubmissionIndex> {
        let inner = &self.gpu.inner;
        let written = written(parts);
        // Held until the submit, since the next piece overwrites what this one copies.
        let mut upload = inner.upload.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = written.len() as u64;
        if upload.as_ref().is_none_or(|buffer| buffer.bytes() < bytes) && bytes > 0 {
            *upload = Some(self.gpu.buffer("upload", bytes.next_power_of_two())?);
        }
        let submission = inner.call(|device, queue| {
            let mut encoder = device.create_command_encoder(&Default::default());
            if let Some(upload) = upload.as_ref().filter(|_| bytes > 0) {
                queue.write_buffer(&upload.raw, 0, &self.data[written.clone()]);
            }
            let mut rest = parts;
            while let Some((first, after)) = rest.split_first() {
                match first {
                    Part::Clear(to) => encoder.clear_buffer(&to.buffer.raw, to.offset, Some(to.bytes)),
                    Part::Write(to, at) => {
                        let from = upload.as_ref().map(|buffer| &buffer.raw).expect("made above");
                        let at = (at - written.start) as u64;
                        encoder.copy_buffer_to_buffer(from, at, &to.buffer.raw, to.offset, to.bytes);
                    }
                    Part::Step(_) => {
                        let mut pass = encoder.begin_compute_pass(&Default::default());
                        while let Some((Part::Step(step), after)) = rest.split_first() {
                            step.encode(&mut pass);
                            rest = after;
                        }
                        continue;
                    }
                }
                rest = after;
            }
            if let Some(Reading { from, staging, .. }) = &reading {
                let mut at = 0;
                for Slice { buffer, offset, bytes } in *from {
                    encoder.copy_buffer_to_buffer(&buffer.raw, *offset, staging, at, *bytes);
                    at += bytes;
                }
            }
            let submission = queue.submit([encoder.finish()]);
            if let Some(Reading { staging, mapping, .. }) = reading {
                staging.map_async(wgpu::MapMode::Read, .., move |result| mapping.end(result.is_ok()));
            }
            submission
        });
        self.gpu.check()?;
        Ok(submission)
    }
}

/// The bytes of a sequence's data that these parts of it write.
fn written(parts: &[Part<'_>]) -> Range<usize> {
    let mut ranges = parts.iter().filter_map(|part| match part {
        Part::Write(to, at) => Some(*at..*at + to.bytes as usize),
        _ => None,
    });
    let first = ranges.next().unwrap_or_default();
    first.start..ranges.next_back().map_or(first.end, |range| range.end)
}
