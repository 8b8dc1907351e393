//! The batches of a run: an endless stream over a mixture that goes on from any batch.
//!
//! Examples are drawn a batch at a time, and batches are gathered in windows. Within a window, examples of like length meet
//! in a batch, or rows are packed with as many as fit; batches come in a random order by the seed and the window's number.
//! A window has no example twice: it ends before the batch with which a task begins another pass. The batch in which a pass
//! ends and the next one begins is a window of its own. Where a window began and how many of its batches are used is all
//! that a resumed run needs to know.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Packer;
use super::mixture::{Draw, Mixture, MixturePosition};
use crate::batch::{Batch, BatchShape, Example};
use crate::rng::{Purpose, Rng};
use crate::{Error, Result};

/// Lengths are never padded to a coarser multiple than this beyond the longest example.
const FINEST: usize = 8;

/// Most batches in a window: the more, the less padding, and the longer until the first batch is made.
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
    /// The window at hand, `None` before its first batch is asked for.
    window: Option<Window>,
    /// Drawn for the next window, each with where the mixture stood before.
    ahead: VecDeque<(MixturePosition, Draw)>,
}

struct Window {
    batches: Vec<Vec<Row>>,
    /// For each member, the passes over it with each of the window's examples of it, in the order in which they were drawn.
    passes: Vec<Vec<f64>>,
    /// How many of those the batches that are used had.
    used: Vec<usize>,
}

/// The examples of a row, each with the number of its member.
type Row = Vec<(usize, Example)>;

/// The place of a batch in the stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchPosition {
    pub window: u64,
    /// Batches of the window that come before.
    pub batch: usize,
    /// Where the window began.
    pub source: MixturePosition,
    /// Passes over each member before the window.
    #[serde(default)]
    pub passes: Vec<f64>,
}

impl Batches {
    /// The stream from `position` on, whose `source` the mixture must stand at.
    ///
    /// # Errors
    /// `Input`: a batch size of 0, or packed rows that the longest example does not fit into.
    pub fn new(mut mixture: Mixture, options: StreamOptions, position: &BatchPosition) -> Result<Batches> {
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
        mixture.keep_apart(
            options.batch_size,
            match options.batching {
                Batching::Buckets => None,
                Batching::Packed { source_len, target_len } => Some((source_len, target_len)),
            },
        );
        let longest = (source.next_multiple_of(FINEST), target.next_multiple_of(FINEST));
        let mut at = BatchPosition { source: mixture.position(), ..position.clone() };
        at.passes.resize(mixture.members().len(), 0.0);
        Ok(Batches { mixture, options, longest, at, window: None, ahead: VecDeque::new() })
    }

    pub fn mixture(&self) -> &Mixture {
        &self.mixture
    }

    /// What every batch fits into.
    pub fn largest_shape(&self) -> BatchShape {
        let batch = self.options.batch_size;
        match self.options.batching {
            Batching::Buckets => BatchShape { batch, src_len: self.longest.0, tgt_len: self.longest.1, packed: false },
            Batching::Packed { source_len: src_len, target_len: tgt_len } => {
                BatchShape { batch, src_len, tgt_len, packed: true }
            }
        }
    }

    /// The place of the next batch.
    pub fn position(&self) -> BatchPosition {
        self.at.clone()
    }

    /// Passes over the examples of each member, those counted that were in batches so far; of the member that is the furthest.
    pub fn passes(&self) -> f64 {
        let of_member = |(member, &before): (usize, &f64)| match &self.window {
            Some(Window { passes, used, .. }) if used[member] > 0 => passes[member][used[member] - 1],
            _ => before,
        };
        self.at.passes.iter().enumerate().map(of_member).fold(0.0, f64::max)
    }

    /// The next batch. Unpacked, its lengths are those of its longest example rounded up by `bucket_len`, but never beyond
    /// the longest of all examples rounded up to 8.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let mut window = match self.window.take() {
            Some(window) => window,
            None => self.fill()?,
        };
        let Some(rows) = window.batches.get(self.at.batch) else {
            return Err(Error::Input(format!(
                "there is no batch {} in window {}: the data or the settings have changed since the position was saved",
                self.at.batch, self.at.window
            )));
        };
        let batch = self.collate(rows);
        rows.iter().flatten().for_each(|(member, _)| window.used[*member] += 1);
        self.at.batch += 1;
        if self.at.batch < window.batches.len() {
            self.window = Some(window);
        } else {
            let source = self.ahead.front().map_or_else(|| self.mixture.position(), |(before, _)| before.clone());
            let last = |(passes, &before): (&Vec<f64>, &f64)| passes.last().copied().unwrap_or(before);
            let passes = window.passes.iter().zip(&self.at.passes).map(last).collect();
            self.at = BatchPosition { window: self.at.window + 1, batch: 0, source, passes };
        }
        Ok(batch)
    }

    fn collate(&self, rows: &[Row]) -> Batch {
        let rows: Vec<Vec<&Example>> =
            rows.iter().map(|row| row.iter().map(|(_, example)| example).collect()).collect();
        let largest = self.largest_shape();
        let shape = if largest.packed { largest } else { padded_shape(&rows, largest) };
        Batch::collate(&rows, shape, self.options.pad, self.options.decoder_start)
    }

    /// The window that begins where the mixture stands, or with what was drawn ahead.
    fn fill(&mut self) -> Result<Window> {
        let batch_size = self.options.batch_size;
        let n_members = self.mixture.members().len();
        let mut passes = vec![Vec::new(); n_members];
        let mut pass_of = vec![None; n_members];
        let mut rows: Vec<Row> = Vec::new();
        let mut alone = false;
        while !alone && rows.len() < WINDOW_BATCHES * batch_size {
            let batch = self.draw_batch()?;
            alone = batch.iter().flatten().any(|(_, draw)| *pass_of[draw.member].get_or_insert(draw.pass) != draw.pass);
            if alone && !rows.is_empty() {
                batch.into_iter().flatten().rev().for_each(|drawn| self.ahead.push_front(drawn));
                break;
            }
            for row in batch {
                row.iter().for_each(|(_, draw)| passes[draw.member].push(draw.passes));
                rows.push(row.into_iter().map(|(_, draw)| (draw.member, draw.example)).collect());
            }
        }
        if !self.options.batching.is_packed() {
            // Stable: examples of equal lengths stay in their random order.
            rows.sort_by_key(|row| row.first().map(|(_, example)| sort_key(example)));
        }
        let mut rows = rows.into_iter().peekable();
        let mut batches: Vec<Vec<Row>> = Vec::new();
        while rows.peek().is_some() {
            batches.push(rows.by_ref().take(batch_size).collect());
        }
        Rng::new(self.options.seed, Purpose::Batches, &[self.at.window]).shuffle(&mut batches);
        // How many examples of each member the batches before the position have used.
        let mut used = vec![0; n_members];
        batches.iter().take(self.at.batch).flatten().flatten().for_each(|(member, _)| used[*member] += 1);
        Ok(Window { batches, passes, used })
    }

    fn draw(&mut self) -> Result<(MixturePosition, Draw)> {
        if let Some(drawn) = self.ahead.pop_front() {
            return Ok(drawn);
        }
        let before = self.mixture.position();
        Ok((before, self.mixture.draw()?))
    }

    /// As many examples as a batch has rows, or packed ones as its rows hold.
    fn draw_batch(&mut self) -> Result<Vec<Vec<(MixturePosition, Draw)>>> {
        let batch_size = self.options.batch_size;
        let Batching::Packed { source_len, target_len } = self.options.batching else {
            return (0..batch_size).map(|_| Ok(vec![self.draw()?])).collect();
        };
        let mut packer = Packer::new(source_len, target_len);
        let mut rows = vec![Vec::new()];
        loop {
            let drawn = self.draw()?;
            let (source, target) = drawn.1.example.lengths();
            if packer.push(source, target) {
                if rows.len() == batch_size {
                    // It opens a row of the next batch.
                    self.ahead.push_front(drawn);
                    return Ok(rows);
                }
                rows.push(Vec::new());
            }
            if let Some(row) = rows.last_mut() {
                row.push(drawn);
            }
        }
    }
}

/// Every example once, by length: the batches of an evaluation. The last may be short of rows.
pub fn by_length(examples: &[Example], batch_size: usize, pad: u32, decoder_start: u32) -> Vec<Batch> {
    let mut rows: Vec<Vec<&Example>> = examples.iter().map(|example| vec![example]).collect();
    rows.sort_by_key(|row| sort_key(row[0]));
    let (src, tgt) = longest(&rows);
    let (src_len, tgt_len) = (src.next_multiple_of(FINEST), tgt.next_multiple_of(FINEST));
    let largest = BatchShape { batch: batch_size, src_len, tgt_len, packed: false };
    let collate = |rows: &[Vec<&Example>]| Batch::collate(rows, padded_shape(rows, largest), pad, decoder_start);
    rows.chunks(batch_size.max(1)).map(collate).collect()
}

/// Rounds a length up to a coarse grid, so that few different shapes occur: multiples of 8 up to 64, of 16 up to 128, of
/// 32 up to 256, of 64 above. Wastes at most 25 % above 32 tokens. Never 0.
fn bucket_len(len: usize) -> usize {
    let step = match len {
        0..=64 => FINEST,
        65..=128 => 16,
        129..=256 => 32,
        _ => 64,
    };
    len.max(1).next_multiple_of(step)
}

/// The shape of rows of one example each.
fn padded_shape(rows: &[Vec<&Example>], largest: BatchShape) -> BatchShape {
    let (src, tgt) = longest(rows);
    let (src_len, tgt_len) = (bucket_len(src).min(largest.src_len), bucket_len(tgt).min(largest.tgt_len));
    BatchShape { src_len, tgt_len, ..largest }
}

/// Like lengths meet: the source's bucket first, since most of the work is in the encoder.
fn sort_key(example: &Example) -> (usize, usize, usize) {
    let (source, target) = example.lengths();
    (bucket_len(source), target, source)
}

fn longest(rows: &[Vec<&Example>]) -> (usize, usize) {
    rows.iter().flatten().map(|example| example.lengths()).fold((1, 1), |(src, tgt), (s, t)| (src.max(s), tgt.max(t)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::*;
    use crate::batch::Segments;
    use crate::data::mixture::{Member, MemberPosition, Mixing, Rates, Shuffled, Weighted};
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

    /// The first token of each example of a batch.
    fn ids(batch: &Batch) -> Vec<u32> {
        let starts: Vec<usize> = match &batch.segments {
            None => (0..batch.shape.batch).map(|row| row * batch.shape.src_len).collect(),
            Some(Segments { src, .. }) => (0..src.len())
                .filter(|&i| src[i] > 0 && (i % batch.shape.src_len == 0 || src[i] != src[i - 1]))
                .collect(),
        };
        starts.into_iter().map(|start| batch.src_ids[start]).collect()
    }

    #[test]
    fn every_example_has_its_turn_in_each_pass_and_none_is_twice_in_a_batch() {
        for (count, rows, batching) in [
            (64, 4, BUCKETS),
            (200, 32, BUCKETS),
            (33, 32, BUCKETS),
            (4, 4, BUCKETS),
            (5000, 16, BUCKETS),
            (64, 4, PACKED),
            (500, 4, PACKED),
        ] {
            let mut stream = batches(count, rows, batching, &BatchPosition::default());
            let (mut seen, mut trained) = (vec![0u32; count], 0);
            for _ in 0..200 {
                let batch = stream.next_batch().unwrap();
                assert!(batch.src_lens.iter().all(|&len| len > 0));
                let ids = ids(&batch);
                assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "{count} {rows}: {ids:?}");
                ids.iter().for_each(|&id| seen[id as usize] += 1);
                trained += ids.len();
                let passes = (trained / count) as u32;
                assert!(seen.iter().all(|n| (passes..=passes + 1).contains(n)), "{count} {rows}: {seen:?}");
                assert_eq!(stream.passes(), trained as f64 / count as f64);
            }
        }
    }

    #[test]
    fn a_mixture_counts_what_was_in_batches() {
        let member = |name: &str, first: u32, count: usize| {
            let examples = ramp(count).into_iter().map(|Example { mut source, target }| {
                source[0] += first;
                Example { source, target }
            });
            let member = Member::Examples(Shuffled::new(Arc::new(examples.collect()), 5, 0).unwrap());
            Weighted { name: name.into(), member, size: 1.0, scale: 1.0 }
        };
        let mixing = Mixing { rates: Rates::Equal, ..Mixing::default() };
        let mixture = Mixture::new(vec![member("a", 0, 30), member("b", 30, 1000)], &mixing, 5, 0).unwrap();
        let options = StreamOptions { batch_size: 8, batching: BUCKETS, seed: 5, pad: 0, decoder_start: 0 };
        let mut stream = Batches::new(mixture, options, &BatchPosition::default()).unwrap();
        let mut seen = vec![0u32; 1030];
        for _ in 0..200 {
            let ids = ids(&stream.next_batch().unwrap());
            assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 8, "{ids:?}");
            ids.iter().for_each(|&id| seen[id as usize] += 1);
            let (least, most) = (seen[..30].iter().min().unwrap(), seen[..30].iter().max().unwrap());
            assert!(most - least <= 1, "{seen:?}");
            assert_eq!(stream.passes(), f64::from(seen[..30].iter().sum::<u32>()) / 30.0);
        }
    }

    #[test]
    fn packed_rows_are_full() {
        let mut stream = batches(64, 4, PACKED, &BatchPosition::default());
        let (mut tokens, mut positions) = (0, 0);
        for _ in 0..3 * WINDOW_BATCHES {
            let batch = stream.next_batch().unwrap();
            assert_eq!(batch.shape, stream.largest_shape());
            (tokens, positions) = (tokens + batch.n_tokens(), positions + batch.n_positions());
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
                all.push((whole.next_batch().unwrap(), whole.passes()));
            }
            for (index, place) in places.iter().enumerate().step_by(7).chain([(32, &places[32]), (64, &places[64])]) {
                let mut rest = batches(90, 3, batching, place);
                for expected in all[index..].iter().take(40) {
                    assert_eq!(&(rest.next_batch().unwrap(), rest.passes()), expected);
                }
            }
        }
    }

    #[test]
    fn threads_change_nothing() {
        for batching in [BUCKETS, PACKED] {
            let mut plain = batches(90, 3, batching, &BatchPosition::default());
            let open =
                |threads| Prefetch::new(batches(90, 3, batching, &BatchPosition::default()), threads, Ok).unwrap();
            let mut streams: Vec<Prefetch<Batch>> = (0..3).map(open).collect();
            for _ in 0..100 {
                let batch = plain.next_batch().unwrap();
                for stream in &mut streams {
                    let ready = stream.next_batch().unwrap();
                    assert_eq!((&ready.batch, ready.next, ready.passes), (&batch, plain.position(), plain.passes()));
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
    fn buckets() {
        let lens = [0, 1, 8, 9, 64, 65, 128, 129, 256, 257, 512];
        assert_eq!(lens.map(bucket_len), [8, 8, 8, 16, 64, 80, 128, 160, 256, 320, 512]);
        assert!((1..2000).all(|n| bucket_len(n) >= n && bucket_len(n) <= bucket_len(n + 1)));
        assert!((33..2000).all(|n| bucket_len(n) * 4 <= n * 5));
    }

    #[test]
    fn evaluation_visits_everything_once() {
        let batches = by_length(&ramp(103), 8, 0, 0);
        let tokens: u64 = batches.iter().map(Batch::n_tokens).sum();
        let expected: usize = ramp(103).iter().map(|e| e.source.len() + e.target.len()).sum();
        assert_eq!((batches.len(), tokens), (13, expected as u64));
    }
}
