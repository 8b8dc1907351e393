// c[m, n] = alpha * sum over k of a[k, m] * b[k, n] (+ residual) (+ c), as an outer product across a subgroup.
//
// Both operands are k-major. One subgroup of LANES invocations owns a tile of 4 LANES rows x 4 LANES columns: for each k
// every lane loads four rows and four columns, once, and learns the other lanes' rows by shuffles. Where loads are what
// costs (software rasterisers), this loads 8 numbers for 16 LANES multiply-adds.
// Needs subgroups of exactly LANES.

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

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let lane = index % LANES;
    let tiles_n = (p.n + 4u * LANES - 1u) / (4u * LANES);
    let tile = (p.first_group + group.y * p.grid_x + group.x) * (32u / LANES) + index / LANES;
    let row = (tile / tiles_n) * 4u * LANES;
    let col = (tile % tiles_n) * 4u * LANES + 4u * lane;
    // A tile that hangs over the edge reads the last vec4 again; its surplus results are not stored.
    var ia = p.a_offset4 + min(row / 4u + lane, (p.m + 3u) / 4u - 1u);
    var ib = p.b_offset4 + min(col / 4u, (p.n + 3u) / 4u - 1u);
    var acc: array<vec4<f32>, 4u * LANES>;
    var k = 0u;
    loop {
        if k >= p.k { break; }
        let av = a[ia];
        let bv = b[ib];
        for (var l = 0u; l < LANES; l++) {
            acc[4u * l] = fma(vec4(subgroupShuffle(av.x, l)), bv, acc[4u * l]);
            acc[4u * l + 1u] = fma(vec4(subgroupShuffle(av.y, l)), bv, acc[4u * l + 1u]);
            acc[4u * l + 2u] = fma(vec4(subgroupShuffle(av.z, l)), bv, acc[4u * l + 2u]);
            acc[4u * l + 3u] = fma(vec4(subgroupShuffle(av.w, l)), bv, acc[4u * l + 3u]);
        }
        ia += p.lda4;
        ib += p.ldb4;
        k += 1u;
    }
    for (var i = 0u; i < 4u * LANES; i++) { kept[i] = acc[i]; }
    emit_kept(row, col);
}
