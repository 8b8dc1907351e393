//! Packing: several examples in one row, told apart by segment ids, so that short examples waste no padding.

use std::ops::Range;

use super::{Batch, Example, IGNORE};

/// Which example of its row a position belongs to, counted from 1; 0 is padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    /// `[batch, src_len]`
    pub src: Vec<u32>,
    /// `[batch, tgt_len]`
    pub tgt: Vec<u32>,
}

/// The row that is being filled: it takes examples in their order until one does not fit (next-fit, as SeqIO packs).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packer {
    src_len: usize,
    tgt_len: usize,
    source: usize,
    target: usize,
}

impl Packer {
    /// An empty row for so many source and target tokens.
    pub fn new(src_len: usize, tgt_len: usize) -> Packer {
        Packer { src_len, tgt_len, source: 0, target: 0 }
    }

    /// Whether an example of so many source and target tokens still fits into the row.
    pub fn fits(&self, source: usize, target: usize) -> bool {
        source <= self.src_len - self.source && target <= self.tgt_len - self.target
    }

    /// Puts an example into the row. Where it does not fit, the row is closed, and the example is the first of a new one:
    /// then the answer is true.
    ///
    /// Panics if not even an empty row holds the example: whoever packs has cut or dropped what is too long.
    #[track_caller]
    pub fn push(&mut self, source: usize, target: usize) -> bool {
        let is_new = !self.fits(source, target);
        if is_new {
            *self = Packer::new(self.src_len, self.tgt_len);
            let (src_len, tgt_len) = (self.src_len, self.tgt_len);
            assert!(self.fits(source, target), "{source} and {target} tokens in a row of {src_len} and {tgt_len}");
        }
        self.source += source;
        self.target += target;
        is_new
    }
}

/// Deals examples of these (source, target) lengths out to rows of (source, target) tokens; each row is a run of examples.
/// Panics as [`Packer::push`] does.
#[track_caller]
pub fn next_fit(lengths: &[(usize, usize)], row: (usize, usize)) -> Vec<Range<usize>> {
    let mut packer = Packer::new(row.0, row.1);
    let mut starts = Vec::new();
    for (i, &(source, target)) in lengths.iter().enumerate() {
        if packer.push(source, target) || i == 0 {
            starts.push(i);
        }
    }
    let ends = starts.iter().skip(1).copied().chain([lengths.len()]);
    starts.iter().zip(ends).map(|(&start, end)| start..end).collect()
}

impl Batch {
    /// Lays rows of examples out in `shape` = (batch, src_len, tgt_len), one example after the other from each row's start.
    /// A target is shifted right within its own segment. Panics if there are more or longer rows than the shape holds.
    #[track_caller]
    pub fn collate_packed(rows: &[Vec<&Example>], shape: (usize, usize, usize), pad: u32, decoder_start: u32) -> Batch {
        let (batch, src_len, tgt_len) = shape;
        assert!(rows.len() <= batch, "{} rows in a batch of {batch}", rows.len());
        let mut src_ids = vec![pad; batch * src_len];
        let mut tgt_in = vec![pad; batch * tgt_len];
        let mut labels = vec![IGNORE; batch * tgt_len];
        let mut segments = Segments { src: vec![0; batch * src_len], tgt: vec![0; batch * tgt_len] };
        let (mut src_lens, mut tgt_lens) = (vec![0; batch], vec![0; batch]);
        for (r, row) in rows.iter().enumerate() {
            let (mut source_at, mut target_at) = (r * src_len, r * tgt_len);
            for (segment, Example { source, target }) in (1..).zip(row) {
                let (src, tgt) = (source_at..source_at + source.len(), target_at..target_at + target.len());
                assert!(src.end <= (r + 1) * src_len, "row {r} has more than {src_len} source tokens");
                assert!(tgt.end <= (r + 1) * tgt_len, "row {r} has more than {tgt_len} target tokens");
                src_ids[src.clone()].copy_from_slice(source);
                labels[tgt.clone()].copy_from_slice(target);
                if let [shifted @ .., _last] = target.as_slice() {
                    tgt_in[tgt.start] = decoder_start;
                    tgt_in[tgt.start + 1..tgt.end].copy_from_slice(shifted);
                }
                segments.src[src].fill(segment);
                segments.tgt[tgt].fill(segment);
                source_at += source.len();
                target_at += target.len();
            }
            src_lens[r] = (source_at - r * src_len) as u32;
            tgt_lens[r] = (target_at - r * tgt_len) as u32;
        }
        let segments = Some(segments);
        Batch { batch, src_len, tgt_len, src_ids, src_lens, tgt_in, labels, tgt_lens, segments }
    }
}
