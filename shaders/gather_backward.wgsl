// dtable[id - first] (+)= sum of dy over the positions of id: the gradient of the embedding, without atomics.
//
// The host has grouped the positions by id (`GatherIndex`), so that one row of invocations adds up one id's positions in
// a fixed order. One invocation per distinct id and Elem. A dispatch adds up at most `most` positions of each id.

struct Params {
    count: u32, // positions
    width: u32, // Elems in a row
    first: u32, // id of the shard's first row
    rows: u32, // rows of the shard
    skip: u32, // positions of each id that earlier dispatches have added up
    most: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<Elem>; // [count, width]
@group(0) @binding(2) var<storage, read> index: array<u32>; // [order: count][id: count][start: count + 1]
@group(0) @binding(3) var<storage, read_write> dtable: array<Elem>; // [rows, width]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    let distinct = i / p.width;
    if distinct >= p.count { return; }
    let id = index[p.count + distinct];
    if id < p.first || id - p.first >= p.rows { return; }
    var k = index[2u * p.count + distinct] + p.skip;
    let end = min(k + p.most, index[2u * p.count + distinct + 1u]);
    if k >= end { return; }
    let col = i % p.width;
    let at = (id - p.first) * p.width + col;
    var sum = dtable[at];
    loop {
        if k >= end { break; }
        sum += dy[index[k] * p.width + col];
        k += 1u;
    }
    dtable[at] = sum;
}
