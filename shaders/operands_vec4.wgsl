// Operands of matmul_shared.wgsl: rows, offsets and widths are multiples of four.
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;

// Numbers i .. i + 3.
fn a4(i: u32, left: u32) -> vec4<f32> { return a[i / 4u]; }

fn b4(i: u32, left: u32) -> vec4<f32> { return b[i / 4u]; }
