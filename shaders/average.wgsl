// A moving average of a window of weights: average += rate * (weights - average). Nothing happens behind a step that was skipped.
//
// One invocation per vec4, 256 a workgroup.

struct Params {
    len4: u32, // vec4s in the window
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> control: Control;
@group(0) @binding(2) var<storage, read> rate: array<f32>; // [1]
@group(0) @binding(3) var<storage, read> weights: array<vec4<f32>>; // [len4]
@group(0) @binding(4) var<storage, read_write> average: array<vec4<f32>>; // [len4]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 256u + lane;
    if i >= p.len4 || control.skipped != 0.0 { return; }
    average[i] += rate[0] * (weights[i] - average[i]);
}
