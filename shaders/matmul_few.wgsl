// What the kernels for few rows share: the operands, and how the weights of four columns are read.

struct Params {
    m: u32,
    n: u32,
    loads: u32, // in a row of b, along k
    lda4: u32, // vec4s in a row of a
    ldb4: u32, // loads from one row of b to the next, or from one group of packed rows to the next
    a_offset4: u32,
    b_offset4: u32,
    b_scales4: u32, // of the first scales, where b has any
    ldc: u32,
    c_offset: u32,
    alpha: f32,
    rate: f32, // of dropout
    site: u32,
    eps: f32,
    col_groups: u32, // workgroups that go over the columns for one block of rows
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>; // [m, lda4]
@group(0) @binding(2) var<storage, read> b: array<Load>; // [n, ldb4], or [n / 4, ldb4] in groups; GATED: 2 n
@group(0) @binding(5) var<storage, read> scale: array<vec4<f32>>; // [k / 4]

// What turns the products of a load's integers into those of weights, for four rows: each integer stands for factor * integer + least.
struct Scales {
    factors: vec4<f32>,
    leasts: vec4<f32>,
}

// A load of each of four rows of b. A struct, since naga writes the helpers of an array of `Load` twice where Load is vec4<f32>.
struct Loads {
    x: Load,
    y: Load,
    z: Load,
    w: Load,
}

fn loads(at: vec4<u32>) -> Loads { return Loads(b[at.x], b[at.y], b[at.z], b[at.w]); }

// The i-th four weights of each row, as columns: `x * weights(..)` is x's product with each of the rows.
fn weights(l: Loads, i: u32) -> mat4x4<f32> {
    return mat4x4(weights4(l.x, i), weights4(l.y, i), weights4(l.z, i), weights4(l.w, i));
}
