// factors = beta2 * factors + (1 - beta2) * mean of g^2 + eps1 along each row and each column of each factored tensor.
//
// One workgroup per block of at most 64 neighbouring rows or columns, one invocation per row or column; it adds the
// sums that adafactor_sums.wgsl left for the tiles in its way.

struct Block {
    first: u32, // tile
    stride: u32, // from one tile to the next
    count: u32, // tiles
    lines: u32, // rows or columns
    len: u32, // elements in each of them
    at: u32, // of the first of them in `factors`
    columns: u32, // 1: columns, 0: rows
    padding: u32,
}

struct Params {
    blocks: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> control: Control; // rates: lr, beta2, 1 - beta2, weight decay
@group(0) @binding(2) var<storage, read> blocks: array<Block>; // [blocks]
@group(0) @binding(3) var<storage, read> tile_rows: array<f32>; // [tiles, 64]
@group(0) @binding(4) var<storage, read> tile_cols: array<f32>; // [tiles, 64]
@group(0) @binding(5) var<storage, read_write> factors: array<f32>; // rows, then columns, of each factored tensor

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = p.first_group + group.y * p.grid_x + group.x;
    if index >= p.blocks || control.skipped != 0.0 { return; }
    let block = blocks[index];
    if lane >= block.lines { return; }
    var sum = 0.0;
    for (var i = 0u; i < block.count; i++) {
        let at = (block.first + i * block.stride) * 64u + lane;
        if block.columns == 1u {
            sum += tile_cols[at];
        } else {
            sum += tile_rows[at];
        }
    }
    let at = block.at + lane;
    factors[at] = control.rates.y * factors[at] + control.rates.z * (sum / f32(block.len));
}
