//! What beam search and guessed tokens cost beside greedy decoding: `cargo run --release --example beams -- t5-small 4 4 33 5`
//!
//! Arguments: a published size (with random weights); sources; beams; tokens; rounds. The kinds take turns: greedy with as
//! many sources, greedy with as many rows as the beams have, beams, beams with rules for every token, and greedy with as many rows
//! of which all but one are guesses. A model with random weights repeats itself, so that most guesses are right; where all are wrong, a
//! token costs what a step does. Processor time is what a busy machine does not blur; it is known on Linux alone.

use std::time::Instant;

use t5_wgpu::generate::{Decoding, Generator};
use t5_wgpu::gpu::{Gpu, GpuOptions};
use t5_wgpu::model::{Model, T5Config};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [size, sources, beams, tokens, rounds] = args.as_slice() else {
        return Err("five arguments are needed: SIZE SOURCES BEAMS TOKENS ROUNDS".into());
    };
    let [sources, beams, tokens, rounds] = [sources, beams, tokens, rounds].map(|n| n.parse::<usize>());
    let (sources, beams, tokens, rounds) = (sources?, beams?, tokens?, rounds?);
    let gpu = pollster::block_on(Gpu::open(&GpuOptions::default()))?;
    println!("{}", gpu.caps());
    let mut model = Model::init(&gpu, T5Config::preset(size)?, 1)?;
    // Nothing ends early.
    model.config.eos_token_id.clear();
    let mut generator = Generator::new(model);
    let ruled = Decoding { repetition_penalty: 1.2, no_repeat_ngram: 3, ..Decoding::beam(beams) };
    let kinds = [
        (format!("greedy, {sources} sources"), sources, Decoding::greedy()),
        (format!("greedy, {} sources", sources * beams), sources * beams, Decoding::greedy()),
        (format!("{beams} beams, {sources} sources"), sources, Decoding::beam(beams)),
        (format!("{beams} beams, {sources} sources, penalty and n-grams"), sources, ruled),
        (format!("{} guesses, {sources} sources", beams - 1), sources, Decoding::greedy().speculate(beams - 1)),
    ];
    let mut measured = vec![Vec::new(); kinds.len()];
    // The first round compiles the kernels.
    for round in 0..=rounds {
        for ((_, sources, decoding), measured) in kinds.iter().zip(&mut measured) {
            let cost = cost(&mut generator, *sources, decoding, tokens)?;
            if round > 0 {
                measured.push(cost);
            }
        }
    }
    for ((kind, ..), measured) in kinds.iter().zip(&measured) {
        let median = |pick: fn(&[f64; 3]) -> f64| {
            let mut sorted: Vec<f64> = measured.iter().map(pick).collect();
            sorted.sort_by(f64::total_cmp);
            format!("{:.1} ({:.1} to {:.1})", sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1])
        };
        let (processor, clock, steps) = (median(|c| c[0]), median(|c| c[1]), median(|c| c[2]));
        println!("{kind}: processor {processor} ms/token, clock {clock} ms/token, {steps} steps");
    }
    Ok(())
}

/// Milliseconds of the processor and of the clock for each token of a target, and steps, from the second token on.
fn cost(generator: &mut Generator, sources: usize, decoding: &Decoding, tokens: usize) -> t5_wgpu::Result<[f64; 3]> {
    let source = |s: u32| (0..63).map(|i| 5 + (i * 37 + s) % 200).chain([1]).collect();
    let sources: Vec<Vec<u32>> = (0..sources as u32).map(source).collect();
    let mut run = |tokens| -> t5_wgpu::Result<[f64; 3]> {
        let decoding = Decoding { max_batch: sources.len(), ..decoding.clone().max_new_tokens(tokens) };
        let (clock, processor) = (Instant::now(), processor_ms());
        let made = pollster::block_on(generator.generate_best(&sources, &decoding))?;
        let steps = made.iter().map(|target| target.ids.len() - target.guessed).max().unwrap_or_default();
        Ok([processor_ms() - processor, 1e3 * clock.elapsed().as_secs_f64(), steps as f64])
    };
    let (one, all) = (run(1)?, run(tokens)?);
    let each = |i: usize| (all[i] - one[i]) / (tokens - 1) as f64;
    Ok([each(0), each(1), all[2] - one[2]])
}

/// Time of all processors that this program has used, if the system tells.
fn processor_ms() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of_thread = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    };
    threads.filter_map(|thread| of_thread(thread.path())).sum::<f64>() / 1e6
}
