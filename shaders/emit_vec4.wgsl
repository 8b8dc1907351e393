// Epilogue of the matmul kernels: c = dropout(act(alpha * acc)) (+ residual) (+ c); rows and offsets are multiples of four.
@group(0) @binding(3) var<storage, read> residual: array<vec4<f32>>; // as c
@group(0) @binding(4) var<storage, read_write> c: array<vec4<f32>>; // [m, ldc / 4]

fn emit4(row: u32, col: u32, acc: vec4<f32>) {
    if row >= p.m || col >= p.n { return; }
    let i = (p.c_offset + row * p.ldc + col) / 4u;
    var v = p.alpha * acc;
    if ACTIVATE { v = activate(v); }
    v *= vec4(keep_result(4u * i), keep_result(4u * i + 1u), keep_result(4u * i + 2u), keep_result(4u * i + 3u));
    if RESIDUAL { v += residual[i]; }
    if ACCUMULATE { v += c[i]; }
    c[i] = v;
}

// c = act(acc) * gate.
fn emit_gated4(row: u32, col: u32, acc: vec4<f32>, gate: vec4<f32>) {
    if row >= p.m || col >= p.n { return; }
    c[(p.c_offset + row * p.ldc + col) / 4u] = activate(acc) * gate;
}
