// out = a + b, elementwise.
//
// One invocation per element, 256 a workgroup.

struct Params {
    len: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>; // [len]
@group(0) @binding(2) var<storage, read> b: array<f32>; // [len]
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [len]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 256u + lane;
    if i < p.len {
        out[i] = a[i] + b[i];
    }
}
