//! All optimisers on the adapter at hand against plain f64 versions of the published formulas.

mod common;

use common::gpu;
use t5_wgpu::gpu::{Buffer, Gpu};
use t5_wgpu::model::{Piece, TensorSpan};
use t5_wgpu::train::optimizer::{Optimizer, OptimizerConfig, StepReport};

const WINDOWS: [usize; 2] = [50_000, 50_004];
const TOKENS: f32 = 37.0;

/// Odd shapes at odd offsets with gaps between them; one matrix lies in both windows.
fn spans() -> Vec<TensorSpan> {
    let whole = |name: &str, shape: &[usize], window, offset| TensorSpan {
        name: name.into(),
        shape: shape.to_vec(),
        pieces: vec![Piece { window, offset, rows: shape[0], len: shape.iter().product() }],
    };
    let mut spans = vec![
        whole("one", &[1], 0, 3),
        whole("gain", &[7], 0, 5),
        whole("small", &[5, 3], 0, 17),
        whole("matrix", &[130, 257], 0, 33),
        whole("bias", &[32, 6], 1, 1),
        whole("tall", &[129, 128], 1, 203),
        whole("long", &[9001], 1, 30_001),
    ];
    let pieces = vec![
        Piece { window: 0, offset: 40_000, rows: 70, len: 70 * 131 },
        Piece { window: 1, offset: 20_000, rows: 75, len: 75 * 131 },
    ];
    spans.insert(4, TensorSpan { name: "split".into(), shape: vec![145, 131], pieces });
    spans
}

/// Uniform in -1..1; only has to be fixed and shapeless.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

type Arena = Vec<Vec<f32>>;

/// Noise in the tensors, of another size in each, zeros in the gaps.
fn arena(spans: &[TensorSpan], seed: u64, scale: f32) -> Arena {
    let mut noise = Noise(seed);
    let mut arena: Arena = WINDOWS.iter().map(|&len| vec![0.0; len]).collect();
    for (i, span) in spans.iter().enumerate() {
        for piece in &span.pieces {
            let window = &mut arena[piece.window][piece.offset..][..piece.len];
            window.fill_with(|| noise.next() * scale * (1 + i) as f32);
        }
    }
    arena
}

fn tensor(arena: &Arena, span: &TensorSpan) -> Vec<f64> {
    let pieces = span.pieces.iter().flat_map(|p| &arena[p.window][p.offset..][..p.len]);
    pieces.map(|&x| f64::from(x)).collect()
}

struct Fixture {
    gpu: Gpu,
    spans: Vec<TensorSpan>,
    params: Vec<Buffer>,
    grads: Vec<Buffer>,
    stats: Buffer,
    start: Arena,
}

impl Fixture {
    fn new() -> Fixture {
        let gpu = gpu();
        let spans = spans();
        let start = arena(&spans, 1, 0.2);
        let upload = |a: &Arena| a.iter().map(|w| gpu.buffer_of("window", w).unwrap()).collect::<Vec<_>>();
        let (params, grads) = (upload(&start), upload(&start));
        let stats = gpu.buffer_of("stats", &[0.0, TOKENS, 0.0, 0.0]).unwrap();
        Fixture { gpu, spans, params, grads, stats, start }
    }

    fn optimizer(&self, config: &OptimizerConfig, max_norm: f32) -> Optimizer {
        Optimizer::new(&self.gpu, config, &self.spans, &self.params, &self.grads, &self.stats, max_norm).unwrap()
    }

    fn write(&self, buffers: &[Buffer], arena: &Arena) {
        buffers.iter().zip(arena).for_each(|(buffer, window)| self.gpu.write(buffer, 0, window));
    }

    fn step(&self, optimizer: &Optimizer, grads: &Arena, lr: f64, step: u64) -> StepReport {
        self.write(&self.grads, grads);
        optimizer.step(lr, step).unwrap();
        pollster::block_on(optimizer.report()).unwrap()
    }

    /// Steps `range` with gradients that follow from the step alone.
    fn run(&self, optimizer: &Optimizer, range: std::ops::Range<u64>) {
        for step in range {
            self.step(optimizer, &arena(&self.spans, 50 + step, 1.0), 0.05, step);
        }
    }

    fn read(&self, buffer: &Buffer, bytes: u64) -> Vec<u8> {
        pollster::block_on(self.gpu.read(buffer, 0..bytes)).unwrap()
    }

    fn parameters(&self) -> Arena {
        let read = |(b, len): (&Buffer, usize)| bytemuck::pod_collect_to_vec(&self.read(b, 4 * len as u64));
        self.params.iter().zip(WINDOWS).map(read).collect()
    }

    /// Every bit that a step may change.
    fn bits(&self, optimizer: &Optimizer) -> Vec<Vec<u8>> {
        let params = self.params.iter().map(|b| self.read(b, b.bytes()));
        params.chain(optimizer.state().iter().map(|(_, b, bytes)| self.read(b, *bytes))).collect()
    }
}

/// Moments of one tensor in f64.
#[derive(Default)]
struct Oracle {
    first: Vec<f64>,
    second: Vec<f64>,
    rows: Vec<f64>,
    cols: Vec<f64>,
}

fn rms(x: &[f64]) -> f64 {
    (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64).sqrt()
}

fn decay_into(moments: &mut Vec<f64>, decay: f64, fresh: impl Iterator<Item = f64>) {
    let fresh: Vec<f64> = fresh.collect();
    moments.resize(fresh.len(), 0.0);
    moments.iter_mut().zip(fresh).for_each(|(m, x)| *m = decay * *m + (1.0 - decay) * x);
}

impl Oracle {
    fn step(&mut self, config: &OptimizerConfig, p: &mut [f64], g: &[f64], shape: &[usize], lr: f64, t: f64) {
        match *config {
            OptimizerConfig::AdamW { betas, eps, weight_decay } => {
                decay_into(&mut self.first, betas[0], g.iter().copied());
                decay_into(&mut self.second, betas[1], g.iter().map(|x| x * x));
                for ((p, m), v) in p.iter_mut().zip(&self.first).zip(&self.second) {
                    let (m, v) = (m / (1.0 - betas[0].powf(t)), v / (1.0 - betas[1].powf(t)));
                    *p = *p * (1.0 - lr * weight_decay) - lr * m / (v.sqrt() + eps);
                }
            }
            OptimizerConfig::AdamWScale { betas, eps, weight_decay, least_scale } => {
                decay_into(&mut self.first, betas[0], g.iter().copied());
                decay_into(&mut self.second, betas[1], g.iter().map(|x| x * x));
                let size = lr * (1.0 - betas[1].powf(t)).sqrt() / (1.0 - betas[0].powf(t)) * rms(p).max(least_scale);
                for ((p, m), v) in p.iter_mut().zip(&self.first).zip(&self.second) {
                    *p -= size * m / (v.sqrt() + eps);
                    *p -= lr * weight_decay * *p;
                }
            }
            OptimizerConfig::Adafactor {
                eps1,
                eps2,
                clip_threshold,
                decay_rate,
                weight_decay,
                scale_parameter,
                min_dim_factored,
                relative_step,
                warmup_init,
            } => {
                let decay = 1.0 - t.powf(-decay_rate);
                let squares: Vec<f64> = g.iter().map(|x| x * x + eps1).collect();
                let mut update: Vec<f64> = if shape.len() == 2 && shape[0].min(shape[1]) >= min_dim_factored {
                    let [m, n] = [shape[0], shape[1]];
                    let row = |i: usize| squares[i * n..][..n].iter().sum::<f64>() / n as f64;
                    let col = |j: usize| (0..m).map(|i| squares[i * n + j]).sum::<f64>() / m as f64;
                    decay_into(&mut self.rows, decay, (0..m).map(row));
                    decay_into(&mut self.cols, decay, (0..n).map(col));
                    let mean = self.rows.iter().sum::<f64>() / m as f64;
                    (0..m * n).map(|k| g[k] / (self.rows[k / n] / mean * self.cols[k % n]).sqrt()).collect()
                } else {
                    decay_into(&mut self.second, decay, squares.into_iter());
                    g.iter().zip(&self.second).map(|(g, v)| g / v.sqrt()).collect()
                };
                let clip = (rms(&update) / clip_threshold).max(1.0);
                update.iter_mut().for_each(|u| *u /= clip);
                let least = if warmup_init { 1e-6 * t } else { 1e-2 };
                let lr = if relative_step { least.min(1.0 / t.sqrt()) } else { lr };
                let lr = lr * if scale_parameter { rms(p).max(eps2) } else { 1.0 };
                p.iter_mut().zip(update).for_each(|(p, u)| *p = *p * (1.0 - lr * weight_decay) - lr * u);
            }
        }
    }
}

/// Five steps of the optimiser beside five of the oracle.
#[track_caller]
fn check(config: &OptimizerConfig, max_norm: f32, lr: f64) {
    let fixture = Fixture::new();
    let optimizer = fixture.optimizer(config, max_norm);
    let mut oracles: Vec<(Oracle, Vec<f64>)> =
        fixture.spans.iter().map(|s| (Oracle::default(), tensor(&fixture.start, s))).collect();
    for step in 0..5 {
        // Steps of very different size make the moments' decay and the update clipping matter.
        let grads = arena(&fixture.spans, 100 + step, [1.0, 30.0, 0.1, 200.0, 2.0][step as usize]);
        let report = fixture.step(&optimizer, &grads, lr, step);
        let mean = |s: &TensorSpan| tensor(&grads, s).iter().map(|g| g / f64::from(TOKENS)).collect::<Vec<_>>();
        let means: Vec<Vec<f64>> = fixture.spans.iter().map(mean).collect();
        let norm = means.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
        let clip = if max_norm > 0.0 { (f64::from(max_norm) / (norm + 1e-6)).min(1.0) } else { 1.0 };
        assert!(!report.skipped);
        assert!((f64::from(report.grad_norm) / norm - 1.0).abs() < 1e-6, "norm {} for {norm}", report.grad_norm);
        assert!((f64::from(report.clip) / clip - 1.0).abs() < 1e-6, "clip {} for {clip}", report.clip);
        for ((span, mean), (oracle, p)) in fixture.spans.iter().zip(&means).zip(&mut oracles) {
            let g: Vec<f64> = mean.iter().map(|g| g * clip).collect();
            oracle.step(config, p, &g, &span.shape, lr, (step + 1) as f64);
        }
    }
    let end = fixture.parameters();
    for (span, (_, expected)) in fixture.spans.iter().zip(&oracles) {
        let (start, end) = (tensor(&fixture.start, span), tensor(&end, span));
        let error: f64 = end.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        let moved: f64 = start.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        // No f32 parameter can be nearer than its own rounding, whatever the step.
        let floor = f64::from(f32::EPSILON) * expected.iter().map(|p| p * p).sum::<f64>().sqrt();
        assert!(error <= 1e-5 * moved + floor, "{}: off by {error:.2e} of {moved:.2e}", span.name);
    }
}

#[test]
fn adamw_follows_its_formula() {
    check(&OptimizerConfig::adamw(), 0.0, 0.05);
    check(&OptimizerConfig::adamw(), 1.0, 0.05);
}

#[test]
fn adamw_scale_follows_its_formula() {
    check(&OptimizerConfig::adamw_scale(), 0.0, 0.05);
    let config = OptimizerConfig::AdamWScale { betas: [0.8, 0.95], eps: 0.1, weight_decay: 0.3, least_scale: 0.5 };
    check(&config, 1.0, 0.05);
}

#[test]
fn adafactor_follows_the_paper() {
    check(&OptimizerConfig::adafactor_paper(), 0.0, 0.1);
    check(&OptimizerConfig::adafactor_paper(), 0.5, 0.1);
}

#[test]
fn adafactor_follows_transformers() {
    check(&OptimizerConfig::adafactor_hf(), 0.0, f64::NAN);
    let mut config = OptimizerConfig::adafactor_hf();
    if let OptimizerConfig::Adafactor { warmup_init, weight_decay, .. } = &mut config {
        (*warmup_init, *weight_decay) = (true, 0.1);
    }
    check(&config, 0.0, f64::NAN);
}

#[test]
fn adafactor_follows_its_other_settings() {
    let config = OptimizerConfig::Adafactor {
        eps1: 1e-6,
        eps2: 0.5,
        clip_threshold: 0.3,
        decay_rate: 0.6,
        weight_decay: 0.2,
        scale_parameter: false,
        min_dim_factored: 4,
        relative_step: false,
        warmup_init: false,
    };
    check(&config, 3.0, 0.05);
}

fn configs() -> Vec<OptimizerConfig> {
    ["adamw", "adamw-scale", "adafactor", "adafactor-hf"].map(|name| name.parse().unwrap()).to_vec()
}

#[test]
fn steps_that_cannot_be_taken_change_nothing() {
    for config in configs() {
        let fixture = Fixture::new();
        let optimizer = fixture.optimizer(&config, 1.0);
        let good = arena(&fixture.spans, 7, 1.0);
        assert!(!fixture.step(&optimizer, &good, 0.01, 0).skipped);
        let before = fixture.bits(&optimizer);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut grads = good.clone();
            grads[1][20_000] = bad;
            let report = fixture.step(&optimizer, &grads, 0.01, 1);
            assert!(report.skipped && !report.grad_norm.is_finite(), "{bad}: {report:?}");
            assert!(fixture.bits(&optimizer) == before, "{config:?} moved on {bad}");
        }
        fixture.gpu.write(&fixture.stats, 4, &[0.0f32]);
        let report = fixture.step(&optimizer, &good, 0.01, 1);
        assert!(report.skipped && report.grad_norm == 0.0, "{report:?}");
        assert!(fixture.bits(&optimizer) == before, "{config:?} moved without a token");
        fixture.gpu.write(&fixture.stats, 4, &[TOKENS]);
        assert!(!fixture.step(&optimizer, &good, 0.01, 1).skipped);
        assert!(fixture.bits(&optimizer) != before);
    }
}

#[test]
fn gaps_stay_zero() {
    for config in configs() {
        let fixture = Fixture::new();
        let optimizer = fixture.optimizer(&config, 0.0);
        fixture.run(&optimizer, 0..3);
        let mut end = fixture.parameters();
        for piece in fixture.spans.iter().flat_map(|s| &s.pieces) {
            let window = &mut end[piece.window][piece.offset..][..piece.len];
            assert!(window.iter().all(|&p| p != 0.0), "a parameter was left out");
            window.fill(0.0);
        }
        assert!(end.iter().flatten().all(|&p| p.to_bits() == 0));
    }
}

#[test]
fn saved_moments_continue_bit_for_bit() {
    for config in configs() {
        let fixture = Fixture::new();
        let optimizer = fixture.optimizer(&config, 1.0);
        fixture.run(&optimizer, 0..3);
        let params = fixture.parameters();
        let saved: Vec<Vec<u8>> = optimizer.state().iter().map(|(_, b, bytes)| fixture.read(b, *bytes)).collect();
        assert_eq!(saved.iter().map(|s| s.len() as u64).sum::<u64>(), optimizer.state_bytes());
        fixture.run(&optimizer, 3..6);
        let expected = fixture.bits(&optimizer);

        let resumed = fixture.optimizer(&config, 1.0);
        fixture.write(&fixture.params, &params);
        for ((_, buffer, _), bytes) in resumed.state().iter().zip(&saved) {
            fixture.gpu.write(buffer, 0, bytes);
        }
        fixture.run(&resumed, 3..6);
        assert!(fixture.bits(&resumed) == expected, "{config:?}");
    }
}

#[test]
fn impossible_settings_are_refused() {
    let fixture = Fixture::new();
    let refuse = |config: &OptimizerConfig, spans: &[TensorSpan], what: &str| {
        let made = Optimizer::new(&fixture.gpu, config, spans, &fixture.params, &fixture.grads, &fixture.stats, 0.0);
        let error = made.err().expect("an error").to_string();
        assert!(error.contains(what), "{error}");
    };
    let adamw = OptimizerConfig::adamw();
    refuse(&OptimizerConfig::AdamW { betas: [0.9, 1.0], eps: 1e-8, weight_decay: 0.0 }, &fixture.spans, "betas");
    refuse(&OptimizerConfig::AdamW { betas: [0.9, 0.999], eps: 0.0, weight_decay: 0.0 }, &fixture.spans, "eps");
    let mut outside = spans();
    outside[0].pieces[0].offset = WINDOWS[0];
    refuse(&adamw, &outside, "outside window 0");
    let mut short = spans();
    short[4].pieces.pop();
    refuse(&adamw, &short, "split of shape [145, 131] has pieces of 9170 elements");
}

#[test]
fn names_and_json_give_the_settings() {
    for config in configs() {
        let json = serde_json::to_string(&config).unwrap();
        let back: OptimizerConfig = serde_json::from_str(&json).unwrap();
        assert_eq!(back, config, "serde_json needs its feature `float_roundtrip` to read {json} exactly");
    }
    assert_eq!("adamw".parse::<OptimizerConfig>().unwrap(), OptimizerConfig::adamw());
    assert_eq!("adamw-scale".parse::<OptimizerConfig>().unwrap(), OptimizerConfig::adamw_scale());
    assert_eq!("adafactor".parse::<OptimizerConfig>().unwrap(), OptimizerConfig::adafactor_paper());
    assert_eq!("adafactor-hf".parse::<OptimizerConfig>().unwrap(), OptimizerConfig::adafactor_hf());
    assert!("sgd".parse::<OptimizerConfig>().unwrap_err().to_string().contains("adafactor-hf"));
}
