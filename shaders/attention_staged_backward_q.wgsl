// Gradient of q: attention_backward_q.wgsl for cards, which takes all operands through workgroup memory.
//
// One workgroup per (sequence, head, TILE queries) walks over the keys TILE at a time; each invocation adds up 4 queries x
// (DV vec4s of d_kv).

const WALKS_KEYS = true;
const SLABS = 2u;

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
        var s = staged_scores(w, w.first, j, lane);
        let dweights = staged_weight_gradients(w, w.first, j, lane);
        /* unroll */ for (var r = 0u; r < 4u; r++) {
            let score = biased(w, mask, i, r, j + 4u * tj, s[r]);
            s[r] = row_gradient(w, i + r, j + 4u * tj, score, dweights[r]).dscore;
        }
        workgroupBarrier();
        // Slab 0: [TILE keys, SIDE] the gradients of four queries' scores.
        let dscores = transpose(s);
        /* unroll */ for (var c = 0u; c < 4u; c++) { slabs[slab_at(4u * tj + c) + ti] = dscores[c]; }
        let here = min(p.tile, walk.y - j);
        var slice = 0u;
        loop {
            if slice >= slices() { break; }
            workgroupBarrier();
            stage_k(1u, w, j, slice, lane);
            workgroupBarrier();
            let sums = weighted(0u, 1u, here, ti, tj);
            /* unroll */ for (var y = 0u; y < DV; y++) {
                /* unroll */ for (var r = 0u; r < 4u; r++) { dq[r * DV + y] += select(vec4<f32>(), sums[r], slice == y); }
            }
            slice += 1u;
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
