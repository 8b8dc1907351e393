//! Batches: which examples meet in one, in which order batches come, and how they are padded.
//!
//! Micro-batch i of a run belongs to epoch i / batches_per_epoch, so its contents follow from the seed and i alone.

use super::{Example, ExampleSource};
use crate::rng::{Purpose, Rng, permutation};
use crate::{Error, Result};

/// The label of a position that carries no loss.
pub const IGNORE: u32 = u32::MAX;

/// Lengths are never padded to a coarser multiple than this beyond the longest example.
const FINEST: usize = 8;

/// Padded token ids. Rows beyond the examples are empty: source length 0 and all labels [`IGNORE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub batch: usize,
    pub src_len: usize,
    pub tgt_len: usize,
    /// `[batch, src_len]`, padded with the pad id.
    pub src_ids: Vec<u32>,
    /// `[batch]`, tokens of each source.
    pub src_lens: Vec<u32>,
    /// `[batch, tgt_len]`: the decoder's start id, then the target without its last token, then the pad id.
    pub tgt_in: Vec<u32>,
    /// `[batch, tgt_len]`: the target, then [`IGNORE`].
    pub labels: Vec<u32>,
    /// `[batch]`, tokens of each target.
    pub tgt_lens: Vec<u32>,
    /// Which examples of the epoch the rows hold; shorter than `batch` if rows are empty.
    pub examples: Vec<usize>,
}

/// In which order an epoch visits its examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchOrder {
    /// Training: a new random order in every epoch. Examples that do not fill a last batch wait for another epoch.
    Shuffled,
    /// Evaluation: every example once, by length, the same in every epoch; the last batch may be short of rows.
    ByLength,
}

#[derive(Clone, Debug)]
pub struct BatchOptions {
    /// Rows of a (micro-)batch.
    pub batch_size: usize,
    pub seed: u64,
    pub order: BatchOrder,
    /// A shuffled order is sorted by length within windows of so many batches: the larger, the less padding and the more
    /// alike are the examples of a batch.
    pub window_batches: usize,
    pub pad: u32,
    pub decoder_start: u32,
}

/// Which examples make up the batches of one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochBatches {
    batches: Vec<Vec<usize>>,
}

/// The batches of a run by their number, epoch after epoch without end.
pub struct BatchStream<S> {
    source: S,
    options: BatchOptions,
    batches_per_epoch: u64,
    /// A cache only.
    current: Option<Epoch>,
}

struct Epoch {
    number: u64,
    batches: EpochBatches,
    longest: (usize, usize),
}

/// Rounds a length up to a coarse grid, so that few different shapes occur: multiples of 8 up to 64, of 16 up to 128, of
/// 32 up to 256, of 64 above. Wastes at most 25 % above 32 tokens. Never 0.
pub fn bucket_len(len: usize) -> usize {
    let step = match len {
        0..=64 => FINEST,
        65..=128 => 16,
        129..=256 => 32,
        _ => 64,
    };
    len.max(1).next_multiple_of(step)
}

impl Default for BatchOptions {
    /// Pad and decoder start are T5's: both 0.
    fn default() -> Self {
        BatchOptions {
            batch_size: 32,
            seed: 0,
            order: BatchOrder::Shuffled,
            window_batches: 64,
            pad: 0,
            decoder_start: 0,
        }
    }
}

impl Batch {
    /// Pads examples to `shape` = (batch, src_len, tgt_len). Panics if there are more or longer examples than it holds.
    /// `indices` names the examples, one for each.
    #[track_caller]
    pub fn collate(
        examples: &[&Example],
        indices: &[usize],
        shape: (usize, usize, usize),
        pad: u32,
        decoder_start: u32,
    ) -> Batch {
        let (batch, src_len, tgt_len) = shape;
        assert!(examples.len() <= batch, "{} examples in a batch of {batch}", examples.len());
        assert_eq!(examples.len(), indices.len(), "every example has an index");
        let mut out = Batch {
            batch,
            src_len,
            tgt_len,
            src_ids: vec![pad; batch * src_len],
            src_lens: vec![0; batch],
            tgt_in: vec![pad; batch * tgt_len],
            labels: vec![IGNORE; batch * tgt_len],
            tgt_lens: vec![0; batch],
            examples: indices.to_vec(),
        };
        for (row, Example { source, target }) in examples.iter().enumerate() {
            assert!(source.len() <= src_len, "a source of {} tokens in a row of {src_len}", source.len());
            assert!(target.len() <= tgt_len, "a target of {} tokens in a row of {tgt_len}", target.len());
            let (src, tgt) = (row * src_len, row * tgt_len);
            out.src_ids[src..src + source.len()].copy_from_slice(source);
            out.labels[tgt..tgt + target.len()].copy_from_slice(target);
            if let [shifted @ .., _last] = target.as_slice() {
                out.tgt_in[tgt] = decoder_start;
                out.tgt_in[tgt + 1..tgt + target.len()].copy_from_slice(shifted);
            }
            out.src_lens[row] = source.len() as u32;
            out.tgt_lens[row] = target.len() as u32;
        }
        // An empty row still decodes from the start id, as every row does.
        for row in examples.len()..batch {
            if let Some(first) = out.tgt_in.get_mut(row * tgt_len) {
                *first = decoder_start;
            }
        }
        out
    }

    /// (batch, src_len, tgt_len)
    pub fn shape(&self) -> (usize, usize, usize) {
        (self.batch, self.src_len, self.tgt_len)
    }

    /// Labels that carry loss.
    pub fn n_target_tokens(&self) -> usize {
        self.tgt_lens.iter().map(|&len| len as usize).sum()
    }
}

impl EpochBatches {
    /// Deals the examples of an epoch, of the given (source, target) lengths, into batches. Shuffled epochs have
    /// n / batch_size batches (at least 1), all full unless there are fewer examples than one batch holds.
    /// Panics if `batch_size` or `window_batches` is 0 ([`BatchStream::new`] checks them).
    pub fn new(lengths: &[(usize, usize)], options: &BatchOptions, epoch: u64) -> EpochBatches {
        let sort_key = |&index: &usize| (bucket_len(lengths[index].0), lengths[index].1, lengths[index].0);
        match options.order {
            BatchOrder::ByLength => {
                let mut order: Vec<usize> = (0..lengths.len()).collect();
                order.sort_by_key(sort_key);
                EpochBatches { batches: order.chunks(options.batch_size).map(<[usize]>::to_vec).collect() }
            }
            BatchOrder::Shuffled => {
                let shuffled = permutation(options.seed, Purpose::Examples, epoch, lengths.len() as u32);
                let mut order: Vec<usize> = shuffled.into_iter().map(|index| index as usize).collect();
                order.truncate(batch_count(lengths.len(), options) * options.batch_size);
                let mut batches = Vec::new();
                for window in order.chunks_mut(options.window_batches * options.batch_size) {
                    // Stable: examples of equal lengths stay shuffled.
                    window.sort_by_key(sort_key);
                    batches.extend(window.chunks(options.batch_size).map(<[usize]>::to_vec));
                }
                Rng::new(options.seed, Purpose::Batches, &[epoch]).shuffle(&mut batches);
                EpochBatches { batches }
            }
        }
    }

    pub fn n_batches(&self) -> usize {
        self.batches.len()
    }

    /// Indices of the examples of a batch.
    pub fn batch(&self, index: usize) -> &[usize] {
        &self.batches[index]
    }

    pub fn iter(&self) -> impl Iterator<Item = &[usize]> {
        self.batches.iter().map(Vec::as_slice)
    }
}

impl<S: ExampleSource> BatchStream<S> {
    /// Errors with `Input` if there are no examples or more than 2^32, or if the batch size or the window is 0.
    pub fn new(source: S, options: BatchOptions) -> Result<BatchStream<S>> {
        let n = source.len_per_epoch();
        if options.batch_size == 0 || options.window_batches == 0 {
            return Err(Error::Input("the batch size and the sorting window must be at least 1".into()));
        }
        if n == 0 || u32::try_from(n).is_err() {
            return Err(Error::Input(format!("{n} examples: there must be between 1 and 2^32")));
        }
        let batches_per_epoch = batch_count(n, &options) as u64;
        Ok(BatchStream { source, options, batches_per_epoch, current: None })
    }

    pub fn source(&self) -> &S {
        &self.source
    }

    /// The same in every epoch, at least 1.
    pub fn batches_per_epoch(&self) -> u64 {
        self.batches_per_epoch
    }

    /// A shape that every batch of the first epoch fits into.
    pub fn largest_shape(&self) -> (usize, usize, usize) {
        let (src, tgt) = longest(self.source.lengths(0).into_iter());
        let round = |len: usize| len.next_multiple_of(FINEST);
        (self.options.batch_size, round(src), round(tgt))
    }

    /// (epoch, batch in the epoch) of a micro-batch counted from the start of the run.
    pub fn position(&self, micro_batch: u64) -> (u64, usize) {
        (micro_batch / self.batches_per_epoch, (micro_batch % self.batches_per_epoch) as usize)
    }

    /// Micro-batch number `micro_batch` of the run. It always has `batch_size` rows; its lengths are those of its longest
    /// example rounded up by [`bucket_len`], but never beyond the longest example of the epoch rounded up to 8.
    pub fn get(&mut self, micro_batch: u64) -> Result<Batch> {
        let (number, index) = self.position(micro_batch);
        if self.current.as_ref().is_none_or(|epoch| epoch.number != number) {
            self.current = None;
        }
        let (source, options) = (&self.source, &self.options);
        let epoch = self.current.get_or_insert_with(|| Epoch::new(source, options, number));
        let indices = epoch.batches.batch(index);
        let examples: Vec<Example> = indices.iter().map(|&i| source.example(number, i)).collect::<Result<_>>()?;
        let examples: Vec<&Example> = examples.iter().collect();
        let (src, tgt) = longest(examples.iter().map(|example| example.lengths()));
        let shape = (options.batch_size, bucket_len(src).min(epoch.longest.0), bucket_len(tgt).min(epoch.longest.1));
        Ok(Batch::collate(&examples, indices, shape, options.pad, options.decoder_start))
    }
}

impl Epoch {
    fn new<S: ExampleSource>(source: &S, options: &BatchOptions, number: u64) -> Epoch {
        let lengths = source.lengths(number);
        let (src, tgt) = longest(lengths.iter().copied());
        let longest = (src.next_multiple_of(FINEST), tgt.next_multiple_of(FINEST));
        Epoch { number, batches: EpochBatches::new(&lengths, options, number), longest }
    }
}

fn batch_count(examples: usize, options: &BatchOptions) -> usize {
    match options.order {
        BatchOrder::Shuffled => (examples / options.batch_size).max(1),
        BatchOrder::ByLength => examples.div_ceil(options.batch_size),
    }
}

fn longest(lengths: impl Iterator<Item = (usize, usize)>) -> (usize, usize) {
    lengths.fold((1, 1), |(src, tgt), (s, t)| (src.max(s), tgt.max(t)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sources of n tokens and targets of n / 2, n from 2 to 51.
    struct Ramp(usize);

    impl ExampleSource for Ramp {
        fn len_per_epoch(&self) -> usize {
            self.0
        }

        fn lengths(&self, epoch: u64) -> Vec<(usize, usize)> {
            (0..self.0).map(|i| self.example(epoch, i).unwrap().lengths()).collect()
        }

        fn example(&self, _epoch: u64, index: usize) -> Result<Example> {
            let n = 2 + index % 50;
            Ok(Example { source: vec![7; n], target: vec![8; n / 2] })
        }
    }

    fn options(batch_size: usize, order: BatchOrder) -> BatchOptions {
        BatchOptions { batch_size, order, seed: 5, window_batches: 4, ..BatchOptions::default() }
    }

    #[test]
    fn collate_shifts_right_and_pads() {
        let a = Example { source: vec![5, 6, 1], target: vec![7, 8, 1] };
        let b = Example { source: vec![9, 1], target: vec![1] };
        let batch = Batch::collate(&[&a, &b], &[4, 2], (3, 4, 3), 0, 50);
        assert_eq!(batch.src_ids, [5, 6, 1, 0, 9, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(batch.src_lens, [3, 2, 0]);
        assert_eq!(batch.tgt_in, [50, 7, 8, 50, 0, 0, 50, 0, 0]);
        assert_eq!(batch.labels, [7, 8, 1, 1, IGNORE, IGNORE, IGNORE, IGNORE, IGNORE]);
        assert_eq!((batch.tgt_lens.as_slice(), batch.n_target_tokens()), ([3, 1, 0].as_slice(), 4));
        assert_eq!((batch.examples.as_slice(), batch.shape()), ([4, 2].as_slice(), (3, 4, 3)));
    }

    #[test]
    fn collate_refuses_long_examples() {
        let long = Example { source: vec![1; 3], target: vec![1] };
        let panic = std::panic::catch_unwind(|| Batch::collate(&[&long], &[0], (1, 2, 1), 0, 0)).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains("a source of 3 tokens in a row of 2"), "{message}");
    }

    #[test]
    fn buckets() {
        let lens = [0, 1, 8, 9, 64, 65, 128, 129, 256, 257, 512];
        assert_eq!(lens.map(bucket_len), [8, 8, 8, 16, 64, 80, 128, 160, 256, 320, 512]);
        assert!((1..2000).all(|n| bucket_len(n) >= n && bucket_len(n) <= bucket_len(n + 1)));
        assert!((33..2000).all(|n| bucket_len(n) * 4 <= n * 5));
    }

    #[test]
    fn shuffled_epochs_have_equal_counts_and_no_repeats() {
        for (n, batch_size, expected) in [(1, 4, 1), (3, 4, 1), (4, 4, 1), (7, 4, 1), (103, 4, 25), (100, 1, 100)] {
            let options = options(batch_size, BatchOrder::Shuffled);
            for epoch in 0..5 {
                let batches = EpochBatches::new(&Ramp(n).lengths(epoch), &options, epoch);
                assert_eq!(batches.n_batches(), expected);
                let mut seen: Vec<usize> = batches.iter().flatten().copied().collect();
                assert_eq!(seen.len(), (expected * batch_size).min(n));
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen.len(), (expected * batch_size).min(n));
            }
        }
    }

    #[test]
    fn every_example_has_its_turn() {
        let options = options(4, BatchOrder::Shuffled);
        let mut seen: Vec<usize> = (0..40)
            .flat_map(|epoch| EpochBatches::new(&Ramp(7).lengths(epoch), &options, epoch).batch(0).to_vec())
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn sorting_saves_padding() {
        let lengths = Ramp(1000).lengths(0);
        let padded = |window_batches| {
            let options = BatchOptions { window_batches, ..options(8, BatchOrder::Shuffled) };
            let batches = EpochBatches::new(&lengths, &options, 0);
            batches.iter().map(|b| b.len() * b.iter().map(|&i| lengths[i].0).max().unwrap()).sum::<usize>()
        };
        let real: usize = lengths.iter().map(|l| l.0).sum();
        assert!(padded(64) * 100 < real * 112, "{} of {real}", padded(64));
        assert!(padded(1) * 100 > real * 150, "{} of {real}", padded(1));
    }

    #[test]
    fn streams_resume_from_a_number() {
        let mut stream = BatchStream::new(Ramp(103), options(4, BatchOrder::Shuffled)).unwrap();
        assert_eq!(stream.batches_per_epoch(), 25);
        assert_eq!(stream.position(77), (3, 2));
        let run: Vec<Batch> = (0..80).map(|i| stream.get(i).unwrap()).collect();
        for i in [79, 3, 26, 0, 50, 49] {
            let mut resumed = BatchStream::new(Ramp(103), options(4, BatchOrder::Shuffled)).unwrap();
            assert_eq!(resumed.get(i).unwrap(), run[i as usize]);
            assert_eq!(stream.get(i).unwrap(), run[i as usize]);
        }
        assert_ne!(run[0].examples, run[25].examples);
        let other = BatchOptions { seed: 6, ..options(4, BatchOrder::Shuffled) };
        assert_ne!(BatchStream::new(Ramp(103), other).unwrap().get(0).unwrap(), run[0]);
    }

    #[test]
    fn evaluation_visits_everything_once() {
        let mut stream = BatchStream::new(Ramp(103), options(8, BatchOrder::ByLength)).unwrap();
        assert_eq!(stream.batches_per_epoch(), 13);
        let batches: Vec<Batch> = (0..13).map(|i| stream.get(i).unwrap()).collect();
        assert!(batches.iter().all(|b| b.batch == 8));
        assert_eq!(batches[12].examples.len(), 7);
        assert_eq!((batches[12].src_lens[7], batches[12].tgt_lens[7]), (0, 0));
        let mut seen: Vec<usize> = batches.iter().flat_map(|b| b.examples.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..103).collect::<Vec<_>>());
        // 51 tokens would be a bucket of 56, 25 of 32: both are the longest rounded up to 8.
        assert_eq!(batches[12].shape(), (8, 56, 32));
    }

    #[test]
    fn impossible_settings_are_errors() {
        assert!(BatchStream::new(Ramp(0), options(4, BatchOrder::Shuffled)).is_err());
        assert!(BatchStream::new(Ramp(5), options(0, BatchOrder::Shuffled)).is_err());
        let no_window = BatchOptions { window_batches: 0, ..options(4, BatchOrder::Shuffled) };
        assert!(BatchStream::new(Ramp(5), no_window).is_err());
    }
}
