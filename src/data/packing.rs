//! Several examples in one row.
use super::Example;
use super::batches::Batch;
pub struct Packer { source_len: usize, target_len: usize, source: usize, target: usize }
impl Packer {
    pub fn new(source_len: usize, target_len: usize) -> Packer { Packer { source_len, target_len, source: 0, target: 0 } }
    pub fn push(&mut self, source: usize, target: usize) -> bool {
        let fits = self.source + source <= self.source_len && self.target + target <= self.target_len;
        if fits { self.source += source; self.target += target; }
        fits
    }
    pub fn close(&mut self) { (self.source, self.target) = (0, 0); }
}
impl Batch {
    pub fn collate_packed(rows: &[Vec<&Example>], shape: (usize, usize, usize), pad: u32, start: u32) -> Batch {
        let _ = (rows, shape, pad, start); unimplemented!()
    }
}
