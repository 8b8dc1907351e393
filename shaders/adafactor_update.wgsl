// The update u = g / sqrt(second moment) of one tile. The moment is factored, row * column / mean row, or whole.
//
// APPLY false: brings whole moments up to date and stores the sum of u^2. APPLY true: takes the step, decay included.
// u is made twice and never stored. One workgroup per tile.

struct Params {
    first: u32, // tile of this window
    count: u32,
    eps1: f32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> control: Control; // rates: lr, beta2, 1 - beta2, weight decay
@group(0) @binding(4) var<storage, read> grads: array<f32>; // the window
@group(0) @binding(5) var<storage, read> factors: array<f32>;
@group(0) @binding(6) var<storage, read_write> params: array<f32>; // the window
@group(0) @binding(7) var<storage, read_write> v: array<f32>; // second moments of the window's unfactored tensors
@group(0) @binding(8) var<storage, read_write> tile_sums: array<f32>; // [tiles]

// The whole second moment of an element, brought up to date in the first of the two passes.
fn moment(at: u32, g: f32) -> f32 {
    if APPLY { return v[at]; }
    let updated = control.rates.y * v[at] + control.rates.z * (g * g + p.eps1);
    v[at] = updated;
    return updated;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = p.first_group + group.y * p.grid_x + group.x;
    if index >= p.count || control.skipped != 0.0 { return; }
    let tile = tiles[p.first + index];
    let piece = pieces[tile.piece];
    let tensor = control.tensors[piece.tensor];
    let row0 = tile.y * 64u + lane / 16u;
    let col0 = tile.x * 64u + lane % 16u;
    var col_factors = array<f32, 4>(1.0, 1.0, 1.0, 1.0);
    if piece.factored == 1u {
        for (var j = 0u; j < 4u; j++) {
            let col = min(col0 + j * 16u, piece.cols - 1u);
            col_factors[j] = inverseSqrt(factors[piece.cols_at + col]);
        }
    }
    var squares = 0.0;
    for (var i = 0u; i < 4u; i++) {
        let row = row0 + i * 16u;
        var row_factor = 1.0;
        if piece.factored == 1u && inside(piece, row, 0u) {
            row_factor = inverseSqrt(factors[piece.rows_at + row] / tensor.x);
        }
        for (var j = 0u; j < 4u; j++) {
            let col = col0 + j * 16u;
            if inside(piece, row, col) {
                let local = row * piece.cols + col;
                let at = piece.offset + local;
                let g = grads[at] * control.scale;
                var u = g * row_factor * col_factors[j];
                if piece.factored == 0u {
                    u *= inverseSqrt(moment(piece.rows_at + local, g));
                }
                squares += u * u;
                if APPLY {
                    params[at] -= tensor.y * control.rates.w * params[at] + tensor.z * u;
                }
            }
        }
    }
    if !APPLY {
        let total = workgroup_sum(squares, lane);
        if lane == 0u {
            tile_sums[tile.id] = total;
        }
    }
}
