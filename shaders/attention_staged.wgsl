// out = softmax(q k^T + bias) v, and lse = log of the softmax's denominator, for the backward pass: attention.wgsl for cards,
// which takes all operands through workgroup memory.
//
// One workgroup per (sequence, head, TILE queries) walks over the keys TILE at a time with an online softmax. Each invocation
// scores 4 queries x 4 keys; the weights pass through workgroup memory, and each then adds up 4 queries x (DV vec4s of d_kv).

const WALKS_KEYS = true;
const SLABS = 2u;

@group(0) @binding(9) var<storage, read_write> lse: array<f32>; // [batch, heads, q_len]

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
        var s = staged_scores(w, w.first, j, lane);
        /* unroll */ for (var r = 0u; r < 4u; r++) {
            s[r] = biased(w, mask, i, r, j + 4u * tj, s[r]);
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
            let key = j + 4u * tj;
            s[r] = e * vec4(keep_weight(row, key), keep_weight(row, key + 1u), keep_weight(row, key + 2u), keep_weight(row, key + 3u));
        }
        // Slab 0: [TILE keys, SIDE] the weights of four queries.
        let weights = transpose(s);
        /* unroll */ for (var c = 0u; c < 4u; c++) { slabs[slab_at(4u * tj + c) + ti] = weights[c]; }
        let here = min(p.tile, walk.y - j);
        var slice = 0u;
        loop {
            if slice >= slices() { break; }
            workgroupBarrier();
            stage_v(1u, w, j, slice, lane);
            workgroupBarrier();
            let sums = weighted(0u, 1u, here, ti, tj);
            /* unroll */ for (var y = 0u; y < DV; y++) {
                /* unroll */ for (var r = 0u; r < 4u; r++) { o[r * DV + y] += select(vec4<f32>(), sums[r], slice == y); }
            }
            slice += 1u;
        }
        j += TILE;
    }
    workgroupBarrier();
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
