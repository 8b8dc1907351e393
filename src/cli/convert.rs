//! `t5 convert`: a model in other files, its weights in another type, and what rounding did to it.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::json;
use t5_wgpu::batch::Example;
use t5_wgpu::checkpoint::{BlockFormat, Dtype, Encoding};
use t5_wgpu::convert::{Conversion, Converted, Format};
use t5_wgpu::data::{Split, TaskConfig};
use t5_wgpu::forward::{TargetScore, TargetScorer};
use t5_wgpu::generate::{Decoding, Generator};
use t5_wgpu::model::{Model, ModelParts, Storage};
use t5_wgpu::rng::{Purpose, Rng};
use t5_wgpu::tokenizer::Tokenizer;

use super::console::{end_progress, note, say, show_progress};
use super::model_args::PeftArgs;
use super::pairs::set_file;
use super::signals;
use super::{GpuArgs, model_folder, open_tokenizer};

const EXAMPLES: &str = "\
Examples:
  A file for llama.cpp's tools, a seventh of the size, with what that costs:
    t5 convert models/flan-t5-small flan-t5-small-q4.gguf --weights q4_0 --check
  A GGUF file, or any other model that is read here, as a folder for transformers:
    t5 convert flan-t5-small.gguf models/flan-t5-small
  Half precision:
    t5 convert models/t5-v1_1-xxl models/t5-v1_1-xxl-bf16 --weights bf16";

/// Write a model in other files, or its weights in another type
///
/// OUT is a folder as HuggingFace has it, or, where its name ends in .gguf, a file for llama.cpp's tools. Each tensor is printed with
/// the error that its new type makes. Norms and position biases stay f32, as do matrices whose rows are no whole blocks.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model: a folder, a file of weights, a run's folder, or a model of the hub, as google/flan-t5-small
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// A new folder, or a file that ends in .gguf
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// The type of matrices [default: as they are, where OUT can hold it, else f32]. Those of blocks are for GGUF alone
    #[arg(long, value_enum, value_name = "TYPE")]
    weights: Option<TypeArg>,
    /// Tokenizer to write instead of the model's own: a file, or the folder of a model or a run
    #[arg(long, value_name = "FILE|DIR")]
    tokenizer: Option<String>,
    /// Run both models afterwards and compare: on the pairs of source and target in FILE, else on answers of the first to made-up
    /// sources
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    check: Option<Option<PathBuf>>,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Say nothing on standard error
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    peft: PeftArgs,
    #[command(flatten)]
    gpu: GpuArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum TypeArg {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
    #[value(name = "q4_1")]
    Q4_1,
}

impl From<TypeArg> for Encoding {
    fn from(weights: TypeArg) -> Encoding {
        match weights {
            TypeArg::F32 => Encoding::Plain(Dtype::F32),
            TypeArg::F16 => Encoding::Plain(Dtype::F16),
            TypeArg::Bf16 => Encoding::Plain(Dtype::BF16),
            TypeArg::Q8_0 => Encoding::Blocks(BlockFormat::Q8_0),
            TypeArg::Q4_0 => Encoding::Blocks(BlockFormat::Q4_0),
            TypeArg::Q4_1 => Encoding::Blocks(BlockFormat::Q4_1),
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let is_gguf = args.out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    expect_place(args, is_gguf)?;
    let model = model_folder(&args.model, args.quiet)?;
    let parts = args.peft.merge(ModelParts::open_any(&model)?)?;
    let tokenizer = match &args.tokenizer {
        Some(spec) => Some(open_tokenizer(spec)?),
        None => Tokenizer::from_dir(&model).ok(),
    };
    let format = if is_gguf { Format::Gguf } else { Format::Folder };
    let conversion = Conversion::new(parts, tokenizer.clone(), format, args.weights.map(Encoding::from))?;
    let config = conversion.config();
    if args.check.is_some() && !config.writes_text() {
        bail!("--check compares answers, and this model writes none; leave it out");
    }
    let next = match &config.classifier {
        Some(_) => "classify",
        None if config.extra.contains_key("chronos_config") => "forecast",
        None if config.writes_text() => "generate",
        None => "embed",
    };
    if !args.quiet {
        conversion.remarks().iter().for_each(|remark| note!("{remark}"));
    }
    // What is half written goes away with the process that stops in good order.
    signals::listen()?;
    signals::set_saves(true);
    let (total, mut tensors) = (conversion.bytes(), Vec::new());
    let began = Instant::now();
    conversion.write(&args.out, &mut |tensor, done| {
        tensors.push(tensor.clone());
        if !args.quiet {
            show_progress(done, total, "bytes written");
        }
        if signals::interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    end_progress();
    signals::set_saves(false);
    if !args.json {
        print_tensors(&tensors)?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        say!(
            "written: {} ({:.1} MiB of weights, {:.1} s)",
            args.out.display(),
            mib(total),
            began.elapsed().as_secs_f64()
        )?;
    }
    let check = match &args.check {
        None => None,
        Some(pairs) => Some(Comparison::of(args, &model, pairs.as_deref(), tokenizer.as_ref())?),
    };
    if args.json {
        let tensor = |t: &Converted| {
            json!({
                "name": t.name, "shape": t.shape, "from": t.from.to_string(), "to": t.to.to_string(), "bytes": t.bytes,
                "relative_error": t.relative_error, "largest_error": t.largest_error,
            })
        };
        let tensors: Vec<_> = tensors.iter().map(tensor).collect();
        let check = check.map(|c| c.json());
        return Ok(say!("{:#}", json!({ "out": args.out, "bytes": total, "tensors": tensors, "check": check }))?);
    }
    if let Some(check) = check {
        check.print()?;
    }
    Ok(say!("next: t5 {next} --model {} ...", args.out.display())?)
}

/// Refuses to write over something.
fn expect_place(args: &Args, is_gguf: bool) -> Result<()> {
    let out = args.out.display();
    if is_gguf {
        if args.out.is_dir() {
            bail!("{out} is a folder; name a file that is not there");
        }
        if args.out.exists() && !args.force {
            bail!("{out} is there already; choose another name, or replace it with --force");
        }
    } else if fs::read_dir(&args.out).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{out} is a folder with files in it; choose a new one");
    } else if args.out.exists() && !args.out.is_dir() {
        bail!("{out} is a file; name a new folder, or a file that ends in .gguf");
    }
    Ok(())
}

fn print_tensors(tensors: &[Converted]) -> Result<()> {
    say!("{:<64} {:>14} {:>12} {:>10} {:>10}", "tensor", "shape", "type", "error", "largest")?;
    for t in tensors {
        let shape: Vec<String> = t.shape.iter().map(usize::to_string).collect();
        let kind = if t.from == t.to { t.to.to_string() } else { format!("{} > {}", t.from, t.to) };
        let error = |x: f64| if x == 0.0 { "0".to_owned() } else { format!("{x:.2e}") };
        let (relative, largest) = (error(t.relative_error), error(t.largest_error));
        say!("{:<64} {:>14} {kind:>12} {relative:>10} {largest:>10}", t.name, shape.join(" x "))?;
    }
    Ok(())
}

/// Both models on the same targets.
struct Comparison {
    examples: usize,
    tokens: usize,
    /// Mean negative logarithm of a token's probability, before and after.
    losses: [f64; 2],
    /// Root mean square of the difference of these logarithms.
    difference: f64,
    /// Share of the tokens that each model finds the likeliest.
    likeliest: [f64; 2],
}

/// Made-up sources, of so many ids.
const SOURCES: (usize, usize) = (16, 48);

impl Comparison {
    fn of(args: &Args, model: &Path, pairs: Option<&Path>, tokenizer: Option<&Tokenizer>) -> Result<Comparison> {
        let gpu = args.gpu.open(args.quiet)?;
        let upload = |parts: &ModelParts, storage| -> Result<Model> {
            Ok(Model::upload(&gpu, parts, storage, &mut |_, _| ControlFlow::Continue(()))?.0)
        };
        let before = args.peft.merge(ModelParts::open(model)?)?;
        let examples = match (pairs, tokenizer) {
            (None, _) => answers(upload(&before, Storage::F32)?)?,
            (Some(file), Some(tokenizer)) => read_pairs(file, tokenizer)?,
            (Some(file), None) => {
                bail!("the model has no tokenizer to read {} with: name one with --tokenizer", file.display())
            }
        };
        let score = |parts: &ModelParts, storage| -> Result<Vec<TargetScore>> {
            let mut scorer = TargetScorer::new(upload(parts, storage)?);
            Ok(pollster::block_on(scorer.score(&examples, &|| false))?)
        };
        let after = ModelParts::open(&args.out)?;
        let scores = [score(&before, Storage::F32)?, score(&after, Storage::AsStored)?];
        let tokens: usize = scores[0].iter().map(|s| s.log_probs.len()).sum();
        let mean = |x: f64| x / tokens.max(1) as f64;
        let all = |scores: &'_ [TargetScore]| -> Vec<f64> {
            scores.iter().flat_map(|s| s.log_probs.iter().map(|&p| f64::from(p))).collect()
        };
        let [before, after] = [all(&scores[0]), all(&scores[1])];
        Ok(Comparison {
            examples: examples.len(),
            tokens,
            losses: [mean(-before.iter().sum::<f64>()), mean(-after.iter().sum::<f64>())],
            difference: mean(before.iter().zip(&after).map(|(b, a)| (a - b) * (a - b)).sum()).sqrt(),
            likeliest: [0, 1].map(|i| mean(scores[i].iter().map(|s| s.likeliest).sum::<usize>() as f64)),
        })
    }

    fn print(&self) -> Result<()> {
        let Comparison { examples, tokens, losses: [before, after], difference, likeliest } = self;
        let [was, is] = likeliest.map(|share| 100.0 * share);
        say!("check: {examples} targets of {tokens} tokens")?;
        say!(
            "  loss {before:.4} in f32, {after:.4} as written; a token's log-probability differs by {difference:.2e} (root mean square)"
        )?;
        Ok(say!("  the likeliest token is the target's for {was:.1} % in f32, {is:.1} % as written")?)
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "examples": self.examples, "tokens": self.tokens, "loss_f32": self.losses[0], "loss": self.losses[1],
            "log_prob_difference": self.difference, "likeliest_f32": self.likeliest[0], "likeliest": self.likeliest[1],
        })
    }
}

/// A model's likeliest answers to sources of random ids.
fn answers(model: Model) -> Result<Vec<Example>> {
    let mut random = Rng::new(0, Purpose::Trials, &[]);
    let (vocab, end) = (model.config.vocab_size, model.config.eos_token_id[0]);
    let source = |_| {
        let ids = (0..SOURCES.1).map(|_| (random.uniform() * vocab as f64) as u32);
        ids.chain([end]).collect::<Vec<u32>>()
    };
    let sources: Vec<Vec<u32>> = (0..SOURCES.0).map(source).collect();
    let mut generator = Generator::new(model);
    let made = pollster::block_on(generator.generate_best(&sources, &Decoding::greedy().max_new_tokens(32)))?;
    let targets = made.iter().map(|answer| answer.tokens().collect::<Vec<u32>>());
    Ok(sources
        .into_iter()
        .zip(targets)
        .filter(|(_, target)| !target.is_empty())
        .map(|(source, target)| Example { source, target })
        .collect())
}

fn read_pairs(file: &Path, tokenizer: &Tokenizer) -> Result<Vec<Example>> {
    let mut task = TaskConfig::default();
    set_file(&mut task, Split::Test, file)?;
    let pairs = task.load(Path::new("."), Split::Test)?;
    let encode = |text: &str| tokenizer.encode_with_eos(text);
    pairs.iter().map(|pair| Ok(Example { source: encode(&pair.source)?, target: encode(&pair.target)? })).collect()
}
