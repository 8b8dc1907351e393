//! `t5 embed`: what a model's encoder makes of texts, as vectors or as the states of each token.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use t5_wgpu::checkpoint::tensor_file;
use t5_wgpu::files::write_atomic;
use t5_wgpu::forward::{EncodeOptions, Encoder, Pooling, SentenceHead};
use t5_wgpu::model::ModelParts;

use super::console::{Data, end_progress, note, show_progress};
use super::model_args::{DeviceArgs, ModelArgs};
use super::sources::{Source, Sources};

const EXAMPLES: &str = "\
Examples:
  A vector for each line of a file, as JSON lines:
    t5 embed --model models/sentence-t5-base --file lines.txt > vectors.jsonl
  The same for numpy.load and for safetensors:
    t5 embed --model models/sentence-t5-base --file lines.txt --out vectors.npy
    t5 embed --model models/sentence-t5-base --file lines.txt --out vectors.safetensors
  The states that an image generator wants: 256 tokens a text, without a mask:
    t5 embed --model models/t5-v1_1-xxl --pooling none --pad-to 256 --unmasked --out states.npy \"a red fox\"";

/// Embed texts with a model's encoder
///
/// Each TEXT becomes one vector: without TEXT, each line of a file or of standard input. What a text's vector is depends on
/// that text alone. Only the encoder is loaded; a folder may hold nothing else.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Put this before each text
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// What becomes of a text's states [default: sentence if the folder has a modules.json, else mean]
    #[arg(long, value_enum, value_name = "HOW")]
    pooling: Option<PoolingArg>,
    /// Divide each mean by its length, so that dot products are cosines
    #[arg(long)]
    normalize: bool,
    /// With --pooling none: give every text this many states
    #[arg(long, value_name = "TOKENS")]
    pad_to: Option<usize>,
    /// With --pad-to: let texts see their padding, as image generators do (Flux, Stable Diffusion 3). Else its states are zero
    #[arg(long, requires = "pad_to")]
    unmasked: bool,
    /// Write here instead of JSON lines on standard output: .npy, .safetensors or .jsonl. Without --pad-to, states of texts
    /// are as many as their tokens: .safetensors then has a tensor a text, and .npy cannot hold them
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Texts, each an argument
    #[arg(value_name = "TEXT")]
    text: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PoolingArg {
    /// The mean of all tokens' states
    Mean,
    /// As the folder's modules.json says: mean, dense layer, division by the length
    Sentence,
    /// A state for each token
    None,
}

/// Where the results go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    JsonLines,
    Npy,
    Safetensors,
}

/// Texts that are encoded before results are written and progress is shown.
const WINDOW: usize = 256;

pub fn run(args: &Args) -> Result<()> {
    let output = args.output()?;
    let mut sources = Sources::open(&args.text, args.model.file.as_deref())?;
    let folder = args.model.folder(args.device.quiet)?;
    let tokenizer = args.model.tokenizer(&folder)?;
    let parts = args.model.peft.merge(ModelParts::open_any(&folder)?)?.encoder_only();
    parts.config.check_vocabulary(tokenizer.vocab_size())?;
    let gpu = args.device.open()?;
    let head = SentenceHead::open(&gpu, &folder, parts.config.d_model)?;
    let by_itself = if head.is_some() { PoolingArg::Sentence } else { PoolingArg::Mean };
    let how = args.pooling.unwrap_or(by_itself);
    let pooling = match (how, args.normalize) {
        (PoolingArg::None, _) => None,
        (PoolingArg::Sentence, _) => Some(Pooling::Sentence),
        (PoolingArg::Mean, true) => Some(Pooling::MeanNormalized),
        (PoolingArg::Mean, false) => Some(Pooling::Mean),
    };
    if args.pad_to.is_some() && pooling.is_some() {
        bail!("--pad-to is for states: add --pooling none");
    }
    if output == Output::Npy && pooling.is_none() && args.pad_to.is_none() {
        bail!(
            "texts have different numbers of states, which one array cannot hold: add --pad-to TOKENS, or write .safetensors"
        );
    }
    let mut encoder = Encoder::new(args.device.load(&gpu, &parts, args.model.weights)?, head)?;
    let options = EncodeOptions { pad_to: args.pad_to, unmasked: args.unmasked };
    let mut results = Results::new(output, args.out.is_none());
    let (began, mut tokens) = (Instant::now(), 0);
    loop {
        let texts = sources.take(WINDOW)?;
        if texts.is_empty() {
            break;
        }
        let encode = |source: &Source| {
            let text = format!("{}{}", args.prefix, source.text);
            tokenizer.encode_with_eos(&text).with_context(|| source.place.clone())
        };
        let ids: Vec<Vec<u32>> = texts.iter().map(encode).collect::<Result<_>>()?;
        tokens += ids.iter().map(Vec::len).sum::<usize>();
        match pooling {
            Some(pooling) => {
                let vectors = pollster::block_on(encoder.embed(&ids, pooling, &|| false))?;
                for (source, row) in texts.iter().zip(vectors.rows()) {
                    results.add(&source.text, row, &[vectors.width])?;
                }
            }
            None => {
                let states = pollster::block_on(encoder.hidden_states(&ids, &options, &|| false))?;
                for (source, text) in texts.iter().zip(&states) {
                    results.add(&source.text, &text.values, &[text.len, text.width])?;
                }
            }
        }
        if !args.device.quiet && !sources.interactive {
            show_progress(results.n as u64, 0, &format!("{} texts embedded", results.n));
        }
    }
    end_progress();
    results.finish(args.out.as_deref())?;
    if !args.device.quiet {
        let seconds = began.elapsed().as_secs_f64();
        note!(
            "texts: {}, tokens: {tokens}, {seconds:.2} s, {:.0} tokens/s",
            results.n,
            tokens as f64 / seconds.max(1e-9)
        );
        if let Some(path) = &args.out {
            note!("written: {}", path.display());
        }
    }
    Ok(())
}

impl Args {
    fn output(&self) -> Result<Output> {
        let Some(path) = &self.out else { return Ok(Output::JsonLines) };
        match path.extension().and_then(|e| e.to_str()) {
            Some("npy") => Ok(Output::Npy),
            Some("safetensors") => Ok(Output::Safetensors),
            Some("jsonl") => Ok(Output::JsonLines),
            _ => bail!("{}: --out writes .npy, .safetensors or .jsonl", path.display()),
        }
    }
}

/// Results as they are written: at once to standard output, to a file as a whole at the end.
struct Results {
    output: Output,
    stream: bool,
    n: usize,
    lines: String,
    /// All numbers, for one array.
    values: Vec<f32>,
    /// The shape of each text's.
    shapes: Vec<Vec<usize>>,
}

impl Results {
    fn new(output: Output, stream: bool) -> Results {
        Results { output, stream, n: 0, lines: String::new(), values: Vec::new(), shapes: Vec::new() }
    }

    fn add(&mut self, text: &str, values: &[f32], shape: &[usize]) -> Result<()> {
        self.n += 1;
        if self.output != Output::JsonLines {
            self.values.extend_from_slice(values);
            self.shapes.push(shape.to_vec());
            return Ok(());
        }
        let object = match shape {
            [_, width] => serde_json::json!({ "text": text, "states": values.chunks(*width).collect::<Vec<_>>() }),
            _ => serde_json::json!({ "text": text, "embedding": values }),
        };
        if self.stream {
            let mut out = Data::new();
            writeln!(out, "{object}")?;
            out.flush()?;
        } else {
            self.lines += &format!("{object}\n");
        }
        Ok(())
    }

    fn finish(&self, path: Option<&Path>) -> Result<()> {
        let Some(path) = path else { return Ok(()) };
        let alike = self.shapes.iter().all(|shape| Some(shape) == self.shapes.first());
        let whole = [&[self.n][..], self.shapes.first().map_or(&[0], Vec::as_slice)].concat();
        let bytes = match self.output {
            Output::JsonLines => self.lines.clone().into_bytes(),
            Output::Npy => npy(&whole, &self.values),
            Output::Safetensors if alike => tensor_file(&[("embeddings".into(), whole, &self.values)]),
            Output::Safetensors => {
                let mut rest = self.values.as_slice();
                let mut tensors = Vec::new();
                for (i, shape) in self.shapes.iter().enumerate() {
                    let (values, after) = rest.split_at(shape.iter().product());
                    tensors.push((format!("text.{i}"), shape.clone(), values));
                    rest = after;
                }
                tensor_file(&tensors)
            }
        };
        Ok(write_atomic(path, &bytes)?)
    }
}

/// An array as `numpy.load` reads it: format 1.0 of numpy's NEP 1.
fn npy(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let shape: Vec<String> = shape.iter().map(|n| format!("{n},")).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", shape.join(" "));
    // Magic, version and length are 10 bytes; the data begin at a multiple of 64.
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}
