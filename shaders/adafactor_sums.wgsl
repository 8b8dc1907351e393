// Sums over one tile: of g^2 + eps1 along its rows and along its columns, and of the squared parameters.
//
// g is the mean gradient after clipping. One workgroup per tile.

struct Params {
    first: u32, // tile of this window
    count: u32,
    eps1: f32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> control: Control;
@group(0) @binding(4) var<storage, read> grads: array<f32>; // the window
@group(0) @binding(5) var<storage, read> params: array<f32>; // the window
@group(0) @binding(6) var<storage, read_write> tile_rows: array<f32>; // [tiles, 64]
@group(0) @binding(7) var<storage, read_write> tile_cols: array<f32>; // [tiles, 64]
@group(0) @binding(8) var<storage, read_write> tile_sums: array<f32>; // [tiles]

var<workgroup> by_row: array<f32, 1024>; // [16, 64 rows]
var<workgroup> by_col: array<f32, 1024>; // [16, 64 columns]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = p.first_group + group.y * p.grid_x + group.x;
    if index >= p.count { return; }
    let tile = tiles[p.first + index];
    let piece = pieces[tile.piece];
    let y = lane / 16u;
    let x = lane % 16u;
    var squares = 0.0;
    var col_sums = array<f32, 4>();
    for (var i = 0u; i < 4u; i++) {
        let row = tile.y * 64u + i * 16u + y;
        var row_sum = 0.0;
        for (var j = 0u; j < 4u; j++) {
            let col = tile.x * 64u + j * 16u + x;
            if inside(piece, row, col) {
                let at = piece.offset + row * piece.cols + col;
                let g = grads[at] * control.scale;
                let g2 = g * g + p.eps1;
                row_sum += g2;
                col_sums[j] += g2;
                squares += params[at] * params[at];
            }
        }
        by_row[x * 64u + i * 16u + y] = row_sum;
    }
    for (var j = 0u; j < 4u; j++) {
        by_col[y * 64u + j * 16u + x] = col_sums[j];
    }
    // Its barriers make by_row and by_col whole as well.
    let total = workgroup_sum(squares, lane);
    if lane == 0u {
        tile_sums[tile.id] = total;
    }
    if piece.factored == 0u || lane >= 128u { return; }
    let line = lane % 64u;
    var sum = 0.0;
    if lane < 64u {
        for (var i = 0u; i < 16u; i++) {
            sum += by_row[i * 64u + line];
        }
        tile_rows[tile.id * 64u + line] = sum;
    } else {
        for (var i = 0u; i < 16u; i++) {
            sum += by_col[i * 64u + line];
        }
        tile_cols[tile.id * 64u + line] = sum;
    }
}
