// Scales of packed integers: an f32 for every 32.
const BLOCK = 32u; // elements that have words of scales in common
const SCALE_WORDS = 1u; // words of scales of a block
const SERVED = 32u; // elements that the first of them serves, the second ...
const HAS_LEASTS = false;

// The scale and the least value of element `at` of a block: from the word that serves it, and the block's last word.
fn scale_of(word: u32, last: u32, at: u32) -> vec2<f32> { return vec2(bitcast<f32>(word), 0.0); }
