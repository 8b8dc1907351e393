// out = softmax(q k^T + bias) v for one query a row: a step of decoding, over a cache or over the encoder's keys.
// A table says where a row's keys lie. CAUSAL: for each position, in which row of the cache, so that beams that change
// their parent rewrite the table and leave the keys in place. Otherwise: which source the row reads. STORES: the row's own place
// in the cache first gets the key and value that belong to the query; a position past its end gets none.
//
// One workgroup per (row, head), and per part of PART keys where there can be more than that, walks over the keys KEYS at
// a time with an online softmax. LANES / KEYS invocations score a key; then `groups` teams of d4 invocations, one for each
// vec4 of d_kv, add up every `groups`-th value, and meet in workgroup memory at the end. A head wider than LANES vec4s takes DV
// passes of its sums in registers.
// The order of every sum depends on the row's own length alone: padding and batch do not change a result.
// SPLIT: stores its part of the sums with their maximum and denominator, for attention_decode_join to put together.

struct Params {
    rows: u32,
    homes: u32, // rows of the cache, or sources
    heads: u32,
    d_kv: u32,
    d4: u32, // vec4s in a head's row, the last one perhaps in part
    groups: u32, // max(1, LANES / d4)
    kv_len: u32,
    q_ld: u32, // elements from one row of q to the next
    kv_ld: u32,
    k_offset: u32, // from the beginning of a row of kv to the keys of this block
    v_offset: u32, // from keys to values
    keys: u32, // KEYS; a run-time bound, since some compilers unroll every constant one
    reach: u32, // largest distance that the bias tells apart
    parts: u32, // workgroups to a (row, head)
    grid_x: u32,
    first_group: u32,
}

const MASKED = -1e30;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(5) var<storage, read> lens: array<u32>; // [rows] the last key's position; or [homes] the number of keys
@group(0) @binding(6) var<storage, read> table: array<u32>; // [rows, kv_len] rows of the cache; or [rows] sources

@group(0) @binding(9) var<storage, read_write> stats: array<vec2<f32>>; // [rows, heads, parts] of (maximum, denominator)

const SPREAD = LANES / KEYS; // invocations that score a key

var<workgroup> scores: array<f32, LANES>;
var<workgroup> values: array<u32, KEYS>; // where each key's value begins
var<workgroup> tops: array<f32, KEYS / 8u>;
var<workgroup> sums: array<vec4<f32>, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let part = (p.first_group + group.y * p.grid_x + group.x) % p.parts;
    let index = (p.first_group + group.y * p.grid_x + group.x) / p.parts;
    if index >= p.rows * p.heads { return; }
    let row = index / p.heads;
    let head = index % p.heads;
    let q_at = row * p.q_ld + head * p.d_kv;
    var home = row;
    if !CAUSAL { home = min(table[row], p.homes - 1u); }
    let head_at = p.k_offset + head * p.d_kv;
    let keys = min(lens[home] + select(0u, 1u, CAUSAL), p.kv_len);
    let start = part * PART;
    let end = min(keys, start + PART);
    if STORES {
        // The part that has the newest key stores it.
        if lens[row] < p.kv_len && end == keys && start < keys {
            let at = head_at + (row * p.kv_len + keys - 1u) * p.kv_ld;
            var d = lane;
            loop {
                if d >= p.d4 { break; }
                store_kv(at, d, load_q(q_at + p.v_offset, d));
                store_kv(at + p.v_offset, d, load_q(q_at + 2u * p.v_offset, d));
                d += LANES;
            }
        }
        storageBarrier();
    }
    let team = lane / p.d4;
    let column = lane % p.d4;
    var top = MASKED;
    var total = 0.0; // of this lane's keys
    /* registers */ var o = array<vec4<f32>, DV>();
    var first = start;
    loop {
        if first >= end { break; }
        let here = min(KEYS, end - first);
        let key = lane / SPREAD;
        var s = 0.0;
        if key < here {
            let j = first + key;
            if CAUSAL { home = min(table[row * p.kv_len + j], p.homes - 1u); }
            let k_at = head_at + (home * p.kv_len + j) * p.kv_ld;
            if lane % SPREAD == 0u { values[key] = k_at + p.v_offset; }
            var d = lane % SPREAD;
            loop {
                if d >= p.d4 { break; }
                s += dot(load_q(q_at, d), load_kv(k_at, d));
                d += SPREAD;
            }
        }
        // From here on, an invocation has the key of its own number.
        if SPREAD > 1u {
            scores[lane] = s;
            workgroupBarrier();
            s = 0.0;
            for (var i = 0u; i < SPREAD; i++) { s += scores[min(lane, KEYS - 1u) * SPREAD + i]; }
            workgroupBarrier();
        }
        // The query is the newest key.
        if lane < here { s += bias_at(head, i32(first + lane) - i32(keys - 1u)); } else { s = MASKED; }
        if lane < KEYS { scores[lane] = s; }
        workgroupBarrier();
        if lane < KEYS / 8u {
            var m = scores[lane * 8u];
            for (var i = 1u; i < 8u; i++) { m = max(m, scores[lane * 8u + i]); }
            tops[lane] = m;
        }
        workgroupBarrier();
        var m = top;
        for (var i = 0u; i < KEYS / 8u; i++) { m = max(m, tops[i]); }
        let shrink = exp(top - m);
        top = m;
        let e = select(0.0, exp(s - top), lane < here);
        if lane < KEYS { scores[lane] = e; }
        total = total * shrink + e;
        workgroupBarrier();
        /* unroll */ for (var x = 0u; x < DV; x++) { o[x] *= shrink; }
        var i = team;
        loop {
            if i >= here || team >= p.groups { break; }
            /* unroll */ for (var x = 0u; x < DV; x++) {
                o[x] += scores[i] * load_kv(values[i], min(column + LANES * x, p.d4 - 1u));
            }
            i += p.groups;
        }
        workgroupBarrier();
        first += KEYS;
    }
    scores[lane] = total;
    workgroupBarrier();
    total = 0.0;
    var i = 0u;
    loop {
        if i >= p.keys { break; }
        total += scores[i];
        i += 1u;
    }
    // A row of no keys attends to nothing.
    let scale = select(select(0.0, 1.0 / total, total > 0.0), 1.0, SPLIT);
    let o_at = (index * p.parts + part) * select(p.d_kv, 4u * p.d4, SPLIT);
    /* unroll */ for (var x = 0u; x < DV; x++) {
        sums[lane] = o[x];
        workgroupBarrier();
        let d = lane + LANES * x;
        if lane < min(p.d4, LANES) && d < p.d4 {
            var sum = vec4<f32>();
            var t = 0u;
            loop {
                if t >= p.groups { break; }
                sum += sums[t * p.d4 + lane];
                t += 1u;
            }
            store_out(o_at, d, sum * scale);
        }
        workgroupBarrier();
    }
    if SPLIT && lane == 0u { stats[index * p.parts + part] = vec2(top, total); }
}
