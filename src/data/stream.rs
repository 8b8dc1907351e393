//! The batches of a run: an endless stream over a mixture that goes on from any batch.
//!
//! Examples are drawn in windows of some batches. Within a window, examples of like length meet in a batch, or rows are packed
//! with as many as fit; batches come in a random order by the seed and the window's number. Where a window began and how many of
//! its batches are used is all that a resumed run needs to know.

use serde::{Deserialize, Serialize};

use super::batches::{Batch, bucket_len};
use super::mixture::{Mixture, MixturePosition};
use super::{Example, Packer};
use crate::rng::{Purpose, Rng};
use crate::{Error, Result};

/// Lengths are never padded to a coarser multiple than this beyond the longest example.
const FINEST: usize = 8;

/// Batches in a window: the more, the less padding, and the longer until the first batch is made.
pub const WINDOW_BATCHES: usize = 32;

/// How examples become rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Batching {
    /// An example a row; examples of like length meet in a batch, whose rows are padded to the longest.
    #[default]
    Buckets,
    /// As many examples as fit into rows of a fixed size, next-fit in the order in which they are drawn (seqio's
    /// `trim_and_pack_dataset`). Wastes the least if rows hold eight of the longest examples or more.
    Packed { source_len: usize, target_len: usize },
}

impl Batching {
    pub fn is_packed(self) -> bool {
        self != Batching::Buckets
    }
}

/// What batches are made of, besides their examples.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// Rows of a batch.
    pub batch_size: usize,
    pub batching: Batching,
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
    window: Option<Vec<Vec<Row>>>,
    /// The example that opens the next window, and where the mixture was before it was drawn.
    carried: Option<(Example, MixturePosition)>,
}

/// The examples of a row.
type Row = Vec<Example>;

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
    /// `Input`: a batch size of 0, or packed rows that the longest example does not fit into.
    pub fn new(mixture: Mixture, options: StreamOptions, position: &BatchPosition) -> Result<Batches> {
        if options.batch_size == 0 {
            return Err(Error::Input("the batch size must be at least 1".into()));
        }
        let (source, target) = mixture.longest();
        if let Batching::Packed { source_len, target_len } = options.batching
            && (source > source_len || target > target_len)
        {
            return Err(Error::Input(format!(
                "an example may have {source} source and {target} target tokens: it does not fit into packed rows of \
                 {source_len} and {target_len}; use longer rows, or lower limits for the examples"
            )));
        }
        let longest = (source.next_multiple_of(FINEST), target.next_multiple_of(FINEST));
        let at = BatchPosition { source: mixture.position(), ..position.clone() };
        Ok(Batches { mixture, options, longest, at, window: None, carried: None })
    }

    pub fn mixture(&self) -> &Mixture {
        &self.mixture
    }

    /// (batch, src_len, tgt_len) that every batch fits into.
    pub fn largest_shape(&self) -> (usize, usize, usize) {
        let (src_len, tgt_len) = match self.options.batching {
            Batching::Buckets => self.longest,
            Batching::Packed { source_len, target_len } => (source_len, target_len),
        };
        (self.options.batch_size, src_len, tgt_len)
    }

    /// The place of the next batch.
    pub fn position(&self) -> BatchPosition {
        self.at.clone()
    }

    /// The next batch. Unpacked, its lengths are those of its longest example rounded up by [`bucket_len`], but never beyond
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
            let source = match &self.carried {
                Some((_, before)) => before.clone(),
                None => self.mixture.position(),
            };
            self.at = BatchPosition { window: self.at.window + 1, batch: 0, source };
        }
        Ok(batch)
    }

    fn collate(&self, rows: &[Row]) -> Batch {
        let StreamOptions { batch_size, batching, pad, decoder_start, .. } = self.options;
        if let Batching::Packed { source_len, target_len } = batching {
            let rows: Vec<Vec<&Example>> = rows.iter().map(|row| row.iter().collect()).collect();
            return Batch::collate_packed(&rows, (batch_size, source_len, target_len), pad, decoder_start);
        }
        let examples: Vec<&Example> = rows.iter().flatten().collect();
        let (src, tgt) = longest(&examples);
        let shape = (batch_size, bucket_len(src).min(self.longest.0), bucket_len(tgt).min(self.longest.1));
        Batch::collate(&examples, shape, pad, decoder_start)
    }

    /// The batches of the window that begins where the mixture stands, or with the example that was carried over.
    fn fill(&mut self) -> Result<Vec<Vec<Row>>> {
        let batch_size = self.options.batch_size;
        let count = WINDOW_BATCHES * batch_size;
        let rows = match self.options.batching {
            Batching::Buckets => {
                let draw = |_| self.mixture.draw().map(|(_, example)| example);
                let mut examples = (0..count).map(draw).collect::<Result<Vec<Example>>>()?;
                // Stable: examples of equal lengths stay in their random order.
                examples.sort_by_key(sort_key);
                examples.into_iter().map(|example| vec![example]).collect()
            }
            Batching::Packed { source_len, target_len } => self.pack(count, Packer::new(source_len, target_len))?,
        };
        let mut rows = rows.into_iter();
        let mut batches: Vec<Vec<Row>> =
            (0..WINDOW_BATCHES).map(|_| rows.by_ref().take(batch_size).collect()).collect();
        Rng::new(self.options.seed, Purpose::Batches, &[self.at.window]).shuffle(&mut batches);
        Ok(batches)
    }

    /// Fills so many rows. The example that opens one more is carried over to the next window.
    fn pack(&mut self, count: usize, mut packer: Packer) -> Result<Vec<Row>> {
        let mut rows: Vec<Row> = vec![Row::new()];
        loop {
            let (example, before) = match self.carried.take() {
                Some(carried) => carried,
                None => {
                    let before = self.mixture.position();
                    (self.mixture.draw()?.1, before)
                }
            };
            let (source, target) = example.lengths();
            if packer.push(source, target) {
                if rows.len() == count {
                    self.carried = Some((example, before));
                    return Ok(rows);
                }
                rows.push(Row::new());
            }
            if let Some(row) = rows.last_mut() {
                row.push(example);
            }
        }
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

    const BUCKETS: Batching = Batching::Buckets;
    const PACKED: Batching = Batching::Packed { source_len: 120, target_len: 64 };

    fn batches(count: usize, batch_size: usize, batching: Batching, position: &BatchPosition) -> Batches {
        let drawn = match position.source.members.first() {
            Some(MemberPosition::Examples(drawn)) => *drawn,
            _ => 0,
        };
        let member = Member::Examples(Shuffled::new(Arc::new(ramp(count)), 5, drawn).unwrap());
        let members = vec![Weighted { name: "ramp".into(), member, size: 1.0, scale: 1.0 }];
        let mixture = Mixture::new(members, &Mixing::default(), 5, position.source.drawn).unwrap();
        let options = StreamOptions { batch_size, batching, seed: 5, pad: 0, decoder_start: 0 };
        Batches::new(mixture, options, position).unwrap()
    }

    #[test]
    fn every_example_has_its_turn_and_every_batch_is_full() {
        // A window is 32 x 4 = 128 examples: two epochs of 64.
        let mut stream = batches(64, 4, BUCKETS, &BatchPosition::default());
        let mut seen = vec![0; 64];
        for _ in 0..WINDOW_BATCHES {
            let batch = stream.next_batch().unwrap();
            assert!(batch.src_lens.iter().all(|&len| len > 0));
            (0..4).for_each(|row| seen[batch.src_ids[row * batch.src_len] as usize] += 1);
        }
        assert!(seen.iter().all(|&n| n == 2), "{seen:?}");
    }

    #[test]
    fn packed_rows_hold_what_is_drawn_in_its_order() {
        let mut stream = batches(64, 4, PACKED, &BatchPosition::default());
        let mut drawn = batches(64, 1, BUCKETS, &BatchPosition::default()).mixture;
        let (mut tokens, mut positions) = (0, 0);
        // The batches of a window come in a random order: over whole windows, all that is drawn is there.
        for _ in 0..3 {
            let mut found: Vec<u32> = Vec::new();
            for _ in 0..WINDOW_BATCHES {
                let batch = stream.next_batch().unwrap();
                assert_eq!(batch.shape(), (4, 120, 64));
                (tokens, positions) = (tokens + batch.n_tokens(), positions + batch.n_positions());
                let segments = &batch.segments.as_ref().unwrap().src;
                let starts = (0..segments.len())
                    .filter(|&i| segments[i] > 0 && (i % 120 == 0 || segments[i] != segments[i - 1]));
                found.extend(starts.map(|i| batch.src_ids[i]));
            }
            let mut expected: Vec<u32> = (0..found.len()).map(|_| drawn.draw().unwrap().1.source[0]).collect();
            expected.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, expected);
        }
        assert!(tokens as f64 > 0.75 * positions as f64, "{tokens} of {positions}");
    }

    #[test]
    fn rows_that_are_too_short_are_refused() {
        let stream = batches(64, 4, BUCKETS, &BatchPosition::default());
        let batching = Batching::Packed { source_len: 50, target_len: 64 };
        let error =
            Batches::new(stream.mixture, StreamOptions { batching, ..stream.options }, &BatchPosition::default());
        assert!(error.err().unwrap().to_string().contains("51 source"));
    }

    #[test]
    fn a_stream_goes_on_from_every_batch() {
        for batching in [BUCKETS, PACKED] {
            let mut whole = batches(90, 3, batching, &BatchPosition::default());
            let (mut places, mut all) = (Vec::new(), Vec::new());
            for _ in 0..3 * WINDOW_BATCHES {
                places.push(whole.position());
                all.push(whole.next_batch().unwrap());
            }
            for (index, place) in places.iter().enumerate().step_by(7).chain([(32, &places[32]), (64, &places[64])]) {
                let mut rest = batches(90, 3, batching, place);
                for expected in all[index..].iter().take(40) {
                    assert_eq!(&rest.next_batch().unwrap(), expected);
                }
            }
        }
    }

    #[test]
    fn threads_change_nothing() {
        for batching in [BUCKETS, PACKED] {
            let mut plain = batches(90, 3, batching, &BatchPosition::default());
            let open = |threads| Prefetch::new(batches(90, 3, batching, &BatchPosition::default()), threads).unwrap();
            let mut streams: Vec<Prefetch> = (0..3).map(open).collect();
            for _ in 0..100 {
                let batch = plain.next_batch().unwrap();
                for stream in &mut streams {
                    let ready = stream.next_batch().unwrap();
                    assert_eq!((&ready.batch, ready.next), (&batch, plain.position()));
                }
            }
        }
    }

    #[test]
    fn sorting_saves_padding() {
        let mut stream = batches(1000, 8, BUCKETS, &BatchPosition::default());
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
