// Operand `src` read four consecutive elements of a row at a time; rows and offsets are multiples of four.
@group(0) @binding(1) var<storage, read> src: array<vec4<f32>>;

// Elements col .. col+3 of a row; `valid` is 0 or at least 4.
fn load4(row: u32, col: u32, valid: u32) -> vec4<f32> {
    if valid > 0u { return src[(p.offset + row * p.ld + col) / 4u]; }
    return vec4<f32>();
}
