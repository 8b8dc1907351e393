// What the attention kernels share: one group of invocations works on tiles of TILE queries x TILE keys of one
// (sequence, head). Rows of q, k and v are strided, so that fused projections are read where they lie. T5 does not scale
// the scores by 1 / sqrt(d_kv).

struct Params {
    batch: u32,
    heads: u32,
    d_kv: u32,
    d4: u32, // vec4s in a head's row, the last one perhaps in part
    q_len: u32,
    kv_len: u32,
    q_ld: u32, // elements from one row to the next
    q_offset: u32,
    kv_ld: u32,
    k_offset: u32,
    v_offset: u32,
    out_ld: u32,
    out_offset: u32,
    second_offset: u32, // of dv, where dk and dv go to one matrix
    reach: u32, // largest distance that the bias tells apart
    site: u32,
    rate: f32,
    tile: u32, // TILE; a run-time bound, since some compilers unroll every constant one
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;

const MASKED = -1e30;
const LEAST = -5e29; // below all scores, above MASKED: what is hidden weighs nothing even where nothing is seen
const TILE = 4u * SIDE;

// Which (sequence, head, tile) a group has; `valid` is false for surplus groups.
struct Work {
    sequence: u32,
    head: u32,
    first: u32, // row or key of the tile
    valid: bool,
}

fn work(group: vec3<u32>, len: u32) -> Work {
    let index = p.first_group + group.y * p.grid_x + group.x;
    let tiles = (len + TILE - 1u) / TILE;
    let head = (index / tiles) % p.heads;
    let sequence = index / tiles / p.heads;
    return Work(sequence, head, (index % tiles) * TILE, sequence < p.batch);
}

// Element offsets of a head's row; positions past the end read the last row.
fn q_at(w: Work, i: u32) -> u32 {
    return (w.sequence * p.q_len + min(i, p.q_len - 1u)) * p.q_ld + p.q_offset + w.head * p.d_kv;
}
fn k_at(w: Work, j: u32) -> u32 {
    return (w.sequence * p.kv_len + min(j, p.kv_len - 1u)) * p.kv_ld + p.k_offset + w.head * p.d_kv;
}
fn v_at(w: Work, j: u32) -> u32 {
    return (w.sequence * p.kv_len + min(j, p.kv_len - 1u)) * p.kv_ld + p.v_offset + w.head * p.d_kv;
}
// The attention output and its gradient are dense: [batch q_len, heads d_kv].
fn o_at(w: Work, i: u32) -> u32 {
    return ((w.sequence * p.q_len + min(i, p.q_len - 1u)) * p.heads + w.head) * p.d_kv;
}

// The part for the mask gives `Mask`, what is known of the four positions of its own that an invocation has; `walk_of`, from
// where to where the group walks (over keys if the kernel WALKS_KEYS, else over queries); and `is_hidden`, where `slot` is
// the own position of the pair.

// Row of the per-query statistics.
fn stat_row(w: Work, i: u32) -> u32 {
    return (w.sequence * p.heads + w.head) * p.q_len + i;
}
