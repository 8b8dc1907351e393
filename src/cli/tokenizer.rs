//! `t5 tokenizer`: vocabularies from the user's own text.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use t5_wgpu::data::Documents;
use t5_wgpu::tokenizer::{TrainOptions, TrainSummary, train};

use super::console::say;

const EXAMPLES: &str = "\
Examples:
  A vocabulary of 8,000 ids with T5's 100 sentinels, for pre-training on the same text:
    t5 tokenizer train corpus.txt.gz --vocab-size 8000 --out models/mine
  Nothing may be lost (bytes for rare characters), digits one by one, and own pieces:
    t5 tokenizer train *.txt --vocab-size 16000 --byte-fallback --split-digits --piece '[SEP]' --out models/mine
  Look at it:
    t5 tokenize --tokenizer models/mine \"That is good.\"";

/// Make a vocabulary from your own text
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Train(Box<TrainArgs>),
}

/// Learn a SentencePiece-style unigram vocabulary and write it as HuggingFace's tokenizer.json
///
/// The ids are laid out as T5's: pad 0, end 1, unknown 2, own pieces, bytes, learned pieces by their frequency, sentinels
/// with <extra_id_0> the very last. Same text and settings give the same bytes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct TrainArgs {
    /// Text files, plain or packed, one piece of text a line, or JSON lines with a "text"
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Folder for tokenizer.json and tokenizer_config.json, created if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number of ids, special tokens and sentinels included
    #[arg(long, value_name = "N", default_value_t = defaults().vocab_size)]
    vocab_size: usize,
    /// Sentinels <extra_id_0>, <extra_id_1>, ... for denoising
    #[arg(long, value_name = "N", default_value_t = defaults().sentinels)]
    sentinels: usize,
    /// Spell characters without a piece as bytes (256 ids) instead of the unknown token
    #[arg(long)]
    byte_fallback: bool,
    /// Make each digit a piece of its own
    #[arg(long)]
    split_digits: bool,
    /// Let pieces mix letters, digits, marks and scripts, as "AH0" or "N;PL" do
    #[arg(long)]
    join_scripts: bool,
    /// Keep each letter as it is, without NFKC: phonetic alphabets need it
    #[arg(long)]
    no_nfkc: bool,
    /// A piece that is always kept whole; may be given several times. '\n' and '\t' are a line end and a tab
    #[arg(long = "piece", value_name = "TEXT", value_parser = unescaped)]
    pieces: Vec<String>,
    /// Longest learned piece in characters
    #[arg(long, value_name = "N", default_value_t = defaults().max_piece_length)]
    max_piece_length: usize,
    /// Candidates that the learning starts from
    #[arg(long, value_name = "N", default_value_t = defaults().seed_size)]
    seed_size: usize,
    /// Share of the text's characters that get a piece
    #[arg(long, value_name = "SHARE", default_value_t = defaults().character_coverage)]
    coverage: f64,
    /// Learn from a sample of this many lines where there are more
    #[arg(long, value_name = "N", default_value_t = defaults().max_lines)]
    max_lines: usize,
    /// Chooses that sample
    #[arg(long, value_name = "N", default_value_t = defaults().seed)]
    seed: u64,
    /// Accept a smaller vocabulary where the text gives no more pieces
    #[arg(long)]
    allow_smaller: bool,
    /// Replace a tokenizer that is in the folder already
    #[arg(long)]
    force: bool,
}

fn unescaped(piece: &str) -> Result<String> {
    Ok(piece.replace("\\n", "\n").replace("\\t", "\t"))
}

fn defaults() -> TrainOptions {
    TrainOptions::default()
}

pub fn run(args: Args) -> Result<()> {
    match args.action {
        Action::Train(args) => train_vocabulary(*args),
    }
}

fn train_vocabulary(args: TrainArgs) -> Result<()> {
    let file = args.out.join("tokenizer.json");
    if file.exists() && !args.force {
        bail!("{} is there already; choose another folder, or replace it with --force", file.display());
    }
    let options = TrainOptions {
        vocab_size: args.vocab_size,
        sentinels: args.sentinels,
        byte_fallback: args.byte_fallback,
        split_digits: args.split_digits,
        split_scripts: !args.join_scripts,
        nfkc: !args.no_nfkc,
        user_defined: args.pieces,
        max_piece_length: args.max_piece_length,
        seed_size: args.seed_size,
        character_coverage: args.coverage,
        max_lines: args.max_lines,
        seed: args.seed,
        allow_smaller: args.allow_smaller,
    };
    let names: Vec<String> = args.files.iter().map(|file| file.display().to_string()).collect();
    let trained = train(Documents::default().of_files(args.files), &options).with_context(|| names.join(", "))?;
    trained.save(&args.out)?;
    let size = trained.tokenizer.vocab_size();
    describe(&trained.summary, size, &options)?;
    if size < args.vocab_size {
        say!("note: {size} ids instead of {}: the text gives no more pieces", args.vocab_size)?;
    }
    say!("written: {}\nnext: t5 tokenize --tokenizer {} \"some text\"", file.display(), args.out.display())?;
    Ok(())
}

fn describe(summary: &TrainSummary, size: usize, options: &TrainOptions) -> std::io::Result<()> {
    let TrainSummary { lines, lines_used, words, characters, characters_covered, learned, .. } = summary;
    say!("text: {lines} lines, {lines_used} of them used; {words} different words")?;
    say!("characters: {characters_covered} of {characters} have a piece")?;
    say!("normaliser: {}", options.normalizer())?;
    say!(
        "vocabulary: {size} ids, {learned} of them learned in {:.1} s ({:.0} pieces/s)",
        summary.seconds,
        *learned as f64 / summary.seconds.max(1e-9)
    )?;
    say!(
        "encoding: {:.2} bytes of text a token, {:.3}% of the tokens <unk>",
        summary.bytes_per_token,
        100.0 * summary.unknown
    )
}
