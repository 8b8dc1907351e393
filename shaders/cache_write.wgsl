// cache[sequence, pos[sequence]] = [k | v] of the sequence's row of qkv: the cache of self-attention grows by a row.
//
// One invocation per Elem written. Positions past the end are dropped.

struct Params {
    batch: u32,
    max_len: u32,
    inner: u32, // Elems in a row of q, of k or of v
    grid_x: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<Elem>; // [batch, 3 inner]
@group(0) @binding(2) var<storage, read> pos: array<u32>; // [batch]
@group(0) @binding(3) var<storage, read_write> cache: array<Elem>; // [batch, max_len, 2 inner]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * p.grid_x + group.x) * 64u + lane;
    let width = 2u * p.inner;
    let sequence = i / width;
    if sequence >= p.batch { return; }
    let at = pos[sequence];
    if at >= p.max_len { return; }
    cache[(sequence * p.max_len + at) * width + i % width] = qkv[sequence * 3u * p.inner + p.inner + i % width];
}
