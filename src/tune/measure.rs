//! Times the candidates of a question against each other.

use std::collections::BTreeMap;
use std::time::Duration;

use web_time::Instant;

use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu};
use crate::graph::{Fill, Launcher, Question, Trial};
use crate::plan::{Plan, PlanOptions, SlotPool};
use crate::rng::{Purpose, Rng, fnv1a};

/// What was found.
pub struct Measured {
    /// The fastest; the first if none is clearly faster. `None` if time was up before two had been timed.
    pub winner: Option<usize>,
    /// Median milliseconds of a run, by candidate.
    pub ms: BTreeMap<String, f64>,
}

/// A batch of runs takes at least about this long, so that neither the submit nor a coarse clock shows.
const BATCH: Duration = Duration::from_millis(5);
const MOST_RUNS: usize = 64;

/// Rounds in which every candidate left has its turn: a load of the machine meets all alike.
const MOST_ROUNDS: usize = 9;
const LEAST_ROUNDS: usize = 3;

/// After the first rounds, the time for one class is over.
const CLASS_TIME: Duration = Duration::from_millis(300);

/// A candidate that takes this much longer than the fastest is given up.
const BEATEN: f64 = 1.25;

/// Only what takes less than this share of the first candidate's time, and less time in three rounds of four, replaces it:
/// noise must not.
const CLEARLY_LESS: f64 = 0.95;

/// Largest difference from the first candidate's result, relative to its largest number. Sums over a few thousand terms
/// differ by a thousandth of this; a driver that computes something else, by far more.
const SAME: f32 = 1e-3;

struct Runner<'a> {
    index: usize,
    name: &'a str,
    plan: Plan,
    /// Seconds of a run, one for each round.
    seconds: Vec<f64>,
}

/// Times the candidates until `deadline`. One that the adapter refuses, or whose result differs, is left out.
pub fn measure(gpu: &Gpu, question: &Question, deadline: Instant) -> Result<Measured> {
    gpu.wait()?;
    let (mut runners, runs) = prepare(gpu, question, deadline)?;
    let start = Instant::now();
    let mut beaten = Vec::new();
    for round in 0..MOST_ROUNDS {
        for runner in &mut runners {
            runner.seconds.push(pollster::block_on(runner.plan.time(runs))? / runs as f64);
        }
        if round + 1 >= LEAST_ROUNDS && (start.elapsed() > CLASS_TIME || Instant::now() > deadline) {
            break;
        }
        // A second look at a first round that went badly for someone.
        if round > 0 {
            let leader = fastest(&runners);
            let best = runners.get(leader).map(|r| r.seconds.clone()).unwrap_or_default();
            let (left, given_up) =
                runners.into_iter().partition(|r| quantile(&quotients(&r.seconds, &best), 0.5) < BEATEN);
            runners = left;
            beaten.extend::<Vec<_>>(given_up);
        }
        if runners.len() < 2 {
            break;
        }
    }
    let enough = runners.len() + beaten.len() > 1;
    let winner = runners.get(fastest(&runners)).filter(|_| enough).map(|best| {
        let first = runners.iter().chain(&beaten).find(|r| r.index == 0);
        let better = |first: &Runner<'_>| {
            let quotients = quotients(&best.seconds, &first.seconds);
            quantile(&quotients, 0.5) < CLEARLY_LESS && quantile(&quotients, 0.75) < 1.0
        };
        if first.is_none_or(better) { best.index } else { 0 }
    });
    let ms = runners.iter().chain(&beaten).map(|r| (r.name.to_owned(), 1e3 * median(&r.seconds))).collect();
    // Buffers are given back to the driver when the device is next waited for.
    drop((runners, beaten));
    gpu.wait()?;
    Ok(Measured { winner, ms })
}

/// Compiles the candidates, runs each once and compares the results. Also gives the runs of a batch.
fn prepare<'a>(gpu: &Gpu, question: &'a Question, deadline: Instant) -> Result<(Vec<Runner<'a>>, usize)> {
    let (pool, mut runners) = (SlotPool::new(), Vec::new());
    let inputs = inputs(gpu, &question.candidates[0].trial)?;
    let (mut reference, mut runs) = (Vec::new(), 1);
    for (index, candidate) in question.candidates.iter().enumerate() {
        if Instant::now() > deadline {
            break;
        }
        let first = || -> Result<(Plan, Vec<f32>)> {
            let plan = compile(gpu, &candidate.trial, &inputs, &pool)?;
            plan.run()?;
            let result = pollster::block_on(plan.read("0"))?;
            Ok((plan, result))
        };
        let (plan, result) = match first() {
            Ok(made) => made,
            Err(lost @ Error::DeviceLost(_)) => return Err(lost),
            // Without the first there is no result to compare with. Its error will come again when the real plan is made.
            Err(_) if index == 0 => break,
            Err(_) => continue,
        };
        if index == 0 {
            reference = result;
            let seconds = pollster::block_on(plan.time(1))?;
            runs = ((BATCH.as_secs_f64() / seconds.max(1e-7)) as usize).clamp(1, MOST_RUNS);
        } else if !agrees(&result, &reference) {
            continue;
        }
        runners.push(Runner { index, name: candidate.name, plan, seconds: Vec::new() });
    }
    Ok((runners, runs))
}

fn compile(gpu: &Gpu, trial: &Trial, inputs: &BTreeMap<String, Buffer>, pool: &SlotPool) -> Result<Plan> {
    let (graph, outputs) = trial.graph();
    let names: Vec<String> = (0..outputs.len()).map(|i| i.to_string()).collect();
    let named: Vec<_> = names.iter().map(String::as_str).zip(outputs).collect();
    let sizes: BTreeMap<&str, u64> =
        graph.leaves().map(|(value, info)| (info.label.as_str(), 4 * graph.len(value) as u64)).collect();
    let bind = |name: &str| Some(inputs.get(name)?.slice(0, *sizes.get(name)?));
    Plan::compile(gpu, &graph, &named, &PlanOptions { bind: &bind, pool })
}

fn inputs(gpu: &Gpu, trial: &Trial) -> Result<BTreeMap<String, Buffer>> {
    let fill = |(i, (shape, fill)): (usize, &(Vec<usize>, Fill))| {
        let (name, len) = (Trial::leaf(i), shape.iter().product());
        let buffer = match fill {
            Fill::Random => {
                let mut rng = Rng::new(0, Purpose::Trials, &[i as u64]);
                let data: Vec<f32> = (0..len).map(|_| rng.uniform() as f32 - 0.5).collect();
                gpu.buffer_of(&name, &data)?
            }
            Fill::Number(number) => gpu.buffer_of(&name, &vec![*number; len])?,
        };
        Ok((name, buffer))
    };
    trial.inputs.iter().enumerate().map(fill).collect()
}

fn agrees(found: &[f32], reference: &[f32]) -> bool {
    let scale = reference.iter().fold(1e-30f32, |most, r| most.max(r.abs()));
    // A NaN agrees with nothing.
    found.iter().zip(reference).all(|(f, r)| (f - r).abs() <= SAME * scale)
}

/// Position of the runner with the least median.
fn fastest(runners: &[Runner<'_>]) -> usize {
    let medians: Vec<f64> = runners.iter().map(|r| median(&r.seconds)).collect();
    (0..medians.len()).min_by(|&i, &j| medians[i].total_cmp(&medians[j])).unwrap_or(0)
}

/// The quotients of the rounds that both took part in, in ascending order.
fn quotients(a: &[f64], b: &[f64]) -> Vec<f64> {
    sorted(a.iter().zip(b).map(|(a, b)| a / b.max(1e-12)).collect())
}

fn median(values: &[f64]) -> f64 {
    quantile(&sorted(values.to_vec()), 0.5)
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which this share of the sorted values lies; infinite if there are none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((share * last as f64).round() as usize).copied().unwrap_or(f64::INFINITY)
}

/// A fingerprint of the candidates, their shaders and this program's version: what a timing is only good for.
pub fn sources(gpu: &Gpu, question: &Question) -> String {
    let mut texts = vec![env!("CARGO_PKG_VERSION").to_owned()];
    for candidate in &question.candidates {
        texts.push(candidate.name.to_owned());
        let (graph, _) = candidate.trial.graph();
        for node in graph.nodes() {
            let mut launcher = Launcher::new(gpu.caps(), &graph, node);
            node.op.launch(&mut launcher);
            texts.extend(launcher.launches.iter().map(|launch| launch.shader.expand(&launch.header)));
        }
    }
    // No byte of UTF-8 is 255: where one text ends and the next begins counts, too.
    format!("{:016x}", fnv1a(texts.iter().flat_map(|text| text.bytes().chain([0xff]))))
}
