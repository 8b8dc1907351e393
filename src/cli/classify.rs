//! `t5 classify`: the labels that a classifier gives texts or their tokens.

use std::io::Write;

use anyhow::{Context, Result};
use t5_wgpu::forward::{Classifier, LabelScores};
use t5_wgpu::model::{ClassifierHead, Labelled, ModelParts, Problem};
use t5_wgpu::tokenizer::Tokenizer;

use super::console::{Data, end_progress, show_progress};
use super::model_args::{DeviceArgs, ModelArgs};
use super::sources::{Source, Sources};

const EXAMPLES: &str = "\
Examples:
  The likeliest label of a text, with its probability:
    t5 classify --model models/t5-sentiment \"What a fine day.\"
  All labels of each line of a file, as JSON lines:
    t5 classify --model models/t5-sentiment --file lines.txt --json
A T5 that was trained to write labels as words is asked with: t5 score --answer LABEL --answer LABEL";

/// Classify texts, or their tokens
///
/// For models with a head for classification (T5ForSequenceClassification, T5ForTokenClassification, and the same of mT5 and
/// UMT5). Each TEXT has a line with its likeliest label, that label's probability, and the text; a model that labels tokens
/// gives a line for each token, and an empty line behind the text. Without TEXT, each line of a file or of standard input is one.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Put this before each text
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Print one JSON object a text, with the scores and probabilities of all labels
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Texts, each an argument
    #[arg(value_name = "TEXT")]
    text: Vec<String>,
}

/// Texts that are classified before results are written and progress is shown.
const WINDOW: usize = 256;

pub fn run(args: &Args) -> Result<()> {
    let mut sources = Sources::open(&args.text, args.model.file.as_deref())?;
    let folder = args.model.folder(args.device.quiet)?;
    let tokenizer = args.model.tokenizer(&folder)?;
    let parts = args.model.peft.merge(ModelParts::open_any(&folder)?)?;
    parts.config.check_vocabulary(tokenizer.vocab_size())?;
    let gpu = args.device.open()?;
    let mut classifier = Classifier::new(args.device.load(&gpu, &parts, args.model.weights)?)?;
    let head = classifier.head().clone();
    let mut done = 0;
    loop {
        let texts = sources.take(if sources.interactive { 1 } else { WINDOW })?;
        if texts.is_empty() {
            break;
        }
        let encode = |source: &Source| {
            let text = format!("{}{}", args.prefix, source.text);
            tokenizer.encode_with_eos(&text).with_context(|| source.place.clone())
        };
        let ids: Vec<Vec<u32>> = texts.iter().map(encode).collect::<Result<_>>()?;
        let scores = pollster::block_on(classifier.classify(&ids, &|| false))?;
        let mut out = Data::new();
        for ((source, ids), scores) in texts.iter().zip(&ids).zip(&scores) {
            match args.json {
                true => writeln!(out, "{}", as_json(&head, &tokenizer, &source.text, ids, scores))?,
                false => write!(out, "{}", as_text(&head, &tokenizer, &source.text, ids, scores))?,
            }
        }
        out.flush()?;
        drop(out);
        done += texts.len();
        if !args.device.quiet && !sources.interactive {
            show_progress(done as u64, 0, &format!("{done} texts classified"));
        }
    }
    end_progress();
    Ok(())
}

fn as_json(
    head: &ClassifierHead,
    tokenizer: &Tokenizer,
    text: &str,
    ids: &[u32],
    scores: &LabelScores,
) -> serde_json::Value {
    let row = |scores: &[f32]| {
        let labels = head.labels.iter().zip(scores).zip(head.probabilities(scores));
        let label = |((name, score), probability): ((&String, &f32), f32)| match head.problem {
            Problem::Regression => serde_json::json!({ "label": name, "score": score }),
            _ => serde_json::json!({ "label": name, "score": score, "probability": probability }),
        };
        labels.map(label).collect::<Vec<_>>()
    };
    match head.labelled {
        Labelled::Texts => {
            let labels = scores.rows().next().map(row).unwrap_or_default();
            serde_json::json!({ "text": text, "labels": labels })
        }
        Labelled::Tokens => {
            let token = |(&id, scores): (&u32, &[f32])| serde_json::json!({ "id": id, "token": tokenizer.piece(id), "labels": row(scores) });
            let tokens: Vec<_> = ids.iter().zip(scores.rows()).map(token).collect();
            serde_json::json!({ "text": text, "tokens": tokens })
        }
    }
}

fn as_text(head: &ClassifierHead, tokenizer: &Tokenizer, text: &str, ids: &[u32], scores: &LabelScores) -> String {
    let line = |scores: &[f32], what: &str| {
        let probabilities = head.probabilities(scores);
        let what = what.replace(['\n', '\r', '\t'], " ");
        match head.problem {
            Problem::Regression => {
                let numbers: Vec<String> = probabilities.iter().map(|x| format!("{x:.6}")).collect();
                format!("{}\t{what}\n", numbers.join("\t"))
            }
            Problem::ManyLabels => {
                let right = head.labels.iter().zip(&probabilities).filter(|(_, p)| **p > 0.5);
                let names: Vec<String> = right.map(|(name, p)| format!("{name} {p:.6}")).collect();
                format!("{}\t{what}\n", names.join(", "))
            }
            Problem::OneLabel => {
                let best = (0..probabilities.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0);
                format!("{}\t{:.6}\t{what}\n", head.labels[best], probabilities[best])
            }
        }
    };
    match head.labelled {
        Labelled::Texts => scores.rows().map(|row| line(row, text)).collect(),
        Labelled::Tokens => {
            let piece = |id: u32| tokenizer.piece(id).unwrap_or_default();
            let lines: String = ids.iter().zip(scores.rows()).map(|(&id, row)| line(row, &piece(id))).collect();
            lines + "\n"
        }
    }
}
