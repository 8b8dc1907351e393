//! Pre-training examples: segments of running text under span corruption.

use std::path::Path;

use super::{Example, ExampleSource, Markers, SpanCorruption, TextCorpus};
use crate::rng::{Purpose, Rng};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Example (epoch, i) is segment (epoch, i) of the text, masked by the random stream (seed, epoch, i).
pub struct Denoising {
    corpus: TextCorpus,
    objective: SpanCorruption,
    markers: Markers,
    seed: u64,
}

impl Denoising {
    /// Reads text files (see [`TextCorpus::open`]) for sources of `inputs_len` tokens, EOS counted; the targets' length
    /// follows from it ([`SpanCorruption::lengths`]).
    ///
    /// Errors: what the text's reading may give, settings out of range, fewer sentinels than spans, fewer than 2 tokens
    /// of text.
    pub fn open<P: AsRef<Path>>(
        paths: &[P],
        tokenizer: &Tokenizer,
        objective: SpanCorruption,
        inputs_len: usize,
        seed: u64,
    ) -> Result<Denoising> {
        let (raw_tokens, _) = objective.lengths(inputs_len)?;
        let markers = Markers::of(tokenizer);
        // Before the text is read, which may take long.
        objective.check_sentinels(raw_tokens, &markers)?;
        let corpus = TextCorpus::open(paths, tokenizer, raw_tokens, seed)?;
        if corpus.segment_len() < 2 {
            return Err(Error::Input("the text has a single token: nothing can be masked and the rest kept".into()));
        }
        Ok(Denoising { corpus, objective, markers, seed })
    }

    /// Splits by documents: those that are not `held_out` and those that are ([`TextCorpus::split`]).
    pub fn split(&self, held_out: &[bool]) -> Result<(Denoising, Denoising)> {
        let (rest, held_out) = self.corpus.split(held_out)?;
        let part = |corpus: TextCorpus| {
            if corpus.segment_len() < 2 {
                return Err(Error::Input("the held-out text has a single token: hold more out".into()));
            }
            Ok(Denoising { corpus, objective: self.objective, markers: self.markers.clone(), seed: self.seed })
        };
        Ok((part(rest)?, part(held_out)?))
    }

    /// The largest id that an example can hold.
    pub fn max_id(&self) -> u32 {
        let sentinels = self.objective.n_spans(self.corpus.segment_len());
        let special = self.markers.sentinels.iter().take(sentinels).chain([&self.markers.eos]);
        self.corpus.tokens().iter().chain(special).copied().max().unwrap_or(0)
    }

    pub fn corpus(&self) -> &TextCorpus {
        &self.corpus
    }
}

impl ExampleSource for Denoising {
    fn len_per_epoch(&self) -> usize {
        self.corpus.n_segments()
    }

    fn lengths(&self, _epoch: u64) -> Vec<(usize, usize)> {
        vec![self.objective.corrupted_lengths(self.corpus.segment_len()); self.len_per_epoch()]
    }

    fn example(&self, epoch: u64, index: usize) -> Result<Example> {
        let mut rng = Rng::new(self.seed, Purpose::Corruption, &[epoch, index as u64]);
        self.objective.corrupt(&self.corpus.segment(epoch, index), &self.markers, &mut rng)
    }
}
