// Copies a matrix into the k-major, zero-padded layout that the matmul kernels read: dst[k, m], m padded to a multiple
// of the tile. TRANSPOSE: the source is [m, k], else [k, m].
//
// One invocation copies a 4 x 4 block: four vec4 loads, four vec4 stores.

struct Params {
    rows: u32, // k: rows of dst
    cols: u32, // m: columns that exist in the source
    padded4: u32, // columns of dst / 4
    ld: u32, // elements from one source row to the next, or words from one group of packed rows to the next
    offset: u32, // of the first source row
    scales: u32, // from a group of packed rows to its scales
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read_write> dst: array<vec4<f32>>; // [rows, padded4]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = (p.first_group + group.y * p.grid_x + group.x) * 64u + lane;
    let k = (block / p.padded4) * 4u;
    let m = (block % p.padded4) * 4u;
    if k >= p.rows { return; }
    let k_valid = min(p.rows - k, 4u);
    let m_valid = min(p.cols - min(m, p.cols), 4u);
    var b: array<vec4<f32>, 4>;
    if TRANSPOSE {
        for (var i = 0u; i < 4u; i++) {
            b[i] = load4(m + i, k, select(0u, k_valid, i < m_valid));
        }
        b = array<vec4<f32>, 4>(
            vec4(b[0].x, b[1].x, b[2].x, b[3].x),
            vec4(b[0].y, b[1].y, b[2].y, b[3].y),
            vec4(b[0].z, b[1].z, b[2].z, b[3].z),
            vec4(b[0].w, b[1].w, b[2].w, b[3].w),
        );
    } else {
        for (var i = 0u; i < 4u; i++) {
            b[i] = load4(k + i, m, select(0u, m_valid, i < k_valid));
        }
    }
    for (var i = 0u; i < k_valid; i++) {
        dst[(k + i) * p.padded4 + m / 4u] = b[i];
    }
}
