//! Packing: several examples in one row, told apart by segment ids, so that short examples waste no padding.

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
    /// Panics if not even an empty row holds the example: the caller has cut or dropped longer ones.
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
