// Operand `src` of packed integers in groups of four rows, whose 16 bytes take turns, with the scales of their blocks behind
// them, read four consecutive elements of a row at a time.
@group(0) @binding(1) var<storage, read> src: array<u32>;

// Elements col .. col+3 of a row; `valid` is 0 or at least 4.
fn load4(row: u32, col: u32, valid: u32) -> vec4<f32> {
    if valid == 0u { return vec4<f32>(); }
    let group = row / 4u * p.ld;
    let scales = group + p.scales + col / BLOCK * (4u * SCALE_WORDS) + row % 4u;
    let at = col % BLOCK;
    let scale = scale_of(src[scales + at / SERVED * 4u], src[scales + 4u * (SCALE_WORDS - 1u)], at);
    let piece = group + col / (4u * IN_WORD) * 16u + row % 4u * 4u;
    let word = src[piece + col % (4u * IN_WORD) / IN_WORD];
    return scale.x * (four(word, col % IN_WORD / 4u) + CENTER) + scale.y;
}
