// c[m, n] = alpha * a[m, k] b[n, k]^T (+ residual) (+ c), as an outer product across a subgroup that reads both operands
// where they lie: matmul_subgroup.wgsl for a linear layer, without packing.
//
// One subgroup owns a tile of 4 SIDE rows x 4 SIDE columns and takes four steps of k at a time.

struct Params {
    m: u32,
    n: u32,
    k4: u32, // k / 4
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
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>; // [m, lda4]
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>; // [n, ldb4]

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let lane = index % SIDE;
    let tiles_n = (p.n + 4u * SIDE - 1u) / (4u * SIDE);
    let tile = (p.first_group + group.y * p.grid_x + group.x) * (32u / SIDE) + index / SIDE;
    let row = (tile / tiles_n) * 4u * SIDE;
    let col = (tile % tiles_n) * 4u * SIDE + 4u * lane;
    // A tile that hangs over the edge reads the last row again; its surplus results are not stored.
    let four = vec4(0u, 1u, 2u, 3u);
    var ia = p.a_offset4 + min(row + lane + SIDE * four, vec4(p.m - 1u)) * p.lda4;
    var ib = p.b_offset4 + min(col + four, vec4(p.n - 1u)) * p.ldb4;
    var acc: Tile;
    var k = 0u;
    loop {
        if k >= p.k4 { break; }
        let rows = mat4x4(a[ia.x], a[ia.y], a[ia.z], a[ia.w]);
        let columns = mat4x4(b[ib.x], b[ib.y], b[ib.z], b[ib.w]);
        outer(&acc, rows, transpose(columns));
        ia += 1u;
        ib += 1u;
        k += 1u;
    }
    for (var i = 0u; i < 4u * SIDE; i++) { kept[i] = acc[i]; }
    emit_kept(row, col);
}
