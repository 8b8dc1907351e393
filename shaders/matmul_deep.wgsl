// c[m, n] = alpha * sum over k of a[m, k] * b[n, k] (+ residual) (+ c) for few rows m, as matmul_rows makes it, for cards. NORM:
// of the rows of a, divided by their root mean square and multiplied by `scale`. GATED: act(a b1^T) * (a b2^T), b2 following b1
// in b. The operands: matmul_few.wgsl.
//
// DEEP invocations share the sums of 4 columns of up to ROWS rows: neighbours read neighbouring loads of b, so that the memory
// is read in whole lines, and there are enough of them to keep a card busy where columns are few. A sum is added up in an
// order that follows from DEEP alone: a result depends on its own row alone, bit for bit, however many rows there are.

const PARTS = min(8u, DEEP / 4u); // in which a sum's DEEP shares are added up, side by side

var<workgroup> shares: array<vec4<f32>, ROWS * LANES>; // [columns / 4, ROWS, DEEP]
var<workgroup> squares: array<f32, ROWS * LANES>; // as shares
var<workgroup> parts: array<vec4<f32>, ROWS * LANES / DEEP * PARTS>; // [columns / 4, ROWS, PARTS]
var<workgroup> square_parts: array<f32, ROWS * LANES / DEEP * PARTS>; // as parts

// Adds up the shares. Each invocation gets the four sums of one row of its columns.
fn add_up(columns: u32, lane: u32, row: u32) -> vec4<f32> {
    workgroupBarrier();
    for (var part = lane; part < ROWS * PARTS; part += DEEP) {
        let first = columns * ROWS * DEEP + part * (DEEP / PARTS);
        var sum = shares[first];
        var square = squares[first];
        for (var i = 1u; i < DEEP / PARTS; i++) {
            sum += shares[first + i];
            square += squares[first + i];
        }
        parts[columns * ROWS * PARTS + part] = sum;
        square_parts[columns * ROWS * PARTS + part] = square;
    }
    workgroupBarrier();
    let first = (columns * ROWS + row) * PARTS;
    var sum = parts[first];
    for (var i = 1u; i < PARTS; i++) { sum += parts[first + i]; }
    return sum;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let work = p.first_group + group.y * p.grid_x + group.x;
    let first = work / p.col_groups * ROWS;
    let columns = index / DEEP;
    let lane = index % DEEP;
    let col = (work % p.col_groups * (LANES / DEEP) + columns) * 4u;
    // A row or column past the end reads the last one again; its results are not stored.
    let at = min(col, p.n - 1u);
    let ib = row_starts(at);
    /* registers */ var ia = array<u32, ROWS>();
    /* registers */ var acc = array<vec4<f32>, ROWS>();
    /* registers */ var gate = array<vec4<f32>, ROWS>();
    /* registers */ var square = array<f32, ROWS>();
    /* unroll */ for (var r = 0u; r < ROWS; r++) {
        ia[r] = p.a_offset4 + min(first + r, p.m - 1u) * p.lda4;
    }
    var k = lane;
    loop {
        if k >= p.loads { break; }
        let now = loads(ib + k * STRIDE);
        var up = now;
        if GATED { up = loads(ib + k * STRIDE + rows_apart(p.n)); }
        /* registers */ var part = array<vec4<f32>, ROWS>();
        /* registers */ var up_part = array<vec4<f32>, ROWS>();
        /* registers */ var x_sum = array<f32, ROWS>(); // of the load's numbers of a
        /* unroll */ for (var i = 0u; i < LOAD4; i++) {
            let at4 = k * LOAD4 + i;
            let w = weights(now, i);
            var up_w = w;
            if GATED { up_w = weights(up, i); }
            var s = vec4(1.0);
            if NORM { s = scale[at4]; }
            /* unroll */ for (var r = 0u; r < ROWS; r++) {
                var x = a[ia[r] + at4];
                if NORM {
                    square[r] += dot(x, x);
                    x *= s;
                }
                part[r] += x * w;
                if HAS_LEASTS { x_sum[r] += dot(x, vec4(1.0)); }
                if GATED { up_part[r] += x * up_w; }
            }
        }
        let scales = weight_scales(at, k);
        /* unroll */ for (var r = 0u; r < ROWS; r++) {
            acc[r] += scales.factors * part[r];
            if HAS_LEASTS { acc[r] += scales.leasts * x_sum[r]; }
        }
        if GATED {
            let up_scales = weight_scales(at + p.n, k);
            /* unroll */ for (var r = 0u; r < ROWS; r++) {
                gate[r] += up_scales.factors * up_part[r];
                if HAS_LEASTS { gate[r] += up_scales.leasts * x_sum[r]; }
            }
        }
        k += DEEP;
    }
    let row = min(lane, ROWS - 1u);
    let share = columns * ROWS * DEEP + lane;
    /* unroll */ for (var r = 0u; r < ROWS; r++) {
        shares[share + r * DEEP] = acc[r];
        squares[share + r * DEEP] = square[r];
    }
    var sum = add_up(columns, lane, row);
    // The norm divides a whole row by one number, so it may as well divide the sums.
    var r_rms = 1.0;
    if NORM {
        let first_square = (columns * ROWS + row) * PARTS;
        var total = square_parts[first_square];
        for (var i = 1u; i < PARTS; i++) { total += square_parts[first_square + i]; }
        r_rms = inverseSqrt(total / f32(4u * p.loads * LOAD4) + p.eps);
    }
    sum *= r_rms;
    if GATED {
        /* unroll */ for (var r = 0u; r < ROWS; r++) { shares[share + r * DEEP] = gate[r]; }
        let up_sum = add_up(columns, lane, row) * r_rms;
        if lane < ROWS { emit_gated4(first + row, col, sum, up_sum); }
    } else if lane < ROWS {
        emit4(first + row, col, sum);
    }
}
