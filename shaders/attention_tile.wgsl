// What the tiled attention kernels share: a workgroup of SIDE x SIDE invocations works on tiles of 4 SIDE queries x
// 4 SIDE keys, each invocation on 4 x 4 of them. Rows of q, k and v are strided, so that fused projections are read where they lie. T5 does not scale
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
}

@group(0) @binding(0) var<uniform> p: Params;

const MASKED = -1e30;
const TILE = 4u * SIDE;
const PITCH = TILE + 1u; // of tiles in workgroup memory

// Which (sequence, head, tile) a workgroup has; `valid` is false for surplus workgroups.
struct Work {
    sequence: u32,
    head: u32,
    first: u32, // row or key of the tile
    valid: bool,
}

fn work(group: vec3<u32>, len: u32) -> Work {
    let index = group.y * p.grid_x + group.x;
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

// Row of the per-query statistics.
fn stat_row(w: Work, i: u32) -> u32 {
    return (w.sequence * p.heads + w.head) * p.q_len + i;
}

// Scores of queries i .. i+3 (rows) and keys j .. j+3 (columns), biased and masked.
fn scores(w: Work, i: u32, j: u32, keys: u32) -> array<vec4<f32>, 4> {
    let q0 = q_at(w, i);
    let q1 = q_at(w, i + 1u);
    let q2 = q_at(w, i + 2u);
    let q3 = q_at(w, i + 3u);
    let k0 = k_at(w, j);
    let k1 = k_at(w, j + 1u);
    let k2 = k_at(w, j + 2u);
    let k3 = k_at(w, j + 3u);
    var s: array<vec4<f32>, 4>;
    var d = 0u;
    loop {
        if d >= p.d4 { break; }
        let a0 = load_kv(k0, d);
        let a1 = load_kv(k1, d);
        let a2 = load_kv(k2, d);
        let a3 = load_kv(k3, d);
        let b0 = load_q(q0, d);
        let b1 = load_q(q1, d);
        let b2 = load_q(q2, d);
        let b3 = load_q(q3, d);
        s[0] += vec4(dot(b0, a0), dot(b0, a1), dot(b0, a2), dot(b0, a3));
        s[1] += vec4(dot(b1, a0), dot(b1, a1), dot(b1, a2), dot(b1, a3));
        s[2] += vec4(dot(b2, a0), dot(b2, a1), dot(b2, a2), dot(b2, a3));
        s[3] += vec4(dot(b3, a0), dot(b3, a1), dot(b3, a2), dot(b3, a3));
        d += 1u;
    }
    for (var r = 0u; r < 4u; r++) {
        for (var c = 0u; c < 4u; c++) {
            let hidden = j + c >= keys || (CAUSAL && j + c > i + r);
            if HAS_BIAS { s[r][c] += bias_at(w.head, i32(j + c) - i32(i + r)); }
            s[r][c] = select(s[r][c], MASKED, hidden);
        }
    }
    return s;
}
