// out[part, col] = sum over the part's rows of x[row, col] (+ out): sums over rows, in as many stages as they need.
//
// One invocation per part and column.

struct Params {
    rows: u32,
    cols: u32,
    part_rows: u32,
    parts: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>; // [rows, cols]
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [parts, cols]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    let part = i / p.cols;
    if part >= p.parts { return; }
    let col = i % p.cols;
    let end = min((part + 1u) * p.part_rows, p.rows);
    var sum = 0.0;
    if ACCUMULATE { sum = out[i]; }
    var row = part * p.part_rows;
    loop {
        if row >= end { break; }
        sum += x[row * p.cols + col];
        row += 1u;
    }
    out[i] = sum;
}
