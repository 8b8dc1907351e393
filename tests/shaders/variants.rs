//! Every kernel variant that the program can launch, on any kind of adapter, found without one.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::LazyLock;

use t5_wgpu::batch::BatchShape;
use t5_wgpu::bench;
use t5_wgpu::gpu::{Caps, Header, Shader};
use t5_wgpu::graph::{Choices, Dtype, Graph, Launcher, questions};
use t5_wgpu::model::{Architecture, Builder, Layout, T5Config};
use t5_wgpu::train::optimizer;
use t5_wgpu::verify::{bench_cases, cases, large_cases};

/// One expanded source.
pub struct Variant {
    /// Its shader's name and a number: `matmul_rows.017`.
    pub id: String,
    pub shader: &'static str,
    pub constants: String,
    /// The kinds of adapter that launch it.
    pub profiles: BTreeSet<&'static str>,
    pub source: String,
    /// Before its loops were written out.
    pub as_written: String,
    parts: Vec<&'static str>,
    /// The first of its kernel with these constants, or with these parts.
    pub is_first: bool,
}

impl Variant {
    pub fn uses_subgroups(&self) -> bool {
        self.source.contains("subgroup")
    }

    /// FXC has no subgroup operations, and is spared staged attention by `Attention::candidates`.
    pub fn needs_dxc(&self) -> bool {
        self.uses_subgroups() || self.shader.starts_with("attention_staged")
    }
}

/// All variants, in the order of their ids.
pub static VARIANTS: LazyLock<Vec<Variant>> = LazyLock::new(|| {
    let mut found = Found::default();
    for case in cases().iter().chain(&large_cases()).chain(&bench_cases()) {
        let forward = case.build();
        found.add_graph(&forward.graph);
        if !forward.differentiable.is_empty() {
            found.add_graph(&case.build_backward(true).0.graph);
            found.add_graph(&case.build_backward(false).0.graph);
        }
    }
    for preset in PRESETS {
        found.add_model(&T5Config::preset(preset).expect("a known name"));
    }
    for architecture in [Architecture::LanguageModel, Architecture::PrefixLm] {
        found.add_model(&T5Config { architecture, ..T5Config::preset("t5-small").expect("a known name") });
    }
    for (shader, header) in [optimizer::kernels(), bench::kernels()].concat() {
        for (profile, _) in &*PROFILES {
            found.add(shader, &header, profile);
        }
    }
    let mut counts = BTreeMap::new();
    let mut all: Vec<Variant> = found.0.into_values().collect();
    all.sort_by(|a, b| (a.shader, &a.source).cmp(&(b.shader, &b.source)));
    let (mut constants, mut parts) = (BTreeSet::new(), BTreeSet::new());
    for variant in &mut all {
        let new_constants = constants.insert((variant.shader, variant.constants.clone()));
        variant.is_first = parts.insert((variant.shader, variant.parts.clone())) || new_constants;
        let count = counts.entry(variant.shader).or_insert(0);
        variant.id = format!("{}.{count:03}", variant.shader);
        *count += 1;
    }
    all
});

/// Kinds of adapter that make the ops choose differently: software ones with subgroups of each size, the least that WebGPU
/// grants, a graphics card.
pub static PROFILES: LazyLock<Vec<(&str, Caps)>> = LazyLock::new(|| {
    let least = Caps {
        kind: "other",
        max_binding: 128 << 20,
        table_bytes: 128 << 20,
        max_buffer: 2 << 30,
        max_invocations: 256,
        max_workgroup_bytes: 16 << 10,
        max_storage_bindings: 8,
        max_workgroups_per_dim: 65_535,
        alignment: 256,
        ..Caps::default()
    };
    let software = |subgroup| Caps { kind: "CPU", subgroup, ..least.clone() };
    let card = Caps {
        kind: "discrete GPU",
        subgroup: Some((32, 64)),
        max_binding: 2 << 30,
        table_bytes: 2 << 30,
        max_invocations: 1024,
        max_workgroup_bytes: 32 << 10,
        ..least.clone()
    };
    vec![
        ("cpu4", software(Some((4, 4)))),
        ("cpu8", software(Some((8, 8)))),
        ("cpu16", software(Some((16, 16)))),
        ("cpu", software(None)),
        ("webgpu", least),
        ("card", card),
    ]
});

/// Every family, and every width that changes a kernel.
const PRESETS: &[&str] = &[
    "t5-small",
    "t5-base",
    "t5-large",
    "t5-3b",
    "t5-v1_1-small",
    "t5-v1_1-base",
    "t5-v1_1-large",
    "t5-v1_1-xl",
    "mt5-small",
    "byt5-small",
    "umt5-base",
    "tiny",
];

/// By expanded source; and what is there already.
#[derive(Default)]
struct Found(BTreeMap<String, Variant>, HashSet<(&'static str, Header, &'static str)>);

impl Found {
    fn add(&mut self, shader: &'static Shader, header: &Header, profile: &'static str) {
        if !self.1.insert((shader.name, header.clone(), profile)) {
            return;
        }
        let source = shader.expand(header);
        let variant = self.0.entry(source.clone()).or_insert_with(|| Variant {
            id: String::new(),
            shader: shader.name,
            constants: header.constants_text(),
            profiles: BTreeSet::new(),
            source,
            as_written: shader.as_written(header),
            parts: header.parts.clone(),
            is_first: false,
        });
        variant.profiles.insert(profile);
    }

    fn add_graph(&mut self, graph: &Graph) {
        for (profile, caps) in &*PROFILES {
            self.add_graph_for(caps, profile, graph);
        }
    }

    /// What a graph launches by rule, by each answer that tuning could give, and while tuning finds out.
    fn add_graph_for(&mut self, caps: &Caps, profile: &'static str, graph: &Graph) {
        let leaves = graph.leaves().map(|(value, _)| value);
        let outputs: Vec<_> = graph.nodes().iter().flat_map(|n| n.outputs.clone()).chain(leaves).collect();
        let asked = questions(caps, graph, &outputs, &Choices::none());
        self.add_launches(caps, profile, graph, &Choices::none());
        for i in 0..asked.iter().map(|q| q.candidates.len()).max().unwrap_or(0) {
            let mut choices = Choices::none();
            for question in &asked {
                if let Some(candidate) = question.candidates.get(i) {
                    choices.by_class.insert(question.class.clone(), candidate.name.to_owned());
                }
            }
            self.add_launches(caps, profile, graph, &choices);
        }
        for candidate in asked.iter().flat_map(|q| &q.candidates) {
            self.add_launches(caps, profile, &candidate.trial.graph().0, &Choices::none());
        }
    }

    fn add_launches(&mut self, caps: &Caps, profile: &'static str, graph: &Graph, choices: &Choices) {
        for node in graph.nodes() {
            let mut launcher = Launcher::new(caps, graph, node).with_choices(choices);
            node.op.launch(&mut launcher);
            for launch in launcher.launches.iter().filter(|l| l.workgroups > 0) {
                self.add(launch.shader, &launch.header, profile);
            }
        }
    }

    /// The graphs of a model with weights of each type: encoder, evaluation, decoding, and training with f32 weights.
    fn add_model(&mut self, config: &T5Config) {
        let (untied, has_encoder) = (!config.tie_word_embeddings, !config.architecture.is_one_stack());
        let (scale, _) = config.output_scale(untied);
        for (profile, caps) in &*PROFILES {
            for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8, Dtype::Q4, Dtype::Q5K, Dtype::Q6K] {
                let Ok(layout) = Layout::new(config, untied, caps, &|_| dtype) else { continue };
                let mut add = |batch, src_len, tgt_len, packed, dropout, write: &dyn Fn(&mut Builder<'_>)| {
                    let shape = BatchShape { batch, src_len, tgt_len, packed };
                    let mut builder = Builder::on_layout(config, &layout, scale, shape, dropout);
                    write(&mut builder);
                    self.add_graph_for(caps, profile, &builder.graph);
                };
                // What integers and scales are unpacked by is the same in all kernels that read weights, and Q8's are all there.
                if matches!(dtype, Dtype::Q4 | Dtype::Q5K | Dtype::Q6K) {
                    add(1, 512, 160, false, 0.0, &|b| b.decode_step(1, 0));
                    if has_encoder {
                        add(1, 77, 1, false, 0.0, &|b| _ = b.encoder());
                    }
                    continue;
                }
                for (batch, src, max) in
                    [(1, 64, 96), (1, 512, 160), (4, 512, 2048), (8, 64, 96), (16, 64, 96), (3, 1000, 700)]
                {
                    add(batch, src, max, false, 0.0, &|b| b.prepare_decoding(1));
                    add(batch, src, max, false, 0.0, &|b| b.decode_step(batch, 0));
                    add(batch, src, max, false, 0.0, &|b| b.decode_step(batch, 3));
                }
                for (batch, src) in [(8, 512), (1, 512), (1, 77)].into_iter().filter(|_| has_encoder) {
                    add(batch, src, 1, false, 0.0, &|b| _ = b.encoder());
                }
                for packed in [false, true] {
                    add(8, 512, 114, packed, 0.0, &|b| _ = loss(b));
                    for dropout in [0.0, 0.1] {
                        if dtype == Dtype::F32 {
                            add(8, 512, 114, packed, dropout, &|b| {
                                let stats = loss(b);
                                b.backward(stats);
                            });
                        }
                    }
                }
            }
        }
    }
}

fn loss(builder: &mut Builder<'_>) -> t5_wgpu::graph::ValueId {
    let hidden = builder.states();
    builder.loss(hidden, 1e-4, 0.1)
}
