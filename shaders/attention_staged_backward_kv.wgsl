// Gradients of k, v and the position bias: attention_backward_kv.wgsl for cards, which takes all operands through workgroup
// memory.
//
// One workgroup per (sequence, head, TILE keys) walks over the queries TILE at a time; each invocation adds up 4 keys x (DV
// vec4s of d_kv). The gradient of the bias: attention_distances.wgsl.

const WALKS_KEYS = false;
const SLABS = 3u;

fn dscore_at(row: u32, key: u32) -> f32 { return slabs[SLAB + slab_at(row) + key / 4u][key % 4u]; }

@compute @workgroup_size(SIDE * SIDE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let w = work(group, p.kv_len);
    if !w.valid { return; }
    let ti = lane / SIDE;
    let tj = lane % SIDE;
    let mask = mask_of(w, w.first + 4u * tj);
    let walk = walk_of(w);
    /* registers */ var dk = array<vec4<f32>, 4u * DV>();
    /* registers */ var dv = array<vec4<f32>, 4u * DV>();
    var outside = vec2<f32>(); // gradient of the bias beyond its reach
    if HAS_BIAS { clear_distances(lane); }
    var i = walk.x;
    loop {
        if i >= walk.y { break; }
        let s = staged_scores(w, i, w.first, lane);
        let dscores = staged_weight_gradients(w, i, w.first, lane);
        workgroupBarrier();
        // Slab 0: [TILE queries, SIDE] the weights of four keys; slab 1: the gradients of their scores.
        /* unroll */ for (var r = 0u; r < 4u; r++) {
            let score = biased(w, mask, i + 4u * ti, r, w.first + 4u * tj, s[r]);
            let row = row_gradient(w, i + 4u * ti + r, w.first + 4u * tj, score, dscores[r]);
            slabs[slab_at(4u * ti + r) + tj] = row.weight;
            slabs[SLAB + slab_at(4u * ti + r) + tj] = row.dscore;
        }
        let here = min(p.tile, walk.y - i);
        var slice = 0u;
        loop {
            if slice >= slices() { break; }
            workgroupBarrier();
            stage_dout(2u, w, i, slice, lane);
            workgroupBarrier();
            let for_v = weighted(0u, 2u, here, ti, tj);
            workgroupBarrier();
            stage_q(2u, w, i, slice, lane);
            workgroupBarrier();
            let for_k = weighted(1u, 2u, here, ti, tj);
            /* unroll */ for (var y = 0u; y < DV; y++) {
                /* unroll */ for (var c = 0u; c < 4u; c++) {
                    dv[c * DV + y] += select(vec4<f32>(), for_v[c], slice == y);
                    dk[c * DV + y] += select(vec4<f32>(), for_k[c], slice == y);
                }
            }
            slice += 1u;
        }
        if HAS_BIAS { outside = add_diagonals(i32(w.first) - i32(i), outside, lane); }
        i += TILE;
    }
    /* unroll */ for (var c = 0u; c < 4u; c++) {
        let j = w.first + 4u * ti + c;
        let at = (w.sequence * p.kv_len + j) * p.out_ld + w.head * p.d_kv;
        /* unroll */ for (var x = 0u; x < DV; x++) {
            if j < p.kv_len && tj + SIDE * x < p.d4 {
                store_out(at + p.out_offset, tj + SIDE * x, dk[c * DV + x]);
                store_out(at + p.second_offset, tj + SIDE * x, dv[c * DV + x]);
            }
        }
    }
    if HAS_BIAS { store_distances(w, outside, lane); }
}
