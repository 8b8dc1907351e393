// dst = src: measures the bandwidth of the memory.
//
// One invocation copies EACH vec4s, a workgroup's width apart.

struct Params {
    len4: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> src: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> dst: array<vec4<f32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = (p.first_group + group.y * p.grid_x + group.x) * 256u * EACH + lane;
    for (var k = 0u; k < EACH; k++) {
        let i = first + k * 256u;
        if i < p.len4 { dst[i] = src[i]; }
    }
}
