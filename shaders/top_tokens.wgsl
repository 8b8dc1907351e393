// The KEEP likeliest tokens of each row with their log-probabilities, in descending order, the lower id first of equals.
//
// One workgroup of LANES per row; every invocation goes over every LANES-th class and remembers the best two that it has not
// given away. In each round the workgroup takes the best of all lanes; only a lane that has given both away looks for its next
// two. So the vocabulary is not sorted, and is read twice and a little.
// NORMALIZED: the row holds log-probabilities already.

struct Params {
    rows: u32,
    vocab: u32,
    keep: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<uniform> settings: Settings;
@group(0) @binding(2) var<storage, read> logits: array<f32>; // [rows, vocab]
@group(0) @binding(3) var<storage, read_write> top: array<vec2<f32>>; // [rows, keep] of (log-probability, id)

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = p.first_group + group.y * p.grid_x + group.x;
    if row >= p.rows { return; }
    let start = row * p.vocab;
    let limit = min(settings.limit, p.vocab);
    var two = look(start, limit, lane, Best(BAD, 0u));
    var parts = vec2<f32>();
    if !NORMALIZED { parts = log_parts(start, limit, lane, two.first); }
    var k = 0u;
    loop {
        if k >= p.keep { break; }
        let best = best_of(two.first, lane);
        if lane == 0u { top[row * p.keep + k] = pair_of(best, parts); }
        two = without(two, best, start, limit, lane);
        k += 1u;
    }
}
