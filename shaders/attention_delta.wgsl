// stats[row] = (lse, delta), delta = sum over d of dout out: the term that softmax's gradient subtracts.
//
// LANES invocations per (sequence, head, query): neighbours read neighbours.

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

var<workgroup> shares: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let row = (p.first_group + group.y * p.grid_x + group.x) * (64u / LANES) + index / LANES;
    let lane = index % LANES;
    let rows = p.batch * p.heads * p.q_len;
    // A row past the end reads the last one again.
    let i = min(row, rows - 1u) % p.q_len;
    let head = (min(row, rows - 1u) / p.q_len) % p.heads;
    let sequence = min(row, rows - 1u) / p.q_len / p.heads;
    let at = ((sequence * p.q_len + i) * p.heads + head) * p.d_kv;
    var sum = 0.0;
    var d = lane;
    loop {
        if d >= p.d_kv { break; }
        sum += o[at + d] * dout[at + d];
        d += LANES;
    }
    if LANES > 1u {
        shares[index] = sum;
        workgroupBarrier();
        sum = 0.0;
        for (var l = 0u; l < LANES; l++) { sum += shares[index - lane + l]; }
    }
    if lane == 0u && row < rows { stats[row] = vec2(lse[row], sum); }
}
