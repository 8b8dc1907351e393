// Sum over a workgroup of 256 invocations in a fixed order. Two barriers, where a tree would need eight.

var<workgroup> sums: array<f32, 272>; // one value of each invocation, then 16 partial sums

fn workgroup_sum(value: f32, lane: u32) -> f32 {
    sums[lane] = value;
    workgroupBarrier();
    if lane < 16u {
        var part = 0.0;
        for (var i = 0u; i < 16u; i++) {
            part += sums[i * 16u + lane];
        }
        sums[256u + lane] = part;
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < 16u; i++) {
        total += sums[256u + i];
    }
    return total;
}
