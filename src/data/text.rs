//! Examples from text of any size, as an endless stream in bounded memory.
//!
//! Files hold a document a line, or a row with one ([`Documents`]). In epoch e the files come in an order by (seed, e). Documents are read in windows; those of
//! a window are shuffled by (seed, e, window), tokenised, joined without a separator as T5 does
//! (`reduce_concat_tokens`), and cut into segments. Example i of a window is masked by (seed, e, window, i). Everything
//! follows from the position, so that a stream resumes anywhere, whatever the number of threads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::lines::{self, Lines};
use super::{Documents, Lengths, Markers, Objective};
use crate::batch::Example;
use crate::rng::{Purpose, Rng, permutation};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Documents of a window, at most.
const WINDOW_DOCUMENTS: usize = 8192;

/// Bytes of text of a window; the document that reaches them is its last one.
const WINDOW_BYTES: usize = 32 << 20;

/// Of longer documents a random part of so many tokens is used (`select_random_chunk`).
const MAX_DOCUMENT: usize = 65_536;

/// The shortest segment that a part can be masked of.
const MIN_SEGMENT: usize = 2;

/// Files are read a little ahead of their lines: as much as that is claimed before an epoch's end.
const MOST_OF_AN_EPOCH: f64 = 0.999_999;

/// What a stream makes of its files.
#[derive(Clone, Debug, PartialEq)]
pub struct TextOptions {
    pub objective: Objective,
    /// The most tokens of a source, EOS counted.
    pub inputs_len: usize,
    /// Limits targets: see [`Objective::lengths`].
    pub targets_len: Option<usize>,
    pub seed: u64,
    /// What lines hold.
    pub documents: Documents,
    /// (share of the documents that are held out, whether this stream has those or else the rest). Which ones follows from
    /// the seed, the file's place in the list and the line's number.
    pub held_out: Option<(f64, bool)>,
}

/// The place of an example in a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextPosition {
    pub epoch: u64,
    /// Of the epoch.
    pub window: u64,
    /// Of the window.
    pub segment: u64,
}

/// See the module.
pub struct TextStream {
    files: Vec<TextFile>,
    tokenizer: Arc<Tokenizer>,
    options: TextOptions,
    markers: Markers,
    /// One for each choice that the objective may draw.
    lengths: Vec<Lengths>,
    at: TextPosition,
    /// The files from the epoch's first to its last window.
    reader: Reader,
    /// That of `at`, once an example was asked for.
    window: Option<Window>,
}

struct TextFile {
    path: PathBuf,
    bytes: u64,
}

/// The documents of an epoch, one after the other.
struct Reader {
    /// Indices of files.
    order: Vec<u32>,
    /// Files of `order` that are at an end.
    done: usize,
    lines: Option<Lines>,
}

/// A line of a file.
struct Document {
    file: usize,
    line: usize,
    text: Vec<u8>,
}

/// The segments of a window: `tokens[start..start + length]`.
struct Window {
    tokens: Vec<u32>,
    segments: Vec<(usize, usize)>,
    /// Share of the epoch's bytes that were read before and after.
    progress: (f64, f64),
}

impl TextStream {
    /// A stream over files, plain or packed, from `position` on. The files' contents are read when examples are asked for.
    ///
    /// # Errors
    /// No files, a file that cannot be opened, lengths that do not go with the objective, or a tokenizer without what it
    /// needs.
    pub fn open(
        files: &[PathBuf],
        tokenizer: Arc<Tokenizer>,
        options: TextOptions,
        position: TextPosition,
    ) -> Result<TextStream> {
        if files.is_empty() || u32::try_from(files.len()).is_err() {
            return Err(Error::Input(format!("{} files of text: there must be between 1 and 2^32", files.len())));
        }
        if let Some((share, _)) = options.held_out
            && !(0.0..=1.0).contains(&share)
        {
            return Err(Error::Input(format!("a share of {share} to hold out is not between 0 and 1")));
        }
        let markers = options.objective.markers(&tokenizer)?;
        let lengths = options.objective.lengths_by_draw(options.inputs_len, options.targets_len, &markers)?;
        let files: Vec<TextFile> = files.iter().cloned().map(TextFile::open).collect::<Result<_>>()?;
        let reader = Reader::new(&files, options.seed, position.epoch);
        Ok(TextStream { files, tokenizer, options, markers, lengths, at: position, reader, window: None })
    }

    /// The next example.
    ///
    /// # Errors
    /// A file that cannot be read, is no UTF-8 text or cannot be tokenised (with the line's number); an epoch without a
    /// single example; a position that is not in these files.
    #[expect(clippy::should_implement_trait, reason = "it has no end, and after an error nothing to go on with")]
    pub fn next(&mut self) -> Result<Example> {
        let window = match self.window.take() {
            Some(window) => window,
            None => self.resume()?,
        };
        let index = self.at.segment as usize;
        let (start, length) = window.segments[index];
        let mut rng = self.rng(index);
        let lengths = self.lengths[self.options.objective.draw(&mut rng.clone())];
        let tokens = &window.tokens[start..start + length];
        let mut example = self.options.objective.apply(tokens, &self.markers, &mut rng)?;
        lengths.trim(&mut example, self.markers.eos);
        self.at.segment += 1;
        if index + 1 < window.segments.len() {
            self.window = Some(window);
        } else {
            // Two windows at once would be a lot of memory.
            drop(window);
            self.at = TextPosition { window: self.at.window + 1, segment: 0, ..self.at };
            self.window = Some(self.advance(true)?);
        }
        Ok(example)
    }

    /// Where the next example is.
    pub fn position(&self) -> TextPosition {
        self.at.clone()
    }

    /// Epochs that are done, the fraction estimated from the bytes of the files that were read; it never reaches 1 early.
    pub fn passes(&self) -> f64 {
        let fraction = self.window.as_ref().map_or(0.0, |window| {
            let (before, after) = window.progress;
            before + (after - before) * self.at.segment as f64 / window.segments.len() as f64
        });
        self.at.epoch as f64 + fraction.min(MOST_OF_AN_EPOCH)
    }

    /// The most tokens of a segment, a source and a target.
    pub fn lengths(&self) -> Lengths {
        Lengths::most(&self.lengths)
    }

    /// The window of the position that the stream was opened at.
    fn resume(&mut self) -> Result<Window> {
        let asked = self.at.clone();
        self.reader = Reader::new(&self.files, self.options.seed, asked.epoch);
        for _ in 0..asked.window {
            if !self.reader.skip_window(&self.files, &self.options)? {
                return Err(self.lost(&asked));
            }
        }
        let window = self.advance(asked.window > 0)?;
        if self.at.epoch != asked.epoch
            || asked.segment > 0 && (self.at.window != asked.window || asked.segment as usize >= window.segments.len())
        {
            return Err(self.lost(&asked));
        }
        Ok(window)
    }

    /// The first window from `at` on that has a segment, which `at` then is in. `found` says whether the epoch had one
    /// before.
    fn advance(&mut self, mut found: bool) -> Result<Window> {
        loop {
            if let Some(window) = self.read_window()? {
                if !window.segments.is_empty() {
                    return Ok(window);
                }
                self.at = TextPosition { window: self.at.window + 1, segment: 0, ..self.at };
            } else if found {
                found = false;
                self.at = TextPosition { epoch: self.at.epoch + 1, ..TextPosition::default() };
                self.reader = Reader::new(&self.files, self.options.seed, self.at.epoch);
            } else {
                return Err(self.no_examples());
            }
        }
    }

    /// The next window of the epoch.
    fn read_window(&mut self) -> Result<Option<Window>> {
        let before = self.reader.progress(&self.files);
        let mut documents = self.reader.next_window(&self.files, &self.options)?;
        if documents.is_empty() {
            return Ok(None);
        }
        let seed = self.options.seed;
        Rng::new(seed, Purpose::Documents, &[self.at.epoch, self.at.window]).shuffle(&mut documents);
        let (epoch, window) = (self.at.epoch, self.at.window);
        let (files, tokenizer, layout) = (&self.files, &*self.tokenizer, &self.options.documents);
        let encoded: Vec<Vec<u32>> = documents
            .into_par_iter()
            .enumerate()
            .map(|(index, document)| {
                let rng = Rng::new(seed, Purpose::Documents, &[epoch, window, index as u64]);
                document.encode(&files[document.file].path, layout, tokenizer, rng)
            })
            .collect::<Result<_>>()?;
        let mut tokens = Vec::with_capacity(encoded.iter().map(Vec::len).sum());
        let mut ends = Vec::new();
        for document in encoded {
            tokens.extend_from_slice(&document);
            ends.push(tokens.len());
        }
        if self.options.objective.joins_documents() {
            ends = vec![tokens.len()];
        }
        let segments = self.cut(&ends);
        Ok(Some(Window { tokens, segments, progress: (before, self.reader.progress(&self.files)) }))
    }

    /// (start, length) of the segments of texts that end at `ends`; what is left of each is a segment if it can be masked.
    fn cut(&self, ends: &[usize]) -> Vec<(usize, usize)> {
        let mut segments = Vec::new();
        let mut start = 0;
        for &end in ends {
            while end - start >= MIN_SEGMENT {
                let draw = self.options.objective.draw(&mut self.rng(segments.len()));
                let length = self.lengths[draw].raw.min(end - start);
                segments.push((start, length));
                start += length;
            }
            start = end;
        }
        segments
    }

    /// What example `index` of the window at hand is masked by.
    fn rng(&self, index: usize) -> Rng {
        Rng::new(self.options.seed, Purpose::Corruption, &[self.at.epoch, self.at.window, index as u64])
    }

    fn names(&self) -> String {
        let names: Vec<String> = self.files.iter().map(|file| file.path.display().to_string()).collect();
        names.join(", ")
    }

    fn no_examples(&self) -> Error {
        let part = match self.options.held_out {
            Some((share, true)) => {
                format!("; a share of {share} is held out: hold out more, or name a file to evaluate on")
            }
            Some((share, false)) => format!("; a share of {share} is held out: hold out less"),
            None => String::new(),
        };
        Error::Input(format!("no text to learn from: {} give no segment of {MIN_SEGMENT} tokens{part}", self.names()))
    }

    fn lost(&self, asked: &TextPosition) -> Error {
        let TextPosition { epoch, window, segment } = asked;
        Error::Input(format!(
            "there is no segment {segment} in window {window} of epoch {epoch} of {}: the files, their order or the \
             settings have changed since the position was saved",
            self.names()
        ))
    }
}

impl Document {
    /// Its tokens; of many, a random one of the parts that they are cut into from the first.
    fn encode(&self, path: &Path, layout: &Documents, tokenizer: &Tokenizer, mut rng: Rng) -> Result<Vec<u32>> {
        let line = lines::utf8(path, self.line, &self.text)?;
        let text = layout.of_line(path, line).map_err(|what| Error::line(path, self.line, what))?;
        let Some(text) = text else { return Ok(Vec::new()) };
        let tokens = tokenizer.encode(&text).map_err(|e| Error::line(path, self.line, e.to_string()))?;
        if tokens.len() <= MAX_DOCUMENT {
            return Ok(tokens);
        }
        let part = rng.below(tokens.len().div_ceil(MAX_DOCUMENT) as u64) as usize;
        Ok(tokens.chunks(MAX_DOCUMENT).nth(part).unwrap_or_default().to_vec())
    }
}

impl TextFile {
    fn open(path: PathBuf) -> Result<TextFile> {
        Lines::open(&path)?;
        let bytes = std::fs::metadata(&path).map_err(Error::io("read", &path))?.len();
        Ok(TextFile { path, bytes })
    }
}

impl Reader {
    fn new(files: &[TextFile], seed: u64, epoch: u64) -> Reader {
        let order = permutation(seed, Purpose::Documents, epoch, files.len() as u32);
        Reader { order, done: 0, lines: None }
    }

    /// The documents of the next window in the files' order; none at the end of the epoch.
    fn next_window(&mut self, files: &[TextFile], options: &TextOptions) -> Result<Vec<Document>> {
        let mut documents = Vec::new();
        self.visit_window(files, options, |file, line, text| {
            documents.push(Document { file, line, text: text.to_vec() });
        })?;
        Ok(documents)
    }

    /// Whether there was a window to pass over.
    fn skip_window(&mut self, files: &[TextFile], options: &TextOptions) -> Result<bool> {
        let mut any = false;
        self.visit_window(files, options, |_, _, _| any = true)?;
        Ok(any)
    }

    /// Calls `visit(file, line number from 1, line)` for each document of the next window.
    fn visit_window(
        &mut self,
        files: &[TextFile],
        options: &TextOptions,
        mut visit: impl FnMut(usize, usize, &[u8]),
    ) -> Result<()> {
        let (mut documents, mut bytes) = (0, 0);
        while documents < WINDOW_DOCUMENTS && bytes < WINDOW_BYTES && self.done < self.order.len() {
            let file = self.order[self.done] as usize;
            let lines = match &mut self.lines {
                Some(lines) => lines,
                None => self.lines.insert(Lines::open(&files[file].path)?),
            };
            let Some((line, text)) = lines.next_bytes()? else {
                self.lines = None;
                self.done += 1;
                continue;
            };
            if !text.trim_ascii().is_empty() && options.takes(file, line) {
                visit(file, line, text);
                documents += 1;
                bytes += text.len();
            }
        }
        Ok(())
    }

    /// Share of the files' bytes that have been read.
    fn progress(&self, files: &[TextFile]) -> f64 {
        let size = |index: &u32| files[*index as usize].bytes;
        let total: u64 = self.order.iter().map(size).sum();
        let done: u64 = self.order[..self.done].iter().map(size).sum();
        let read = done + self.lines.as_ref().map_or(0, Lines::bytes_read);
        read.min(total) as f64 / total.max(1) as f64
    }
}

impl TextOptions {
    /// Whether a document is of the part that the stream has: a function of its place alone, so that stages and programs with
    /// other seeds hold the same documents out.
    fn takes(&self, file: usize, line: usize) -> bool {
        self.held_out.is_none_or(|(share, held_out)| {
            let draw = Rng::new(0, Purpose::HeldOut, &[file as u64, line as u64]).uniform();
            (draw < share) == held_out
        })
    }
}
