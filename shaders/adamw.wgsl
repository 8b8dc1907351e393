// One AdamW step on one window: decoupled weight decay, bias correction, eps outside the root, as torch.optim.AdamW.
//
// One invocation per vec4, 256 a workgroup. Gaps between tensors hold zeros and keep them.

struct Params {
    len4: u32, // vec4s in the window
    beta1: f32,
    beta1_rest: f32, // 1 - beta1
    beta2: f32,
    beta2_rest: f32, // 1 - beta2
    eps: f32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
// rates: lr / (1 - beta1^t), lr * weight decay, 1 / sqrt(1 - beta2^t)
@group(0) @binding(1) var<storage, read> control: Control;
@group(0) @binding(2) var<storage, read> grads: array<vec4<f32>>; // [len4]
@group(0) @binding(3) var<storage, read_write> params: array<vec4<f32>>; // [len4]
@group(0) @binding(4) var<storage, read_write> m: array<vec4<f32>>; // [len4]
@group(0) @binding(5) var<storage, read_write> v: array<vec4<f32>>; // [len4]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (p.first_group + group.y * p.grid_x + group.x) * 256u + lane;
    if i >= p.len4 || control.skipped != 0.0 { return; }
    let g = grads[i] * control.scale;
    let first = p.beta1 * m[i] + p.beta1_rest * g;
    let second = p.beta2 * v[i] + p.beta2_rest * g * g;
    m[i] = first;
    v[i] = second;
    let update = first / (sqrt(second) * control.rates.z + p.eps);
    params[i] -= control.rates.y * params[i] + control.rates.x * update;
}
