// Epilogue of the matmul kernels: c = dropout(act(alpha * acc)) (+ residual) (+ c), four columns at a time, at any alignment.
@group(0) @binding(3) var<storage, read> residual: array<f32>; // as c
@group(0) @binding(4) var<storage, read_write> c: array<f32>; // [m, ldc]

fn emit1(i: u32, acc: f32) {
    var v = p.alpha * acc;
    if ACTIVATE { v = activate(v); }
    v *= keep_result(i);
    if RESIDUAL { v += residual[i]; }
    if ACCUMULATE { v += c[i]; }
    c[i] = v;
}

fn emit4(row: u32, col: u32, acc: vec4<f32>) {
    if row >= p.m { return; }
    let i = p.c_offset + row * p.ldc + col;
    if col < p.n { emit1(i, acc.x); }
    if col + 1u < p.n { emit1(i + 1u, acc.y); }
    if col + 2u < p.n { emit1(i + 2u, acc.z); }
    if col + 3u < p.n { emit1(i + 3u, acc.w); }
}

// c = act(acc) * gate.
fn emit_gated4(row: u32, col: u32, acc: vec4<f32>, gate: vec4<f32>) {
    if row >= p.m { return; }
    let i = p.c_offset + row * p.ldc + col;
    if col < p.n { c[i] = activate(acc.x) * gate.x; }
    if col + 1u < p.n { c[i + 1u] = activate(acc.y) * gate.y; }
    if col + 2u < p.n { c[i + 2u] = activate(acc.z) * gate.z; }
    if col + 3u < p.n { c[i + 3u] = activate(acc.w) * gate.w; }
}
