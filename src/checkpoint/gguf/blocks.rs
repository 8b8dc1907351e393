//! Quantized blocks of GGUF: small integers of a row with a common scale, as llama.cpp's ggml lays them out.

use half::f16;

use crate::error::{Error, Result};
use crate::graph::{Dtype, Packing};

/// How the numbers of a row are quantized. A row is a whole number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BlockFormat {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    /// With scales for eight parts of a block, themselves of 6 bits.
    Q4K,
    Q5K,
    /// With scales of 8 bits for sixteen parts.
    Q6K,
}

use BlockFormat::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

impl BlockFormat {
    /// llama.cpp's name.
    pub fn name(self) -> &'static str {
        match self {
            Q4_0 => "Q4_0",
            Q4_1 => "Q4_1",
            Q5_0 => "Q5_0",
            Q5_1 => "Q5_1",
            Q8_0 => "Q8_0",
            Q4K => "Q4_K",
            Q5K => "Q5_K",
            Q6K => "Q6_K",
        }
    }

    /// Numbers of a block.
    pub fn elements(self) -> usize {
        match self {
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 => 32,
            Q4K | Q5K | Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Q4_0 => 18,
            Q4_1 => 20,
            Q5_0 => 22,
            Q5_1 => 24,
            Q8_0 => 34,
            Q4K => 144,
            Q5K => 176,
            Q6K => 210,
        }
    }

    /// The type in which a model holds these numbers, none of them rounded.
    pub fn dtype(self) -> Dtype {
        match self {
            Q4_0 | Q4_1 => Dtype::Q4,
            Q5_0 | Q8_0 => Dtype::Q8,
            Q5_1 => Dtype::Q5,
            Q4K => Dtype::Q4K,
            Q5K => Dtype::Q5K,
            Q6K => Dtype::Q6K,
        }
    }

    fn packing(self) -> &'static Packing {
        self.dtype().packing().unwrap_or_else(|| unreachable!("{} is a type of blocks", self.name()))
    }

    /// The numbers that whole blocks stand for.
    ///
    /// # Panics
    /// If the bytes are no whole blocks, or `out` has not their number of elements.
    #[track_caller]
    pub fn decode(self, blocks: &[u8], out: &mut [f32]) {
        assert!(blocks.len().is_multiple_of(self.bytes()), "{} bytes of {}", blocks.len(), self.name());
        assert_eq!(blocks.len() / self.bytes() * self.elements(), out.len(), "elements of {}", self.name());
        let (mut elements, mut scales) = ([0; 256], [0; 5]);
        for (block, out) in blocks.chunks_exact(self.bytes()).zip(out.chunks_exact_mut(self.elements())) {
            self.take_apart(block, &mut elements, &mut scales);
            self.packing().numbers(&elements, &scales, out);
        }
    }

    /// Blocks of the numbers of whole rows, each rounded as llama.cpp rounds it.
    ///
    /// # Errors
    /// `Numeric` for a number that has no place in a block; `Input` for formats that are only read.
    pub fn encode(self, numbers: &[f32]) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(numbers.len() / self.elements() * self.bytes());
        if let Some(bad) = numbers.iter().find(|x| !x.is_finite()) {
            return Err(Error::Numeric(format!("{bad} has no place in a block of integers")));
        }
        for block in numbers.chunks_exact(self.elements()) {
            let (least, largest) = block.iter().fold((f32::MAX, f32::MIN), |(l, m), &x| (l.min(x), m.max(x)));
            // The larger magnitude, the positive one of equals where it comes first.
            let extreme = block.iter().fold(0.0f32, |m, &x| if x.abs() > m.abs() { x } else { m });
            let (scale, low) = match self {
                Q8_0 => (extreme.abs() / 127.0, None),
                Q4_0 => (extreme / -8.0, None),
                Q4_1 => ((largest - least) / 15.0, Some(least)),
                _ => {
                    return Err(Error::Input(format!(
                        "numbers cannot be turned into {}: it is only read",
                        self.name()
                    )));
                }
            };
            for half in [Some(scale), low].into_iter().flatten() {
                let bits = f16::from_f32(half);
                if !bits.is_finite() {
                    return Err(Error::Numeric(format!("{half} is beyond the range of a block's scale, an f16")));
                }
                out.extend(bits.to_le_bytes());
            }
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            let small = |x: f32| match low {
                Some(low) => ((x - low) * inverse + 0.5).clamp(0.0, 15.0) as u8,
                None => (x * inverse + 8.5).clamp(0.0, 15.0) as u8,
            };
            match self {
                Q8_0 => out.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8)),
                _ => out.extend((0..16).map(|j| small(block[j]) | small(block[j + 16]) << 4)),
            }
        }
        Ok(out)
    }

    /// Where a block has the f16 by which all else is multiplied.
    pub(crate) fn scales_at(self) -> &'static [usize] {
        match self {
            Q4_0 | Q5_0 | Q8_0 => &[0],
            Q4_1 | Q5_1 | Q4K | Q5K => &[0, 2],
            Q6K => &[208],
        }
    }

    /// The first block with a scale that is no finite number, or is beyond what [`BlockFormat::dtype`] holds.
    pub(crate) fn first_bad(self, blocks: &[u8]) -> Option<usize> {
        let most = if self == Q4_0 { f16::MAX.to_f32() / 8.0 } else { f16::MAX.to_f32() };
        let is_fine = |block: &[u8]| {
            self.scales_at().iter().all(|&at| f16::from_le_bytes([block[at], block[at + 1]]).to_f32().abs() <= most)
        };
        blocks.chunks_exact(self.bytes()).position(|block| !is_fine(block))
    }

    /// Rows of whole blocks as they lie in a model's memory, in the type [`BlockFormat::dtype`].
    ///
    /// # Panics
    /// If the bytes are no whole rows of `cols` elements.
    #[track_caller]
    pub fn pack(self, cols: usize, blocks: &[u8]) -> Vec<u32> {
        let packing = self.packing();
        let n = blocks.len() / self.bytes() * self.elements();
        assert!(n.is_multiple_of(cols), "{n} elements in rows of {cols}");
        let mut elements = vec![0; n];
        let mut scales = vec![0; n / packing.block * packing.scale_words];
        let words = self.elements() / packing.block * packing.scale_words;
        let places = elements.chunks_exact_mut(self.elements()).zip(scales.chunks_exact_mut(words));
        for (block, (elements, scales)) in blocks.chunks_exact(self.bytes()).zip(places) {
            self.take_apart(block, elements, scales);
        }
        packing.pack(cols, &elements, &scales)
    }

    /// The elements of a block and the words of its scales, as the packing of [`BlockFormat::dtype`] has them.
    fn take_apart(self, block: &[u8], elements: &mut [u16], scales: &mut [u32]) {
        let half = |at: usize| u32::from(u16::from_le_bytes([block[at], block[at + 1]]));
        let number = |at: usize| f16::from_bits(half(at) as u16).to_f32();
        match self {
            Q4_0 => {
                // 8 stands for 0: a multiple by a power of two, which f16 holds unless it is beyond its range.
                small(elements, &block[2..], None);
                scales[0] = half(0) | u32::from(f16::from_f32(-8.0 * number(0)).to_bits()) << 16;
            }
            Q4_1 => {
                small(elements, &block[4..], None);
                scales[0] = half(0) | half(2) << 16;
            }
            Q5_0 => {
                small(elements, &block[6..], Some(&block[2..6]));
                elements[..32].iter_mut().for_each(|q| *q = u16::from((*q as u8).wrapping_sub(16)));
                scales[0] = number(0).to_bits();
            }
            Q5_1 => {
                small(elements, &block[8..], Some(&block[4..8]));
                scales[0] = half(0) | half(2) << 16;
            }
            Q8_0 => {
                elements.iter_mut().zip(&block[2..]).for_each(|(q, &byte)| *q = byte.into());
                scales[0] = number(0).to_bits();
            }
            Q4K => large(elements, scales, block, &block[16..], None),
            Q5K => large(elements, scales, block, &block[48..], Some(&block[16..48])),
            Q6K => six_bits(elements, scales, block),
        }
    }
}

/// 32 numbers: byte j has the lower bits of j and of j + 16, bit j of `fifth` the fifth bit of j.
fn small(out: &mut [u16], low: &[u8], fifth: Option<&[u8]>) {
    let fifth = |j: usize| fifth.map_or(0, |bits| (bits[j / 8] >> (j % 8) & 1) << 4);
    for j in 0..16 {
        out[j] = (low[j] & 15 | fifth(j)).into();
        out[j + 16] = (low[j] >> 4 | fifth(j + 16)).into();
    }
}

/// 256 numbers in eight parts, each with a scale and a least value of 6 bits. 32 bytes of `low` have the lower bits of two parts;
/// bit p of byte j of `fifth` has the fifth bit of number j of part p.
fn large(out: &mut [u16], scales: &mut [u32], block: &[u8], low: &[u8], fifth: Option<&[u8]>) {
    let packed = &block[4..16];
    scales.fill(0);
    for (part, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, least) = match part {
            0..4 => (packed[part] & 63, packed[part + 4] & 63),
            _ => (packed[part + 4] & 15 | packed[part - 4] >> 6 << 4, packed[part + 4] >> 4 | packed[part] >> 6 << 4),
        };
        scales[part / 2] |= (u32::from(scale) | u32::from(least) << 8) << (part % 2 * 16);
        for (j, q) in out.iter_mut().enumerate() {
            let lower = low[part / 2 * 32 + j] >> (part % 2 * 4) & 15;
            *q = (lower | fifth.map_or(0, |bits| (bits[j] >> part & 1) << 4)).into();
        }
    }
    scales[4] = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
}

/// 256 numbers: 128 bytes of lower bits, 64 of upper ones, 16 scales, the scale of all. Each half of the numbers has its own half
/// of these: number 32 p + j has its lower bits in byte 32 (p mod 2) + j, and its upper ones in byte j from bit 2 p on.
fn six_bits(out: &mut [u16], scales: &mut [u32], block: &[u8]) {
    for (i, q) in out.iter_mut().enumerate() {
        let (half, part, j) = (i / 128, i % 128 / 32, i % 32);
        let low = block[64 * half + 32 * (part % 2) + j] >> (part / 2 * 4) & 15;
        let high = block[128 + 32 * half + j] >> (2 * part) & 3;
        *q = u16::from((low | high << 4).wrapping_sub(32));
    }
    for (word, bytes) in scales.iter_mut().zip(block[192..208].as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    scales[4] = u32::from_le_bytes([block[208], block[209], 0, 0]);
}
