// Operand `src` read four consecutive elements at a time; rows and offsets are multiples of four.
@group(0) @binding(1) var<storage, read> src: array<vec4<f32>>;

// Elements i .. i+3; `valid` is 0 or at least 4.
fn load4(i: u32, valid: u32) -> vec4<f32> {
    if valid > 0u { return src[i / 4u]; }
    return vec4<f32>();
}
