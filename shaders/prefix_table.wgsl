// Where the keys of each row lie: first those of its source, in the row of the cache that its source has, then those of its target, each
// where cache_row says. And at which of these positions the row's newest token stands.
//
// One invocation per place of the table.

struct Params {
    rows: u32,
    len: u32, // positions of a target
    width: u32, // of a source and a target
    sources: u32,
    beams: u32, // rows of the cache to a source
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> pos: array<u32>; // [rows]
@group(0) @binding(2) var<storage, read> cache_row: array<u32>; // [rows, len]
@group(0) @binding(3) var<storage, read> source_of: array<u32>; // [rows]
@group(0) @binding(4) var<storage, read> src_lens: array<u32>; // [sources]
@group(0) @binding(5) var<storage, read_write> at: array<u32>; // [rows]
@group(0) @binding(6) var<storage, read_write> table: array<u32>; // [rows, width]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    let row = i / p.width;
    if row >= p.rows { return; }
    let position = i % p.width;
    let source = min(source_of[row], p.sources - 1u);
    let first = src_lens[source];
    let is_target = position >= first && position - first < p.len;
    let own = cache_row[row * p.len + select(0u, position - first, is_target)];
    table[i] = select(source * p.beams, own, is_target);
    if position == 0u { at[row] = select(p.width, first + pos[row], pos[row] < p.len); }
}
