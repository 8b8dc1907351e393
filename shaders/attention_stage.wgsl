// Operands of attention on their way through workgroup memory, for cards: a workgroup of SIDE x SIDE invocations, each of which
// scores 4 queries x 4 keys. A slab holds SIDE vec4s of each row of a tile; heads wider than that pass in DV slices. Each
// vec4 is fetched once for a tile, neighbours fetching neighbours, where attention_tile.wgsl has SIDE invocations fetch it.

const PITCH = SIDE + 1u; // vec4s from one row of a slab to the next: one more than needed, against bank conflicts
const SLAB = TILE * PITCH;

var<workgroup> slabs: array<vec4<f32>, SLABS * SLAB>;

// Where a tile's row lies in a slab: four rows of one invocation lie SIDE apart, so that neighbours read different banks.
fn slab_at(row: u32) -> u32 { return (row % 4u * SIDE + row / 4u) * PITCH; }

// The vec4 of a head's row that this invocation fetches.
fn slice_at(slice: u32, lane: u32) -> u32 { return min(SIDE * slice + lane % SIDE, p.d4 - 1u); }

fn stage_q(slab: u32, w: Work, first: u32, slice: u32, lane: u32) {
    /* unroll */ for (var r = 0u; r < 4u; r++) {
        let row = lane / SIDE + SIDE * r;
        slabs[slab * SLAB + slab_at(row) + lane % SIDE] = load_q(q_at(w, first + row), slice_at(slice, lane));
    }
}

fn stage_k(slab: u32, w: Work, first: u32, slice: u32, lane: u32) {
    /* unroll */ for (var r = 0u; r < 4u; r++) {
        let row = lane / SIDE + SIDE * r;
        slabs[slab * SLAB + slab_at(row) + lane % SIDE] = load_kv(k_at(w, first + row), slice_at(slice, lane));
    }
}

fn stage_v(slab: u32, w: Work, first: u32, slice: u32, lane: u32) {
    /* unroll */ for (var r = 0u; r < 4u; r++) {
        let row = lane / SIDE + SIDE * r;
        slabs[slab * SLAB + slab_at(row) + lane % SIDE] = load_kv(v_at(w, first + row), slice_at(slice, lane));
    }
}

fn stage_dout(slab: u32, w: Work, first: u32, slice: u32, lane: u32) {
    /* unroll */ for (var r = 0u; r < 4u; r++) {
        let row = lane / SIDE + SIDE * r;
        slabs[slab * SLAB + slab_at(row) + lane % SIDE] = load_dout(o_at(w, first + row), slice_at(slice, lane));
    }
}

// `sums` and, over one slice, the products of slab 0's rows 4 ti + r (columns of the result) and slab 1's rows 4 tj + c.
fn with_products(sums: mat4x4<f32>, slice: u32, ti: u32, tj: u32) -> mat4x4<f32> {
    var s = sums;
    let depth = min(SIDE, p.d4 - SIDE * slice);
    var d = 0u;
    loop {
        if d >= depth { break; }
        let a0 = slabs[ti * PITCH + d];
        let a1 = slabs[(SIDE + ti) * PITCH + d];
        let a2 = slabs[(2u * SIDE + ti) * PITCH + d];
        let a3 = slabs[(3u * SIDE + ti) * PITCH + d];
        let b0 = slabs[SLAB + tj * PITCH + d];
        let b1 = slabs[SLAB + (SIDE + tj) * PITCH + d];
        let b2 = slabs[SLAB + (2u * SIDE + tj) * PITCH + d];
        let b3 = slabs[SLAB + (3u * SIDE + tj) * PITCH + d];
        s += mat4x4(
            vec4(dot(a0, b0), dot(a0, b1), dot(a0, b2), dot(a0, b3)),
            vec4(dot(a1, b0), dot(a1, b1), dot(a1, b2), dot(a1, b3)),
            vec4(dot(a2, b0), dot(a2, b1), dot(a2, b2), dot(a2, b3)),
            vec4(dot(a3, b0), dot(a3, b1), dot(a3, b2), dot(a3, b3)),
        );
        d += 1u;
    }
    return s;
}

// Sums over the first `count` rows: four weights, of quad ti of a row of slab `by`, times vec4 tj of a row of slab `of_rows`.
fn weighted(by: u32, of_rows: u32, count: u32, ti: u32, tj: u32) -> mat4x4<f32> {
    var s0 = vec4<f32>();
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    var s3 = vec4<f32>();
    var row = 0u;
    loop {
        if row >= count { break; }
        let at = slab_at(row);
        let weight = slabs[by * SLAB + at + ti];
        let x = slabs[of_rows * SLAB + at + tj];
        s0 = fma(vec4(weight.x), x, s0);
        s1 = fma(vec4(weight.y), x, s1);
        s2 = fma(vec4(weight.z), x, s2);
        s3 = fma(vec4(weight.w), x, s3);
        row += 1u;
    }
    return mat4x4(s0, s1, s2, s3);
}

// SIDE vec4s of a head at a time.
fn slices() -> u32 { return (p.d4 + SIDE - 1u) / SIDE; }

// Products of queries 4 ti + r from `query` on (columns) and keys 4 tj + c from `key` on, by way of slabs 0 and 1.
fn staged_scores(w: Work, query: u32, key: u32, lane: u32) -> mat4x4<f32> {
    var s = mat4x4<f32>();
    var slice = 0u;
    loop {
        if slice >= slices() { break; }
        workgroupBarrier();
        stage_q(0u, w, query, slice, lane);
        stage_k(1u, w, key, slice, lane);
        workgroupBarrier();
        s = with_products(s, slice, lane / SIDE, lane % SIDE);
        slice += 1u;
    }
    return s;
}

// The same of the output's gradient at these queries and of v: gradients of weights.
fn staged_weight_gradients(w: Work, query: u32, key: u32, lane: u32) -> mat4x4<f32> {
    var s = mat4x4<f32>();
    var slice = 0u;
    loop {
        if slice >= slices() { break; }
        workgroupBarrier();
        stage_dout(0u, w, query, slice, lane);
        stage_v(1u, w, key, slice, lane);
        workgroupBarrier();
        s = with_products(s, slice, lane / SIDE, lane % SIDE);
        slice += 1u;
    }
    return s;
}
