//! Element types.

use super::packing::{self, GROUP, Packing};
use crate::error::Result;

/// Element types. Those that share words are the packed ones (see [`Packing`]): only some ops read such operands.
///
/// Values that are packed are rounded to the nearest, halves to even.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    F32,
    U32,
    /// IEEE half precision: 11 bits of significand, up to 65,504.
    F16,
    /// The upper half of an f32: 8 bits of significand, the range of f32.
    Bf16,
    /// Integers from -127 to 127 along a row, with an f32 scale for every [`BLOCK`] of them: llama.cpp's `Q8_0` but for the scale's width.
    Q8,
    /// Integers from 0 to 15, with a scale and a least value for every [`BLOCK`] of them, both f16. llama.cpp's `Q4_0` and `Q4_1` fit in.
    Q4,
    /// As `Q4`, but integers up to 31, held as bytes: llama.cpp's `Q5_1`.
    Q5,
    /// Integers from 0 to 15; every 32 have a scale and a least value of 8 bits, every 256 two f16 by which these are multiplied: llama.cpp's `Q4_K`.
    Q4K,
    /// As `Q4K`, but integers up to 31, held as bytes: llama.cpp's `Q5_K`.
    Q5K,
    /// Integers from -32 to 31, held as bytes; every 16 have a scale of 8 bits, every 256 an f16 by which these are multiplied: llama.cpp's `Q6_K`.
    Q6K,
}

/// Elements that share scales in [`Dtype::Q8`] and [`Dtype::Q4`].
pub const BLOCK: usize = 32;

impl Dtype {
    /// How a packed type lies in memory; none of f32 and u32.
    pub fn packing(self) -> Option<&'static Packing> {
        match self {
            Dtype::F32 | Dtype::U32 => None,
            Dtype::F16 => Some(&packing::F16),
            Dtype::Bf16 => Some(&packing::BF16),
            Dtype::Q8 => Some(&packing::Q8),
            Dtype::Q4 => Some(&packing::Q4),
            Dtype::Q5 => Some(&packing::Q5),
            Dtype::Q4K => Some(&packing::Q4K),
            Dtype::Q5K => Some(&packing::Q5K),
            Dtype::Q6K => Some(&packing::Q6K),
        }
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        self.packing().map_or("f32", |packing| packing.name)
    }

    /// Whether several elements share a word.
    pub fn is_packed(self) -> bool {
        self.packing().is_some()
    }

    /// What the length of a row must be a multiple of.
    pub fn row_multiple(self) -> usize {
        self.packing().map_or(1, Packing::row_multiple)
    }

    /// 32-bit words for a row of `cols` elements, on average over the rows of a group.
    ///
    /// # Panics
    /// If no row of this type has so many elements.
    #[track_caller]
    pub fn row_words(self, cols: usize) -> usize {
        assert!(cols.is_multiple_of(self.row_multiple()), "a row of {cols} elements of type {self:?}");
        self.packing().map_or(cols, |packing| packing.words(cols).iter().sum())
    }

    /// Bytes of a tensor. The last dimension makes the rows.
    #[track_caller]
    pub fn bytes(self, shape: &[usize]) -> u64 {
        let cols = shape.last().copied().unwrap_or(1);
        let rows: usize = shape.iter().rev().skip(1).product();
        let held = if self.is_packed() { rows.next_multiple_of(GROUP) } else { rows };
        4 * (held * self.row_words(cols)) as u64
    }

    /// Rows of `cols` numbers as they lie in memory. f16 and bf16 keep NaN and infinity.
    ///
    /// # Errors
    /// `Numeric` if a finite number is beyond the type's range, or one that is not finite has no place in it; `Input` if
    /// the type is only read.
    ///
    /// # Panics
    /// If the data are no whole rows, or rows cannot have that length.
    #[track_caller]
    pub fn encode(self, cols: usize, data: &[f32]) -> Result<Vec<u32>> {
        assert!(data.len().is_multiple_of(cols), "{} elements in rows of {cols}", data.len());
        assert!(cols.is_multiple_of(self.row_multiple()), "a row of {cols} elements of type {self:?}");
        match self.packing() {
            Some(packing) => packing.encode(cols, data),
            None if self == Dtype::U32 => Ok(data.iter().map(|&x| x as u32).collect()),
            None => Ok(data.iter().map(|x| x.to_bits()).collect()),
        }
    }

    /// The numbers that `rows` rows of `cols` elements in memory stand for.
    #[track_caller]
    pub fn decode(self, rows: usize, cols: usize, words: &[u32]) -> Vec<f32> {
        match self.packing() {
            Some(packing) => packing.decode(rows, cols, words),
            None if self == Dtype::U32 => words.iter().map(|&w| w as f32).collect(),
            None => words.iter().map(|&w| f32::from_bits(w)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    fn round_trip(dtype: Dtype, row: &[f32]) -> Vec<f32> {
        let words = dtype.encode(row.len(), row).unwrap();
        assert_eq!(4 * words.len() as u64, dtype.bytes(&[1, row.len()]));
        dtype.decode(1, row.len(), &words)
    }

    #[test]
    fn halves_round_to_nearest_even() {
        // One unit in the last place is 2^-10 at 1 for f16, 2^-7 for bf16: halfway goes to the even neighbour.
        for (dtype, ulp) in [(Dtype::F16, 2f32.powi(-10)), (Dtype::Bf16, 2f32.powi(-7))] {
            let row = [1.0, 1.0 + ulp, 1.0 + 0.5 * ulp, 1.0 + 1.5 * ulp, 1.0 + 0.51 * ulp, -1.0 - 0.5 * ulp, 0.0, -0.0];
            let expected = [1.0, 1.0 + ulp, 1.0, 1.0 + 2.0 * ulp, 1.0 + ulp, -1.0, 0.0, -0.0];
            let found = round_trip(dtype, &row);
            let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&expected), "{dtype:?}");
        }
    }

    #[test]
    fn what_is_not_finite_stays_so_and_overflow_is_refused() {
        let mut row = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 65_504.0, 65_519.0, 6e-8, -6e-8, 1e-9];
        let found = round_trip(Dtype::F16, &row);
        assert!(found[0].is_nan());
        assert_eq!(found[1..5], [f32::INFINITY, f32::NEG_INFINITY, 65_504.0, 65_504.0]);
        assert_eq!(found[5..], [2f32.powi(-24), -(2f32.powi(-24)), 0.0]);
        assert!(round_trip(Dtype::Bf16, &row)[..3].iter().all(|x| !x.is_finite()));
        row[4] = 65_520.0;
        let message = Dtype::F16.encode(8, &row).unwrap_err().to_string();
        assert!(message.contains("65520"), "{message}");
        assert!(Dtype::Bf16.encode(8, &row).is_ok());
        row[4] = f32::MAX;
        assert!(Dtype::Bf16.encode(8, &row).is_err());
        let mut block = [0.5; BLOCK];
        block[7] = f32::NAN;
        assert!(Dtype::Q8.encode(BLOCK, &block).is_err());
    }

    #[test]
    fn blocks_err_by_half_a_step() {
        let number = |i: usize| ((i * 7919 + 13) % 1000) as f32 / 500.0 - 1.0;
        let (rows, cols) = (5, 3 * BLOCK);
        let data: Vec<f32> = (0..rows * cols).map(|i| number(i) * 10f32.powi((i / BLOCK) as i32 - 4)).collect();
        let words = Dtype::Q8.encode(cols, &data).unwrap();
        // 24 words of integers and 3 scales a row, in whole groups of four rows.
        assert_eq!(words.len(), 8 * 27);
        let found = Dtype::Q8.decode(rows, cols, &words);
        assert_eq!(found.len(), data.len());
        for (block, found) in data.chunks(BLOCK).zip(found.chunks(BLOCK)) {
            let largest = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            for (x, f) in block.iter().zip(found) {
                assert!((x - f).abs() <= 0.5001 * largest / 127.0, "{x} became {f}");
                assert!(x.abs() < largest || (x - f).abs() <= 1e-6 * largest);
            }
        }
    }

    #[test]
    fn rows_lie_in_groups_of_four() {
        // Row r holds 16 r, 16 r + 1, ...: pieces of 8 of each row in turn.
        let data: Vec<f32> = (0..5 * 16).map(|i| i as f32).collect();
        let words = Dtype::F16.encode(16, &data).unwrap();
        let halves: Vec<f32> =
            words.iter().flat_map(|&w| [w as u16, (w >> 16) as u16]).map(|h| f16::from_bits(h).to_f32()).collect();
        assert_eq!(halves[..9], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 16.0]);
        assert_eq!(halves[31..34], [55.0, 8.0, 9.0]);
        assert_eq!(halves[64..73], [64.0, 65.0, 66.0, 67.0, 68.0, 69.0, 70.0, 71.0, 0.0]);
        assert_eq!(Dtype::F16.decode(5, 16, &words), data);
    }

    #[test]
    fn blocks_of_zeros_and_of_tiny_numbers_are_zero_or_close() {
        assert_eq!(round_trip(Dtype::Q8, &[0.0; BLOCK]), [0.0; BLOCK]);
        let found = round_trip(Dtype::Q8, &[1e-40; BLOCK]);
        assert!(found.iter().all(|x| (x - 1e-40).abs() <= 1e-40));
        let found = round_trip(Dtype::Q8, &[f32::MAX; BLOCK]);
        assert!(found.iter().all(|x| x.is_finite()));
    }
}
