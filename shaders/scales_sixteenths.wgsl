// Scales of packed integers on two levels: 8 bits, with a sign, for every 16, and for every 256 an f16 by which these are multiplied.
const BLOCK = 256u; // elements that have words of scales in common
const SCALE_WORDS = 5u; // words of scales of a block
const SERVED = 64u; // elements that the first of them serves, the second ...
const HAS_LEASTS = false;

// The scale and the least value of element `at` of a block: from the word that serves it, and the block's last word.
fn scale_of(word: u32, last: u32, at: u32) -> vec2<f32> {
    return vec2(unpack2x16float(last).x * f32(unpack4xI8(word)[at / 16u % 4u]), 0.0);
}
