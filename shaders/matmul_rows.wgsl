// c[m, n] = alpha * sum over k of a[m, k] * b[n, k] (+ residual) (+ c) for few rows m: decoding.
//
// Each invocation makes 4 columns of up to ROWS rows, so that every weight is read once for so many rows. k is a multiple
// of four. A result depends on its own row alone, bit for bit, however many rows there are.

struct Params {
    m: u32,
    n: u32,
    k4: u32,
    lda4: u32, // vec4s in a row of a
    ldb4: u32, // vec4s in a row of b
    a_offset4: u32,
    b_offset4: u32,
    ldc: u32,
    c_offset: u32,
    alpha: f32,
    col_groups: u32, // workgroups that go over the columns for one block of rows
    grid_x: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>; // [m, lda4]
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>; // [n, ldb4]

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = group.y * p.grid_x + group.x;
    let first = index / p.col_groups * ROWS;
    let col = (index % p.col_groups * 32u + lane) * 4u;
    if col >= p.n || first >= p.m { return; }
    let last = p.n - 1u;
    let b0 = p.b_offset4 + col * p.ldb4;
    let b1 = p.b_offset4 + min(col + 1u, last) * p.ldb4;
    let b2 = p.b_offset4 + min(col + 2u, last) * p.ldb4;
    let b3 = p.b_offset4 + min(col + 3u, last) * p.ldb4;
    var ia: array<u32, ROWS>;
    var acc: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        ia[r] = p.a_offset4 + min(first + r, p.m - 1u) * p.lda4;
    }
    var k = 0u;
    loop {
        if k >= p.k4 { break; }
        let w0 = b[b0 + k];
        let w1 = b[b1 + k];
        let w2 = b[b2 + k];
        let w3 = b[b3 + k];
        for (var r = 0u; r < ROWS; r++) {
            let x = a[ia[r] + k];
            acc[r] += vec4(dot(x, w0), dot(x, w1), dot(x, w2), dot(x, w3));
        }
        k += 1u;
    }
    for (var r = 0u; r < ROWS; r++) {
        emit4(first + r, col, acc[r]);
    }
}
