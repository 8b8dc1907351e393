//! Times how fast one core makes batches for pre-training from text.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use super::BenchOptions;
use super::spread::seconds;
use super::subject::Subject;
use crate::batch::{Batch, Example};
use crate::data::lines::Lines;
use crate::data::stream::by_length;
use crate::data::{Documents, Objective, TextOptions, TextPosition, TextStream};
use crate::error::{Error, Result};
use crate::rng::{Purpose, Rng};
use crate::tokenizer::Tokenizer;

/// Bytes of text that are used, of the user's or made up.
const TEXT: usize = 1 << 20;
const QUICK_TEXT: usize = 1 << 16;

/// The share of a pass that is measured. To the very end the stream would already begin the next pass.
const MOST_OF_A_PASS: f64 = 0.95;

/// A text in a temporary file, and how batches are made of it.
pub(super) struct Pipeline {
    text: Scratch,
    tokenizer: Arc<Tokenizer>,
    /// For people.
    pub name: String,
    options: TextOptions,
    batch_size: usize,
    pool: rayon::ThreadPool,
}

/// A file that goes with its owner.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover in the folder of temporary files is all that could happen.
        let _ = fs::remove_file(&self.0);
    }
}

impl Pipeline {
    /// # Errors
    /// The text cannot be read or written, or the tokenizer has too few sentinels for sources of this length.
    pub fn open(bench: &BenchOptions, source_len: usize, batch_size: usize) -> Result<Pipeline> {
        let options = TextOptions {
            objective: Objective::default(),
            inputs_len: source_len,
            targets_len: None,
            seed: 0,
            documents: Documents::default(),
            held_out: None,
        };
        let (tokenizer, name) = tokenizer(bench)?;
        let bytes = if bench.quick { QUICK_TEXT } else { TEXT };
        let text = if bench.text.is_empty() { made_up(bytes) } else { beginning(&bench.text, bytes)? };
        let file = env::temp_dir().join(format!("t5-bench-{}.txt", process::id()));
        let scratch = Scratch(file);
        fs::write(&scratch.0, text).map_err(Error::io("write", &scratch.0))?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .map_err(|e| Error::Input(format!("cannot start a thread for the data: {e}")))?;
        let pipeline = Pipeline { text: scratch, tokenizer, name, options, batch_size, pool };
        pipeline.stream()?;
        Ok(pipeline)
    }

    fn stream(&self) -> Result<TextStream> {
        let files = [self.text.0.clone()];
        TextStream::open(&files, self.tokenizer.clone(), self.options.clone(), TextPosition::default())
    }

    /// Reads, shuffles, tokenises, masks and collates the text once, and gives the tokens a second, sources and targets
    /// together, padding not counted.
    pub fn run(&self) -> Result<f64> {
        self.pool.install(|| {
            let mut tokens = 0;
            let spent = seconds(|| {
                let mut stream = self.stream()?;
                while stream.passes() < MOST_OF_A_PASS {
                    let examples: Vec<Example> = (0..self.batch_size).map(|_| stream.next()).collect::<Result<_>>()?;
                    tokens += by_length(&examples, self.batch_size, 0, 0).iter().map(Batch::n_tokens).sum::<u64>();
                }
                Ok(())
            })?;
            Ok(tokens as f64 / spent)
        })
    }
}

/// The one asked for; else that of the model's folder, if it can be used; else bytes.
fn tokenizer(bench: &BenchOptions) -> Result<(Arc<Tokenizer>, String)> {
    if let Some(spec) = &bench.tokenizer {
        let name = Path::new(spec).file_name().map_or(spec.clone(), |name| name.to_string_lossy().into_owned());
        return Ok((Tokenizer::open(spec)?.into(), name));
    }
    if let Subject::Folder(dir) = &bench.subject
        && let Ok(tokenizer) = Tokenizer::from_dir(dir)
        && Objective::default().markers(&tokenizer).is_ok()
    {
        return Ok((tokenizer.into(), bench.subject.to_string()));
    }
    Ok((Tokenizer::bytes().into(), "bytes".into()))
}

/// The first lines of files.
fn beginning(files: &[PathBuf], bytes: usize) -> Result<Vec<u8>> {
    let mut text = Vec::with_capacity(bytes);
    for file in files {
        let mut lines = Lines::open(file)?;
        while text.len() < bytes
            && let Some((_, line)) = lines.next_bytes()?
        {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
    }
    Ok(text)
}

/// Words of syllables, the n-th taken about n times as rarely as the first, as in languages (Zipf's law).
fn made_up(bytes: usize) -> Vec<u8> {
    const SYLLABLES: [&str; 16] =
        ["the", "an", "ti", "ver", "lo", "is", "re", "ment", "ho", "com", "in", "ble", "su", "ed", "or", "qua"];
    let mut rng = Rng::new(0, Purpose::Trials, &[]);
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        // A document of some 80 words.
        for _ in 0..80 {
            let mut rank = 65_536_f64.powf(rng.uniform()) as usize;
            while rank > 0 {
                text.push_str(SYLLABLES[rank % SYLLABLES.len()]);
                rank /= SYLLABLES.len();
            }
            text.push(' ');
        }
        let _ = writeln!(text, "end.");
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_used_once_and_its_file_is_gone() {
        let options = BenchOptions { quick: true, ..BenchOptions::new(Subject::parse("tiny").unwrap()) };
        let pipeline = Pipeline::open(&options, 64, 3).unwrap();
        assert!(pipeline.run().unwrap() > 0.0);
        let path = pipeline.text.0.clone();
        let text = fs::read_to_string(&path).unwrap();
        assert!((QUICK_TEXT..QUICK_TEXT + 4096).contains(&text.len()));
        let words: std::collections::HashSet<&str> = text.split_whitespace().collect();
        assert!(words.len() > 500, "{}", words.len());
        drop(pipeline);
        assert!(!path.exists());
    }

    #[test]
    fn of_the_users_text_the_beginning_is_taken() {
        let text = beginning(&["data/books_heldout_sample.txt.gz".into()], 10_000).unwrap();
        assert!((10_000..20_000).contains(&text.len()) && text.ends_with(b"\n"));
        assert!(beginning(&["no-such-file".into()], 10).is_err());
    }
}
