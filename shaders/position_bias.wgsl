// bias[head, distance] = table[bucket[distance], head]: T5's relative position bias, unrolled over clamped distances.
//
// One invocation per entry of bias.

struct Params {
    heads: u32,
    distances: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> table: array<f32>; // [buckets, heads]
@group(0) @binding(2) var<storage, read> bucket: array<u32>; // [distances]
@group(0) @binding(3) var<storage, read_write> bias: array<f32>; // [heads, distances]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    let head = i / p.distances;
    if head >= p.heads { return; }
    bias[i] = table[bucket[i % p.distances] * p.heads + head];
}
