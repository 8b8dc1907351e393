// y[i] = x[index[i]], or zeros where the index names no row of x.
//
// One invocation per Elem of y.

struct Params {
    count: u32, // rows of y
    rows: u32, // rows of x
    width: u32, // Elems in a row
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Elem>; // [rows, width]
@group(0) @binding(2) var<storage, read> index: array<u32>; // [count]
@group(0) @binding(3) var<storage, read_write> y: array<Elem>; // [count, width]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    let at = i / p.width;
    if at >= p.count { return; }
    let row = index[at];
    if row < p.rows { y[i] = x[row * p.width + i % p.width]; } else { y[i] = Elem(); }
}
