// The sum of squares over each tile of the tensors of a window. One workgroup per tile.

struct Params {
    first: u32, // tile of this window
    count: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> values: array<f32>; // the window
@group(0) @binding(4) var<storage, read_write> tile_sums: array<f32>; // [tiles]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = p.first_group + group.y * p.grid_x + group.x;
    if index >= p.count { return; }
    let tile = tiles[p.first + index];
    let piece = pieces[tile.piece];
    var squares = 0.0;
    for (var i = lane; i < 4096u; i += 256u) {
        let row = tile.y * 64u + i / 64u;
        let col = tile.x * 64u + i % 64u;
        if inside(piece, row, col) {
            let value = values[piece.offset + row * piece.cols + col];
            squares += value * value;
        }
    }
    let total = workgroup_sum(squares, lane);
    if lane == 0u {
        tile_sums[tile.id] = total;
    }
}
