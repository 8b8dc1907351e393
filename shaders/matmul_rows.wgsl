// c[m, n] = alpha * sum over k of a[m, k] * b[n, k] (+ residual) (+ c) for few rows m: decoding. NORM: of the rows of a,
// divided by their root mean square and multiplied by `scale`. GATED: act(a b1^T) * (a b2^T), b2 following b1 in b.
//
// Each invocation makes 4 columns of up to ROWS rows, so that every weight is read once for so many rows. b may be packed:
// a load of it holds LOAD4 vec4s of weights, and k is a multiple of that. The operands: matmul_few.wgsl. A result depends
// on its own row alone, bit for bit, however many rows there are.

const LANES = 32u;

var<workgroup> squares: array<f32, ROWS * LANES>;
var<workgroup> normed: array<vec4<f32>, STAGED4>; // [ROWS, k / 4] of the normed rows, where they fit

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = p.first_group + group.y * p.grid_x + group.x;
    let first = index / p.col_groups * ROWS;
    let col = (index % p.col_groups * LANES + lane) * 4u;
    // A row or column past the end reads the last one again; its results are not stored.
    let at = min(col, p.n - 1u);
    let ib = row_starts(at);
    let k4 = p.loads * LOAD4;
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
                if i >= k4 { break; }
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
            r_rms[r] = inverseSqrt(sum / f32(4u * k4) + p.eps);
        }
        if STAGED4 > 1u {
            for (var r = 0u; r < ROWS; r++) {
                var i = lane;
                loop {
                    if i >= k4 { break; }
                    normed[r * k4 + i] = a[ia[r] + i] * r_rms[r] * scale[i];
                    i += LANES;
                }
            }
            workgroupBarrier();
        }
    }
    var k = 0u;
    loop {
        if k >= p.loads { break; }
        let now = loads(ib + k * STRIDE);
        var up = now;
        if GATED { up = loads(ib + k * STRIDE + rows_apart(p.n)); }
        var part = array<vec4<f32>, ROWS>();
        var up_part = array<vec4<f32>, ROWS>();
        var x_sum = array<f32, ROWS>(); // of the load's numbers of a
        for (var i = 0u; i < LOAD4; i++) {
            let at4 = k * LOAD4 + i;
            let w = weights(now, i);
            var up_w = w;
            if GATED { up_w = weights(up, i); }
            var s = vec4(1.0);
            if NORM && STAGED4 == 1u { s = scale[at4]; }
            for (var r = 0u; r < ROWS; r++) {
                var x = vec4<f32>();
                if !NORM {
                    x = a[ia[r] + at4];
                } else if STAGED4 > 1u {
                    x = normed[r * k4 + at4];
                } else {
                    x = a[ia[r] + at4] * r_rms[r] * s;
                }
                part[r] += x * w;
                if HAS_LEASTS { x_sum[r] += dot(x, vec4(1.0)); }
                if GATED { up_part[r] += x * up_w; }
            }
        }
        let scales = weight_scales(at, k);
        for (var r = 0u; r < ROWS; r++) {
            acc[r] += scales.factors * part[r];
            if HAS_LEASTS { acc[r] += scales.leasts * x_sum[r]; }
        }
        if GATED {
            let up_scales = weight_scales(at + p.n, k);
            for (var r = 0u; r < ROWS; r++) {
                gate[r] += up_scales.factors * up_part[r];
                if HAS_LEASTS { gate[r] += up_scales.leasts * x_sum[r]; }
            }
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
