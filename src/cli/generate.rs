//! `t5 generate`: text to text, from arguments, a file or standard input.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use t5_wgpu::data::lines::Lines;
use t5_wgpu::generate::{Decoding, Generation, Generator};
use t5_wgpu::model::{Model, Storage, T5Config};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::tune::{Mode, TuneBudget};

use super::console::{Data, doing, note};
use super::decoding::{DecodingArgs, positive};
use super::prefix::{Prefix, Wish};
use super::{GpuArgs, TuneArgs, model_folder};

const EXAMPLES: &str = "\
Examples:
  One text; its output appears as it is made:
    t5 generate --model models/t5-small \"translate English to German: That is good.\"
  With the best checkpoint of a run, and the prefix that it was trained with:
    t5 generate --model runs/pronounce \"unseen\"
  A file, one text a line, with the task's prefix before each:
    t5 generate --model models/t5-small --prefix \"summarize: \" --file articles.txt > summaries.txt
  In a pipe, for programs:
    cat questions.txt | t5 generate --model models/flan-t5-small --json --batch 32
  A large model in little memory:
    t5 generate --model models/flan-t5-large --weights int8 \"Who wrote Faust?\"
  The three best of four beams, with their scores:
    t5 generate --model models/t5-small --beams 4 --n-best 3 --json --task summarization < articles.txt
  One of two answers, and nothing else:
    t5 generate --model models/flan-t5-small --answer positive --answer negative \"Is this review positive or negative? Great!\"
  Drawn instead of the likeliest; another seed gives another text:
    t5 generate --model models/my-model --temperature 0.8 --top-p 0.95 --seed 1 \"Once upon a time\"";

/// Generate text with a model
///
/// Each TEXT is a source; without TEXT, sources are the lines of a file or of standard input. Every source gives one line
/// of output, in order. The likeliest token is taken at each step, unless --beams asks for a search, --temperature, --top-k or
/// --top-p for draws, or the model's files (generation_config.json, task_specific_params of config.json) for one of them.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Model folder as HuggingFace and `t5 train` write it: config.json, model.safetensors, tokenizer; or a run's folder: its
    /// best checkpoint
    #[arg(long, short, value_name = "DIR")]
    model: PathBuf,
    /// Tokenizer to use instead of the model folder's
    #[arg(long, value_name = "FILE|bytes|DIR")]
    tokenizer: Option<String>,
    /// Read sources from this file, one a line; plain, .gz, .xz or .zst ("-": standard input)
    #[arg(long, short, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// How weights are held in the adapter's memory; sums are f32 always. auto: f16 and bf16 as the file has them, else f32,
    /// so that nothing is rounded. int8 takes 28 % of f32's memory, and rounds each weight by up to 0.4 % of the largest
    /// beside it
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = Weights::Auto)]
    weights: Weights,
    /// Put this before each source, e.g. "summarize: " [default: that of the model's task, if it knows exactly one, before
    /// sources that do not begin with it already]
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["no_prefix", "task"])]
    prefix: Option<String>,
    /// Put nothing before the sources
    #[arg(long, conflicts_with = "task")]
    no_prefix: bool,
    /// Put the prefix of this task of the model before each source
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// Give the K best texts of beam search, each on its line
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = positive)]
    n_best: usize,
    #[command(flatten)]
    decoding: DecodingArgs,
    /// Sources that are worked on side by side
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive)]
    batch: usize,
    /// Print one JSON object a line: source, text, ids, finished, tokens_per_second; of beam search also score, and n_best with
    /// all of --n-best
    #[arg(long)]
    json: bool,
    /// Say nothing on standard error
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    tune: TuneArgs,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Sources, each an argument
    #[arg(value_name = "TEXT")]
    text: Vec<String>,
}

/// What `--weights` can ask for.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Weights {
    Auto,
    F32,
    F16,
    Bf16,
    Int8,
}

impl From<Weights> for Storage {
    fn from(weights: Weights) -> Storage {
        match weights {
            Weights::Auto => Storage::AsStored,
            Weights::F32 => Storage::F32,
            Weights::F16 => Storage::F16,
            Weights::Bf16 => Storage::Bf16,
            Weights::Int8 => Storage::Int8,
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let mut sources = open_sources(args)?;
    if !args.model.is_dir() {
        return Err(anyhow!(
            "{} is not a folder; --model takes a folder with config.json, model.safetensors and a tokenizer",
            args.model.display()
        ));
    }
    let folder = model_folder(&args.model, args.quiet)?;
    let tokenizer = match &args.tokenizer {
        Some(spec) => Tokenizer::open(spec)?,
        None => Tokenizer::from_dir(&folder)?,
    };
    let wish =
        Wish { prefix: args.prefix.as_deref(), none: args.no_prefix, task: args.task.as_deref(), chosen_by: "--task" };
    let prefix = Prefix::choose(wish, &T5Config::from_dir(&folder)?, args.quiet)?;
    let gpu = args.gpu.open(args.quiet)?;
    let (mut model, mut remarks) = Model::load_as(&gpu, &folder, args.weights.into())?;
    model.tuner = args.tune.open(&gpu, Mode::Cache, TuneBudget::for_run());
    remarks.extend(model.tuner.warnings().iter().map(|what| format!("warning: {what}")));
    if !args.quiet {
        remarks.iter().for_each(|remark| note!("{remark}"));
    }
    let decoding = Decoding {
        max_batch: args.batch,
        limit: Some(tokenizer.vocab_size()),
        n_best: args.n_best,
        ..args.decoding.choose(&model, &tokenizer, prefix.task.as_deref(), args.quiet)?
    };
    let (generator, totals) = (Generator::new(model), Totals::default());
    let mut program = Program { args, prefix, tokenizer, generator, decoding, totals };
    // At a terminal each line is answered at once; otherwise enough are taken to sort them by length.
    let window = if sources.interactive { 1 } else { 16 * args.batch };
    loop {
        doing("");
        let texts = sources.take(window)?;
        if texts.is_empty() {
            break;
        }
        doing(&format!("generating from text {}", program.totals.sources + 1));
        let alone = texts.len() == 1 && (sources.interactive || sources.is_single);
        program.answer(&texts, alone && !args.json && args.n_best == 1)?;
    }
    if !args.quiet {
        program.totals.print(program.decoding.max_new_tokens.unwrap_or(Decoding::MAX_NEW_TOKENS));
        program.print_memory();
    }
    Ok(())
}

/// Everything that answering sources needs.
struct Program<'a> {
    args: &'a Args,
    prefix: Prefix,
    tokenizer: Tokenizer,
    generator: Generator,
    decoding: Decoding,
    totals: Totals,
}

impl Program<'_> {
    /// Generates for these sources and prints their lines; `stream`: piece by piece, for a single one.
    fn answer(&mut self, texts: &[Source], stream: bool) -> Result<()> {
        let encode = |source: &Source| {
            let text = self.prefix.before(&source.text);
            self.tokenizer.encode_with_eos(&text).with_context(|| source.place.clone())
        };
        let ids: Vec<Vec<u32>> = texts.iter().map(encode).collect::<Result<_>>()?;
        let mut out = Data::new();
        self.decoding.first_source = self.totals.sources;
        let mut shown = self.tokenizer.stream();
        let mut written = Ok(());
        let (began, mut first) = (Instant::now(), None);
        let mut on_tokens = |_: usize, new: &[u32]| {
            first.get_or_insert_with(|| (began.elapsed().as_secs_f64(), new.len()));
            if stream {
                doing("");
                let piece: String = new.iter().map(|&id| shown.push(id)).collect();
                written = write!(out, "{}", one_line(&piece)).and_then(|()| out.flush());
            }
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let generating = self.generator.generate(&ids, &self.decoding, &mut on_tokens, &|| false);
        let made = pollster::block_on(generating)?;
        written?;
        let seconds = began.elapsed().as_secs_f64();
        self.totals.add(&made, seconds, first);
        if stream {
            writeln!(out, "{}", one_line(&shown.finish()))?;
        } else {
            let tokens: usize = made.iter().flat_map(|found| found.first()).map(|g| g.ids.len()).sum();
            for (source, found) in texts.iter().zip(&made) {
                self.print(&mut out, source, found, tokens as f64 / seconds)?;
            }
        }
        out.flush()?;
        Ok(())
    }

    fn print_memory(&self) {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (weights, rest) = (self.generator.model.layout.bytes(), self.generator.bytes());
        note!("memory: weights {:.1} MiB, activations and caches {:.1} MiB", mib(weights), mib(rest));
    }

    /// The best texts of a source, each on its line; as JSON, one object.
    fn print(&self, out: &mut impl Write, source: &Source, found: &[Generation], rate: f64) -> Result<()> {
        if !self.args.json {
            for generation in found {
                writeln!(out, "{}", one_line(&self.tokenizer.decode(&generation.ids)))?;
            }
            return Ok(());
        }
        let describe = |generation: &Generation| {
            let mut object = serde_json::json!({
                "text": self.tokenizer.decode(&generation.ids),
                "ids": generation.ids,
                "finished": generation.stopped_at_eos(),
            });
            if let Some(score) = generation.score {
                object["score"] = score.into();
            }
            object
        };
        let mut object = found.first().map(describe).unwrap_or_default();
        object["source"] = source.text.as_str().into();
        object["tokens_per_second"] = rate.into();
        if self.args.n_best > 1 {
            object["n_best"] = found.iter().map(describe).collect();
        }
        writeln!(out, "{object}")?;
        Ok(())
    }
}

/// What the run cost.
#[derive(Default)]
struct Totals {
    sources: usize,
    /// Answers that did not end by themselves.
    cut: usize,
    tokens: usize,
    seconds: f64,
    /// Seconds to the first tokens, and how many they were.
    first: Option<(f64, usize)>,
}

impl Totals {
    fn add(&mut self, made: &[Vec<Generation>], seconds: f64, first: Option<(f64, usize)>) {
        self.sources += made.len();
        let best = || made.iter().filter_map(|found| found.first());
        self.cut += best().filter(|g| !g.stopped_at_eos()).count();
        self.tokens += best().map(|g| g.ids.len()).sum::<usize>();
        self.seconds += seconds;
        self.first = self.first.or(first);
    }

    fn print(&self, max_new_tokens: usize) {
        if self.cut > 0 {
            let (cut, n) = (self.cut, self.sources);
            note!("{cut} of {n} answers did not end by themselves and were cut at --max-new-tokens {max_new_tokens}");
        }
        let (n, tokens, seconds) = (self.sources, self.tokens, self.seconds);
        let rate = tokens as f64 / seconds.max(1e-9);
        note!("sources: {n}, tokens: {tokens}, {seconds:.2} s, {rate:.1} tokens/s");
        if let Some((at_first, known)) = self.first
            && n == 1
            && tokens > known
        {
            let each = 1e3 * (seconds - at_first) / (tokens - known) as f64;
            note!("first after {:.0} ms (shaders compiled, source encoded), then {each:.1} ms/token", 1e3 * at_first);
        }
    }
}

/// A source and where it came from, for messages.
struct Source {
    text: String,
    place: String,
}

/// Sources from arguments or from lines.
struct Sources<'a> {
    arguments: std::slice::Iter<'a, String>,
    lines: Option<Lines>,
    /// Where they are from, for messages.
    name: String,
    taken: usize,
    /// Someone types the lines.
    interactive: bool,
    is_single: bool,
}

fn open_sources(args: &Args) -> Result<Sources<'_>> {
    let mut sources = Sources {
        arguments: args.text.iter(),
        lines: None,
        name: "argument ".into(),
        taken: 0,
        interactive: false,
        is_single: args.text.len() == 1,
    };
    match &args.file {
        Some(path) if path.as_os_str() != "-" => {
            sources.lines = Some(Lines::open(path)?);
            sources.name = format!("{}:", path.display());
        }
        None if !args.text.is_empty() => {}
        _ => {
            sources.interactive = io::stdin().is_terminal();
            sources.lines = Some(Lines::stdin());
            sources.name = "stdin:".into();
        }
    }
    Ok(sources)
}

impl Sources<'_> {
    /// Up to `count` sources; none at the end.
    fn take(&mut self, count: usize) -> Result<Vec<Source>> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let text = match &mut self.lines {
                None => self.arguments.next().cloned(),
                Some(lines) => lines.next_text()?.map(|(_, line)| line.to_owned()),
            };
            let Some(text) = text else { break };
            self.taken += 1;
            taken.push(Source { text, place: format!("{}{}", self.name, self.taken) });
        }
        Ok(taken)
    }
}

/// A source has one line of output, whatever the model writes.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}
