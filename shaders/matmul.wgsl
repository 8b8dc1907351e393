// c[m, n] = alpha * sum over k of a[k, m] * b[k, n] (+ residual) (+ c): the matmul that runs on every adapter.
//
// Both operands are k-major, so that each step of k is an outer product of two contiguous pieces. One invocation keeps
// an 8 x 8 tile of c in registers: four vec4 loads for 64 multiply-adds, no workgroup memory, no barrier.
// Neighbouring invocations take neighbouring column tiles.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    lda4: u32, // vec4s in a row of a
    ldb4: u32, // vec4s in a row of b
    a_offset4: u32,
    b_offset4: u32,
    ldc: u32,
    c_offset: u32,
    tile_rows: u32, // rows of a tile, or m if that is less
    alpha: f32,
    rate: f32, // of dropout
    site: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>; // [k, lda4]
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>; // [k, ldb4]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tiles_n = (p.n + 7u) / 8u;
    let tile = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    let row = (tile / tiles_n) * 8u;
    let col = (tile % tiles_n) * 8u;
    // A tile that hangs over the edge reads the last vec4 again; its surplus results are not stored.
    let a_last = (p.m + 3u) / 4u - 1u;
    let b_last = (p.n + 3u) / 4u - 1u;
    var ia0 = p.a_offset4 + min(row / 4u, a_last);
    var ia1 = p.a_offset4 + min(row / 4u + 1u, a_last);
    var ib0 = p.b_offset4 + min(col / 4u, b_last);
    var ib1 = p.b_offset4 + min(col / 4u + 1u, b_last);
    /* registers */ var c0 = array<vec4<f32>, 8u>();
    /* registers */ var c1 = array<vec4<f32>, 8u>();
    var k = 0u;
    loop {
        if k >= p.k { break; }
        let a0 = a[ia0];
        let a1 = a[ia1];
        let b0 = b[ib0];
        let b1 = b[ib1];
        /* unroll */ for (var i = 0u; i < 4u; i++) {
            c0[i] = fma(vec4(a0[i]), b0, c0[i]);
            c1[i] = fma(vec4(a0[i]), b1, c1[i]);
            c0[i + 4u] = fma(vec4(a1[i]), b0, c0[i + 4u]);
            c1[i + 4u] = fma(vec4(a1[i]), b1, c1[i + 4u]);
        }
        ia0 += p.lda4;
        ia1 += p.lda4;
        ib0 += p.ldb4;
        ib1 += p.ldb4;
        k += 1u;
    }
    /* unroll */ for (var i = 0u; i < 8u; i++) { kept[i] = c0[i]; }
    emit_kept(row, col);
    /* unroll */ for (var i = 0u; i < 8u; i++) { kept[i] = c1[i]; }
    emit_kept(row, col + 4u);
}
