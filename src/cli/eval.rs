//! `t5 eval`: how well a model does on a task.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Result, bail};
use t5_wgpu::data::{Metric, Split, TaskConfig};
use t5_wgpu::model::{Model, ModelParts, Storage, T5Config};
use t5_wgpu::recipe::conductor::Watch;
use t5_wgpu::recipe::evaluation::{evaluate, write_evaluation};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::train::Settings;
use t5_wgpu::train::evaluate::Evaluation;
use t5_wgpu::tune::{Mode, TuneBudget};

use super::console::say;
use super::decoding::DecodingArgs;
use super::model_args::PeftArgs;
use super::pairs::{self, OnBadRowArg, PAIRS};
use super::prefix::{Prefix, Wish};
use super::progress::{LookArgs, Renderer};
use super::{GpuArgs, TuneArgs, model_folder, open_tokenizer, read_recipe, signals};

const EXAMPLES: &str = "\
Examples:
  A task of a recipe, on its test set:
    t5 eval --model runs/pronounce/train/best --recipe recipes/pronounce.toml --task pronounce --split test
  Pairs in a file:
    t5 eval --model models/flan-t5-small --pairs dev.tsv --prefix \"translate English to German: \" --metric bleu";

/// Evaluate a model on a task: loss, metrics with their counts, predictions
///
/// The task is one of a recipe, or a file of pairs (source, tab, target; or .jsonl with the keys source and target), where lines
/// with the same source are alternative references. With --out, predictions/TASK.jsonl and metrics.json are written there.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// HuggingFace folder, or a run's folder: its best checkpoint; or a model of the hub, as google/flan-t5-small
    #[arg(long, value_name = "DIR|OWNER/MODEL")]
    model: PathBuf,
    /// The recipe that declares the task
    #[arg(long, value_name = "FILE", conflicts_with = "pairs")]
    recipe: Option<PathBuf>,
    /// The recipe's texts and tasks to evaluate on [default: all that have this split]
    #[arg(long, value_name = "NAME", requires = "recipe")]
    task: Vec<String>,
    /// A file of pairs
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// Put before every source of --pairs [default: that of the model's task, if it knows exactly one]
    #[arg(long, value_name = "TEXT", requires = "pairs", conflicts_with = "no_prefix")]
    prefix: Option<String>,
    /// Put nothing before the sources of --pairs
    #[arg(long, requires = "pairs")]
    no_prefix: bool,
    /// What to do with a row of --pairs that is no example [default: error]
    #[arg(long, value_enum, value_name = "WHAT", requires = "pairs")]
    on_bad_row: Option<OnBadRowArg>,
    /// What --pairs is scored by: exact_match, bleu, rouge, per, wer, squad ... [default: exact_match]
    #[arg(long, value_name = "NAME", requires = "pairs")]
    metric: Vec<Metric>,
    /// train, validation or test
    #[arg(long, default_value = "validation", value_parser = split)]
    split: Split,
    /// At most so many examples of each task, evenly spread [default: all]
    #[arg(long, value_name = "N")]
    examples: Option<usize>,
    /// Examples side by side
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch: usize,
    #[command(flatten)]
    peft: PeftArgs,
    #[command(flatten)]
    decoding: DecodingArgs,
    /// "bytes", a tokenizer.json, a spiece.model, or the folder of a model or a run [default: that of --model]
    #[arg(long, value_name = "FILE|bytes|DIR")]
    tokenizer: Option<String>,
    /// Write predictions and metrics into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tune: TuneArgs,
    #[command(flatten)]
    gpu: GpuArgs,
}

pub fn run(args: &Args) -> Result<()> {
    if args.batch == 0 {
        bail!("--batch must be at least 1");
    }
    let mut settings = settings(args)?;
    let gpu = args.gpu.open(args.json)?;
    let folder = model_folder(&args.model, args.json)?;
    let mut model_task = None;
    if let Some(task) = settings.tasks.get_mut(PAIRS).filter(|_| args.pairs.is_some()) {
        let wish = Wish { prefix: args.prefix.as_deref(), none: args.no_prefix, task: None, chosen_by: "--prefix" };
        let prefix = Prefix::choose(wish, &T5Config::from_dir(&folder)?, args.json)?;
        (task.prefix, model_task) = (Some(prefix.text), prefix.task);
    }
    let parts = args.peft.merge(ModelParts::open(&folder)?)?;
    let (mut model, remarks) = Model::upload(&gpu, &parts, Storage::F32, &mut |_, _| ControlFlow::Continue(()))?;
    model.tuner = args.tune.open(&gpu, Mode::Cache, TuneBudget::for_run());
    let tokenizer = match &args.tokenizer {
        Some(spec) => open_tokenizer(spec)?,
        None => Tokenizer::from_dir(&folder)?,
    };
    let mut renderer = Renderer::new(LookArgs { quiet: args.json, ..LookArgs::default() });
    remarks.iter().for_each(|remark| renderer.remark(remark));
    let most = args.examples.unwrap_or(usize::MAX);
    let decoding = args.decoding.choose(&model, &tokenizer, model_task.as_deref(), args.json)?;
    let stop = &signals::interrupted;
    let evaluation = evaluate(model, &tokenizer, &settings, (args.split, most), decoding, &mut renderer, stop)?;
    let Some(evaluation) = evaluation else { return Ok(()) };
    if let Some(out) = &args.out {
        write_evaluation(out, args.split, &evaluation)?;
    }
    if args.json {
        let Evaluation { seconds, tasks, decoding } = &evaluation;
        let object = serde_json::json!({
            "split": args.split, "seconds": seconds, "decoding": decoding, "tasks": tasks
        });
        say!("{object}")?;
        return Ok(());
    }
    for (name, task) in &evaluation.tasks {
        say!("{name}: {} examples, {} target tokens", task.examples, task.tokens)?;
        say!("  loss {:.4}  token accuracy {:.2} %", task.loss, 100.0 * task.accuracy)?;
        if let Some(bits) = task.bits_per_byte {
            say!("  {bits:.4} bits per byte of masked text")?;
        }
        for score in &task.scores {
            let counts: Vec<String> = score.counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
            say!("  {:<20} {:>7.2}  ({})", score.name, score.value, counts.join(", "))?;
            if let Some(signature) = &score.signature {
                say!("  {:<20} {signature}", "")?;
            }
        }
    }
    if let Some(out) = &args.out {
        say!("written: {}", out.display())?;
    }
    Ok(())
}

fn settings(args: &Args) -> Result<Settings> {
    let mut settings = Settings { eval_batch_size: args.batch, seed: args.decoding.seed, ..Settings::new() };
    if let Some(file) = &args.recipe {
        let recipe = read_recipe(file, &[], args.json)?;
        let has = |name: &String| {
            recipe.texts.get(name).is_some_and(|text| args.split == Split::Validation && text.has_validation())
                || recipe.tasks.get(name).is_some_and(|task| task.has(args.split))
        };
        let known: Vec<String> = recipe.texts.keys().chain(recipe.tasks.keys()).cloned().collect();
        settings.evaluate = match args.task.is_empty() {
            true => known.iter().filter(|name| has(name)).cloned().collect(),
            false => args.task.clone(),
        };
        if let Some(name) = settings.evaluate.iter().find(|name| !has(name)) {
            bail!("{}: `{name}` has no {} split; there are {}", file.display(), args.split, known.join(", "));
        }
        if settings.evaluate.is_empty() {
            bail!("{}: nothing has a {} split", file.display(), args.split);
        }
        (settings.texts, settings.tasks) = (recipe.texts, recipe.tasks);
        return Ok(settings);
    }
    let Some(file) = &args.pairs else {
        bail!("nothing to evaluate on: name a task with --recipe, or a file with --pairs");
    };
    let mut task = TaskConfig {
        on_bad_row: args.on_bad_row.map(Into::into),
        metrics: (!args.metric.is_empty()).then(|| args.metric.clone()),
        ..TaskConfig::default()
    };
    pairs::set_file(&mut task, args.split, file)?;
    task.check()?;
    settings.tasks.insert(PAIRS.into(), task);
    settings.evaluate = vec![PAIRS.into()];
    Ok(settings)
}

fn split(text: &str) -> Result<Split> {
    match text {
        "train" => Ok(Split::Train),
        "validation" => Ok(Split::Validation),
        "test" => Ok(Split::Test),
        _ => bail!("there is no split `{text}`: use train, validation or test"),
    }
}
