// Weights of a matmul as bf16, the upper halves of f32, eight a load.
const LOAD4 = 2u; // vec4s of weights in a load

// Vec4 i of a load.
fn weights4(load: Load, i: u32) -> vec4<f32> {
    let lower = load[2u * i];
    let upper = load[2u * i + 1u];
    return bitcast<vec4<f32>>(vec4(lower << 16u, lower & 0xffff0000u, upper << 16u, upper & 0xffff0000u));
}
