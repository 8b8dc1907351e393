//! Quantized blocks of GGUF: small integers of a row with a common scale, as llama.cpp's ggml lays them out.

use half::f16;

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

    /// The numbers that whole blocks stand for.
    ///
    /// # Panics
    /// If the bytes are no whole blocks, or `out` has not their number of elements.
    #[track_caller]
    pub fn decode(self, blocks: &[u8], out: &mut [f32]) {
        assert!(blocks.len().is_multiple_of(self.bytes()), "{} bytes of {}", blocks.len(), self.name());
        assert_eq!(blocks.len() / self.bytes() * self.elements(), out.len(), "elements of {}", self.name());
        for (block, out) in blocks.chunks_exact(self.bytes()).zip(out.chunks_exact_mut(self.elements())) {
            match self {
                Q4_0 => {
                    let d = half_at(block, 0);
                    small(out, &block[2..], None, |q| (q as f32 - 8.0) * d);
                }
                Q4_1 => {
                    let (d, m) = (half_at(block, 0), half_at(block, 2));
                    small(out, &block[4..], None, |q| q as f32 * d + m);
                }
                Q5_0 => {
                    let d = half_at(block, 0);
                    small(out, &block[6..], Some(&block[2..6]), |q| (q as f32 - 16.0) * d);
                }
                Q5_1 => {
                    let (d, m) = (half_at(block, 0), half_at(block, 2));
                    small(out, &block[8..], Some(&block[4..8]), |q| q as f32 * d + m);
                }
                Q8_0 => {
                    let d = half_at(block, 0);
                    out.iter_mut().zip(&block[2..]).for_each(|(x, &q)| *x = d * f32::from(q as i8));
                }
                Q4K => large(out, block, &block[16..], None),
                Q5K => large(out, block, &block[48..], Some(&block[16..48])),
                Q6K => six_bits(out, block),
            }
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// 32 numbers: byte j has the lower bits of j and of j + 16, bit j of `fifth` the fifth bit of j.
fn small(out: &mut [f32], low: &[u8], fifth: Option<&[u8]>, value: impl Fn(u8) -> f32) {
    let fifth = |j: usize| fifth.map_or(0, |bits| (bits[j / 8] >> (j % 8) & 1) << 4);
    for j in 0..16 {
        out[j] = value(low[j] & 15 | fifth(j));
        out[j + 16] = value(low[j] >> 4 | fifth(j + 16));
    }
}

/// 256 numbers in eight parts, each with a scale and a least value of 6 bits. 32 bytes of `low` have the lower bits of two parts;
/// bit p of byte j of `fifth` has the fifth bit of number j of part p.
fn large(out: &mut [f32], block: &[u8], low: &[u8], fifth: Option<&[u8]>) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let packed = &block[4..16];
    for (part, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, least) = match part {
            0..4 => (packed[part] & 63, packed[part + 4] & 63),
            _ => (packed[part + 4] & 15 | packed[part - 4] >> 6 << 4, packed[part + 4] >> 4 | packed[part] >> 6 << 4),
        };
        let (scale, least) = (d * f32::from(scale), dmin * f32::from(least));
        for (j, x) in out.iter_mut().enumerate() {
            let q = low[part / 2 * 32 + j] >> (part % 2 * 4) & 15;
            let q = q | fifth.map_or(0, |bits| (bits[j] >> part & 1) << 4);
            *x = scale * f32::from(q) - least;
        }
    }
}

/// 256 numbers: 128 bytes of lower bits, 64 of upper ones, 16 scales, the scale of all. Each half of the numbers has its own half
/// of these: number 32 p + j has its lower bits in byte 32 (p mod 2) + j, and its upper ones in byte j from bit 2 p on.
fn six_bits(out: &mut [f32], block: &[u8]) {
    let d = half_at(block, 208);
    for (i, x) in out.iter_mut().enumerate() {
        let (half, part, j) = (i / 128, i % 128 / 32, i % 32);
        let low = block[64 * half + 32 * (part % 2) + j] >> (part / 2 * 4) & 15;
        let high = block[128 + 32 * half + j] >> (2 * part) & 3;
        let scale = block[192 + i / 16] as i8;
        *x = d * f32::from(scale) * (f32::from(low | high << 4) - 32.0);
    }
}
