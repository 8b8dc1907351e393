// Weights of a matmul as packed integers; the scales of a group's blocks follow its integers.
const LOAD4 = IN_WORD; // vec4s of weights in a load of four words

@group(0) @binding(6) var<storage, read> b_scales: array<vec4<u32>>; // the memory of b

// Vec4 i of a load, without its scale.
fn weights4(load: Load, i: u32) -> vec4<f32> { return four(load[i * 4u / IN_WORD], i % (IN_WORD / 4u)); }

// The scales of load k of rows col .. col+3.
fn weight_scales(col: u32, k: u32) -> Scales {
    let at = k * LOAD4 * 4u % BLOCK;
    let first = p.b_scales4 + col / 4u * p.ldb4 + k * LOAD4 * 4u / BLOCK * SCALE_WORDS;
    let words = b_scales[first + at / SERVED];
    let last = b_scales[first + SCALE_WORDS - 1u];
    let x = scale_of(words.x, last.x, at);
    let y = scale_of(words.y, last.y, at);
    let z = scale_of(words.z, last.z, at);
    let w = scale_of(words.w, last.w, at);
    let factors = vec4(x.x, y.x, z.x, w.x);
    return Scales(factors, vec4(x.y, y.y, z.y, w.y) + CENTER * factors);
}
