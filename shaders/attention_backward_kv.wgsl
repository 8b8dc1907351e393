// Gradients of k, v and the position bias.
//
// One workgroup per (sequence, head, TILE keys) walks over the queries TILE at a time. Weights and score gradients of a tile
// pass through workgroup memory; each invocation then adds up 4 keys x (DV vec4s of d_kv). The bias depends on the
// distance alone, so that its gradient sums the diagonals of the tile: one invocation per diagonal, no atomics; each
// workgroup writes its own sums, which `column_sum` adds up in a fixed order.

const WALKS_KEYS = false;

@group(0) @binding(9) var<storage, read_write> dbias: array<f32>; // [key tiles, batch, heads, DISTANCES]

var<workgroup> weights: array<f32, TILE * PITCH>; // [TILE queries, TILE keys + 1]
var<workgroup> dscores: array<f32, TILE * PITCH>; // [TILE queries, TILE keys + 1]
var<workgroup> by_distance: array<f32, DISTANCES>;
var<workgroup> ends: array<vec2<f32>, SIDE * SIDE>;

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
    var below = 0.0; // bias gradient of distances <= -reach
    var above = 0.0; // and >= reach
    if HAS_BIAS {
        var x = lane;
        loop {
            if x >= 2u * p.reach + 1u { break; }
            by_distance[x] = 0.0;
            x += SIDE * SIDE;
        }
    }
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
        if HAS_BIAS {
            var diagonal = lane;
            loop {
                if diagonal >= 2u * p.tile - 1u { break; }
                let shift = i32(diagonal) - i32(TILE - 1u); // key - query inside the tile
                var sum = 0.0;
                row = u32(max(-shift, 0));
                let last = min(p.tile, u32(i32(TILE) - shift));
                loop {
                    if row >= last { break; }
                    sum += dscores[row * PITCH + u32(i32(row) + shift)];
                    row += 1u;
                }
                let distance = i32(w.first) - i32(i) + shift;
                if distance <= -i32(p.reach) {
                    below += sum;
                } else if distance >= i32(p.reach) {
                    above += sum;
                } else {
                    by_distance[u32(distance + i32(p.reach))] += sum;
                }
                diagonal += SIDE * SIDE;
            }
        }
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
    if HAS_BIAS {
        ends[lane] = vec2(below, above);
        workgroupBarrier();
        if lane == 0u {
            var sum = vec2<f32>();
            for (var x = 0u; x < SIDE * SIDE; x++) { sum += ends[x]; }
            by_distance[0] = sum.x;
            by_distance[2u * p.reach] = sum.y;
        }
        workgroupBarrier();
        let distances = 2u * p.reach + 1u;
        let row = ((w.first / TILE) * p.batch + w.sequence) * p.heads + w.head;
        var x = lane;
        loop {
            if x >= distances { break; }
            dbias[row * distances + x] = by_distance[x];
            x += SIDE * SIDE;
        }
    }
}
