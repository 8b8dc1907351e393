// c[m, n] = alpha * sum over parts of x[part, m, n] (+ residual) (+ c): the parts of a product whose k was shared out, added
// up in their order.
//
// One invocation makes four columns of a row.

struct Params {
    m: u32,
    n: u32,
    parts: u32,
    ldx4: u32, // vec4s in a row of x
    ldc: u32,
    c_offset: u32,
    alpha: f32,
    rate: f32, // of dropout
    site: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // [parts, m, ldx4]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    if i >= p.m * p.ldx4 { return; }
    var sum = vec4(0.0);
    var part = 0u;
    loop {
        if part >= p.parts { break; }
        sum += x[part * p.m * p.ldx4 + i];
        part += 1u;
    }
    emit4(i / p.ldx4, i % p.ldx4 * 4u, sum);
}
