//! Batches: how examples are padded to a common shape.

use super::{Example, Segments};

/// The label of a position that carries no loss.
pub const IGNORE: u32 = u32::MAX;

/// Lengths are never padded to a coarser multiple than this beyond the longest example.
const FINEST: usize = 8;

/// Padded token ids: one example a row, or several ([`Batch::collate_packed`]). Rows beyond the examples are empty: source
/// length 0 and all labels [`IGNORE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub batch: usize,
    pub src_len: usize,
    pub tgt_len: usize,
    /// `[batch, src_len]`, padded with the pad id.
    pub src_ids: Vec<u32>,
    /// `[batch]`, tokens of each row's source, or sources if it holds several.
    pub src_lens: Vec<u32>,
    /// `[batch, tgt_len]`: the decoder's start id, then the target without its last token; at the end the pad id.
    pub tgt_in: Vec<u32>,
    /// `[batch, tgt_len]`: the target; at the end [`IGNORE`].
    pub labels: Vec<u32>,
    /// `[batch]`, tokens of each row's target or targets.
    pub tgt_lens: Vec<u32>,
    /// Where a row holds several examples: which of them each position belongs to.
    pub segments: Option<Segments>,
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

impl Batch {
    /// Pads examples to `shape` = (batch, src_len, tgt_len). Panics if there are more or longer examples than it holds.
    #[track_caller]
    pub fn collate(examples: &[&Example], shape: (usize, usize, usize), pad: u32, decoder_start: u32) -> Batch {
        let (batch, src_len, tgt_len) = shape;
        assert!(examples.len() <= batch, "{} examples in a batch of {batch}", examples.len());
        let mut out = Batch {
            batch,
            src_len,
            tgt_len,
            src_ids: vec![pad; batch * src_len],
            src_lens: vec![0; batch],
            tgt_in: vec![pad; batch * tgt_len],
            labels: vec![IGNORE; batch * tgt_len],
            tgt_lens: vec![0; batch],
            segments: None,
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

    /// Source and target tokens, padding not counted.
    pub fn n_tokens(&self) -> u64 {
        let sources: u64 = self.src_lens.iter().map(|&len| u64::from(len)).sum();
        sources + self.n_target_tokens() as u64
    }

    /// Source and target positions, padding counted.
    pub fn n_positions(&self) -> u64 {
        (self.batch * (self.src_len + self.tgt_len)) as u64
    }

    /// The share of source and target positions that are padding.
    pub fn padding(&self) -> f64 {
        1.0 - self.n_tokens() as f64 / self.n_positions().max(1) as f64
    }

    /// Labels that carry loss.
    pub fn n_target_tokens(&self) -> usize {
        self.tgt_lens.iter().map(|&len| len as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collate_shifts_right_and_pads() {
        let a = Example { source: vec![5, 6, 1], target: vec![7, 8, 1] };
        let b = Example { source: vec![9, 1], target: vec![1] };
        let batch = Batch::collate(&[&a, &b], (3, 4, 3), 0, 50);
        assert_eq!(batch.src_ids, [5, 6, 1, 0, 9, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(batch.src_lens, [3, 2, 0]);
        assert_eq!(batch.tgt_in, [50, 7, 8, 50, 0, 0, 50, 0, 0]);
        assert_eq!(batch.labels, [7, 8, 1, 1, IGNORE, IGNORE, IGNORE, IGNORE, IGNORE]);
        assert_eq!((batch.tgt_lens.as_slice(), batch.n_target_tokens()), ([3, 1, 0].as_slice(), 4));
        assert_eq!((batch.shape(), batch.n_tokens(), batch.n_positions()), ((3, 4, 3), 9, 21));
    }

    #[test]
    fn collate_refuses_long_examples() {
        let long = Example { source: vec![1; 3], target: vec![1] };
        let panic = std::panic::catch_unwind(|| Batch::collate(&[&long], (1, 2, 1), 0, 0)).unwrap_err();
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
}
