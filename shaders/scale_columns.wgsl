// out = x, the columns at..at + width of it multiplied by factors.
//
// One invocation per element, 256 a workgroup.

struct Params {
    len: u32,
    cols: u32,
    at: u32,
    width: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>; // [rows, cols]
@group(0) @binding(2) var<storage, read> factors: array<f32>; // [width]
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [rows, cols]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 256u + lane;
    if i >= p.len { return; }
    let col = i % p.cols;
    var v = x[i];
    if col >= p.at && col < p.at + p.width {
        v *= factors[col - p.at];
    }
    out[i] = v;
}
