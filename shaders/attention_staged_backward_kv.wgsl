// Gradients of k, v and the position bias: attention_backward_kv.wgsl for cards, which takes all operands through workgroup
// memory.
//
// One workgroup per (sequence, head, TILE keys) walks over the queries TILE at a time; each invocation adds up 4 keys x (DV
// vec4s of d_kv), and the gradient of the bias along the diagonals of the tile.

const WALKS_KEYS = false;
const SLABS = 3u;

@group(0) @binding(9) var<storage, read_write> dbias: array<f32>; // [key tiles, batch, heads, DISTANCES]

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
    let slices = (p.d4 + SIDE - 1u) / SIDE;
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
        var s = mat4x4<f32>();
        var dscores = mat4x4<f32>();
        var slice = 0u;
        loop {
            if slice >= slices { break; }
            workgroupBarrier();
            stage_q(0u, w, i, slice, lane);
            stage_k(1u, w, w.first, slice, lane);
            workgroupBarrier();
            s = with_products(s, slice, ti, tj);
            slice += 1u;
        }
        slice = 0u;
        loop {
            if slice >= slices { break; }
            workgroupBarrier();
            stage_dout(0u, w, i, slice, lane);
            stage_v(1u, w, w.first, slice, lane);
            workgroupBarrier();
            dscores = with_products(dscores, slice, ti, tj);
            slice += 1u;
        }
        workgroupBarrier();
        // Slab 0: [TILE queries, SIDE] the weights of four keys; slab 1: the gradients of their scores.
        /* unroll */ for (var r = 0u; r < 4u; r++) {
            let score = biased(w, mask, i + 4u * ti, r, w.first + 4u * tj, s[r]);
            let row = row_gradient(w, i + 4u * ti + r, w.first + 4u * tj, score, dscores[r]);
            slabs[slab_at(4u * ti + r) + tj] = row.weight;
            slabs[SLAB + slab_at(4u * ti + r) + tj] = row.dscore;
        }
        let here = min(p.tile, walk.y - i);
        slice = 0u;
        loop {
            if slice >= slices { break; }
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
        if HAS_BIAS {
            var diagonal = lane;
            loop {
                if diagonal >= 2u * p.tile - 1u { break; }
                let shift = i32(diagonal) - i32(TILE - 1u); // key - query inside the tile
                var sum = 0.0;
                var row = u32(max(-shift, 0));
                let last = min(p.tile, u32(i32(TILE) - shift));
                loop {
                    if row >= last { break; }
                    let key = u32(i32(row) + shift);
                    sum += slabs[SLAB + slab_at(row) + key / 4u][key % 4u];
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
