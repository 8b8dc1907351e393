//! How packed types lie in memory: a record for each.
//!
//! A packed tensor is a matrix. Each [`GROUP`] of rows lies together: 16 bytes of its first row, 16 of its second and so on, then the
//! next 16 of each, up to the rows' end; then, where there are scales, the first word of them of each row, their second word and so
//! on. A kernel that makes neighbouring columns of a product with one invocation so reads one stream of memory. A last group that
//! is not full is filled up with zeros.

use half::{bf16, f16};

use crate::error::{Error, Result};

/// Rows of a packed matrix that lie together.
pub const GROUP: usize = 4;

/// Words of one row, of those that lie together, before those of the next: 16 bytes, what a kernel loads at once.
const PIECE: usize = 4;

/// A packed type: elements of a few bits, and the scales of blocks of them.
pub struct Packing {
    /// What people call it.
    pub name: &'static str,
    /// Bits of an element: 4, 8 or 16.
    pub bits: usize,
    /// Elements of a row that have scales in common. A row is a whole number of them.
    pub block: usize,
    /// Words of scales of a block.
    pub scale_words: usize,
    /// How shaders unpack it: parts for those that read single elements (`load4`), and for products of few rows.
    pub load_parts: &'static [&'static str],
    pub weights_parts: &'static [&'static str],
    /// The number that an element stands for: its bits, the words of its block's scales, its place in the block.
    value: fn(u16, &[u32], usize) -> f32,
    /// Turns the numbers of a block into elements and scales; `None` for types that are only read.
    quantize: Option<Quantize>,
}

type Quantize = fn(&[f32], &mut [u16], &mut [u32]) -> Result<()>;

macro_rules! part {
    ($name:literal) => {
        include_str!(concat!("../../shaders/", $name, ".wgsl"))
    };
}

/// The parts of a type of integers: how they are unpacked, and what their scales mean.
macro_rules! integers {
    ($ints:literal, $scales:literal) => {
        (
            &[part!($ints), part!($scales), part!("load_ints")],
            &[part!("weights_packed"), part!($ints), part!($scales), part!("weights_ints")],
        )
    };
}

const HALVES: Packing = Packing {
    name: "f16",
    bits: 16,
    block: 8,
    scale_words: 0,
    load_parts: &[part!("load_f16")],
    weights_parts: &[part!("weights_packed"), part!("no_scales"), part!("weights_f16")],
    value: |bits, _, _| f16::from_bits(bits).to_f32(),
    quantize: Some(|numbers, elements, _| {
        halves(numbers, elements, |x| f16::from_f32(x).to_bits(), f16::INFINITY.to_bits())
    }),
};

pub(super) static F16: Packing = HALVES;

pub(super) static BF16: Packing = Packing {
    name: "bf16",
    load_parts: &[part!("load_bf16")],
    weights_parts: &[part!("weights_packed"), part!("no_scales"), part!("weights_bf16")],
    value: |bits, _, _| bf16::from_bits(bits).to_f32(),
    quantize: Some(|numbers, elements, _| {
        halves(numbers, elements, |x| bf16::from_f32(x).to_bits(), bf16::INFINITY.to_bits())
    }),
    ..HALVES
};

const Q8_PARTS: (&[&str], &[&str]) = integers!("ints8", "scales_f32");
pub(super) static Q8: Packing = Packing {
    name: "int8",
    bits: 8,
    block: 32,
    scale_words: 1,
    load_parts: Q8_PARTS.0,
    weights_parts: Q8_PARTS.1,
    value: |bits, scales, _| f32::from_bits(scales[0]) * f32::from(bits as u8 as i8),
    quantize: Some(quantize_q8),
};

const Q5_PARTS: (&[&str], &[&str]) = integers!("ints8", "scales_pair");
const PAIR: Packing = Packing {
    name: "GGUF's Q5_1",
    bits: 8,
    block: 32,
    scale_words: 1,
    load_parts: Q5_PARTS.0,
    weights_parts: Q5_PARTS.1,
    value: |bits, scales, _| {
        let (scale, least) = pair(scales[0]);
        scale * f32::from(bits) + least
    },
    quantize: None,
};

pub(super) static Q5: Packing = PAIR;

const Q4_PARTS: (&[&str], &[&str]) = integers!("ints4", "scales_pair");
pub(super) static Q4: Packing = Packing {
    name: "int4",
    bits: 4,
    load_parts: Q4_PARTS.0,
    weights_parts: Q4_PARTS.1,
    quantize: Some(quantize_q4),
    ..PAIR
};

const Q4K_PARTS: (&[&str], &[&str]) = integers!("ints4", "scales_levels");
const LEVELS: Packing = Packing {
    name: "GGUF's Q4_K",
    bits: 4,
    block: 256,
    scale_words: 5,
    load_parts: Q4K_PARTS.0,
    weights_parts: Q4K_PARTS.1,
    value: |bits, scales, at| {
        let [scale, least, ..] = (scales[at / 64] >> (16 * (at / 32 % 2))).to_le_bytes();
        let (d, dmin) = pair(scales[4]);
        d * f32::from(scale) * f32::from(bits) - dmin * f32::from(least)
    },
    quantize: None,
};

pub(super) static Q4K: Packing = LEVELS;

const Q5K_PARTS: (&[&str], &[&str]) = integers!("ints8", "scales_levels");
pub(super) static Q5K: Packing =
    Packing { name: "GGUF's Q5_K", bits: 8, load_parts: Q5K_PARTS.0, weights_parts: Q5K_PARTS.1, ..LEVELS };

const Q6K_PARTS: (&[&str], &[&str]) = integers!("ints8", "scales_sixteenths");
pub(super) static Q6K: Packing = Packing {
    name: "GGUF's Q6_K",
    bits: 8,
    load_parts: Q6K_PARTS.0,
    weights_parts: Q6K_PARTS.1,
    value: |bits, scales, at| {
        let scale = scales[at / 64].to_le_bytes()[at / 16 % 4] as i8;
        pair(scales[4]).0 * f32::from(scale) * f32::from(bits as u8 as i8)
    },
    ..LEVELS
};

impl Packing {
    /// Elements of 16 bytes of a row: what a kernel for few rows loads at once.
    pub fn load_len(&self) -> usize {
        PIECE * self.in_word()
    }

    fn in_word(&self) -> usize {
        32 / self.bits
    }

    /// Where element `i` of a word lies in it.
    fn shift(&self, i: usize) -> usize {
        match self.bits {
            // The low halves of four bytes, then the high ones: each four are unpacked at once.
            4 => i % 4 * 8 + i / 4 * 4,
            bits => i * bits,
        }
    }

    /// What a row must be a multiple of: whole blocks, and whole pieces.
    pub fn row_multiple(&self) -> usize {
        self.block.max(self.load_len())
    }

    /// Words of a row's elements, and of its scales.
    pub fn words(&self, cols: usize) -> [usize; 2] {
        [cols / self.in_word(), cols / self.block * self.scale_words]
    }

    /// Rows of `cols` elements and of the words of their scales, as they lie in memory.
    pub fn pack(&self, cols: usize, elements: &[u16], scales: &[u32]) -> Vec<u32> {
        let word =
            |of: &[u16]| of.iter().enumerate().fold(0, |word, (i, &bits)| word | u32::from(bits) << self.shift(i));
        let words: Vec<u32> = elements.chunks_exact(self.in_word()).map(word).collect();
        let [row_words, row_scales] = self.words(cols);
        interleave(elements.len() / cols, &[(&words, row_words, PIECE), (scales, row_scales, 1)])
    }

    /// The numbers that the elements of whole blocks, with the words of their scales, stand for.
    pub fn numbers(&self, elements: &[u16], scales: &[u32], out: &mut [f32]) {
        for (i, (bits, x)) in elements.iter().zip(out).enumerate() {
            *x = (self.value)(*bits, &scales[i / self.block * self.scale_words..], i % self.block);
        }
    }

    /// The numbers that `rows` rows of `cols` elements in memory stand for.
    pub(super) fn decode(&self, rows: usize, cols: usize, words: &[u32]) -> Vec<f32> {
        let [row_words, row_scales] = self.words(cols);
        let group = GROUP * (row_words + row_scales);
        let (in_word, mask) = (self.in_word(), (1u32 << self.bits) - 1);
        let mut out = Vec::with_capacity(rows * cols);
        let mut scales = vec![0; self.scale_words];
        for row in 0..rows {
            let first = row / GROUP * group;
            for at in 0..cols {
                let (block, in_block) = (at / self.block, at % self.block);
                if in_block == 0 {
                    for (i, scale) in scales.iter_mut().enumerate() {
                        let place = GROUP * (row_words + block * self.scale_words + i) + row % GROUP;
                        *scale = words[first + place];
                    }
                }
                let (word, i) = (at / in_word, at % in_word);
                let piece = word / PIECE * (PIECE * GROUP) + row % GROUP * PIECE + word % PIECE;
                let bits = words[first + piece] >> self.shift(i) & mask;
                out.push((self.value)(bits as u16, &scales, in_block));
            }
        }
        out
    }

    /// Rows of `cols` numbers as they lie in memory.
    pub(super) fn encode(&self, cols: usize, data: &[f32]) -> Result<Vec<u32>> {
        let Some(quantize) = self.quantize else {
            return Err(Error::Input(format!("numbers cannot be turned into {}: it is only read", self.name)));
        };
        let mut elements = vec![0; data.len()];
        let mut scales = vec![0; data.len() / self.block * self.scale_words];
        for (i, (numbers, elements)) in
            data.chunks_exact(self.block).zip(elements.chunks_exact_mut(self.block)).enumerate()
        {
            let scales = &mut scales[i * self.scale_words..(i + 1) * self.scale_words];
            quantize(numbers, elements, scales)?;
        }
        Ok(self.pack(cols, &elements, &scales))
    }
}

impl std::fmt::Debug for Packing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
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

/// Both halves of a word, as f16.
fn pair(word: u32) -> (f32, f32) {
    (f16::from_bits(word as u16).to_f32(), f16::from_bits((word >> 16) as u16).to_f32())
}

/// NaN and infinity stay what they are. `infinity`: its bits, without a sign.
fn halves(numbers: &[f32], elements: &mut [u16], encode: fn(f32) -> u16, infinity: u16) -> Result<()> {
    for (x, bits) in numbers.iter().zip(elements) {
        *bits = encode(*x);
        if *bits & 0x7fff == infinity && x.is_finite() {
            return Err(Error::Numeric(format!("{x} is beyond its range")));
        }
    }
    Ok(())
}

fn expect_finite(numbers: &[f32]) -> Result<()> {
    match numbers.iter().find(|x| !x.is_finite()) {
        Some(bad) => Err(Error::Numeric(format!("{bad} has no place in a block of integers"))),
        None => Ok(()),
    }
}

/// The largest magnitude of a block becomes 127.
fn quantize_q8(numbers: &[f32], elements: &mut [u16], scales: &mut [u32]) -> Result<()> {
    expect_finite(numbers)?;
    let largest = numbers.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    // 127 times the scale must not overflow.
    let scale = (largest / 127.0).min(f32::MAX / 127.5);
    // A scale so small that it has no reciprocal stands for numbers that are 0 next to any others.
    let inverse = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
    for (x, element) in numbers.iter().zip(elements) {
        *element = u16::from((x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8);
    }
    scales[0] = scale.to_bits();
    Ok(())
}

/// The least number of a block becomes 0, the largest 15.
fn quantize_q4(numbers: &[f32], elements: &mut [u16], scales: &mut [u32]) -> Result<()> {
    expect_finite(numbers)?;
    let (least, largest) = numbers.iter().fold((f32::MAX, f32::MIN), |(l, m), &x| (l.min(x), m.max(x)));
    let half = |x: f32| {
        let half = f16::from_f32(x);
        let beyond = || Error::Numeric(format!("{x} is beyond the range of a block's scale, an f16"));
        if half.is_finite() { Ok(half) } else { Err(beyond()) }
    };
    let (scale, low) = (half((largest - least) / 15.0)?, half(least)?);
    // Elements follow from what the scale and the least number have become.
    let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
    for (x, element) in numbers.iter().zip(elements) {
        *element = ((x - low.to_f32()) * inverse).round_ties_even().clamp(0.0, 15.0) as u16;
    }
    scales[0] = u32::from(scale.to_bits()) | u32::from(low.to_bits()) << 16;
    Ok(())
}
