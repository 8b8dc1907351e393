// Numbers per tensor, from sums over its tiles: control.tensors = (mean of the row factors, step size before and after
// clipping of the update).
//
// CLIP false: tile_sums holds squared parameters, which give the step size. CLIP true: it holds squared updates, whose
// root mean square beyond `threshold` shrinks it. One workgroup per tensor.

struct Tensor {
    first: u32, // tile
    tiles: u32,
    rows_at: u32, // in `factors`
    rows: u32, // 0: not factored
    len: u32, // elements
    padding0: u32,
    padding1: u32,
    padding2: u32,
}

struct Params {
    count: u32, // tensors
    least: f32, // root mean square that parameters count with
    threshold: f32,
    relative: u32, // 1: steps are relative to the parameters' root mean square
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> tensors: array<Tensor>; // [count]
@group(0) @binding(2) var<storage, read> factors: array<f32>;
@group(0) @binding(3) var<storage, read> tile_sums: array<f32>; // [tiles]
@group(0) @binding(4) var<storage, read_write> control: Control; // rates.x: step size

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = p.first_group + group.y * p.grid_x + group.x;
    if index >= p.count { return; }
    let tensor = tensors[index];
    var sum = 0.0;
    for (var i = lane; i < tensor.tiles; i += 256u) {
        sum += tile_sums[tensor.first + i];
    }
    let rms = sqrt(workgroup_sum(sum, lane) / f32(tensor.len));
    if CLIP {
        if lane == 0u {
            control.tensors[index].z = control.tensors[index].y / max(1.0, rms / p.threshold);
        }
    } else {
        var rows = 0.0;
        for (var i = lane; i < tensor.rows; i += 256u) {
            rows += factors[tensor.rows_at + i];
        }
        let total = workgroup_sum(rows, lane);
        if lane == 0u {
            let size = control.rates.x * select(1.0, max(p.least, rms), p.relative == 1u);
            control.tensors[index] = vec4(total / f32(max(tensor.rows, 1u)), size, 0.0, 0.0);
        }
    }
}
