//! `t5 tokenize`: text to pieces and ids, and ids back to text.

use std::io::{Cursor, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use t5_wgpu::data::lines::Lines;
use t5_wgpu::tokenizer::Tokenizer;

use super::console::Data;
use super::open_tokenizer;

const EXAMPLES: &str = "\
Examples:
  Look at how a sentence is cut (piece:id, a space shows as ▁):
    t5 tokenize --tokenizer models/t5-small \"translate English to German: That is good.\"
  Bytes need no file (ByT5: id = byte + 3):
    t5 tokenize --tokenizer bytes \"naïve\"
  Encode a file, one JSON list of ids a line, each ending with the end-of-sequence id:
    t5 tokenize --tokenizer spiece.model --json --file corpus.txt > corpus.ids
  And back (JSON lists, or ids with spaces or commas between them):
    t5 tokenize --tokenizer spiece.model --decode --file corpus.ids
  Where do sentinels lie?
    t5 tokenize --tokenizer tokenizer.json \"<extra_id_0> <extra_id_99>\"";

/// Show how text becomes token ids, and ids text.
///
/// Each TEXT is one line of input; without TEXT and --file, lines are read from standard input.
/// Every line of input gives one line of output. Token ids end with the end-of-sequence id, as models are fed.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// "bytes", a tokenizer.json, a spiece.model, or the folder of a model or a run
    #[arg(long, short, value_name = "FILE|bytes|DIR")]
    tokenizer: String,
    /// Read lines from this file, plain, .gz, .xz or .zst
    #[arg(long, short, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Print one JSON list of ids a line, for programs to read
    #[arg(long, conflicts_with = "decode")]
    json: bool,
    /// Turn lines of ids into text; padding and end-of-sequence are left out
    #[arg(long, short)]
    decode: bool,
    /// Text to encode (with --decode: ids), one line each
    #[arg(value_name = "TEXT")]
    text: Vec<String>,
}

/// Runs the command on standard input and output.
pub fn run(args: Args) -> Result<()> {
    let tokenizer = open_tokenizer(&args.tokenizer)?;
    let mut out = Data::new();
    let (source, lines) = if !args.text.is_empty() {
        let lines = args.text.join("\n").into_bytes();
        ("argument".to_owned(), Lines::from_reader(Box::new(Cursor::new(lines)), "argument"))
    } else if let Some(path) = &args.file {
        (path.display().to_string(), Lines::open(path)?)
    } else {
        ("stdin".to_owned(), Lines::stdin())
    };
    convert(&args, &tokenizer, &source, lines, &mut out)?;
    Ok(out.flush()?)
}

/// `source` names the input in messages, as in `corpus.txt:7`.
fn convert(args: &Args, tokenizer: &Tokenizer, source: &str, mut lines: Lines, out: &mut impl Write) -> Result<()> {
    while let Some((number, line)) = lines.next_text()? {
        let output = convert_line(args, tokenizer, line).with_context(|| format!("{source}:{number}"))?;
        writeln!(out, "{output}")?;
    }
    Ok(())
}

fn convert_line(args: &Args, tokenizer: &Tokenizer, line: &str) -> Result<String> {
    if args.decode {
        return Ok(tokenizer.decode(&parse_ids(line)?));
    }
    let ids = tokenizer.encode_with_eos(line)?;
    if args.json {
        return Ok(serde_json::to_string(&ids)?);
    }
    let shown = ids.iter().map(|&id| format!("{}:{id}", tokenizer.piece(id).unwrap_or_default()));
    Ok(shown.collect::<Vec<_>>().join(" "))
}

/// `[1, 2, 3]`, `1 2 3` or `1,2,3`.
fn parse_ids(line: &str) -> Result<Vec<u32>> {
    let line = line.trim();
    let list = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(line);
    let words = list.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    words
        .map(|word| match word.parse() {
            Ok(id) => Ok(id),
            Err(_) => bail!("{word:?} is not a token id; expected a JSON list like [8774, 1] or ids like 8774 1"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn output(flags: &[&str], input: &[u8]) -> Result<String> {
        let args = Command::parse_from([&["tokenize", "--tokenizer", "bytes"], flags].concat()).args;
        let mut out = Vec::new();
        let lines = Lines::from_reader(Box::new(Cursor::new(input.to_vec())), "stdin");
        convert(&args, &Tokenizer::bytes(), "stdin", lines, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn shows_pieces_or_json_a_line() {
        assert_eq!(output(&[], b"a b\r\n\n").unwrap(), "a:100 <0x20>:35 b:101 </s>:1\n</s>:1\n");
        assert_eq!(output(&["--json"], "é\nx".as_bytes()).unwrap(), "[198,172,1]\n[123,1]\n");
    }

    #[test]
    fn decodes_lists_and_bare_ids() {
        assert_eq!(
            output(&["--decode"], b"[100, 259, 1]\n100 101\n100,101\n[]\n").unwrap(),
            "a<extra_id_0>\nab\nab\n\n"
        );
    }

    #[test]
    fn wrong_lines_are_named() {
        let message = |flags: &[&str], input: &[u8]| format!("{:#}", output(flags, input).unwrap_err());
        assert!(message(&[], b"fine\nab\xff\n").contains("stdin:2: not UTF-8 at byte 3"));
        assert!(message(&["--decode"], b"1 2\n3 -4\n").starts_with("stdin:2: \"-4\" is not a token id"));
    }
}
