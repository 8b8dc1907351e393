// Operand `src` read four consecutive elements of a row at a time, at any alignment.
@group(0) @binding(1) var<storage, read> src: array<f32>;

// Elements col .. col+3 of a row, of which only the first `valid` exist; the others are 0.
fn load4(row: u32, col: u32, valid: u32) -> vec4<f32> {
    let i = p.offset + row * p.ld + col;
    var v = vec4<f32>();
    if valid > 0u { v.x = src[i]; }
    if valid > 1u { v.y = src[i + 1u]; }
    if valid > 2u { v.z = src[i + 2u]; }
    if valid > 3u { v.w = src[i + 3u]; }
    return v;
}
