// Operand `src` of bf16, the upper halves of f32, in groups of four rows, whose 16 bytes take turns, read four consecutive
// elements of a row at a time.
@group(0) @binding(1) var<storage, read> src: array<vec2<u32>>;

// Elements col .. col+3 of a row; `valid` is 0 or at least 4.
fn load4(row: u32, col: u32, valid: u32) -> vec4<f32> {
    if valid == 0u { return vec4<f32>(); }
    let w = src[row / 4u * (p.ld / 2u) + col / 8u * 8u + row % 4u * 2u + col % 8u / 4u];
    return bitcast<vec4<f32>>(vec4(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u));
}
