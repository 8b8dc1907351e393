// c[m, n] = alpha * sum over k of a * b (+ residual) (+ c) for operands in any layout, by tiles in workgroup memory: GPUs.
//
// A workgroup makes a tile of TILE x TILE results. It takes DEPTH steps of k at a time: each invocation fetches a block of
// 4 x 4 numbers of either operand and leaves it k-major in workgroup memory, whichever way the operand is stored; then each
// reads TILE / 8 rows and columns a step, in pieces of four that lie 32 apart, so that neighbours read different banks.
// With AHEAD the next blocks are on their way from memory while a tile is multiplied, in 32 more registers.
// Long k is shared out: part i of [parts, rows, n] sums steps i part_k .. (i + 1) part_k.

struct Params {
    m: u32, // parts * rows: what c has
    rows: u32, // of the product
    n: u32,
    k: u32,
    part_k: u32, // a multiple of DEPTH
    lda: u32, // elements from one stored row of a to the next
    ldb: u32,
    a_offset: u32,
    b_offset: u32,
    ldc: u32,
    c_offset: u32,
    alpha: f32,
    rate: f32, // of dropout
    site: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;

const DEPTH = 1024u / TILE;
const PITCH = TILE / 4u + 1u; // one more than needed, against bank conflicts
const QUADS = TILE / 32u; // of rows, and of columns, of one invocation

var<workgroup> tile_a: array<vec4<f32>, DEPTH * PITCH>; // [DEPTH, PITCH] four rows of the tile each
var<workgroup> tile_b: array<vec4<f32>, DEPTH * PITCH>; // [DEPTH, PITCH] four columns of the tile each

fn a_row(row: u32, col: u32, rows: u32, cols: u32) -> vec4<f32> {
    if row >= rows || col >= cols { return vec4(0.0); }
    return a4(p.a_offset + row * p.lda + col, cols - col);
}

fn b_row(row: u32, col: u32, rows: u32, cols: u32) -> vec4<f32> {
    if row >= rows || col >= cols { return vec4(0.0); }
    return b4(p.b_offset + row * p.ldb + col, cols - col);
}

// Where the block of this invocation begins, as (row or column of the tile, step): neighbours read neighbours.
fn block_of(lane: u32, along_k: bool) -> vec2<u32> {
    let across = select(TILE / 4u, DEPTH / 4u, along_k);
    let at = 4u * vec2(lane / across, lane % across);
    return select(at.yx, at, along_k);
}

// A block's row i is step i of it from here on.
fn fetch_a(lane: u32, first: u32, k: u32, end: u32) -> mat4x4<f32> {
    let block = block_of(lane, A_ALONG_K);
    let row = first + block.x;
    let step = k + block.y;
    if A_ALONG_K {
        return transpose(mat4x4(
            a_row(row, step, p.rows, end),
            a_row(row + 1u, step, p.rows, end),
            a_row(row + 2u, step, p.rows, end),
            a_row(row + 3u, step, p.rows, end)));
    }
    return mat4x4(
        a_row(step, row, end, p.rows),
        a_row(step + 1u, row, end, p.rows),
        a_row(step + 2u, row, end, p.rows),
        a_row(step + 3u, row, end, p.rows));
}

fn stage_a(lane: u32, v: mat4x4<f32>) {
    let block = block_of(lane, A_ALONG_K);
    let into = block.y * PITCH + block.x / 4u;
    /* unroll */ for (var i = 0u; i < 4u; i++) { tile_a[into + i * PITCH] = v[i]; }
}

fn fetch_b(lane: u32, first: u32, k: u32, end: u32) -> mat4x4<f32> {
    let block = block_of(lane, B_ALONG_K);
    let col = first + block.x;
    let step = k + block.y;
    if B_ALONG_K {
        return transpose(mat4x4(
            b_row(col, step, p.n, end),
            b_row(col + 1u, step, p.n, end),
            b_row(col + 2u, step, p.n, end),
            b_row(col + 3u, step, p.n, end)));
    }
    return mat4x4(
        b_row(step, col, end, p.n),
        b_row(step + 1u, col, end, p.n),
        b_row(step + 2u, col, end, p.n),
        b_row(step + 3u, col, end, p.n));
}

fn stage_b(lane: u32, v: mat4x4<f32>) {
    let block = block_of(lane, B_ALONG_K);
    let into = block.y * PITCH + block.x / 4u;
    /* unroll */ for (var i = 0u; i < 4u; i++) { tile_b[into + i * PITCH] = v[i]; }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tiles_n = (p.n + TILE - 1u) / TILE;
    let tiles = (p.rows + TILE - 1u) / TILE * tiles_n;
    let index = p.first_group + group.y * p.grid_x + group.x;
    let part = index / tiles;
    let row = index % tiles / tiles_n * TILE;
    let col = index % tiles % tiles_n * TILE;
    let end = min((part + 1u) * p.part_k, p.k);
    let a_quad = lane / 8u;
    let b_quad = lane % 8u;
    /* registers */ var acc = array<vec4<f32>, 4u * QUADS * QUADS>(); // [row, quad of columns]
    var k = part * p.part_k;
    // Steps past the end are zeros.
    var block_a = fetch_a(lane, row, k, end);
    var block_b = fetch_b(lane, col, k, end);
    loop {
        if k >= end { break; }
        stage_a(lane, block_a);
        stage_b(lane, block_b);
        workgroupBarrier();
        let depth = min(DEPTH, end - k);
        k += DEPTH;
        if AHEAD {
            block_a = fetch_a(lane, row, k, end);
            block_b = fetch_b(lane, col, k, end);
        }
        var step = 0u;
        loop {
            if step >= depth { break; }
            /* unroll */ for (var s = 0u; s < 4u; s++) {
                let at = (step + s) * PITCH;
                /* registers */ var bv = array<vec4<f32>, QUADS>();
                /* unroll */ for (var j = 0u; j < QUADS; j++) { bv[j] = tile_b[at + b_quad + 8u * j]; }
                /* unroll */ for (var i = 0u; i < QUADS; i++) {
                    let av = tile_a[at + a_quad + 8u * i];
                    /* unroll */ for (var j = 0u; j < QUADS; j++) {
                        acc[4u * i * QUADS + j] = fma(vec4(av.x), bv[j], acc[4u * i * QUADS + j]);
                        acc[(4u * i + 1u) * QUADS + j] = fma(vec4(av.y), bv[j], acc[(4u * i + 1u) * QUADS + j]);
                        acc[(4u * i + 2u) * QUADS + j] = fma(vec4(av.z), bv[j], acc[(4u * i + 2u) * QUADS + j]);
                        acc[(4u * i + 3u) * QUADS + j] = fma(vec4(av.w), bv[j], acc[(4u * i + 3u) * QUADS + j]);
                    }
                }
            }
            step += 4u;
        }
        workgroupBarrier();
        if !AHEAD {
            block_a = fetch_a(lane, row, k, end);
            block_b = fetch_b(lane, col, k, end);
        }
    }
    /* unroll */ for (var i = 0u; i < QUADS; i++) {
        /* unroll */ for (var j = 0u; j < QUADS; j++) {
            emit_rows(
                part * p.rows,
                row + 32u * i + 4u * a_quad,
                col + 32u * j + 4u * b_quad,
                acc[4u * i * QUADS + j],
                acc[(4u * i + 1u) * QUADS + j],
                acc[(4u * i + 2u) * QUADS + j],
                acc[(4u * i + 3u) * QUADS + j]);
        }
    }
}

// Stores results of rows row .. row + 3 of a part that begins at row `first` of c. A loop with a run-time bound, since FXC would
// take longer over the epilogue, once for each row, than over all the rest.
fn emit_rows(first: u32, row: u32, col: u32, v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32>) {
    var i = 0u;
    loop {
        if i >= min(4u, max(p.rows, row) - row) { break; }
        emit4(first + row + i, col, select(select(v0, v1, i == 1u), select(v2, v3, i == 3u), i >= 2u));
        i += 1u;
    }
}
