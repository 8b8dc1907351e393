//! `t5 generate`: text to text, from arguments, a file or standard input.

use std::io::Write;
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use t5_wgpu::Error;
use t5_wgpu::generate::{Alternative, Decoding, Generation, Generator, StoppedAt};
use t5_wgpu::model::{Model, ModelParts, T5Config};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::tune::{Mode, TuneBudget};

use super::console::{Data, doing, note};
use super::decoding::{DecodingArgs, positive};
use super::model_args::{DeviceArgs, ModelArgs};
use super::prefix::{Prefix, PrefixArgs};
use super::sources::{Source, Sources};
use super::timings::{FirstToken, START, Timings, timed};

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
  Up to the end of the first sentence, and how sure the model is of each token:
    t5 generate --model models/flan-t5-small --stop \". \" --log-probs --alternatives 3 \"Tell me about Berlin.\"
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
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prefix: PrefixArgs,
    /// Give the K best texts of beam search, each on its line
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = positive)]
    n_best: usize,
    #[command(flatten)]
    decoding: DecodingArgs,
    /// Sources that are worked on side by side
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive)]
    batch: usize,
    /// Tell the log-probability of every token, the end token's at last: below each text a line for each token, which begins with
    /// a tab; with --json as log_probs
    #[arg(long)]
    log_probs: bool,
    /// Tell the N likeliest tokens at every place as well, and their log-probabilities
    #[arg(long, value_name = "N", default_value_t = 0)]
    alternatives: usize,
    /// Guess N tokens at each step from what the source and the text say already, and check them all at once: the same text, in
    /// fewer steps where it copies its source, at a higher price a step. Not with --beams, draws, rules or --log-probs
    #[arg(long, value_name = "N", default_value_t = 0)]
    speculate: usize,
    /// Print one JSON object a line: source, text, ids, finished, tokens_per_second; of beam search also score, and n_best with
    /// all of --n-best; stop_string if one ended the text; log_probs and alternatives if asked for; with --speculate guessed, the
    /// tokens that took no step of their own
    #[arg(long)]
    json: bool,
    /// Say how long it took from the start of the program to the first token, by part; with --json a last object: timings, in
    /// seconds
    #[arg(long)]
    timings: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Sources, each an argument
    #[arg(value_name = "TEXT")]
    text: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    let mut sources = Sources::open(&args.text, args.model.file.as_deref())?;
    let folder = args.model.folder(args.device.quiet)?;
    let prefix = Prefix::choose(args.prefix.wish(), &T5Config::from_dir(&folder)?, args.device.quiet)?;
    let mut timings = Timings::default();
    // A large vocabulary takes a processor as long as a small model.
    let (tokenizer, gpu, (mut model, mut remarks)) = thread::scope(|scope| -> Result<_> {
        let tokenizer = scope.spawn(|| timed(|| args.model.tokenizer(&folder)));
        let (gpu, seconds) = timed(|| args.device.open());
        timings.device = seconds;
        let gpu = gpu?;
        let parts = args.model.peft.merge(ModelParts::open(&folder)?)?;
        let model = Model::upload(&gpu, &parts, args.model.weights.into(), &mut |_, _| ControlFlow::Continue(()))?;
        let (tokenizer, seconds) = tokenizer.join().unwrap_or_else(|panic| resume_unwind(panic));
        timings.tokenizer = seconds;
        Ok((tokenizer?, gpu, model))
    })?;
    timings.load = model.load_times;
    model.tuner = args.device.tune.open(&gpu, Mode::Cache, TuneBudget::for_run());
    remarks.extend(model.tuner.warnings().iter().map(|what| format!("warning: {what}")));
    if !args.device.quiet {
        remarks.iter().for_each(|remark| note!("{remark}"));
    }
    let decoding = Decoding {
        max_batch: args.batch,
        limit: Some(tokenizer.vocab_size()),
        n_best: args.n_best,
        log_probs: args.log_probs,
        alternatives: args.alternatives,
        speculate: args.speculate,
        ..args.decoding.choose(&model, &tokenizer, prefix.task.as_deref(), args.device.quiet)?
    };
    let (generator, totals) = (Generator::new(model).with_tokenizer(&tokenizer), Totals::default());
    let mut program = Program { args, prefix, tokenizer, generator, decoding, totals, timings };
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
        program.answer(&texts, alone && !args.json && !program.tells() && args.n_best == 1)?;
    }
    if !args.device.quiet {
        program.totals.print(&program.decoding, program.timings.first.as_ref());
        program.print_memory();
    }
    program.print_timings()
}

/// Everything that answering sources needs.
struct Program<'a> {
    args: &'a Args,
    prefix: Prefix,
    tokenizer: Tokenizer,
    generator: Generator,
    decoding: Decoding,
    totals: Totals,
    timings: Timings,
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
        let mut shown = self.decoding.text_stream(&self.tokenizer);
        let mut written = Ok(());
        // Its clock stands still while kernels are compiled.
        let (began, running, mut first) = (Instant::now(), self.generator.model.gpu.stopwatch(), None);
        let begun = |tokens| {
            let (seconds, running) = (began.elapsed().as_secs_f64(), running.elapsed().as_secs_f64());
            FirstToken { after_start: START.elapsed(), seconds, compiling: (seconds - running).max(0.0), tokens }
        };
        let mut on_tokens = |_: usize, new: &[u32]| {
            first.get_or_insert_with(|| begun(new.len()));
            if stream {
                doing("");
                let piece: String = new.iter().map(|&id| shown.push(id)).collect();
                written = write!(out, "{}", one_line(&piece)).and_then(|()| out.flush());
            }
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let generating = self.generator.generate(&ids, &self.decoding, &mut on_tokens, &|| false);
        let made = pollster::block_on(generating).map_err(|error| match error {
            Error::Numeric(what) => anyhow!("{what} (T5_DEBUG=1 names the first step that makes such a number)"),
            error => error.into(),
        })?;
        written?;
        let seconds = began.elapsed().as_secs_f64();
        self.totals.add(&made, seconds);
        // An answer may be empty.
        self.timings.first.get_or_insert_with(|| first.unwrap_or_else(|| begun(0)));
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

    fn print_timings(&self) -> Result<()> {
        let each = self.timings.first.as_ref().and_then(|first| self.totals.each_token(first));
        if !self.args.timings {
            return Ok(());
        }
        if !self.args.json {
            note!("{}", self.timings.text(each));
            return Ok(());
        }
        let mut out = Data::new();
        writeln!(out, "{}", self.timings.json(each))?;
        Ok(out.flush()?)
    }

    fn print_memory(&self) {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (weights, rest) = (self.generator.model.layout.bytes(), self.generator.bytes());
        note!("memory: weights {:.1} MiB, activations and caches {:.1} MiB", mib(weights), mib(rest));
    }

    /// Whether log-probabilities are told.
    fn tells(&self) -> bool {
        self.args.log_probs || self.args.alternatives > 0
    }

    fn piece(&self, id: u32) -> String {
        self.tokenizer.piece(id).unwrap_or_default()
    }

    /// A line for each token, if they are told of: log-probability, token, and the likeliest ones.
    fn print_tokens(&self, out: &mut impl Write, generation: &Generation) -> Result<()> {
        for (i, (id, log_prob)) in generation.tokens().zip(&generation.log_probs).enumerate() {
            write!(out, "\t{log_prob:.6}\t{}", one_line(&self.piece(id)))?;
            for one in generation.alternatives.get(i).into_iter().flatten() {
                write!(out, "\t{} {:.6}", one_line(&self.piece(one.id)), one.log_prob)?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    /// The best texts of a source, each on its line; as JSON, one object.
    fn print(&self, out: &mut impl Write, source: &Source, found: &[Generation], rate: f64) -> Result<()> {
        if !self.args.json {
            for generation in found {
                writeln!(out, "{}", one_line(&self.decoding.text(&self.tokenizer, &generation.ids)))?;
                self.print_tokens(out, generation)?;
            }
            return Ok(());
        }
        let describe = |generation: &Generation| {
            let mut object = serde_json::json!({
                "text": self.decoding.text(&self.tokenizer, &generation.ids),
                "ids": generation.ids,
                "finished": generation.is_finished(),
            });
            if let Some(StoppedAt::StopString(text)) = &generation.stopped_at {
                object["stop_string"] = text.as_str().into();
            }
            if self.tells() {
                object["log_probs"] = generation.log_probs.clone().into();
            }
            if self.args.alternatives > 0 {
                let alternative = |one: &Alternative| serde_json::json!({ "id": one.id, "token": self.piece(one.id), "log_prob": one.log_prob });
                let place = |place: &Vec<Alternative>| place.iter().map(alternative).collect::<Vec<_>>();
                object["alternatives"] = generation.alternatives.iter().map(place).collect::<Vec<_>>().into();
            }
            if self.args.speculate > 0 {
                object["guessed"] = generation.guessed.into();
            }
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
    /// Tokens with those that ended texts, and how many of these were guessed.
    made: usize,
    guessed: usize,
    seconds: f64,
}

impl Totals {
    fn add(&mut self, made: &[Vec<Generation>], seconds: f64) {
        self.sources += made.len();
        let best = || made.iter().filter_map(|found| found.first());
        self.cut += best().filter(|g| !g.is_finished()).count();
        self.tokens += best().map(|g| g.ids.len()).sum::<usize>();
        self.guessed += best().map(|g| g.guessed).sum::<usize>();
        self.made += best().map(|g| g.tokens().count()).sum::<usize>();
        self.seconds += seconds;
    }

    /// Seconds of a token after the first ones, where there was a single source.
    fn each_token(&self, first: &FirstToken) -> Option<f64> {
        let after = self.tokens.saturating_sub(first.tokens);
        (self.sources == 1 && after > 0).then(|| (self.seconds - first.seconds) / after as f64)
    }

    fn print(&self, decoding: &Decoding, first: Option<&FirstToken>) {
        if self.cut > 0 {
            let max_new_tokens = decoding.max_new_tokens.unwrap_or(Decoding::MAX_NEW_TOKENS);
            let (cut, n) = (self.cut, self.sources);
            note!("{cut} of {n} answers did not end by themselves and were cut at --max-new-tokens {max_new_tokens}");
        }
        let (n, tokens, seconds) = (self.sources, self.tokens, self.seconds);
        let rate = tokens as f64 / seconds.max(1e-9);
        note!("sources: {n}, tokens: {tokens}, {seconds:.2} s, {rate:.1} tokens/s");
        if decoding.speculate > 0 {
            let (made, guessed) = (self.made, self.guessed);
            let each = made as f64 / (made - guessed).max(1) as f64;
            note!("guesses: {guessed} of {made} tokens were guessed rightly: {each:.2} tokens a step");
        }
        if let Some(first) = first
            && let Some(each) = self.each_token(first)
        {
            let (at_first, each) = (1e3 * first.seconds, 1e3 * each);
            note!("first after {at_first:.0} ms (shaders compiled, source encoded), then {each:.1} ms/token");
        }
    }
}

/// A source has one line of output, whatever the model writes.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}
