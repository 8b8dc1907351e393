//! Decoding on the device for one shape: the state, the plan that prepares it, and the plan of a step.

use std::collections::HashMap;

use crate::batch::BatchShape;
use crate::error::Result;
use crate::gpu::{Buffer, Gpu, Readback};
use crate::model::{Builder, DecodeShape, Model};
use crate::ops::SampleSettings;
use crate::plan::{Plan, PlanOptions, SlotPool};

pub(super) struct Session {
    gpu: Gpu,
    shape: DecodeShape,
    state: HashMap<String, (Buffer, usize)>,
    prepare: Plan,
    pub(super) step: Plan,
}

impl Session {
    pub fn compile(model: &Model, shape: DecodeShape, pool: &SlotPool) -> Result<Session> {
        let gpu = &model.gpu;
        let mut state = HashMap::new();
        for (name, len) in shape.state(&model.config, &model.layout) {
            let buffer = gpu.buffer(&name, 4 * len as u64)?;
            state.insert(name, (buffer, len));
        }
        let bind = |name: &str| match state.get(name) {
            Some((buffer, len)) => Some(buffer.slice(0, 4 * *len as u64)),
            None => model.bind(name),
        };
        let options = PlanOptions { bind: &bind, pool };
        let sizes = BatchShape { batch: shape.batch, src_len: shape.src_len, tgt_len: shape.max_len, packed: false };
        let mut b = Builder::new(model, sizes, 0.0);
        b.prepare_decoding();
        let tuner = model.tuner.any_batch();
        let choices = tuner.choices(gpu, &b.graph, &[])?;
        let prepare = Plan::compile_with(gpu, &b.graph, &[], &options, &choices)?;
        let mut b = Builder::new(model, sizes, 0.0);
        b.decode_step();
        let choices = tuner.choices(gpu, &b.graph, &[])?;
        let step = Plan::compile_with(gpu, &b.graph, &[], &options, &choices)?;
        Ok(Session { gpu: gpu.clone(), shape, state, prepare, step })
    }

    /// Bytes of caches and state.
    pub fn bytes(&self) -> u64 {
        self.state.values().map(|(buffer, _)| buffer.bytes()).sum()
    }

    fn write<T: bytemuck::NoUninit>(&self, name: &str, data: &[T]) {
        self.gpu.write(&self.state[name].0, 0, data);
    }

    /// Encodes the sources and puts every sequence at its start. `sequences`: each source's number, for its random draws.
    /// Places of the batch that have no source are finished from the start.
    pub fn start(
        &self,
        sources: &[&[u32]],
        sequences: &[u32],
        settings: &SampleSettings,
        start_token: u32,
    ) -> Result<()> {
        let DecodeShape { batch, src_len, .. } = self.shape;
        let mut ids = vec![settings.pad; batch * src_len];
        let mut lens = vec![0u32; batch];
        for (b, source) in sources.iter().enumerate() {
            ids[b * src_len..][..source.len()].copy_from_slice(source);
            lens[b] = source.len() as u32;
        }
        let mut numbers = sequences.to_vec();
        numbers.resize(batch, 0);
        self.prepare.write("src_ids", &ids);
        self.write("src_lens", &lens);
        self.write("sequences", &numbers);
        self.write("finished", &self.unused(sources.len()));
        self.write("pos", &vec![0u32; batch]);
        self.write("tgt_ids", &vec![start_token; batch]);
        self.write("settings", std::slice::from_ref(settings));
        self.prepare.run()
    }

    /// 1 for each place of the batch beyond the sources.
    fn unused(&self, n_sources: usize) -> Vec<u32> {
        (0..self.shape.batch).map(|b| u32::from(b >= n_sources)).collect()
    }

    /// Makes the first token of each of the sources, whichever it is, and puts this one in its place.
    pub fn force_first(&self, n_sources: usize, token: u32) -> Result<()> {
        self.step.run_times(1)?;
        self.write("finished", &self.unused(n_sources));
        self.write("tgt_ids", &vec![token; self.shape.batch]);
        Ok(())
    }

    /// Makes the next `count` tokens, of which `made` exist, and starts their way back: [count, batch].
    pub fn advance(&self, made: usize, count: usize) -> Result<Readback<u32>> {
        self.step.run_times(count)?;
        let row = 4 * self.shape.batch as u64;
        let first = row * (1 + made as u64);
        self.gpu.start_read(&self.state["tokens"].0, first..first + row * count as u64)
    }
}
