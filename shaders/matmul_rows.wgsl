// c[m, n] = alpha * sum over k of a[m, k] * b[n, k] (+ residual) (+ c) for few rows m: decoding. NORM: of the rows of a,
// divided by their root mean square and multiplied by `scale`. GATED: act(a b1^T) * (a b2^T), b2 following b1 in b.
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
    eps: f32,
    col_groups: u32, // workgroups that go over the columns for one block of rows
    grid_x: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>; // [m, lda4]
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>; // [n, ldb4], GATED: [2 n, ldb4]
@group(0) @binding(5) var<storage, read> scale: array<vec4<f32>>; // [k4]

const LANES = 32u;

var<workgroup> squares: array<f32, ROWS * LANES>;
var<workgroup> normed: array<vec4<f32>, STAGED4>; // [ROWS, k4] of the normed rows, where they fit

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = group.y * p.grid_x + group.x;
    let first = index / p.col_groups * ROWS;
    let col = (index % p.col_groups * LANES + lane) * 4u;
    // A row or column past the end reads the last one again; its results are not stored.
    let last = p.n - 1u;
    let b0 = p.b_offset4 + min(col, last) * p.ldb4;
    let b1 = p.b_offset4 + min(col + 1u, last) * p.ldb4;
    let b2 = p.b_offset4 + min(col + 2u, last) * p.ldb4;
    let b3 = p.b_offset4 + min(col + 3u, last) * p.ldb4;
    var ia: array<u32, ROWS>;
    var acc: array<vec4<f32>, ROWS>;
    var gate: array<vec4<f32>, ROWS>;
    var r_rms: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        ia[r] = p.a_offset4 + min(first + r, p.m - 1u) * p.lda4;
    }
    if NORM {
        for (var r = 0u; r < ROWS; r++) {
            var sum = 0.0;
            var i = lane;
            loop {
                if i >= p.k4 { break; }
                let x = a[ia[r] + i];
                sum += dot(x, x);
                i += LANES;
            }
            squares[r * LANES + lane] = sum;
        }
        workgroupBarrier();
        for (var r = 0u; r < ROWS; r++) {
            var sum = 0.0;
            for (var l = 0u; l < LANES; l++) { sum += squares[r * LANES + l]; }
            r_rms[r] = inverseSqrt(sum / f32(4u * p.k4) + p.eps);
        }
        if STAGED4 > 1u {
            for (var r = 0u; r < ROWS; r++) {
                var i = lane;
                loop {
                    if i >= p.k4 { break; }
                    normed[r * p.k4 + i] = a[ia[r] + i] * r_rms[r] * scale[i];
                    i += LANES;
                }
            }
            workgroupBarrier();
        }
    }
    var k = 0u;
    loop {
        if k >= p.k4 { break; }
        var w: array<vec4<f32>, 4>;
        if GATED {
            let up = p.n * p.ldb4 + k;
            w = array(b[b0 + up], b[b1 + up], b[b2 + up], b[b3 + up]);
        }
        let w0 = b[b0 + k];
        let w1 = b[b1 + k];
        let w2 = b[b2 + k];
        let w3 = b[b3 + k];
        var s = vec4(1.0);
        if NORM && STAGED4 == 1u { s = scale[k]; }
        for (var r = 0u; r < ROWS; r++) {
            var x: vec4<f32>;
            if !NORM {
                x = a[ia[r] + k];
            } else if STAGED4 > 1u {
                x = normed[r * p.k4 + k];
            } else {
                x = a[ia[r] + k] * r_rms[r] * s;
            }
            acc[r] += vec4(dot(x, w0), dot(x, w1), dot(x, w2), dot(x, w3));
            if GATED { gate[r] += vec4(dot(x, w[0]), dot(x, w[1]), dot(x, w[2]), dot(x, w[3])); }
        }
        k += 1u;
    }
    for (var r = 0u; r < ROWS; r++) {
        if GATED {
            emit_gated4(first + r, col, acc[r], gate[r]);
        } else {
            emit4(first + r, col, acc[r]);
        }
    }
}
