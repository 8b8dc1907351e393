// dtable[b, head] (+)= sum of dbias[head, distance] over the distances of bucket b.
//
// One invocation per entry of dtable.

struct Params {
    buckets: u32,
    heads: u32,
    distances: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dbias: array<f32>; // [heads, distances]
@group(0) @binding(2) var<storage, read> bucket: array<u32>; // [distances]
@group(0) @binding(3) var<storage, read_write> dtable: array<f32>; // [buckets, heads]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    if i >= p.buckets * p.heads { return; }
    let head = i % p.heads;
    var sum = 0.0;
    if ACCUMULATE { sum = dtable[i]; }
    var d = 0u;
    loop {
        if d >= p.distances { break; }
        if bucket[d] == i / p.heads { sum += dbias[head * p.distances + d]; }
        d += 1u;
    }
    dtable[i] = sum;
}
