// y = act(h), or gated: y = act(h[:, :n]) * h[:, n:], the hidden layer of T5's feed-forward network.
//
// One invocation per Elem of y. KIND: 0 relu, 1 gelu (tanh form), 2 gelu (erf form), 3 silu.

struct Params {
    rows: u32,
    width: u32, // Elems in a row of y
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> h: array<Elem>; // [rows, width] or gated [rows, 2 width]
@group(0) @binding(2) var<storage, read_write> y: array<Elem>; // [rows, width]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    if i >= p.rows * p.width { return; }
    if GATED {
        let at = i + (i / p.width) * p.width;
        y[i] = activate(h[at]) * h[at + p.width];
    } else {
        y[i] = activate(h[i]);
    }
}
