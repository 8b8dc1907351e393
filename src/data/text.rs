//! Running text as an endless stream of examples, in bounded memory however large the files are.
//!
//! In epoch e the files come in an order by (seed, e). Their documents (lines that are not blank) are read in windows of up to
//! [`WINDOW_DOCUMENTS`]. The documents of a window are shuffled by (seed, e, window), tokenised on all threads of the pool,
//! joined without a separator and cut into segments, as the reference does with 128 documents at a time
//! (`select_random_chunk`, `reduce_concat_tokens`, `split_tokens` of `t5/data/preprocessors.py`). Segment i is masked by
//! (seed, e, window, i). Where a window ends follows from the text alone, so that a place in the stream is three numbers.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::lines::Lines;
use super::objective::{Lengths, Markers, Objective};
use super::Example;
use crate::rng::{Purpose, Rng, permutation};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Documents of a window, and bytes of text after which it ends before.
const WINDOW_DOCUMENTS: usize = 8192;
const WINDOW_BYTES: usize = 32 << 20;

/// Tokens of a document beyond which a random stretch of so many stands for it in an epoch (`select_random_chunk`).
const LONGEST_DOCUMENT: usize = 65_536;

/// A place in the stream: the next example is this segment of this window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextPosition {
    pub epoch: u64,
    pub window: u64,
    pub segment: u64,
}

/// What examples are made of, besides the files.
#[derive(Clone, Debug)]
pub struct TextOptions {
    pub objective: Objective,
    /// Tokens of a source, EOS counted.
    pub inputs_len: usize,
    /// Tokens of a target, where the objective leaves it open.
    pub targets_len: Option<usize>,
    pub seed: u64,
    /// A share of the documents, and whether the stream is of those or of all others. Which ones follows from the seed and
    /// from where they stand.
    pub held_out: Option<(f64, bool)>,
}

/// See the module.
pub struct TextStream {
    files: Vec<PathBuf>,
    /// Bytes of all files.
    size: u64,
    tokenizer: Arc<Tokenizer>,
    options: TextOptions,
    lengths: Lengths,
    markers: Markers,
    position: TextPosition,
    /// The segments of the window at hand from `position.segment` on; `None` before it is read.
    segments: Option<VecDeque<Vec<u32>>>,
    reader: Reader,
    /// Ends of epochs met since the last segment.
    barren_epochs: u32,
}

/// Where in the files of an epoch the next window begins.
struct Reader {
    /// Files still to come: their numbers.
    files: VecDeque<usize>,
    open: Option<(usize, Lines)>,
    /// Bytes of the files that are done.
    done: u64,
    /// Windows read.
    windows: u64,
}

/// A line and where it stands.
struct Document {
    file: usize,
    line: usize,
    text: String,
}

impl TextStream {
    /// The stream from a position on. Every file is opened once, to see that it can be.
    ///
    /// # Errors
    /// No files, or one that cannot be read; settings out of range; fewer sentinels than the objective needs.
    pub fn open(
        files: &[PathBuf],
        tokenizer: Arc<Tokenizer>,
        options: TextOptions,
        position: TextPosition,
    ) -> Result<TextStream> {
        if files.is_empty() {
            return Err(Error::Input("no files of text to read".into()));
        }
        let lengths = options.objective.lengths(options.inputs_len, options.targets_len)?;
        let markers = Markers::of(&tokenizer)?;
        options.objective.check_sentinels(lengths.raw, &markers)?;
        let mut size = 0;
        for file in files {
            Lines::open(file)?;
            size += file.metadata().map_err(Error::io("read", file))?.len();
        }
        let reader = Reader::of_epoch(files.len(), options.seed, position.epoch);
        let files = files.to_vec();
        Ok(TextStream { files, size, tokenizer, options, lengths, markers, position, segments: None, reader, barren_epochs: 0 })
    }

    /// The next example.
    ///
    /// # Errors
    /// A file that cannot be read, or a line of it; a whole epoch without an example.
    pub fn next(&mut self) -> Result<Example> {
        loop {
            if self.segments.is_none() {
                self.fill()?;
            }
            let TextPosition { epoch, window, segment } = self.position;
            let Some(tokens) = self.segments.as_mut().and_then(VecDeque::pop_front) else {
                self.segments = None;
                self.position = TextPosition { window: window + 1, segment: 0, ..self.position };
                continue;
            };
            self.position.segment += 1;
            if self.segments.as_ref().is_some_and(VecDeque::is_empty) {
                self.segments = None;
                self.position = TextPosition { epoch, window: window + 1, segment: 0 };
            }
            let mut rng = Rng::new(self.options.seed, Purpose::Corruption, &[epoch, window, segment]);
            return self.options.objective.apply(&tokens, &self.lengths, &self.markers, &mut rng);
        }
    }

    /// Where the next example comes from. After the last one of an epoch that is a window that does not exist: the next
    /// epoch begins once it is asked for.
    pub fn position(&self) -> TextPosition {
        self.position.clone()
    }

    /// Epochs done, the last of them in part, by the bytes of the files.
    pub fn passes(&self) -> f64 {
        let here = self.reader.open.as_ref().map_or(0, |(_, lines)| lines.consumed());
        self.position.epoch as f64 + (self.reader.done + here) as f64 / (self.size as f64).max(1.0)
    }

    pub fn lengths(&self) -> Lengths {
        self.lengths
    }

    /// Reads the window of the position, or the first of the next epoch.
    fn fill(&mut self) -> Result<()> {
        while self.reader.windows < self.position.window {
            if self.read_window(false)?.is_none() {
                return self.next_epoch();
            }
        }
        let Some(mut documents) = self.read_window(true)? else { return self.next_epoch() };
        let TextPosition { epoch, window, segment } = self.position;
        Rng::new(self.options.seed, Purpose::Documents, &[epoch, window]).shuffle(&mut documents);
        let tokenised: Vec<Vec<u32>> = documents
            .par_iter()
            .map(|document| {
                let tokens = self.tokenizer.encode(&document.text);
                let mut tokens =
                    tokens.map_err(|e| Error::line(&self.files[document.file], document.line, e.to_string()))?;
                if tokens.len() > LONGEST_DOCUMENT {
                    let place = [epoch, document.file as u64, document.line as u64];
                    let most = (tokens.len() - LONGEST_DOCUMENT) as u64 + 1;
                    let first = Rng::new(self.options.seed, Purpose::Documents, &place).below(most) as usize;
                    tokens = tokens[first..first + LONGEST_DOCUMENT].to_vec();
                }
                Ok(tokens)
            })
            .collect::<Result<_>>()?;
        let cut = |tokens: &[u32]| -> Vec<Vec<u32>> {
            // A single token that is left cannot be masked and kept.
            tokens.chunks(self.lengths.raw).filter(|segment| segment.len() > 1).map(<[u32]>::to_vec).collect()
        };
        let segments: Vec<Vec<u32>> = if self.options.objective.joins_documents() {
            cut(&tokenised.concat())
        } else {
            tokenised.iter().flat_map(|tokens| cut(tokens)).collect()
        };
        if !segments.is_empty() {
            self.barren_epochs = 0;
        }
        self.segments = Some(segments.into_iter().skip(segment as usize).collect());
        Ok(())
    }

    fn next_epoch(&mut self) -> Result<()> {
        // The first may be that of an epoch that was resumed at its end.
        self.barren_epochs += 1;
        if self.barren_epochs == 2 {
            let names: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
            let what = match self.options.held_out {
                Some((_, true)) => "too few lines are held out: hold out more, or name a file of its own to evaluate on",
                Some((_, false)) => "too many lines are held out: hold out fewer",
                None => "no text to train on",
            };
            return Err(Error::Input(format!("{}: {what}", names.join(", "))));
        }
        self.position = TextPosition { epoch: self.position.epoch + 1, ..TextPosition::default() };
        self.reader = Reader::of_epoch(self.files.len(), self.options.seed, self.position.epoch);
        self.fill()
    }

    /// The documents of the next window, or nothing of them where they are not wanted; `None` at the end of the epoch.
    fn read_window(&mut self, wanted: bool) -> Result<Option<Vec<Document>>> {
        let (mut documents, mut count, mut bytes) = (Vec::new(), 0, 0);
        while count < WINDOW_DOCUMENTS && bytes < WINDOW_BYTES {
            if self.reader.open.is_none() {
                let Some(file) = self.reader.files.pop_front() else { break };
                self.reader.open = Some((file, Lines::open(&self.files[file])?));
            }
            let Some((file, lines)) = &mut self.reader.open else { break };
            let file = *file;
            let read = match wanted {
                true => lines.next()?.map(|(line, text)| (line, text.len(), text.to_owned())),
                false => lines.skip()?.map(|(line, len)| (line, len, String::new())),
            };
            let Some((line, len, text)) = read else {
                self.reader.done += lines.consumed();
                self.reader.open = None;
                continue;
            };
            if self.options.held_out.is_some_and(|(share, held)| self.is_held_out(file, line, share) != held) {
                continue;
            }
            count += 1;
            bytes += len;
            if wanted {
                documents.push(Document { file, line, text });
            }
        }
        self.reader.windows += u64::from(count > 0);
        Ok((count > 0).then_some(documents))
    }

    fn is_held_out(&self, file: usize, line: usize, share: f64) -> bool {
        Rng::new(self.options.seed, Purpose::HeldOut, &[file as u64, line as u64]).uniform() < share
    }
}

impl Reader {
    fn of_epoch(files: usize, seed: u64, epoch: u64) -> Reader {
        let order = permutation(seed, Purpose::Documents, epoch, files as u32);
        let files = order.into_iter().map(|file| file as usize).collect();
        Reader { files, open: None, done: 0, windows: 0 }
    }
}

/// The examples of one pass over files, at most so many.
///
/// # Errors
/// As [`TextStream::open`] and [`TextStream::next`].
pub fn one_pass(
    files: &[impl AsRef<Path>],
    tokenizer: &Arc<Tokenizer>,
    options: TextOptions,
    most: usize,
) -> Result<Vec<Example>> {
    let files: Vec<PathBuf> = files.iter().map(|file| file.as_ref().to_path_buf()).collect();
    let mut stream = TextStream::open(&files, tokenizer.clone(), options, TextPosition::default())?;
    let mut examples = Vec::new();
    while examples.len() < most {
        let example = stream.next()?;
        if stream.position().epoch > 0 {
            break;
        }
        examples.push(example);
    }
    Ok(examples)
}
