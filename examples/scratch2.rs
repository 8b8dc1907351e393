use t5_wgpu::data::*;
use t5_wgpu::gpu::{Gpu, GpuOptions};
use t5_wgpu::model::{Model, T5Config};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::train::engine::{Engine, LossStats, Objective};
use t5_wgpu::train::optimizer::OptimizerConfig;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let n = |i: usize| a[i].parse::<usize>().unwrap();
    let gpu = pollster::block_on(Gpu::open(&GpuOptions::from_env())).unwrap();
    let (d, enc, dec, batch, secs) = (n(1), n(2), n(3), n(4), n(5) as f64);
    let lr: f64 = a[6].parse().unwrap();
    let adaf = a.get(7).is_some_and(|x| x == "adafactor");
    let ff: usize = a.get(8).map_or(2, |x| x.parse().unwrap());
    let config = T5Config::from_json(&format!(r#"{{"model_type":"t5","vocab_size":384,"d_model":{d},"d_kv":32,"d_ff":{},"num_layers":{enc},"num_decoder_layers":{dec},"num_heads":{},"feed_forward_proj":"gated-gelu","tie_word_embeddings":false,"dropout_rate":0.0}}"#, d*ff, d/32), "x").unwrap();
    let model = Model::init(&gpu, config, 1).unwrap();
    let tok = Tokenizer::bytes();
    let opts = PairOptions::default();
    let train = PairSet::open("/tmp/cmu/train.tsv".as_ref(), None, &opts, &tok).unwrap();
    let dev = PairSet::open("/tmp/cmu/dev.tsv".as_ref(), None, &opts, &tok).unwrap();
    let cfg = if adaf {
        OptimizerConfig::adafactor_paper()
    } else {
        OptimizerConfig::AdamW {
            betas: [0.9, 0.98],
            eps: 1e-8,
            weight_decay: 0.0,
        }
    };
    let mut engine = Engine::new(model, Objective::default(), &cfg, 1.0).unwrap();
    let mut stream = BatchStream::new(
        &train,
        BatchOptions {
            batch_size: batch,
            seed: 1,
            ..Default::default()
        },
    )
    .unwrap();
    let mut devs = BatchStream::new(
        &dev,
        BatchOptions {
            batch_size: 64,
            seed: 1,
            order: BatchOrder::ByLength,
            ..Default::default()
        },
    )
    .unwrap();
    let t0 = std::time::Instant::now();
    let mut step = 0u64;
    let mut tokens = 0;
    let mut last = 0.0;
    loop {
        let frac = t0.elapsed().as_secs_f64() / secs;
        if frac >= 1.0 {
            break;
        }
        let b = stream.get(step).unwrap();
        tokens += b.src_lens.iter().sum::<u32>() as usize + b.tgt_lens.iter().sum::<u32>() as usize;
        engine.begin_step();
        engine.micro_batch(&b, [1, 2, step as u32, 0]).unwrap();
        let warm = ((step + 1) as f64 / 50.0).min(1.0);
        engine.finish_step(lr * warm * (1.0 - frac), step).unwrap();
        let (s, _) = pollster::block_on(engine.report()).unwrap();
        step += 1;
        if t0.elapsed().as_secs_f64() - last > 20.0 {
            last = t0.elapsed().as_secs_f64();
            println!(
                "{last:.0}s step {step} loss {:.3} acc {:.3} {:.0} tok/s",
                s.mean_loss(),
                s.accuracy(),
                tokens as f64 / last
            );
        }
    }
    let mut total = LossStats::default();
    for i in 0..20 {
        total.add(&pollster::block_on(engine.evaluate(&devs.get(i * 4).unwrap())).unwrap());
    }
    println!(
        "{a:?} steps {step} tokens {tokens} dev loss {:.4} acc {:.4}",
        total.mean_loss(),
        total.accuracy()
    );
}
