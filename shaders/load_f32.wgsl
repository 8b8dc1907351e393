// Operand `src` read four consecutive elements at a time, at any alignment.
@group(0) @binding(1) var<storage, read> src: array<f32>;

// Elements i .. i+3, of which only the first `valid` exist; the others are 0.
fn load4(i: u32, valid: u32) -> vec4<f32> {
    var v = vec4<f32>();
    if valid > 0u { v.x = src[i]; }
    if valid > 1u { v.y = src[i + 1u]; }
    if valid > 2u { v.z = src[i + 2u]; }
    if valid > 3u { v.w = src[i + 3u]; }
    return v;
}
