// out = scale times the columns at..at + width of x.
//
// One invocation per element of out, 256 a workgroup.

struct Params {
    len: u32,
    cols: u32,
    at: u32,
    width: u32,
    scale: f32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>; // [rows, cols]
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [rows, width]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 256u + lane;
    if i >= p.len { return; }
    let row = i / p.width;
    let col = i - (row * p.width);
    out[i] = p.scale * x[(row * p.cols) + p.at + col];
}
