// Scales of packed integers on two levels: 8 bits of a scale and 8 of a least value for every 32, and for every 256 two f16 by
// which these are multiplied. The least value is subtracted.
const BLOCK = 256u; // elements that have words of scales in common
const SCALE_WORDS = 5u; // words of scales of a block
const SERVED = 64u; // elements that the first of them serves, the second ...
const HAS_LEASTS = true;

// The scale and the least value of element `at` of a block: from the word that serves it, and the block's last word.
fn scale_of(word: u32, last: u32, at: u32) -> vec2<f32> {
    let levels = word >> (at / 32u % 2u * 16u);
    return unpack2x16float(last) * vec2(1.0, -1.0) * vec2<f32>(vec2(levels & 255u, (levels >> 8u) & 255u));
}
