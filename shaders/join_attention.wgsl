// The mean of two attentions' outputs, weighted by the denominators of their softmaxes, of which they give the logarithms.
//
// One invocation an element.

struct Params {
    batch: u32,
    heads: u32,
    q_len: u32,
    width: u32, // elements of a head's row
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<Elem>; // [batch q_len, heads width]
@group(0) @binding(2) var<storage, read> lse_a: array<f32>; // [batch, heads, q_len]
@group(0) @binding(3) var<storage, read> b: array<Elem>; // [batch q_len, heads width]
@group(0) @binding(4) var<storage, read> lse_b: array<f32>; // [batch, heads, q_len]
@group(0) @binding(5) var<storage, read> counts: array<u32>; // [batch], keys that the second attention has
@group(0) @binding(6) var<storage, read_write> out: array<Elem>; // [batch q_len, heads width]

// exp of more has no place in f32, and weighs as much.
const MOST = 80.0;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    let head = (i / p.width) % p.heads;
    let row = i / p.width / p.heads;
    let sequence = row / p.q_len;
    if sequence >= p.batch { return; }
    let at = (sequence * p.heads + head) * p.q_len + row % p.q_len;
    let share = 1.0 / (1.0 + exp(clamp(lse_a[at] - lse_b[at], -MOST, MOST)));
    let second = select(0.0, share, counts[sequence] > 0u);
    out[i] = a[i] * (1.0 - second) + b[i] * second;
}
