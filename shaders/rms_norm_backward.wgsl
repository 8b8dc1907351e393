// grad_x = r (scale dy - xhat mean(xhat scale dy)) (+ before), with r = rsqrt(mean(x^2) + eps) and xhat = x r; also writes
// r for the gradient of the scale.
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
@group(0) @binding(3) var<storage, read> dy: array<Elem>; // [rows, width]
@group(0) @binding(4) var<storage, read> before: array<Elem>; // [rows, width]
@group(0) @binding(5) var<storage, read_write> rstd: array<f32>; // [rows]
@group(0) @binding(6) var<storage, read_write> grad_x: array<Elem>; // [rows, width]

var<workgroup> partial: array<vec2<f32>, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let lane = index % LANES;
    let row = (p.first_group + group.y * p.grid_x + group.x) * (64u / LANES) + index / LANES;
    let start = min(row, p.rows - 1u) * p.width;
    var sum = vec2<f32>(); // of x^2, and of x scale dy
    var i = lane;
    loop {
        if i >= p.width { break; }
        let v = x[start + i];
        sum += vec2(edot(v, v), edot(v, scale[i] * dy[start + i]));
        i += LANES;
    }
    if LANES > 1u {
        partial[index] = sum;
        workgroupBarrier();
        sum = vec2<f32>();
        for (var l = 0u; l < LANES; l++) { sum += partial[index - lane + l]; }
    }
    if row >= p.rows { return; }
    let r = inverseSqrt(sum.x / p.cols + p.eps);
    let projection = r * r * sum.y / p.cols;
    if lane == 0u { rstd[row] = r; }
    i = lane;
    loop {
        if i >= p.width { break; }
        var d = r * (scale[i] * dy[start + i] - x[start + i] * projection);
        if ADD { d += before[start + i]; }
        grad_x[start + i] = d;
        i += LANES;
    }
}
