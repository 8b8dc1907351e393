//! The batches of a run: an endless stream over a mixture that goes on from any batch.
//!
//! Examples are drawn in windows of some batches. Within a window, examples of like length meet in a batch, and batches come
//! in a random order by the seed and the window's number: where a window began and how many of its batches are used is all
//! that a resumed run needs to know.

use serde::{Deserialize, Serialize};

use super::Example;
use super::batches::{Batch, bucket_len};
use super::mixture::{Mixture, MixturePosition};
use crate::rng::{Purpose, Rng};
use crate::{Error, Result};

/// Lengths are never padded to a coarser multiple than this beyond the longest example.
const FINEST: usize = 8;

/// Batches in a window: the more, the less padding, and the longer until the first batch is made.
const WINDOW_BATCHES: usize = 32;

/// What batches are made of, besides their examples.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// Rows of a batch.
    pub batch_size: usize,
    pub seed: u64,
    pub pad: u32,
    pub decoder_start: u32,
}

/// See the module.
pub struct Batches {
    mixture: Mixture,
    options: StreamOptions,
    /// The longest example rounded up to a multiple of 8.
    longest: (usize, usize),
    /// Of the window at hand.
    at: BatchPosition,
    /// The batches of the window at hand, `None` before the first is asked for.
    window: Option<Vec<Vec<Example>>>,
}

/// The place of a batch in the stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchPosition {
    pub window: u64,
    /// Batches of the window that come before.
    pub batch: usize,
    /// Where the window began.
    pub source: MixturePosition,
}

impl Batches {
    /// The stream from `position` on, whose `source` the mixture must stand at.
    ///
    /// # Errors
    /// `Input`: a batch size of 0.
    pub fn new(mixture: Mixture, options: StreamOptions, position: &BatchPosition) -> Result<Batches> {
        if options.batch_size == 0 {
            return Err(Error::Input("the batch size must be at least 1".into()));
        }
        let (source, target) = mixture.longest();
        let longest = (source.next_multiple_of(FINEST), target.next_multiple_of(FINEST));
        let at = BatchPosition { source: mixture.position(), ..position.clone() };
        Ok(Batches { mixture, options, longest, at, window: None })
    }

    pub fn mixture(&self) -> &Mixture {
        &self.mixture
    }

    /// (batch, src_len, tgt_len) that every batch fits into.
    pub fn largest_shape(&self) -> (usize, usize, usize) {
        (self.options.batch_size, self.longest.0, self.longest.1)
    }

    /// The place of the next batch.
    pub fn position(&self) -> BatchPosition {
        self.at.clone()
    }

    /// The next batch. Its lengths are those of its longest example rounded up by [`bucket_len`], but never beyond
    /// the longest of all examples rounded up to 8.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let window = match self.window.take() {
            Some(window) => window,
            None => self.fill()?,
        };
        let batch = self.collate(&window[self.at.batch]);
        self.at.batch += 1;
        if self.at.batch < window.len() {
            self.window = Some(window);
        } else {
            self.at = BatchPosition { window: self.at.window + 1, batch: 0, source: self.mixture.position() };
        }
        Ok(batch)
    }

    fn collate(&self, examples: &[Example]) -> Batch {
        let StreamOptions { batch_size, pad, decoder_start, .. } = self.options;
        let examples: Vec<&Example> = examples.iter().collect();
        let (src, tgt) = longest(&examples);
        let shape = (batch_size, bucket_len(src).min(self.longest.0), bucket_len(tgt).min(self.longest.1));
        Batch::collate(&examples, shape, pad, decoder_start)
    }

    /// The batches of the window that begins where the mixture stands.
    fn fill(&mut self) -> Result<Vec<Vec<Example>>> {
        let batch_size = self.options.batch_size;
        let draw = |_| self.mixture.draw().map(|(_, example)| example);
        let mut examples = (0..WINDOW_BATCHES * batch_size).map(draw).collect::<Result<Vec<Example>>>()?;
        // Stable: examples of equal lengths stay in their random order.
        examples.sort_by_key(sort_key);
        let mut examples = examples.into_iter();
        let mut batches: Vec<Vec<Example>> =
            (0..WINDOW_BATCHES).map(|_| examples.by_ref().take(batch_size).collect()).collect();
        Rng::new(self.options.seed, Purpose::Batches, &[self.at.window]).shuffle(&mut batches);
        Ok(batches)
    }
}

/// Every example once, by length: the batches of an evaluation. The last may be short of rows.
pub fn by_length(examples: &[Example], batch_size: usize, pad: u32, decoder_start: u32) -> Vec<Batch> {
    let mut order: Vec<&Example> = examples.iter().collect();
    order.sort_by_key(|example| sort_key(example));
    let (src, tgt) = longest(&order);
    let (most_src, most_tgt) = (src.next_multiple_of(FINEST), tgt.next_multiple_of(FINEST));
    let collate = |examples: &[&Example]| {
        let (src, tgt) = longest(examples);
        let shape = (batch_size, bucket_len(src).min(most_src), bucket_len(tgt).min(most_tgt));
        Batch::collate(examples, shape, pad, decoder_start)
    };
    order.chunks(batch_size.max(1)).map(collate).collect()
}

/// Like lengths meet: the source's bucket first, since most of the work is in the encoder.
fn sort_key(example: &Example) -> (usize, usize, usize) {
    let (source, target) = example.lengths();
    (bucket_len(source), target, source)
}

fn longest(examples: &[&Example]) -> (usize, usize) {
    examples.iter().map(|example| example.lengths()).fold((1, 1), |(src, tgt), (s, t)| (src.max(s), tgt.max(t)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::data::mixture::{Member, MemberPosition, Mixing, Shuffled, Weighted};
    use crate::data::prefetch::Prefetch;

    /// Sources of n tokens and targets of n / 2, n from 2 to 51.
    fn ramp(count: usize) -> Vec<Example> {
        let example = |i: usize| Example { source: vec![i as u32; 2 + i % 50], target: vec![8; (2 + i % 50) / 2] };
        (0..count).map(example).collect()
    }

    fn batches(count: usize, batch_size: usize, position: &BatchPosition) -> Batches {
        let drawn = match position.source.members.first() {
            Some(MemberPosition::Examples(drawn)) => *drawn,
            _ => 0,
        };
        let member = Member::Examples(Shuffled::new(Arc::new(ramp(count)), 5, drawn).unwrap());
        let members = vec![Weighted { name: "ramp".into(), member, size: 1.0, scale: 1.0 }];
        let mixture = Mixture::new(members, &Mixing::default(), 5, position.source.drawn).unwrap();
        let options = StreamOptions { batch_size, seed: 5, pad: 0, decoder_start: 0 };
        Batches::new(mixture, options, position).unwrap()
    }

    #[test]
    fn every_example_has_its_turn_and_every_batch_is_full() {
        // A window is 32 x 4 = 128 examples: two epochs of 64.
        let mut stream = batches(64, 4, &BatchPosition::default());
        let mut seen = vec![0; 64];
        for _ in 0..WINDOW_BATCHES {
            let batch = stream.next_batch().unwrap();
            assert!(batch.src_lens.iter().all(|&len| len > 0));
            (0..4).for_each(|row| seen[batch.src_ids[row * batch.src_len] as usize] += 1);
        }
        assert!(seen.iter().all(|&n| n == 2), "{seen:?}");
    }

    #[test]
    fn a_stream_goes_on_from_every_batch() {
        let mut whole = batches(90, 3, &BatchPosition::default());
        let (mut places, mut all) = (Vec::new(), Vec::new());
        for _ in 0..3 * WINDOW_BATCHES {
            places.push(whole.position());
            all.push(whole.next_batch().unwrap());
        }
        for (index, place) in places.iter().enumerate().step_by(7) {
            let mut rest = batches(90, 3, place);
            for expected in all[index..].iter().take(40) {
                assert_eq!(&rest.next_batch().unwrap(), expected);
            }
        }
    }

    #[test]
    fn threads_change_nothing() {
        let mut plain = batches(90, 3, &BatchPosition::default());
        let open = |threads| Prefetch::new(batches(90, 3, &BatchPosition::default()), threads).unwrap();
        let mut streams: Vec<Prefetch> = (0..3).map(open).collect();
        for _ in 0..100 {
            let batch = plain.next_batch().unwrap();
            for stream in &mut streams {
                let ready = stream.next_batch().unwrap();
                assert_eq!((&ready.batch, ready.next), (&batch, plain.position()));
            }
        }
    }

    #[test]
    fn sorting_saves_padding() {
        let mut stream = batches(1000, 8, &BatchPosition::default());
        let (mut tokens, mut positions) = (0, 0);
        for _ in 0..4 * WINDOW_BATCHES {
            let batch = stream.next_batch().unwrap();
            (tokens, positions) = (tokens + batch.n_tokens(), positions + batch.n_positions());
        }
        assert!(tokens as f64 > 0.8 * positions as f64, "{tokens} of {positions}");
    }

    #[test]
    fn evaluation_visits_everything_once() {
        let batches = by_length(&ramp(103), 8, 0, 0);
        let tokens: u64 = batches.iter().map(Batch::n_tokens).sum();
        let expected: usize = ramp(103).iter().map(|e| e.source.len() + e.target.len()).sum();
        assert_eq!((batches.len(), tokens), (13, expected as u64));
    }
}
