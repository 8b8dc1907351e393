//! What it costs to decode with weights of each type: `cargo run --release --example weights -- t5-small 33 5`
//!
//! Arguments: a model folder, or a published size (then with random weights); tokens; rounds. The types take turns. Processor
//! time is what a busy machine does not blur; it is known on Linux alone.

use std::path::{Path, PathBuf};
use std::time::Instant;

use t5_wgpu::generate::{Decoding, Generator};
use t5_wgpu::gpu::{Gpu, GpuOptions};
use t5_wgpu::model::{Model, Storage, T5Config};

const STORAGES: [Storage; 4] = [Storage::F32, Storage::F16, Storage::Bf16, Storage::Int8];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, tokens, rounds] = args.as_slice() else {
        return Err("three arguments are needed: MODEL TOKENS ROUNDS".into());
    };
    let (tokens, rounds): (usize, usize) = (tokens.parse()?, rounds.parse()?);
    let gpu = pollster::block_on(Gpu::open(&GpuOptions::default()))?;
    println!("{}", gpu.caps());
    let (folder, made) = folder(&gpu, model)?;
    let mut generators = Vec::new();
    for storage in STORAGES {
        let began = Instant::now();
        let (model, remarks) = Model::load_as(&gpu, &folder, storage)?;
        println!("{storage:?}: loaded in {:.2} s; {}", began.elapsed().as_secs_f64(), remarks.join("; "));
        generators.push(Generator::new(model));
    }
    if made {
        std::fs::remove_dir_all(&folder)?;
    }
    // The first round compiles the kernels.
    let mut measured = vec![Vec::new(); STORAGES.len()];
    for round in 0..=rounds {
        for (generator, measured) in generators.iter_mut().zip(&mut measured) {
            let cost = Cost::measure(generator, tokens)?;
            if round > 0 {
                measured.push(cost);
            }
        }
    }
    for (storage, measured) in STORAGES.iter().zip(&measured) {
        let line = |pick: fn(&Cost) -> f64| {
            let mut sorted: Vec<f64> = measured.iter().map(pick).collect();
            sorted.sort_by(f64::total_cmp);
            format!("{:.1} ({:.1} to {:.1})", sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1])
        };
        println!(
            "{storage:?}: processor {} ms/token, clock {} ms/token; encoder and first token: processor {} ms",
            line(|c| c.processor),
            line(|c| c.clock),
            line(|c| c.first)
        );
    }
    Ok(())
}

/// A folder with the model, and whether it was made for this run.
fn folder(gpu: &Gpu, model: &str) -> Result<(PathBuf, bool), Box<dyn std::error::Error>> {
    if Path::new(model).is_dir() {
        return Ok((model.into(), false));
    }
    let folder = std::env::temp_dir().join(format!("t5-weights-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Model::init(gpu, T5Config::preset(model)?, 1)?.save(&folder)?;
    Ok((folder, true))
}

/// Milliseconds.
#[derive(Clone)]
struct Cost {
    clock: f64,
    processor: f64,
    first: f64,
}

impl Cost {
    /// One source of 127 tokens and the end token. Its first target token, and then each of the others.
    fn measure(generator: &mut Generator, tokens: usize) -> Result<Cost, Box<dyn std::error::Error>> {
        let source: Vec<u32> = (0..127).map(|i| 5 + i * 37 % 200).chain([1]).collect();
        let mut run = |max_new_tokens| -> Result<(f64, f64), Box<dyn std::error::Error>> {
            let decoding = Decoding::greedy().max_new_tokens(max_new_tokens);
            let (clock, processor) = (Instant::now(), processor_ms());
            let made = pollster::block_on(generator.generate_best(std::slice::from_ref(&source), &decoding))?;
            let cost = (1e3 * clock.elapsed().as_secs_f64(), processor_ms() - processor);
            let made = made[0].ids.len() + usize::from(made[0].is_finished());
            if made == max_new_tokens { Ok(cost) } else { Err(format!("the text ends after {made} tokens").into()) }
        };
        let (one, all) = (run(1)?, run(tokens)?);
        let each = |one: f64, all: f64| (all - one) / (tokens - 1) as f64;
        Ok(Cost { clock: each(one.0, all.0), processor: each(one.1, all.1), first: one.1 })
    }
}

/// Time of all processors that this program has used, if the system tells.
fn processor_ms() -> f64 {
    // In nanoseconds, but for the calling thread alone: threads are summed up.
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of_thread = |path: PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    };
    threads.filter_map(|thread| of_thread(thread.path())).sum::<f64>() / 1e6
}
