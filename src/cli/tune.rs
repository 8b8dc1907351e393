//! `t5 tune`: measures ahead of time which kernels are the fastest on an adapter.

use std::io;
use std::num::NonZeroUsize;

use anyhow::{Result, bail};
use t5_wgpu::batch::BatchShape;
use t5_wgpu::model::{Builder, Model};
use t5_wgpu::train::engine::{Pass, Regularization, graph};
use t5_wgpu::tune::{Decision, DecisionSource, Mode, TuneBudget, Tuner};

use super::console::{doing, note, say};
use super::{GpuArgs, cache_of, subject};

const EXAMPLES: &str = "\
Examples:
  For training and generating with models of T5-small's sizes:
    t5 tune t5-small
  For a model folder and the batches that it will be trained on:
    t5 tune runs/qa/best --batch 32 --source-len 128 --target-len 32
  Again, after something else kept the machine busy:
    t5 tune t5-small --force";

/// Measure which kernels are the fastest on an adapter
///
/// Times the kernels that can do the same work against each other, on the shapes of a model's training, evaluation and
/// generation, and keeps the fastest of each in a file of the user's cache folder (T5_CACHE_DIR, or t5-wgpu in XDG_CACHE_HOME
/// or in the system's place for such files). `t5 train` and `t5 generate` read that file by themselves. Takes seconds to two
/// minutes; shapes that are known already take no time.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A model folder, a config.json, the name of a published size, or with its owner a model of the hub
    #[arg(value_name = "MODEL", default_value = "t5-small")]
    model: String,
    /// Sequences in a batch
    #[arg(long, value_name = "N", default_value = "8")]
    batch: NonZeroUsize,
    /// Tokens of a source
    #[arg(long, value_name = "N", default_value = "512")]
    source_len: NonZeroUsize,
    /// Tokens of a target
    #[arg(long, value_name = "N", default_value = "114")]
    target_len: NonZeroUsize,
    /// Measure shapes again that were measured before
    #[arg(long)]
    force: bool,
    /// Print one JSON object: adapter, file, seconds, choices
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gpu: GpuArgs,
}

pub fn run(args: &Args) -> Result<()> {
    let config = subject(&args.model, args.json)?.config()?;
    let gpu = args.gpu.open(args.json)?;
    let cache = cache_of(&gpu);
    if cache.is_none() {
        bail!("no place to keep timings in: set T5_CACHE_DIR to a folder");
    }
    let path = cache.as_ref().map(|cache| cache.path().to_owned()).unwrap_or_default();
    doing("measuring kernels");
    let tuner = match args.force {
        true => Tuner::anew(TuneBudget::thorough(), cache),
        false => Tuner::new(Mode::On, TuneBudget::thorough(), cache),
    };
    let model = Model::zeroed(&gpu, config)?;
    let [batch, src_len, tgt_len] = [args.batch, args.source_len, args.target_len].map(NonZeroUsize::get);
    let shape = BatchShape { batch, src_len, tgt_len, packed: false };
    let regularization = Regularization { dropout: model.config.dropout_rate as f32, ..Regularization::default() };
    for pass in [Pass::Training { recompute: false }, Pass::Evaluation] {
        let (graph, stats) = graph(&model, regularization, shape, pass);
        let outputs = if pass == Pass::Evaluation { vec![stats] } else { vec![] };
        tuner.choices(&gpu, &graph, &outputs)?;
    }
    let mut preparation = Builder::new(&model, shape, 0.0);
    preparation.prepare_decoding(1);
    let mut step = Builder::new(&model, shape, 0.0);
    step.decode_step(batch, 0);
    for graph in [preparation.graph, step.graph] {
        tuner.any_batch().choices(&gpu, &graph, &[])?;
    }
    let (decisions, seconds) = (tuner.decisions(), tuner.spent().as_secs_f64());
    for warning in tuner.warnings() {
        note!("warning: {warning}");
    }
    if args.json {
        let report = serde_json::json!({
            "adapter": gpu.caps(), "file": path, "seconds": seconds, "choices": decisions,
        });
        say!("{report:#}")?;
        return Ok(());
    }
    if decisions.is_empty() {
        say!("Nothing to choose on this adapter: each shape has one kernel.")?;
        return Ok(());
    }
    print_table(&decisions)?;
    let of = |source| decisions.iter().filter(|d| d.source == source).count();
    say!(
        "{} classes of shapes: {} measured in {seconds:.1} s, {} known before, {} not measured (by rule)",
        decisions.len(),
        of(DecisionSource::Measured),
        of(DecisionSource::Cache),
        of(DecisionSource::Rule)
    )?;
    say!("Kept in {}", path.display())?;
    say!("Next: `t5 train` and `t5 generate` use it by themselves; `--tune off` does without.")?;
    Ok(())
}

/// A line a class: the GFLOP/s of each candidate and the one chosen, marked `*` where the rule would choose another.
fn print_table(decisions: &[Decision]) -> io::Result<()> {
    let width = decisions.iter().map(|d| d.class.len()).max().unwrap_or(0);
    say!("{:width$}  {:12}  GFLOP/s of each candidate", "shapes", "chosen")?;
    for decision in decisions {
        let mark = if decision.variant == decision.rule { " " } else { "*" };
        let mut timings: Vec<_> = decision.ms.iter().collect();
        timings.sort_by(|a, b| a.1.total_cmp(b.1));
        let text = |(name, ms): &(&String, &f64)| format!("{name} {:.1}", decision.flops / **ms / 1e6);
        let timings = timings.iter().map(text).collect::<Vec<_>>().join(", ");
        say!("{:width$}  {:12}  {timings}", decision.class, format!("{}{mark}", decision.variant))?;
    }
    say!("m*: whatever the batch, for generation; *: other than the rule for such adapters")
}
