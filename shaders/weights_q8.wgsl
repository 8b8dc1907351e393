// Weights of a matmul as 8-bit integers, sixteen a load, half a block; the scales of a group's blocks follow its integers.
const LOAD4 = 4u; // vec4s of weights in a load

@group(0) @binding(6) var<storage, read> b_scales: array<vec4<f32>>; // the memory of b

// Vec4 i of a load, without its scale.
fn weights4(load: Load, i: u32) -> vec4<f32> { return vec4<f32>(unpack4xI8(load[i])); }

// The factors on load k of rows col .. col+3.
fn weight_scales(col: u32, k: u32) -> vec4<f32> { return b_scales[p.b_scales4 + col / 4u * p.ldb4 + k / 2u]; }
