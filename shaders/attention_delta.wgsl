// stats[row] = (lse, delta), delta = sum over d of dout out: the term that softmax's gradient subtracts.
//
// One invocation per (sequence, head, query).

struct Params {
    batch: u32,
    heads: u32,
    d_kv: u32,
    q_len: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> o: array<f32>; // [batch q_len, heads d_kv]
@group(0) @binding(2) var<storage, read> dout: array<f32>; // [batch q_len, heads d_kv]
@group(0) @binding(3) var<storage, read> lse: array<f32>; // [batch, heads, q_len]
@group(0) @binding(4) var<storage, read_write> stats: array<vec2<f32>>; // [batch, heads, q_len]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    if row >= p.batch * p.heads * p.q_len { return; }
    let i = row % p.q_len;
    let head = (row / p.q_len) % p.heads;
    let sequence = row / p.q_len / p.heads;
    let at = ((sequence * p.q_len + i) * p.heads + head) * p.d_kv;
    var sum = 0.0;
    var d = 0u;
    loop {
        if d >= p.d_kv { break; }
        sum += o[at + d] * dout[at + d];
        d += 1u;
    }
    stats[row] = vec2(lse[row], sum);
}
