//! The batches of a run: an endless stream over a mixture, by length or packed, that goes on from any batch.
//!
//! Examples are drawn in windows of some batches' rows. Within a window rows meet others of like length and batches come in
//! a random order, both by the seed and the window's number: where a window began and how many of its batches are used is
//! all that a resumed run needs to know.

use serde::{Deserialize, Serialize};

use super::batches::{Batch, bucket_len};
use super::mixture::{Mixture, MixturePosition};
use super::packing::Packer;
use super::Example;
use crate::rng::{Purpose, Rng};
use crate::{Error, Result};

/// Lengths are never padded to a coarser multiple than this beyond the longest example.
const FINEST: usize = 8;

/// Batches in a window: the more, the less padding, and the longer until the first batch is made.
const WINDOW_BATCHES: usize = 32;

/// How examples become rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Batching {
    /// An example a row; examples of like length meet in a batch, whose rows are padded to the longest.
    #[default]
    Buckets,
    /// As many examples as fit into rows of a fixed size, told apart by segment ids; next-fit in the order of arrival
    /// (seqio's `trim_and_pack_dataset`).
    Packed { source_len: usize, target_len: usize },
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
    /// An example that opens the next window, and where the mixture was before it was drawn.
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
    /// `Input`: a batch size of 0, or packed rows that an example does not fit into.
    pub fn new(mixture: Mixture, options: StreamOptions, position: &BatchPosition) -> Result<Batches> {
        if options.batch_size == 0 {
            return Err(Error::Input("the batch size must be at least 1".into()));
        }
        let (source, target) = mixture.longest();
        if let Batching::Packed { source_len, target_len } = options.batching
            && (source > source_len || target > target_len)
        {
            return Err(Error::Input(format!(
                "the longest example has {source} source and {target} target tokens: it does not fit into packed rows of \
                 {source_len} and {target_len}; use longer rows or a lower limit on the examples"
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
    pub fn next(&mut self) -> Result<Batch> {
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
        let StreamOptions { batch_size, pad, decoder_start, .. } = self.options;
        match self.options.batching {
            Batching::Packed { source_len, target_len } => {
                let rows: Vec<Vec<&Example>> = rows.iter().map(|row| row.iter().collect()).collect();
                Batch::collate_packed(&rows, (batch_size, source_len, target_len), pad, decoder_start)
            }
            Batching::Buckets => {
                let examples: Vec<&Example> = rows.iter().flatten().collect();
                let (src, tgt) = longest(&examples);
                let shape = (batch_size, bucket_len(src).min(self.longest.0), bucket_len(tgt).min(self.longest.1));
                Batch::collate(&examples, shape, pad, decoder_start)
            }
        }
    }

    /// The batches of the window that begins where the mixture stands.
    fn fill(&mut self) -> Result<Vec<Vec<Row>>> {
        let count = WINDOW_BATCHES * self.options.batch_size;
        let mut rows = match self.options.batching {
            Batching::Buckets => {
                (0..count).map(|_| Ok(vec![self.mixture.next()?.1])).collect::<Result<Vec<Row>>>()?
            }
            Batching::Packed { source_len, target_len } => self.pack(count, Packer::new(source_len, target_len))?,
        };
        // Stable: rows of equal lengths stay in their random order. Packed rows are all of one shape.
        if self.options.batching == Batching::Buckets {
            rows.sort_by_key(|row| {
                let (source, target) = longest(&row.iter().collect::<Vec<_>>());
                (bucket_len(source), target, source)
            });
        }
        let mut batches = Vec::with_capacity(WINDOW_BATCHES);
        let mut rows = rows.into_iter();
        for _ in 0..WINDOW_BATCHES {
            batches.push(rows.by_ref().take(self.options.batch_size).collect());
        }
        Rng::new(self.options.seed, Purpose::Batches, &[self.at.window]).shuffle(&mut batches);
        Ok(batches)
    }

    /// Packs rows until so many are closed. The example that does not fit any more opens the next window.
    fn pack(&mut self, count: usize, mut packer: Packer) -> Result<Vec<Row>> {
        let mut rows: Vec<Row> = vec![Row::new()];
        loop {
            let (example, before) = match self.carried.take() {
                Some(carried) => carried,
                None => {
                    let before = self.mixture.position();
                    (self.mixture.next()?.1, before)
                }
            };
            let (source, target) = example.lengths();
            if !packer.push(source, target) {
                if rows.len() == count {
                    self.carried = Some((example, before));
                    return Ok(rows);
                }
                packer.close();
                packer.push(source, target);
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
    order.sort_by_key(|example| {
        let (source, target) = example.lengths();
        (bucket_len(source), target, source)
    });
    let (src, tgt) = longest(&order);
    let (most_src, most_tgt) = (src.next_multiple_of(FINEST), tgt.next_multiple_of(FINEST));
    let collate = |examples: &[&Example]| {
        let (src, tgt) = longest(examples);
        let shape = (batch_size, bucket_len(src).min(most_src), bucket_len(tgt).min(most_tgt));
        Batch::collate(examples, shape, pad, decoder_start)
    };
    order.chunks(batch_size.max(1)).map(collate).collect()
}

fn longest(examples: &[&Example]) -> (usize, usize) {
    examples.iter().map(|example| example.lengths()).fold((1, 1), |(src, tgt), (s, t)| (src.max(s), tgt.max(t)))
}
