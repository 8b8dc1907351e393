// parts[first + tile] = sum of (gradient / tokens)^2 over a tile of 16,384 elements of one window.
//
// Gaps between tensors hold zeros, so the window is one flat array. Infinities and NaN carry through the sums.

struct Params {
    len4: u32, // vec4s in the window
    first: u32, // where this window's partial sums begin
    tiles: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> stats: array<f32>; // loss sum, tokens, correct, objective sum
@group(0) @binding(2) var<storage, read> grads: array<vec4<f32>>; // [len4]
@group(0) @binding(3) var<storage, read_write> parts: array<f32>; // [tiles of all windows]

const LANES = 64u;

var<workgroup> sums: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = p.first_group + group.y * p.grid_x + group.x;
    if tile >= p.tiles { return; }
    let per_token = select(0.0, 1.0 / stats[1], stats[1] > 0.0);
    let end = min((tile + 1u) * 4096u, p.len4);
    var sum = 0.0;
    var i = tile * 4096u + lane;
    loop {
        if i >= end { break; }
        let g = grads[i] * per_token;
        sum += dot(g, g);
        i += LANES;
    }
    sums[lane] = sum;
    workgroupBarrier();
    if lane == 0u {
        var total = 0.0;
        for (var l = 0u; l < LANES; l++) { total += sums[l]; }
        parts[p.first + tile] = total;
    }
}
