// Gradient of `activation` with respect to h.
//
// One invocation per Elem of dy; gated, it writes both halves of its dh.

struct Params {
    rows: u32,
    width: u32, // Elems in a row of dy
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> h: array<Elem>; // [rows, width] or gated [rows, 2 width]
@group(0) @binding(2) var<storage, read> dy: array<Elem>; // [rows, width]
@group(0) @binding(3) var<storage, read_write> dh: array<Elem>; // as h

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    if i >= p.rows * p.width { return; }
    if GATED {
        let at = i + (i / p.width) * p.width;
        dh[at] = activate_derivative(h[at]) * h[at + p.width] * dy[i];
        dh[at + p.width] = activate(h[at]) * dy[i];
    } else {
        dh[i] = activate_derivative(h[i]) * dy[i];
    }
}
