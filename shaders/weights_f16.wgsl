// Weights of a matmul as f16, eight a load.
const LOAD4 = 2u; // vec4s of weights in a load

// Vec4 i of a load.
fn weights4(load: Load, i: u32) -> vec4<f32> {
    return vec4(unpack2x16float(load[2u * i]), unpack2x16float(load[2u * i + 1u]));
}
