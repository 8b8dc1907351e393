// y = x * rsqrt(mean(x^2) + eps) * scale, row by row: T5's layer norm, without mean and bias.
//
// LANES invocations share a row and meet once in workgroup memory; 64 / LANES rows a workgroup.

struct Params {
    rows: u32,
    width: u32, // Elems in a row
    cols: f32, // numbers in a row
    eps: f32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Elem>; // [rows, width]
@group(0) @binding(2) var<storage, read> scale: array<Elem>; // [width]
@group(0) @binding(3) var<storage, read_write> y: array<Elem>; // [rows, width]

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let lane = index % LANES;
    let row = (p.first_group + group.y * p.grid_x + group.x) * (64u / LANES) + index / LANES;
    let start = min(row, p.rows - 1u) * p.width;
    var sum = 0.0;
    var i = lane;
    loop {
        if i >= p.width { break; }
        let v = x[start + i];
        sum += edot(v, v);
        i += LANES;
    }
    if LANES > 1u {
        partial[index] = sum;
        workgroupBarrier();
        sum = 0.0;
        for (var l = 0u; l < LANES; l++) { sum += partial[index - lane + l]; }
    }
    if row >= p.rows { return; }
    let r = inverseSqrt(sum / p.cols + p.eps);
    i = lane;
    loop {
        if i >= p.width { break; }
        y[start + i] = x[start + i] * r * scale[i];
        i += LANES;
    }
}
