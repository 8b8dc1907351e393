// Keys and values of new tokens, from the end of each row of qkv into the row of the cache that it belongs to, at the row's position.
// A position past the end of the cache writes nothing.
//
// One invocation per number.

struct Params {
    rows: u32,
    inner: u32,
    kv_len: u32,
    together: u32, // neighbouring rows of qkv that belong to one row of the cache
    stride: u32, // from that to the row of the cache of the next ones
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<f32>; // [rows, 3 inner]
@group(0) @binding(2) var<storage, read> pos: array<u32>; // [rows]
@group(0) @binding(3) var<storage, read_write> kv: array<f32>; // [homes, kv_len, 2 inner]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    let width = 2u * p.inner;
    if index >= p.rows * width { return; }
    let row = index / width;
    let column = index % width;
    let at = pos[row];
    if at >= p.kv_len { return; }
    let home = row / p.together * p.stride;
    kv[(home * p.kv_len + at) * width + column] = qkv[row * 3u * p.inner + p.inner + column];
}
