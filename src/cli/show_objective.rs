//! `t5 show-objective`: shows the source and the target that an objective makes of a text.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use t5_wgpu::batch::Example;
use t5_wgpu::data::lines::Lines;
use t5_wgpu::data::{Lengths, Markers, Objective};
use t5_wgpu::rng::{Purpose, Rng};
use t5_wgpu::tokenizer::Tokenizer;

use super::console::Data;
use super::open_tokenizer;

const EXAMPLES: &str = "\
Examples:
  T5's own objective on a sentence, with the pieces of a model's tokenizer:
    t5 show-objective --tokenizer models/t5-small \"Thank you for inviting me to your party last week.\"
  The same text masked three times, half of it, in longer spans:
    t5 show-objective --count 3 --objective '{ name = \"span_corruption\", noise_density = 0.5, mean_span = 8 }' TEXT
  All objectives, and what can be set:
    t5 show-objective --list
  What UL2 makes of a file (plain, .gz, .xz or .zst), cut as in training, with the ids of all tokens:
    t5 show-objective --objective ul2 --inputs-len 256 --pieces --file corpus.txt.gz | less
  For programs, one JSON object a line:
    t5 show-objective --objective bert --json \"some text\"";

/// Show what an objective makes of a text: what the model reads, and what it has to answer.
///
/// Each TEXT is a document; without TEXT and --file, lines are read from standard input. Documents longer than a segment
/// are cut as in training, where they would also be joined.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The objective: its name, or a table of settings in TOML or JSON
    #[arg(long, short, value_name = "NAME|TABLE", default_value = "span_corruption", value_parser = str::parse::<Objective>)]
    objective: Objective,
    /// "bytes", a tokenizer.json, a spiece.model, or the folder of a model or a run
    #[arg(long, short, value_name = "FILE|bytes|DIR", default_value = "bytes")]
    tokenizer: String,
    /// The most tokens of a source, its end counted
    #[arg(long, value_name = "N", default_value_t = 512)]
    inputs_len: usize,
    /// The most tokens of a target, its end counted, where the objective leaves it open
    #[arg(long, value_name = "N")]
    targets_len: Option<usize>,
    /// What the masks follow from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Different examples of each text
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u64,
    /// Show pieces and ids, too
    #[arg(long, short, conflicts_with = "json")]
    pieces: bool,
    /// Print one JSON object for each example, for programs to read
    #[arg(long)]
    json: bool,
    /// List all objectives and their settings
    #[arg(long)]
    list: bool,
    /// Read lines from this file, plain or packed by gzip, xz or zstd
    #[arg(long, short, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Texts to make examples of
    #[arg(value_name = "TEXT")]
    text: Vec<String>,
}

/// Runs the command on standard input and output.
pub fn run(args: Args) -> Result<()> {
    let mut out = Data::new();
    if args.list {
        list(&mut out)?
    } else {
        show_all(&args, &mut out)?
    }
    Ok(out.flush()?)
}

fn list(out: &mut impl Write) -> Result<()> {
    for info in Objective::ALL {
        writeln!(out, "{:<18} {}", info.name, info.summary)?;
        if !info.settings.is_empty() {
            let default: Objective = info.name.parse()?;
            let default = match default {
                Objective::Ul2(_) => " the seven of the paper".to_owned(),
                Objective::PrefixLm(_) => " a random length".to_owned(),
                _ => settings(&default)?,
            };
            writeln!(out, "{:<18}   settings: {} (default:{default})", "", info.settings)?;
        }
        writeln!(out, "{:<18}   {}", "", info.reference)?;
    }
    Ok(())
}

fn show_all(args: &Args, out: &mut impl Write) -> Result<()> {
    let tokenizer = open_tokenizer(&args.tokenizer)?;
    let markers = args.objective.markers(&tokenizer)?;
    let lengths = args.objective.lengths_by_draw(args.inputs_len, args.targets_len, &markers)?;
    let mut show = Show { args, tokenizer: &tokenizer, markers, lengths, out };
    if !args.json {
        show.header()?;
    }
    let mut lines = if !args.text.is_empty() {
        for (number, text) in args.text.iter().enumerate() {
            show.document(number + 1, text).with_context(|| format!("text {}", number + 1))?;
        }
        return Ok(());
    } else if let Some(path) = &args.file {
        Lines::open(path)?
    } else {
        Lines::stdin()
    };
    while let Some((number, line)) = lines.next_text()? {
        if !line.trim().is_empty() {
            show.document(number, line).with_context(|| format!("line {number}"))?;
        }
    }
    Ok(())
}

struct Show<'a, W> {
    args: &'a Args,
    tokenizer: &'a Tokenizer,
    markers: Markers,
    lengths: Vec<Lengths>,
    out: W,
}

/// One line of `--json`.
#[derive(Serialize)]
struct Record<'a> {
    /// Number of the text or the line, from 1.
    document: usize,
    /// Tokens of the text that the example is made of.
    raw: &'a [u32],
    source: &'a [u32],
    target: &'a [u32],
    source_text: String,
    target_text: String,
    lengths: Lengths,
}

impl<W: Write> Show<'_, W> {
    fn header(&mut self) -> Result<()> {
        let objective = &self.args.objective;
        let name = objective.name();
        let Objective::Ul2(ul2) = objective else {
            writeln!(self.out, "{name}{}", settings(objective)?)?;
            return self.lengths_line("  ", 0);
        };
        writeln!(self.out, "{name}")?;
        let rates: f64 = ul2.denoisers.iter().map(|denoiser| denoiser.rate).sum();
        for (index, denoiser) in ul2.denoisers.iter().enumerate() {
            let share = 100.0 * denoiser.rate / rates;
            let settings = settings(&denoiser.objective)?;
            writeln!(self.out, "  {share:.1} % {} {}{settings}", denoiser.prefix, denoiser.objective.name())?;
            self.lengths_line("    ", index)?;
        }
        Ok(())
    }

    fn lengths_line(&mut self, indent: &str, index: usize) -> Result<()> {
        let Lengths { raw, source, target } = self.lengths[index];
        writeln!(self.out, "{indent}{raw} tokens of text -> at most {source} source and {target} target tokens")?;
        Ok(())
    }

    fn document(&mut self, number: usize, text: &str) -> Result<()> {
        let tokens = self.tokenizer.encode(text)?;
        for time in 0..self.args.count {
            let (mut start, mut segment) = (0, 0);
            while start < tokens.len() {
                let mut rng = Rng::new(self.args.seed, Purpose::Corruption, &[time, number as u64, segment]);
                let lengths = self.lengths[self.args.objective.draw(&mut rng.clone())];
                let end = tokens.len().min(start + lengths.raw);
                let raw = &tokens[start..end];
                // As in training, where a part of one token is left out; as the user's only text it is an error.
                if raw.len() > 1 || !self.args.text.is_empty() && start == 0 {
                    let mut example = self.args.objective.apply(raw, &self.markers, &mut rng)?;
                    lengths.trim(&mut example, self.markers.eos);
                    self.example(number, raw, &example, lengths)?;
                }
                (start, segment) = (end, segment + 1);
            }
        }
        Ok(())
    }

    fn example(&mut self, document: usize, raw: &[u32], example: &Example, lengths: Lengths) -> Result<()> {
        let Example { source, target } = example;
        if self.args.json {
            let text = |ids| self.tokenizer.decode(ids);
            let (source_text, target_text) = (text(source), text(target));
            let record = Record { document, raw, source, target, source_text, target_text, lengths };
            writeln!(self.out, "{}", serde_json::to_string(&record)?)?;
            return Ok(());
        }
        writeln!(self.out, "\ntext   {:>4}  {}", raw.len(), self.tokenizer.decode(raw))?;
        for (what, ids) in [("source", source), ("target", target)] {
            writeln!(self.out, "{what} {:>4}  {}", ids.len(), self.tokenizer.decode(ids))?;
            if self.args.pieces {
                let piece = |&id: &u32| format!("{}:{id}", self.tokenizer.piece(id).unwrap_or_default());
                writeln!(self.out, "             {}", ids.iter().map(piece).collect::<Vec<_>>().join(" "))?;
            }
        }
        Ok(())
    }
}

/// ` { noise_density = 0.15, mean_span = 3.0 }`, without the name; nothing where nothing is set.
fn settings(objective: &Objective) -> Result<String> {
    let table = toml::to_string(objective)?;
    let pairs: Vec<&str> = table.lines().filter(|line| !line.starts_with("name = ")).collect();
    Ok(if pairs.is_empty() { String::new() } else { format!(" {{ {} }}", pairs.join(", ")) })
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

    fn output(flags: &[&str]) -> Result<String> {
        let args = Command::try_parse_from([&["show-objective"], flags].concat())?.args;
        let mut out = Vec::new();
        if args.list {
            list(&mut out)?;
        } else {
            show_all(&args, &mut out)?;
        }
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn shows_sources_and_targets_with_their_lengths() {
        let shown = output(&["--objective", "lm", "--targets-len", "8", "--pieces", "abc defg h"]).unwrap();
        let expected = "lm\n  7 tokens of text -> at most 1 source and 8 target tokens\n\
                        \ntext      7  abc def\nsource    1  \n             </s>:1\ntarget    8  abc def\n";
        assert!(shown.starts_with(expected), "{shown}");
        assert!(shown.contains("text      3  g h\n"), "{shown}");
        let twice =
            |seed| output(&["--count", "2", "--seed", seed, "-o", "iid_replace_spans", "some text to mask"]).unwrap();
        assert_eq!(twice("0").matches("text     17").count(), 2);
        assert_eq!(twice("0"), twice("0"));
        assert_ne!(twice("0"), twice("7"));
    }

    #[test]
    fn json_is_one_object_an_example() {
        let shown = output(&["--objective", "ul2", "--json", "some text", "and another"]).unwrap();
        let records: Vec<serde_json::Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), 2);
        assert_eq!(records[1]["document"], 2);
        assert_eq!(records[0]["raw"].as_array().unwrap().len(), 9);
        assert!(records[0]["source_text"].as_str().unwrap().starts_with('['));
    }

    #[test]
    fn the_list_has_all_and_errors_say_what_there_is() {
        let shown = output(&["--list"]).unwrap();
        assert!(Objective::ALL.iter().all(|info| shown.contains(info.name)), "{shown}");
        let error = format!("{:#}", output(&["--objective", "x", "text"]).unwrap_err());
        assert!(error.contains("there are span_corruption, iid_replace_spans"), "{error}");
        let short = format!("{:#}", output(&["good text", "x"]).unwrap_err());
        assert!(short.contains("text 2: a text of 1 token(s)"), "{short}");
    }
}
