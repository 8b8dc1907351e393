//! Examples as token ids, and batches of them padded to a shape: what the data hand to a model.

/// The label of a position that carries no loss.
pub const IGNORE: u32 = u32::MAX;

/// One source and its target as token ids; both end with EOS, neither holds padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub source: Vec<u32>,
    pub target: Vec<u32>,
}

impl Example {
    /// (source tokens, target tokens), EOS included.
    pub fn lengths(&self) -> (usize, usize) {
        (self.source.len(), self.target.len())
    }
}

/// Sizes of a batch: every row is padded to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchShape {
    pub batch: usize,
    pub src_len: usize,
    pub tgt_len: usize,
    /// Whether a row may hold several examples, each of which sees itself alone.
    pub packed: bool,
}

/// Which example of its row a position belongs to, counted from 1; 0 is padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    /// `[batch, src_len]`
    pub src: Vec<u32>,
    /// `[batch, tgt_len]`
    pub tgt: Vec<u32>,
}

/// Padded token ids: one example a row, or several if the shape is packed. Rows beyond the examples are empty: source
/// length 0 and all labels [`IGNORE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub shape: BatchShape,
    /// `[batch, src_len]`, padded with the pad id.
    pub src_ids: Vec<u32>,
    /// `[batch]`, tokens of each row's source, or sources if it holds several.
    pub src_lens: Vec<u32>,
    /// `[batch, tgt_len]`: for each target the decoder's start id, then the target without its last token; at the end the pad
    /// id.
    pub tgt_in: Vec<u32>,
    /// `[batch, tgt_len]`: the targets; at the end [`IGNORE`].
    pub labels: Vec<u32>,
    /// `[batch]`, tokens of each row's target or targets.
    pub tgt_lens: Vec<u32>,
    /// `Some` if the shape is packed.
    pub segments: Option<Segments>,
}

impl Batch {
    /// Lays rows of examples out, one example after the other from each row's start. Panics if there are more or longer rows
    /// than the shape holds, and if a row of a shape that is not packed has more than one example.
    #[track_caller]
    pub fn collate(rows: &[Vec<&Example>], shape: BatchShape, pad: u32, decoder_start: u32) -> Batch {
        let BatchShape { batch, src_len, tgt_len, packed } = shape;
        assert!(rows.len() <= batch, "{} rows in a batch of {batch}", rows.len());
        let mut src_ids = vec![pad; batch * src_len];
        let mut tgt_in = vec![pad; batch * tgt_len];
        let mut labels = vec![IGNORE; batch * tgt_len];
        let mut segments = packed.then(|| Segments { src: vec![0; batch * src_len], tgt: vec![0; batch * tgt_len] });
        let (mut src_lens, mut tgt_lens) = (vec![0; batch], vec![0; batch]);
        for (r, row) in rows.iter().enumerate() {
            assert!(packed || row.len() <= 1, "row {r} has {} examples, and the shape is not packed", row.len());
            let (mut source_at, mut target_at) = (r * src_len, r * tgt_len);
            for (segment, Example { source, target }) in (1..).zip(row) {
                let (src, tgt) = (source_at..source_at + source.len(), target_at..target_at + target.len());
                assert!(src.end <= (r + 1) * src_len, "row {r} has more than {src_len} source tokens");
                assert!(tgt.end <= (r + 1) * tgt_len, "row {r} has more than {tgt_len} target tokens");
                (source_at, target_at) = (src.end, tgt.end);
                src_ids[src.clone()].copy_from_slice(source);
                labels[tgt.clone()].copy_from_slice(target);
                if let [shifted @ .., _last] = target.as_slice() {
                    tgt_in[tgt.start] = decoder_start;
                    tgt_in[tgt.start + 1..tgt.end].copy_from_slice(shifted);
                }
                if let Some(segments) = &mut segments {
                    segments.src[src].fill(segment);
                    segments.tgt[tgt].fill(segment);
                }
            }
            src_lens[r] = (source_at - r * src_len) as u32;
            tgt_lens[r] = (target_at - r * tgt_len) as u32;
        }
        Batch { shape, src_ids, src_lens, tgt_in, labels, tgt_lens, segments }
    }

    /// Source and target tokens, padding not counted.
    pub fn n_tokens(&self) -> u64 {
        self.src_lens.iter().chain(&self.tgt_lens).map(|&len| u64::from(len)).sum()
    }

    /// Source and target positions, padding counted.
    pub fn n_positions(&self) -> u64 {
        (self.shape.batch * (self.shape.src_len + self.shape.tgt_len)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collate_shifts_right_and_pads() {
        let a = Example { source: vec![5, 6, 1], target: vec![7, 8, 1] };
        let b = Example { source: vec![9, 1], target: vec![1] };
        let shape = BatchShape { batch: 3, src_len: 4, tgt_len: 3, packed: false };
        let batch = Batch::collate(&[vec![&a], vec![&b]], shape, 0, 50);
        assert_eq!(batch.src_ids, [5, 6, 1, 0, 9, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(batch.src_lens, [3, 2, 0]);
        assert_eq!(batch.tgt_in, [50, 7, 8, 50, 0, 0, 0, 0, 0]);
        assert_eq!(batch.labels, [7, 8, 1, 1, IGNORE, IGNORE, IGNORE, IGNORE, IGNORE]);
        assert_eq!(batch.tgt_lens, [3, 1, 0]);
        assert_eq!((batch.n_tokens(), batch.n_positions()), (9, 21));
    }

    #[test]
    fn collate_refuses_what_the_shape_does_not_hold() {
        let long = Example { source: vec![1; 3], target: vec![1] };
        let message = |rows: &[Vec<&Example>], src_len| {
            let shape = BatchShape { batch: 1, src_len, tgt_len: 2, packed: false };
            let panic = std::panic::catch_unwind(|| Batch::collate(rows, shape, 0, 0)).unwrap_err();
            *panic.downcast::<String>().unwrap()
        };
        assert_eq!(message(&[vec![&long]], 2), "row 0 has more than 2 source tokens");
        assert_eq!(message(&[vec![&long, &long]], 9), "row 0 has 2 examples, and the shape is not packed");
        assert_eq!(message(&[vec![&long], vec![&long]], 9), "2 rows in a batch of 1");
    }
}
