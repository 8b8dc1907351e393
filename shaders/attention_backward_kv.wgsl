// Gradients of k, v and the position bias.
//
// One workgroup per (sequence, head, TILE keys) walks over the queries TILE at a time. Weights and score gradients of a tile
// pass through workgroup memory; each invocation then adds up 4 keys x (DV vec4s of d_kv). The gradient of the bias:
// attention_distances.wgsl.

const WALKS_KEYS = false;

var<workgroup> weights: array<f32, TILE * PITCH>; // [TILE queries, TILE keys + 1]
var<workgroup> dscores: array<f32, TILE * PITCH>; // [TILE queries, TILE keys + 1]

fn dscore_at(row: u32, key: u32) -> f32 { return dscores[row * PITCH + key]; }

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
        workgroupBarrier();
        let t = tile_gradient(w, i + 4u * ti, w.first + 4u * tj, mask);
        /* unroll */ for (var r = 0u; r < 4u; r++) {
            /* unroll */ for (var c = 0u; c < 4u; c++) {
                weights[(4u * ti + r) * PITCH + 4u * tj + c] = t.weight[r][c];
                dscores[(4u * ti + r) * PITCH + 4u * tj + c] = t.dscore[r][c];
            }
        }
        workgroupBarrier();
        let here = min(p.tile, walk.y - i);
        var row = 0u;
        loop {
            if row >= here { break; }
            let at_q = q_at(w, i + row);
            let at_g = o_at(w, i + row);
            let at = row * PITCH + 4u * ti;
            /* unroll */ for (var x = 0u; x < DV; x++) {
                let d = min(tj + SIDE * x, p.d4 - 1u);
                let g = load_dout(at_g, d);
                let b = load_q(at_q, d);
                /* unroll */ for (var c = 0u; c < 4u; c++) {
                    dv[c * DV + x] = fma(vec4(weights[at + c]), g, dv[c * DV + x]);
                    dk[c * DV + x] = fma(vec4(dscores[at + c]), b, dk[c * DV + x]);
                }
            }
            row += 1u;
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
