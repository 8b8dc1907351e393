// Operands of matmul_shared.wgsl at any alignment.
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;

// Numbers i .. i + 3, zeros in place of those after the first `left`, of which there is at least one.
fn a4(i: u32, left: u32) -> vec4<f32> {
    var v = vec4(a[i], 0.0, 0.0, 0.0);
    if left > 1u { v.y = a[i + 1u]; }
    if left > 2u { v.z = a[i + 2u]; }
    if left > 3u { v.w = a[i + 3u]; }
    return v;
}

fn b4(i: u32, left: u32) -> vec4<f32> {
    var v = vec4(b[i], 0.0, 0.0, 0.0);
    if left > 1u { v.y = b[i + 1u]; }
    if left > 2u { v.z = b[i + 2u]; }
    if left > 3u { v.w = b[i + 3u]; }
    return v;
}
