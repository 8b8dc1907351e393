//! The objective of a tiny model in float64, for gradients by finite differences.

use std::collections::HashMap;

use t5_wgpu::batch::{Batch, BatchShape, Example};
use t5_wgpu::graph::{Dtype, Graph, Tensor64, ValueId, interpret};
use t5_wgpu::model::{Architecture, Builder, Model, T5Config};
use t5_wgpu::rng::{Purpose, Rng};

pub fn config(family: &str, architecture: Architecture, gated: bool) -> T5Config {
    let text = format!(
        r#"{{"model_type": "{family}", "architecture": "{}", "vocab_size": 23, "d_model": 8, "d_kv": 3, "d_ff": 12, "num_layers": 2,
            "num_heads": 2, "feed_forward_proj": "{}", "tie_word_embeddings": {}, "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 6}}"#,
        architecture.name(),
        if gated { "gated-gelu" } else { "relu" },
        !gated
    );
    T5Config::from_json(&text, "test").unwrap()
}

/// Four examples, two to a row where rows are packed.
pub fn batch(packed: bool) -> Batch {
    let mut rng = Rng::new(5, Purpose::Examples, &[7]);
    let mut ids = |most: u64| -> Vec<u32> {
        let len = 1 + rng.below(most);
        (0..len).map(|_| 2 + rng.below(21) as u32).collect()
    };
    let examples: Vec<Example> = (0..4).map(|_| Example { source: ids(9), target: ids(5) }).collect();
    let rows: Vec<Vec<&Example>> =
        examples.chunks(if packed { 2 } else { 1 }).map(|row| row.iter().collect()).collect();
    let (batch, src_len, tgt_len) = if packed { (3, 18, 10) } else { (5, 9, 5) };
    Batch::collate(&rows, BatchShape { batch, src_len, tgt_len, packed }, 0, 0)
}

/// The key of the masks of dropout.
pub const KEY: [u32; 4] = [3, 1, 4, 1];

/// The objective of a batch in training in float64, as a function of one number of a leaf. The model itself has no dropout.
pub struct Objective {
    graph: Graph,
    stats: ValueId,
    pub leaves: HashMap<String, Tensor64>,
}

impl Objective {
    pub fn new(model: &Model, batch: &Batch) -> Objective {
        let mut b = Builder::new(model, batch.shape, 0.0);
        b.for_training();
        let hidden = b.states();
        let stats = b.loss(hidden, 0.0, 0.0);
        let graph = b.graph;
        let written: HashMap<_, _> = model.config.batch_leaves(batch).into_iter().collect();
        let mut leaves = HashMap::new();
        for (_, info) in graph.leaves() {
            let data: Vec<f64> = match (written.get(&*info.label), info.dtype) {
                (Some(data), _) => data.iter().map(|&x| x.into()).collect(),
                (None, _) if info.label == "key" => KEY.map(f64::from).to_vec(),
                (None, _) if info.label == "dstats" => vec![0.0, 0.0, 0.0, 1.0],
                (None, Dtype::U32) => read::<u32>(model, &info.label).into_iter().map(f64::from).collect(),
                (None, _) => read::<f32>(model, &info.label).into_iter().map(f64::from).collect(),
            };
            leaves.insert(info.label.clone(), Tensor64::new(&info.shape, data));
        }
        Objective { graph, stats, leaves }
    }

    pub fn at(&mut self, leaf: &str, index: usize, shift: f64) -> f64 {
        let before = self.leaves[leaf].data[index];
        self.leaves.get_mut(leaf).unwrap().data[index] += shift;
        let stats = interpret(&self.graph, &[self.stats], &mut self.leaves).remove(0);
        self.leaves.get_mut(leaf).unwrap().data[index] = before;
        stats.data[3]
    }
}

pub fn read<T: bytemuck::Pod>(model: &Model, leaf: &str) -> Vec<T> {
    let slice = model.bind(leaf).unwrap_or_else(|| panic!("no leaf {leaf}"));
    pollster::block_on(model.gpu.read(&slice.buffer, slice.offset..slice.offset + slice.bytes)).unwrap()
}
