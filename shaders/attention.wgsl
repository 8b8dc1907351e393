// out = softmax(q k^T + bias) v, and lse = log of the softmax's denominator, for the backward pass.
//
// One workgroup per (sequence, head, TILE queries) walks over the keys TILE at a time with an online softmax: no score ever
// reaches memory. Within a tile each invocation scores 4 queries x 4 keys; the weights pass through workgroup memory, and
// each invocation then adds up 4 queries x (DV vec4s of d_kv).

const WALKS_KEYS = true;

@group(0) @binding(9) var<storage, read_write> lse: array<f32>; // [batch, heads, q_len]

var<workgroup> weights: array<f32, TILE * PITCH>; // [TILE queries, TILE keys + 1]
var<workgroup> partial: array<f32, TILE * SIDE>; // [TILE queries, SIDE]

@compute @workgroup_size(SIDE * SIDE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let w = work(group, p.q_len);
    if !w.valid { return; }
    let ti = lane / SIDE;
    let tj = lane % SIDE;
    let i = w.first + 4u * ti;
    let mask = mask_of(w, i);
    let walk = walk_of(w);
    /* registers */ var m = array<f32, 4u>();
    /* registers */ var l = array<f32, 4u>();
    /* unroll */ for (var r = 0u; r < 4u; r++) { m[r] = LEAST; }
    /* registers */ var o = array<vec4<f32>, 4u * DV>();
    var j = walk.x;
    loop {
        if j >= walk.y { break; }
        let s = scores(w, i, j + 4u * tj, mask);
        /* unroll */ for (var r = 0u; r < 4u; r++) {
            partial[(4u * ti + r) * SIDE + tj] = max(max(s[r].x, s[r].y), max(s[r].z, s[r].w));
        }
        workgroupBarrier();
        /* unroll */ for (var r = 0u; r < 4u; r++) {
            var top = m[r];
            for (var t = 0u; t < SIDE; t++) { top = max(top, partial[(4u * ti + r) * SIDE + t]); }
            let shrink = exp(m[r] - top);
            m[r] = top;
            let e = exp(s[r] - top);
            l[r] = l[r] * shrink + e.x + e.y + e.z + e.w;
            /* unroll */ for (var x = 0u; x < DV; x++) { o[r * DV + x] *= shrink; }
            let row = stat_row(w, i + r);
            let at = (4u * ti + r) * PITCH + 4u * tj;
            /* unroll */ for (var c = 0u; c < 4u; c++) { weights[at + c] = e[c] * keep_weight(row, j + 4u * tj + c); }
        }
        workgroupBarrier();
        let here = min(p.tile, walk.y - j);
        var key = 0u;
        loop {
            if key >= here { break; }
            let at = v_at(w, j + key);
            let w0 = weights[(4u * ti) * PITCH + key];
            let w1 = weights[(4u * ti + 1u) * PITCH + key];
            let w2 = weights[(4u * ti + 2u) * PITCH + key];
            let w3 = weights[(4u * ti + 3u) * PITCH + key];
            /* unroll */ for (var x = 0u; x < DV; x++) {
                let v = load_kv(at, min(tj + SIDE * x, p.d4 - 1u));
                o[x] = fma(vec4(w0), v, o[x]);
                o[DV + x] = fma(vec4(w1), v, o[DV + x]);
                o[2u * DV + x] = fma(vec4(w2), v, o[2u * DV + x]);
                o[3u * DV + x] = fma(vec4(w3), v, o[3u * DV + x]);
            }
            key += 1u;
        }
        j += TILE;
    }
    /* unroll */ for (var r = 0u; r < 4u; r++) { partial[(4u * ti + r) * SIDE + tj] = l[r]; }
    workgroupBarrier();
    /* unroll */ for (var r = 0u; r < 4u; r++) {
        if i + r < p.q_len {
            var sum = 0.0;
            for (var t = 0u; t < SIDE; t++) { sum += partial[(4u * ti + r) * SIDE + t]; }
            // A query that sees no key attends to nothing.
            let scale = select(0.0, 1.0 / sum, sum > 0.0);
            /* unroll */ for (var x = 0u; x < DV; x++) {
                if tj + SIDE * x < p.d4 { store_out(o_at(w, i + r), tj + SIDE * x, o[r * DV + x] * scale); }
            }
            if tj == 0u { lse[stat_row(w, i + r)] = select(0.0, m[r] + log(sum), sum > 0.0); }
        }
    }
}
