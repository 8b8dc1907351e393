// Adds the partial sums of global_norm.wgsl and decides what the step does: scale, clip or skip.
//
// One workgroup. The coefficient is that of torch.nn.utils.clip_grad_norm_.

struct Params {
    len: u32, // partial sums
    max_norm: f32, // 0: no clipping
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> stats: array<f32>; // loss sum, tokens, correct, objective sum
@group(0) @binding(2) var<storage, read> parts: array<f32>; // [len]
@group(0) @binding(3) var<storage, read_write> control: Control;

const EXPONENT = 0x7f800000u;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < p.len; i += 256u) {
        sum += parts[i];
    }
    let total = workgroup_sum(sum, lane);
    if lane != 0u { return; }
    // Drivers fold x != x away: only the bits tell.
    let finite = (bitcast<u32>(total) & EXPONENT) != EXPONENT;
    let tokens = stats[1];
    let applies = finite && tokens > 0.0;
    let norm = sqrt(total);
    let clip = select(1.0, min(1.0, p.max_norm / (norm + 1e-6)), p.max_norm > 0.0 && finite);
    control.scale = select(0.0, clip / tokens, applies);
    control.norm = norm;
    control.clip = clip;
    control.skipped = select(1.0, 0.0, applies);
}
