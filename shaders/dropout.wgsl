// y = dropout(x) (+ before): each element is zeroed with probability `rate`, the others are scaled by 1 / (1 - rate).
//
// One invocation per element. The mask depends on (seed, step, site, element) alone.

struct Params {
    len: u32,
    site: u32,
    rate: f32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<uniform> key: vec4<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>; // [len]
@group(0) @binding(3) var<storage, read> before: array<f32>; // [len]
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // [len]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    if i >= p.len { return; }
    var v = x[i] * keep(i, p.site, key, p.rate);
    if ADD { v += before[i]; }
    y[i] = v;
}
