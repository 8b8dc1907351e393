// Partial sums of the gradient of scale_columns' factors: parts[part, col] = sum over the part's rows of x dy, in the columns
// at..at + width.
//
// One invocation per column and part; neighbouring invocations take neighbouring columns.

struct Params {
    rows: u32,
    cols: u32,
    at: u32,
    width: u32,
    part_rows: u32,
    parts: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>; // [rows, cols]
@group(0) @binding(2) var<storage, read> dy: array<f32>; // [rows, cols]
@group(0) @binding(3) var<storage, read_write> parts: array<f32>; // [parts, width]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    let part = i / p.width;
    if part >= p.parts { return; }
    let col = p.at + (i % p.width);
    let end = min((part + 1u) * p.part_rows, p.rows);
    var sum = 0.0;
    var row = part * p.part_rows;
    loop {
        if row >= end { break; }
        sum += x[(row * p.cols) + col] * dy[(row * p.cols) + col];
        row += 1u;
    }
    parts[i] = sum;
}
