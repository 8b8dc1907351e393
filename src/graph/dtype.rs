//! Element types, and how packed ones lie in memory.
//!
//! Weights may be packed: two f16 or bf16 a 32-bit word, or 8-bit integers in blocks of [`BLOCK`] with an f32 scale each
//! (llama.cpp's `q8_0`, but for the scale's width and place). Packed tensors are matrices. Each [`GROUP`] of rows lies
//! together: 16 bytes of its first row, 16 of its second and so on, then the next 16 of each, up to the rows' end; then, where
//! there are scales, those of the rows' first blocks, of their second and so on. A kernel that makes neighbouring columns of a
//! product with one invocation so reads one stream of memory. A last group that is not full is filled up with zeros.
//!
//! Values that are packed are rounded to the nearest, halves to even.

use half::{bf16, f16};

use crate::error::{Error, Result};

/// Element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    F32,
    U32,
    /// IEEE half precision: 11 bits of significand, up to 65,504.
    F16,
    /// The upper half of an f32: 8 bits of significand, the range of f32.
    Bf16,
    /// Integers from -127 to 127 along a row, with a scale for every [`BLOCK`] of them.
    Q8,
}

/// Elements that share a scale in [`Dtype::Q8`].
pub const BLOCK: usize = 32;

/// Rows of a packed matrix that lie together.
pub const GROUP: usize = 4;

/// Words of one row, of those that lie together, before those of the next: 16 bytes, what a kernel loads at once.
const PIECE: usize = 4;

impl Dtype {
    /// Whether several elements share a word; only some ops read such operands.
    pub fn is_packed(self) -> bool {
        !matches!(self, Dtype::F32 | Dtype::U32)
    }

    /// What the length of a row must be a multiple of.
    pub fn row_multiple(self) -> usize {
        match self {
            Dtype::F32 | Dtype::U32 => 1,
            Dtype::F16 | Dtype::Bf16 => 8,
            Dtype::Q8 => BLOCK,
        }
    }

    /// 32-bit words for a row of `cols` elements, on average over the rows of a group.
    ///
    /// # Panics
    /// If no row of this type has so many elements.
    #[track_caller]
    pub fn row_words(self, cols: usize) -> usize {
        assert!(cols.is_multiple_of(self.row_multiple()), "a row of {cols} elements of type {self:?}");
        match self {
            Dtype::F32 | Dtype::U32 => cols,
            Dtype::F16 | Dtype::Bf16 => cols / 2,
            Dtype::Q8 => cols / 4 + cols / BLOCK,
        }
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
    /// `Numeric` if a finite number is beyond the type's range, or one that is not finite has no place in it.
    ///
    /// # Panics
    /// If the data are no whole rows, or rows cannot have that length.
    #[track_caller]
    pub fn encode(self, cols: usize, data: &[f32]) -> Result<Vec<u32>> {
        assert!(data.len().is_multiple_of(cols), "{} elements in rows of {cols}", data.len());
        let row_words = self.row_words(cols);
        let halves = |words: Vec<u32>| interleave(data.len() / cols, &[(&words, row_words, PIECE)]);
        Ok(match self {
            Dtype::F32 => data.iter().map(|x| x.to_bits()).collect(),
            Dtype::U32 => data.iter().map(|&x| x as u32).collect(),
            Dtype::F16 => {
                halves(encode_halves(data, |x| f16::from_f32(x).to_bits(), |bits| f16::from_bits(bits).is_infinite())?)
            }
            Dtype::Bf16 => halves(encode_halves(
                data,
                |x| bf16::from_f32(x).to_bits(),
                |bits| bf16::from_bits(bits).is_infinite(),
            )?),
            Dtype::Q8 => {
                let (integers, scales) = encode_q8(data)?;
                interleave(data.len() / cols, &[(&integers, cols / 4, PIECE), (&scales, cols / BLOCK, 1)])
            }
        })
    }

    /// The numbers that `rows` rows of `cols` elements in memory stand for.
    #[track_caller]
    pub fn decode(self, rows: usize, cols: usize, words: &[u32]) -> Vec<f32> {
        let group = GROUP * self.row_words(cols);
        let halves = |decode: fn(u16) -> f32| -> Vec<f32> {
            let words = (0..rows).flat_map(|row| words_of_row(words, row, group, cols / 2));
            words.flat_map(|w| [decode(w as u16), decode((w >> 16) as u16)]).collect()
        };
        match self {
            Dtype::F32 => words.iter().map(|&w| f32::from_bits(w)).collect(),
            Dtype::U32 => words.iter().map(|&w| w as f32).collect(),
            Dtype::F16 => halves(|bits| f16::from_bits(bits).to_f32()),
            Dtype::Bf16 => halves(|bits| bf16::from_bits(bits).to_f32()),
            Dtype::Q8 => {
                let of_row = |row: usize| {
                    let scales = row / GROUP * group + cols / 4 * GROUP + row % GROUP;
                    let integers = words_of_row(words, row, group, cols / 4).flat_map(u32::to_le_bytes);
                    let scale = move |i: usize| f32::from_bits(words[scales + i / BLOCK * GROUP]);
                    integers.enumerate().map(move |(i, byte)| f32::from(byte as i8) * scale(i))
                };
                (0..rows).flat_map(of_row).collect()
            }
        }
    }
}

/// Groups of rows out of parts (words row by row, words in a row, words of a row that stay together), one part after the
/// other in each group.
fn interleave(rows: usize, parts: &[(&[u32], usize, usize)]) -> Vec<u32> {
    let mut out =
        Vec::with_capacity(parts.iter().map(|(_, row_words, _)| rows.next_multiple_of(GROUP) * row_words).sum());
    for first in (0..rows).step_by(GROUP) {
        for &(words, row_words, piece) in parts {
            for at in (0..row_words).step_by(piece) {
                for row in first..first + GROUP {
                    match words.get(row * row_words + at..) {
                        Some(rest) if row < rows => out.extend_from_slice(&rest[..piece]),
                        _ => out.extend(std::iter::repeat_n(0, piece)),
                    }
                }
            }
        }
    }
    out
}

/// The first `count` words of one row, in groups of `group` words.
fn words_of_row(words: &[u32], row: usize, group: usize, count: usize) -> impl Iterator<Item = u32> {
    let start = row / GROUP * group + row % GROUP * PIECE;
    (0..count).map(move |i| words[start + i / PIECE * (PIECE * GROUP) + i % PIECE])
}

/// Two numbers a word, the first in the lower half.
fn encode_halves(data: &[f32], encode: fn(f32) -> u16, is_infinite: fn(u16) -> bool) -> Result<Vec<u32>> {
    let half = |&x: &f32| {
        let bits = encode(x);
        if is_infinite(bits) && x.is_finite() {
            return Err(Error::Numeric(format!("{x} is beyond its range")));
        }
        Ok(u32::from(bits))
    };
    let pair = |pair: &[f32]| Ok(half(&pair[0])? | half(&pair[1])? << 16);
    data.chunks_exact(2).map(pair).collect()
}

/// Integers, four a word, and the bits of the scales, row by row. The largest magnitude of a block becomes 127.
fn encode_q8(data: &[f32]) -> Result<(Vec<u32>, Vec<u32>)> {
    let (mut words, mut scales) = (Vec::with_capacity(data.len() / 4), Vec::with_capacity(data.len() / BLOCK));
    for block in data.chunks_exact(BLOCK) {
        let largest = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        if let Some(bad) = block.iter().find(|x| !x.is_finite()) {
            return Err(Error::Numeric(format!("{bad} has no place in a block of integers")));
        }
        // 127 times the scale must not overflow.
        let scale = (largest / 127.0).min(f32::MAX / 127.5);
        // A scale so small that it has no reciprocal stands for numbers that are 0 next to any others.
        let inverse = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
        let integer = |x: f32| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
        words.extend(block.chunks_exact(4).map(|four| u32::from_le_bytes([0, 1, 2, 3].map(|i| integer(four[i])))));
        scales.push(scale.to_bits());
    }
    Ok((words, scales))
}

#[cfg(test)]
mod tests {
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
