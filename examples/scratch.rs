use t5_wgpu::data::Batch;
use t5_wgpu::gpu::{Gpu, GpuOptions};
use t5_wgpu::model::{BatchShape, Model, T5Config};
use t5_wgpu::train::engine::{Engine, Objective};
use t5_wgpu::train::optimizer::OptimizerConfig;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let n = |i: usize| a[i].parse::<usize>().unwrap();
    let gpu = pollster::block_on(Gpu::open(&GpuOptions::from_env())).unwrap();
    let config = if a[1] == "demo" {
        let d = n(5);
        T5Config::from_json(&format!(r#"{{"model_type":"t5","vocab_size":384,"d_model":{d},"d_kv":32,"d_ff":{},"num_layers":{},"num_decoder_layers":{},"num_heads":{},"feed_forward_proj":"gated-gelu","tie_word_embeddings":false}}"#, d*2, n(6), n(7), d/32), "x").unwrap()
    } else {
        T5Config::preset(&a[1]).unwrap()
    };
    let model = Model::init(&gpu, config, 1).unwrap();
    println!("params {}", model.layout.n_params());
    let (b, s, t) = (n(2), n(3), n(4));
    let v = model.config.vocab_size as u32 - 130;
    let mut engine = Engine::new(
        model,
        Objective {
            dropout: std::env::var("DROP").map(|x| x.parse().unwrap()).unwrap_or(0.0),
            ..Default::default()
        },
        &OptimizerConfig::adamw(),
        1.0,
    )
    .unwrap();
    let ids = |n: usize| (0..n).map(|i| 3 + (i as u32 * 7919) % v).collect::<Vec<_>>();
    let batch = Batch {
        batch: b,
        src_len: s,
        tgt_len: t,
        src_ids: ids(b * s),
        src_lens: vec![s as u32; b],
        tgt_in: ids(b * t),
        labels: ids(b * t),
        tgt_lens: vec![t as u32; b],
        examples: vec![],
    };
    let mut times = vec![];
    for step in 0..6 {
        let t0 = std::time::Instant::now();
        engine.begin_step();
        engine.micro_batch(&batch, [1, 2, step, 0]).unwrap();
        engine.finish_step(1e-3, step as u64).unwrap();
        let (stats, _) = pollster::block_on(engine.report()).unwrap();
        let dt = t0.elapsed().as_secs_f64();
        println!(
            "step {step}: loss {:.4} {:.3}s {:.0} tokens/s",
            stats.mean_loss(),
            dt,
            (b * (s + t)) as f64 / dt
        );
        if step > 0 {
            times.push(dt);
        }
    }
    let plan = engine
        .plan(BatchShape {
            batch: b,
            src_len: s,
            tgt_len: t,
        })
        .unwrap();
    println!(
        "dispatches {} memory {:?} device {:?}",
        plan.dispatches(),
        plan.memory(),
        engine.memory()
    );
    let p = pollster::block_on(plan.profile()).unwrap();
    let mut by = std::collections::BTreeMap::<&str, (f64, usize)>::new();
    for s in &p {
        let e = by.entry(s.kernel).or_default();
        e.0 += s.seconds;
        e.1 += 1;
    }
    let total: f64 = p.iter().map(|s| s.seconds).sum();
    let mut v: Vec<_> = by.into_iter().collect();
    v.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    println!("total {total:.3}");
    for (k, (s, c)) in v {
        println!("{k:28} {:6.1}% {s:.4} s {c}", 100.0 * s / total);
    }
    if std::env::var("STEPS").is_ok() {
        let mut q = p.clone();
        q.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        for s in q.iter().take(25) {
            println!("{:.4} {} {}", s.seconds, s.kernel, s.label);
        }
    }
}
