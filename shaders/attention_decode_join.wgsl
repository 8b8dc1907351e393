// out = the parts of attention_decode's sums put together: each is scaled from its own maximum to the largest.
//
// One invocation per number of out.

struct Params {
    rows: u32, // batch heads
    d_kv: u32,
    pitch: u32, // numbers in a row of a part
    parts: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> sums: array<f32>; // [rows, parts, pitch]
@group(0) @binding(2) var<storage, read> stats: array<vec2<f32>>; // [rows, parts] of (maximum, denominator)
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [rows, d_kv]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    let row = i / p.d_kv;
    if row >= p.rows { return; }
    var top = stats[row * p.parts].x;
    var part = 1u;
    loop {
        if part >= p.parts { break; }
        top = max(top, stats[row * p.parts + part].x);
        part += 1u;
    }
    var sum = 0.0;
    var total = 0.0;
    part = 0u;
    loop {
        if part >= p.parts { break; }
        let at = row * p.parts + part;
        let share = exp(stats[at].x - top);
        sum += share * sums[at * p.pitch + i % p.d_kv];
        total += share * stats[at].y;
        part += 1u;
    }
    // A sequence of no keys attends to nothing.
    out[i] = sum * select(0.0, 1.0 / total, total > 0.0);
}
