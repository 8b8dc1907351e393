//! Running text in memory, cut into segments of equal length for the denoising objectives.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::lines::for_each_line;
use crate::rng::{Purpose, permutation};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Lines that are tokenised in parallel before the next ones are read; bounds the text held beside its tokens.
const LINES_AT_ONCE: usize = 8192;

/// Documents as one flat list of tokens, and the rule that cuts them into segments.
///
/// In epoch e the documents are shuffled by (seed, e), joined without a separator as T5 does, and cut every `raw_tokens`
/// tokens; what is left at the end is dropped (in each epoch a different rest), unless it is all there is.
pub struct TextCorpus {
    tokens: Vec<u32>,
    /// Document d is `tokens[offsets[d]..offsets[d + 1]]`, never empty.
    offsets: Vec<usize>,
    raw_tokens: usize,
    seed: u64,
    /// A cache only: the order follows from (seed, epoch).
    order: Mutex<Option<Arc<EpochOrder>>>,
}

struct EpochOrder {
    epoch: u64,
    documents: Vec<u32>,
    /// Where each of `documents` starts in the joined text.
    starts: Vec<usize>,
}

impl TextCorpus {
    /// Reads files, plain or gzipped, with one document (a paragraph, say) a line; blank lines are skipped.
    /// Segments will have `raw_tokens` >= 1 tokens.
    ///
    /// Errors: a file that cannot be read or holds no text, a line that is not UTF-8 or cannot be tokenised (with its
    /// number), or no files at all.
    pub fn open<P: AsRef<Path>>(
        paths: &[P],
        tokenizer: &Tokenizer,
        raw_tokens: usize,
        seed: u64,
    ) -> Result<TextCorpus> {
        if raw_tokens == 0 {
            return Err(Error::Input("segments of 0 tokens: use a longer sequence length".into()));
        }
        let mut documents = Documents { tokens: Vec::new(), offsets: vec![0] };
        for path in paths {
            documents.append_file(path.as_ref(), tokenizer)?;
        }
        if documents.tokens.is_empty() {
            let names: Vec<PathBuf> = paths.iter().map(|p| p.as_ref().to_path_buf()).collect();
            return Err(Error::Input(format!("no text to train on: {names:?} give no tokens")));
        }
        let Documents { tokens, offsets } = documents;
        if u32::try_from(offsets.len()).is_err() {
            return Err(Error::Input(format!("{} documents are too many: at most 2^32", offsets.len() - 1)));
        }
        Ok(TextCorpus { tokens, offsets, raw_tokens, seed, order: Mutex::new(None) })
    }

    /// All tokens, document after document in the files' order.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Two corpora of the same segment length: the documents that are not `held_out`, and those that are.
    /// `held_out` has `[n_documents]` entries.
    ///
    /// Errors with `Input` if one of the two would be empty.
    pub fn split(&self, held_out: &[bool]) -> Result<(TextCorpus, TextCorpus)> {
        let part = |wanted: bool| {
            let mut documents = Documents { tokens: Vec::new(), offsets: vec![0] };
            for (index, _) in held_out.iter().enumerate().filter(|(_, held)| **held == wanted) {
                documents.tokens.extend_from_slice(self.document(index as u32));
                documents.offsets.push(documents.tokens.len());
            }
            if documents.tokens.is_empty() {
                return Err(Error::Input(
                    "the text has too few lines to hold some out: name a file of its own to evaluate on".into(),
                ));
            }
            Ok(TextCorpus {
                tokens: documents.tokens,
                offsets: documents.offsets,
                raw_tokens: self.raw_tokens,
                seed: self.seed,
                order: Mutex::new(None),
            })
        };
        Ok((part(false)?, part(true)?))
    }

    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    pub fn n_documents(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Segments in an epoch, the same for every epoch, at least 1.
    pub fn n_segments(&self) -> usize {
        (self.tokens.len() / self.raw_tokens).max(1)
    }

    /// Tokens of each segment: `raw_tokens`, or less if the whole text is shorter than that.
    pub fn segment_len(&self) -> usize {
        self.raw_tokens.min(self.tokens.len())
    }

    /// `[segment_len]` tokens without EOS. Panics if `index >= n_segments`.
    #[track_caller]
    pub fn segment(&self, epoch: u64, index: usize) -> Vec<u32> {
        assert!(index < self.n_segments(), "segment {index} of {}", self.n_segments());
        let order = self.order_of(epoch);
        let begin = index * self.raw_tokens;
        let length = self.segment_len();
        let mut segment = Vec::with_capacity(length);
        let first = order.starts.partition_point(|&start| start <= begin) - 1;
        let mut skip = begin - order.starts[first];
        for &document in &order.documents[first..] {
            let tokens = &self.document(document)[skip..];
            segment.extend_from_slice(&tokens[..tokens.len().min(length - segment.len())]);
            if segment.len() == length {
                break;
            }
            skip = 0;
        }
        segment
    }

    fn document(&self, index: u32) -> &[u32] {
        let index = index as usize;
        &self.tokens[self.offsets[index]..self.offsets[index + 1]]
    }

    fn order_of(&self, epoch: u64) -> Arc<EpochOrder> {
        let mut cached = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        match cached.as_ref() {
            Some(order) if order.epoch == epoch => order.clone(),
            _ => cached.insert(Arc::new(self.shuffle(epoch))).clone(),
        }
    }

    fn shuffle(&self, epoch: u64) -> EpochOrder {
        let documents = permutation(self.seed, Purpose::Documents, epoch, self.n_documents() as u32);
        let starts = documents
            .iter()
            .scan(0, |end, &document| {
                let start = *end;
                *end += self.document(document).len();
                Some(start)
            })
            .collect();
        EpochOrder { epoch, documents, starts }
    }
}

struct Documents {
    tokens: Vec<u32>,
    offsets: Vec<usize>,
}

impl Documents {
    fn append_file(&mut self, path: &Path, tokenizer: &Tokenizer) -> Result<()> {
        let mut lines = Vec::new();
        for_each_line(path, |number, line| {
            lines.push((number, line.to_owned()));
            if lines.len() == LINES_AT_ONCE {
                self.append_lines(path, &lines, tokenizer)?;
                lines.clear();
            }
            Ok(())
        })?;
        self.append_lines(path, &lines, tokenizer)
    }

    fn append_lines(&mut self, path: &Path, lines: &[(usize, String)], tokenizer: &Tokenizer) -> Result<()> {
        let encoded: Vec<Vec<u32>> = lines
            .par_iter()
            .map(|(number, line)| tokenizer.encode(line).map_err(|e| Error::line(path, *number, e.to_string())))
            .collect::<Result<_>>()?;
        for tokens in encoded.iter().filter(|tokens| !tokens.is_empty()) {
            self.tokens.extend_from_slice(tokens);
            self.offsets.push(self.tokens.len());
        }
        Ok(())
    }
}
