// The order of logits, and reductions over a workgroup of LANES invocations. First every SIDE-th lane's values are put
// together, then the SIDE results. That takes three barriers, where halving the lanes takes nine: each costs a software
// adapter's compiler a tenth of a second.

const BAD = 0xffffffffu; // the token of a row in which no logit is a number
const SIDE = 16u; // the root of LANES

var<workgroup> part_key: array<u32, LANES>;
var<workgroup> part_id: array<u32, LANES>;
var<workgroup> part_sum: array<vec4<f32>, LANES>;
var<workgroup> side_sum: array<vec4<f32>, SIDE>;

// Order of the floats as integers; 0 for NaN, which is never chosen.
fn key(x: f32) -> u32 {
    let b = bitcast<u32>(x);
    let ordered = select(b | 0x80000000u, ~b, b >= 0x80000000u);
    return select(ordered, 0u, (b & 0x7fffffffu) > 0x7f800000u);
}

// The float of a key.
fn value_of(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u));
}

// A class's key and its id.
struct Best {
    key: u32,
    id: u32,
}

fn is_better(a: Best, b: Best) -> bool {
    return a.key > b.key || (a.key == b.key && a.id < b.id);
}

fn better(a: Best, b: Best) -> Best {
    let first = is_better(a, b);
    return Best(select(b.key, a.key, first), select(b.id, a.id, first));
}

// The best of the lanes' classes, the first of equals.
fn best_of(own: Best, lane: u32) -> Best {
    var best = own;
    workgroupBarrier();
    part_key[lane] = best.key;
    part_id[lane] = best.id;
    workgroupBarrier();
    if lane < SIDE {
        for (var i = lane; i < LANES; i += SIDE) { best = better(Best(part_key[i], part_id[i]), best); }
        part_key[lane] = best.key;
        part_id[lane] = best.id;
    }
    workgroupBarrier();
    for (var i = 0u; i < SIDE; i++) { best = better(Best(part_key[i], part_id[i]), best); }
    return best;
}

// The sum of v over the workgroup.
fn sum_up(v: vec4<f32>, lane: u32) -> vec4<f32> {
    workgroupBarrier();
    part_sum[lane] = v;
    workgroupBarrier();
    if lane < SIDE {
        var part = vec4<f32>();
        for (var i = lane; i < LANES; i += SIDE) { part += part_sum[i]; }
        side_sum[lane] = part;
    }
    workgroupBarrier();
    var sum = vec4<f32>();
    for (var i = 0u; i < SIDE; i++) { sum += side_sum[i]; }
    return sum;
}
