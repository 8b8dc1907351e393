// out[i] = table[ids[i] - first]: the embedding. A table larger than one binding comes in shards of rows; each shard's
// launch writes the rows whose ids it holds.
//
// One invocation per Elem of out. The table may be packed: see load4.

struct Params {
    count: u32,
    width: u32, // Elems in a row
    first: u32, // id of the shard's first row
    rows: u32, // rows of the shard
    ld: u32, // elements from one row of the table to the next, or words from one group of packed rows to the next
    offset: u32, // of the first row
    scales: u32, // from a group of packed rows to its scales
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> ids: array<u32>; // [count]
@group(0) @binding(3) var<storage, read_write> out: array<Elem>; // [count, width]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    let at = i / p.width;
    if at >= p.count { return; }
    let id = ids[at];
    if id >= p.first && id - p.first < p.rows {
        out[i] = first_of(load4(id - p.first, i % p.width * WIDTH, WIDTH));
    }
}
