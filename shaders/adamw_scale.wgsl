// One AdamWScale step on one window: an Adam step of each tensor relative to the root mean square of its parameters, then
// weight decay. One workgroup per tile of 64 x 64 elements.

struct Params {
    first: u32, // tile of this window
    count: u32,
    beta1: f32,
    beta1_rest: f32, // 1 - beta1
    beta2: f32,
    beta2_rest: f32, // 1 - beta2
    eps: f32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
// rates.y: lr * weight decay; tensors[i].y: lr * sqrt(1 - beta2^t) / (1 - beta1^t) * root mean square
@group(0) @binding(3) var<storage, read> control: Control;
@group(0) @binding(4) var<storage, read> grads: array<f32>; // the window
@group(0) @binding(5) var<storage, read_write> params: array<f32>; // the window
@group(0) @binding(6) var<storage, read_write> m: array<f32>; // moments of the window's tensors in turn
@group(0) @binding(7) var<storage, read_write> v: array<f32>; // the same

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = p.first_group + group.y * p.grid_x + group.x;
    if index >= p.count || control.skipped != 0.0 { return; }
    let tile = tiles[p.first + index];
    let piece = pieces[tile.piece];
    let size = control.tensors[piece.tensor].y;
    for (var i = lane; i < 4096u; i += 256u) {
        let row = tile.y * 64u + i / 64u;
        let col = tile.x * 64u + i % 64u;
        if inside(piece, row, col) {
            let element = row * piece.cols + col;
            let at = piece.offset + element;
            let moment = piece.rows_at + element;
            let g = grads[at] * control.scale;
            let first = p.beta1 * m[moment] + p.beta1_rest * g;
            let second = p.beta2 * v[moment] + p.beta2_rest * g * g;
            m[moment] = first;
            v[moment] = second;
            let stepped = params[at] - size * (first / (sqrt(second) + p.eps));
            params[at] = stepped - control.rates.y * stepped;
        }
    }
}
