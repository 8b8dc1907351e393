// Packed integers from 0 to 15, eight a word: four in the low halves of its bytes, then four in the high ones. As they are read,
// they lie about 0, since sums of numbers that cancel round less.
const IN_WORD = 8u;
const CENTER = 8.0;

// Four integers of a word, less CENTER: its first ones or its second ones.
fn four(word: u32, quad: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8((word >> (4u * quad)) & 0x0f0f0f0fu)) - CENTER;
}
