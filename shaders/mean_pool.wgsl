// The mean of the first rows of each sequence: one invocation a column of a sequence, which adds its numbers up in order, so
// that neither padding nor other sequences change a bit.

struct Params {
    batch: u32,
    len: u32, // rows of each sequence in x
    cols: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>; // [batch len, cols]
@group(0) @binding(2) var<storage, read> lens: array<u32>; // [batch]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [batch, cols]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    let sequence = i / p.cols;
    if sequence >= p.batch { return; }
    let count = min(lens[sequence], p.len);
    var at = sequence * p.len * p.cols + i % p.cols;
    var sum = 0.0;
    var row = 0u;
    loop {
        if row >= count { break; }
        sum += x[at];
        at += p.cols;
        row += 1u;
    }
    y[i] = sum / f32(max(count, 1u));
}
