// Gradient of q.
//
// One workgroup per (sequence, head, TILE queries) walks over the keys TILE at a time; each invocation adds up 4 queries x
// (DV vec4s of d_kv).

const WALKS_KEYS = true;

var<workgroup> dscores: array<f32, TILE * PITCH>; // [TILE queries, TILE keys + 1]

@compute @workgroup_size(SIDE * SIDE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let w = work(group, p.q_len);
    if !w.valid { return; }
    let ti = lane / SIDE;
    let tj = lane % SIDE;
    let i = w.first + 4u * ti;
    let mask = mask_of(w, i);
    let walk = walk_of(w);
    /* registers */ var dq = array<vec4<f32>, 4u * DV>();
    var j = walk.x;
    loop {
        if j >= walk.y { break; }
        workgroupBarrier();
        let t = tile_gradient(w, i, j + 4u * tj, mask);
        /* unroll */ for (var r = 0u; r < 4u; r++) {
            /* unroll */ for (var c = 0u; c < 4u; c++) { dscores[(4u * ti + r) * PITCH + 4u * tj + c] = t.dscore[r][c]; }
        }
        workgroupBarrier();
        let here = min(p.tile, walk.y - j);
        var key = 0u;
        loop {
            if key >= here { break; }
            let at = k_at(w, j + key);
            /* unroll */ for (var x = 0u; x < DV; x++) {
                let k = load_kv(at, min(tj + SIDE * x, p.d4 - 1u));
                /* unroll */ for (var r = 0u; r < 4u; r++) {
                    dq[r * DV + x] = fma(vec4(dscores[(4u * ti + r) * PITCH + key]), k, dq[r * DV + x]);
                }
            }
            key += 1u;
        }
        j += TILE;
    }
    /* unroll */ for (var r = 0u; r < 4u; r++) {
        let at = (w.sequence * p.q_len + i + r) * p.out_ld + p.out_offset + w.head * p.d_kv;
        /* unroll */ for (var x = 0u; x < DV; x++) {
            if i + r < p.q_len && tj + SIDE * x < p.d4 { store_out(at, tj + SIDE * x, dq[r * DV + x]); }
        }
    }
}
