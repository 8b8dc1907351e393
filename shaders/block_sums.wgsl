// The sums of each sequence's whole blocks of rows; rows behind the last one count to it. One invocation a column of a block,
// which adds its numbers up in order, so that neither padding nor other sequences change a bit.

struct Params {
    batch: u32,
    len: u32, // rows of each sequence in x
    cols: u32,
    block: u32, // rows of a block
    slots: u32, // rows of each sequence in y
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>; // [batch len, cols]
@group(0) @binding(2) var<storage, read> lens: array<u32>; // [batch]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [batch slots, cols]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    let sequence = i / p.cols / p.slots;
    if sequence >= p.batch { return; }
    let own = (i / p.cols) % p.slots;
    let count = min(lens[sequence], p.len);
    let whole = count / p.block;
    // A slot beyond the whole blocks has no rows.
    let end = select(select(0u, count, own + 1u == whole), (own + 1u) * p.block, own + 1u < whole);
    var row = own * p.block;
    var sum = 0.0;
    loop {
        if row >= end { break; }
        sum += x[(sequence * p.len + row) * p.cols + i % p.cols];
        row += 1u;
    }
    y[i] = sum;
}
