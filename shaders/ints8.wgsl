// Packed integers of 8 bits, four a word.
const IN_WORD = 4u;
const CENTER = 0.0;

// Four integers of a word: its only ones.
fn four(word: u32, quad: u32) -> vec4<f32> { return vec4<f32>(unpack4xI8(word)); }
