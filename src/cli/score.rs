//! `t5 score`: how likely a model finds given answers.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use t5_wgpu::batch::Example;
use t5_wgpu::data::{Split, TaskConfig};
use t5_wgpu::forward::{TargetScore, TargetScorer};
use t5_wgpu::model::{ModelParts, T5Config};
use t5_wgpu::tokenizer::Tokenizer;

use super::console::{Data, end_progress, note, show_progress};
use super::model_args::{DeviceArgs, ModelArgs};
use super::pairs::set_file;
use super::prefix::{Prefix, PrefixArgs};
use super::sources::Sources;

const EXAMPLES: &str = "\
Examples:
  The log-probability of each target of a file, and the perplexity of all:
    t5 score --model models/flan-t5-small --pairs held-out.tsv
  Which of some answers is the likeliest:
    t5 score --model models/flan-t5-small --answer yes --answer no \"Is the sky green?\"
  Passages of a file in the order in which they answer a question (monoT5):
    t5 score --model models/monot5-base --answer true --answer false --rank --file queries.txt
  Token by token, for programs:
    t5 score --model models/flan-t5-small --pairs held-out.tsv --json";

/// Score given answers: log-probabilities, perplexity, ranking
///
/// With --pairs, each line has the logarithm of the target's probability (natural, end token included), its number of tokens
/// and the target; a summary of all goes to standard error. With --answer, each TEXT (or line) is a source for which the
/// answers are compared: a line has each answer's share of their probability, and the source. There answers count without
/// their end token, unless one begins with another.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prefix: PrefixArgs,
    /// Sources with their targets: .tsv or .csv with these two columns, or .jsonl with "source" and "target"
    #[arg(long, value_name = "FILE", conflicts_with_all = ["answer", "text", "file"])]
    pairs: Option<PathBuf>,
    /// An answer to compare; give it once for each
    #[arg(long, value_name = "TEXT")]
    answer: Vec<String>,
    /// With --answer: print sources in the order of the first answer's share, the largest first
    #[arg(long, requires = "answer")]
    rank: bool,
    /// Print one JSON object a line, with the log-probability of each token
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Sources, each an argument
    #[arg(value_name = "TEXT")]
    text: Vec<String>,
}

/// Sources and targets that are scored before results are written and progress is shown.
const WINDOW: usize = 256;

pub fn run(args: &Args) -> Result<()> {
    if args.pairs.is_none() && args.answer.len() < 2 {
        bail!("nothing to score: name a file with --pairs, or two or more answers to compare with --answer");
    }
    let folder = args.model.folder(args.device.quiet)?;
    let tokenizer = args.model.tokenizer(&folder)?;
    let prefix = Prefix::choose(args.prefix.wish(), &T5Config::from_dir(&folder)?, args.device.quiet)?;
    let gpu = args.device.open()?;
    let parts = args.model.peft.merge(ModelParts::open(&folder)?)?;
    parts.config.check_vocabulary(tokenizer.vocab_size())?;
    let model = args.device.load(&gpu, &parts, args.model.weights)?;
    let program = Program { args, prefix, tokenizer };
    let mut scorer = TargetScorer::new(model);
    match &args.pairs {
        Some(file) => program.score_pairs(&mut scorer, file),
        None => program.compare_answers(&mut scorer),
    }
}

struct Program<'a> {
    args: &'a Args,
    prefix: Prefix,
    tokenizer: Tokenizer,
}

impl Program<'_> {
    fn encode(&self, source: &str, target: &str) -> Result<Example> {
        let source = self.tokenizer.encode_with_eos(&self.prefix.before(source))?;
        Ok(Example { source, target: self.tokenizer.encode_with_eos(target)? })
    }

    fn score_pairs(&self, scorer: &mut TargetScorer, file: &Path) -> Result<()> {
        let mut task = TaskConfig::default();
        set_file(&mut task, Split::Test, file)?;
        let pairs = task.load(Path::new("."), Split::Test)?;
        let (mut sum, mut tokens, mut likeliest, mut bytes) = (0.0, 0, 0, 0);
        let (began, mut done) = (Instant::now(), 0);
        for window in pairs.chunks(WINDOW) {
            let encode = |(i, pair): (usize, &_)| {
                let t5_wgpu::data::TaskExample { source, target, .. } = pair;
                self.encode(source, target).with_context(|| format!("{}: pair {}", file.display(), done + i + 1))
            };
            let examples: Vec<Example> = window.iter().enumerate().map(encode).collect::<Result<_>>()?;
            let scores = pollster::block_on(scorer.score(&examples, &|| false))?;
            let mut out = Data::new();
            for ((pair, example), score) in window.iter().zip(&examples).zip(&scores) {
                sum += score.sum();
                tokens += score.log_probs.len();
                likeliest += score.likeliest;
                bytes += pair.target.len();
                if self.args.json {
                    let object = serde_json::json!({
                        "source": pair.source,
                        "target": pair.target,
                        "log_prob": score.sum(),
                        "ids": example.target,
                        "log_probs": score.log_probs,
                        "likeliest": score.likeliest,
                    });
                    writeln!(out, "{object}")?;
                } else {
                    let target = pair.target.replace(['\n', '\r', '\t'], " ");
                    writeln!(out, "{:.6}\t{}\t{target}", score.sum(), score.log_probs.len())?;
                }
            }
            out.flush()?;
            drop(out);
            done += window.len();
            self.show_progress(done, pairs.len(), began);
        }
        end_progress();
        if !self.args.device.quiet {
            let mean = -sum / tokens.max(1) as f64;
            let bits = -sum / std::f64::consts::LN_2 / bytes.max(1) as f64;
            note!("targets: {done}, tokens: {tokens}, log-probability: {sum:.4}, a token: {:.6}", -mean);
            let share = 100.0 * likeliest as f64 / tokens.max(1) as f64;
            note!("perplexity: {:.4}, bits per byte: {bits:.4}, likeliest tokens: {share:.1} %", mean.exp());
        }
        Ok(())
    }

    fn compare_answers(&self, scorer: &mut TargetScorer) -> Result<()> {
        let answers = &self.args.answer;
        let ids: Vec<Vec<u32>> = answers.iter().map(|text| self.tokenizer.encode(text)).collect::<Result<_, _>>()?;
        let begins = |a: usize, b: usize| a != b && ids[b].starts_with(&ids[a]);
        let count_end = (0..ids.len()).any(|a| (0..ids.len()).any(|b| begins(a, b)));
        if let Some(same) = (0..ids.len()).find(|&a| (0..a).any(|b| ids[a] == ids[b])) {
            bail!("--answer {:?}: the model has the same tokens for another answer", answers[same]);
        }
        let mut sources = Sources::open(&self.args.text, self.args.model.file.as_deref())?;
        let (began, mut done, mut compared) = (Instant::now(), 0, Vec::new());
        loop {
            let texts = sources.take(if sources.interactive { 1 } else { (WINDOW / answers.len()).max(1) })?;
            if texts.is_empty() {
                break;
            }
            let mut examples = Vec::new();
            for source in &texts {
                for answer in answers {
                    examples.push(self.encode(&source.text, answer).with_context(|| source.place.clone())?);
                }
            }
            let scores = pollster::block_on(scorer.score(&examples, &|| false))?;
            let log_prob = |score: &TargetScore| {
                let counted = score.log_probs.len() - usize::from(!count_end);
                score.log_probs[..counted].iter().map(|&p| f64::from(p)).sum::<f64>()
            };
            for (source, scores) in texts.iter().zip(scores.chunks(answers.len())) {
                compared.push(Compared::new(source.text.clone(), scores.iter().map(log_prob).collect()));
            }
            done += texts.len();
            if !self.args.rank {
                self.print_compared(&compared)?;
                compared.clear();
            }
            if !sources.interactive {
                self.show_progress(done, 0, began);
            }
        }
        end_progress();
        compared.sort_by(|a, b| b.shares[0].total_cmp(&a.shares[0]));
        self.print_compared(&compared)
    }

    fn print_compared(&self, compared: &[Compared]) -> Result<()> {
        let mut out = Data::new();
        for Compared { source, log_probs, shares } in compared {
            let likeliest = (0..shares.len()).max_by(|&a, &b| log_probs[a].total_cmp(&log_probs[b])).unwrap_or(0);
            if self.args.json {
                let answers = self.args.answer.iter().zip(log_probs).zip(shares);
                let answer = |((text, log_prob), share)| serde_json::json!({ "answer": text, "log_prob": log_prob, "share": share });
                let answers: Vec<_> = answers.map(answer).collect();
                let best = &self.args.answer[likeliest];
                writeln!(out, "{}", serde_json::json!({ "source": source, "best": best, "answers": answers }))?;
            } else {
                let shares: Vec<String> = shares.iter().map(|share| format!("{share:.6}")).collect();
                writeln!(out, "{}\t{}", shares.join("\t"), source.replace(['\n', '\r', '\t'], " "))?;
            }
        }
        Ok(out.flush()?)
    }

    fn show_progress(&self, done: usize, total: usize, began: Instant) {
        if !self.args.device.quiet {
            let rate = done as f64 / began.elapsed().as_secs_f64().max(1e-9);
            let what = if total > 0 {
                format!("pairs, {rate:.1} a second")
            } else {
                format!("{done} sources, {rate:.1} a second")
            };
            show_progress(done as u64, total as u64, &what);
        }
    }
}

/// The answers to one source.
struct Compared {
    source: String,
    log_probs: Vec<f64>,
    /// Of the answers' probabilities together.
    shares: Vec<f64>,
}

impl Compared {
    fn new(source: String, log_probs: Vec<f64>) -> Compared {
        let top = log_probs.iter().copied().fold(f64::MIN, f64::max);
        let total: f64 = log_probs.iter().map(|p| (p - top).exp()).sum();
        let shares = log_probs.iter().map(|p| (p - top).exp() / total).collect();
        Compared { source, log_probs, shares }
    }
}
