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
}

const UNCHOOSABLE = -1e30; // the log-probability where a row has fewer tokens; their id is -1

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<uniform> settings: Settings;
@group(0) @binding(2) var<storage, read> logits: array<f32>; // [rows, vocab]
@group(0) @binding(3) var<storage, read_write> top: array<vec2<f32>>; // [rows, keep] of (log-probability, id)

// The best two.
struct Two {
    first: Best,
    second: Best,
}

// The lane's best two classes among those that come after `last`.
fn look(start: u32, limit: u32, lane: u32, last: Best) -> Two {
    var two = Two(Best(0u, BAD), Best(0u, BAD));
    var i = lane;
    loop {
        if i >= limit { break; }
        let one = Best(key(logits[start + i]), i);
        if one.key > two.second.key && is_better(last, one) {
            if one.key > two.first.key { two = Two(one, two.first); } else { two.second = one; }
        }
        i += LANES;
    }
    return two;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * p.grid_x + group.x;
    if row >= p.rows { return; }
    let start = row * p.vocab;
    let limit = min(settings.limit, p.vocab);
    var two = look(start, limit, lane, Best(BAD, 0u));
    var highest = 0.0;
    var log_sum = 0.0;
    if !NORMALIZED {
        // Probabilities are those among all classes, also among those that are never chosen.
        var own = two.first.key;
        var i = limit + lane;
        loop {
            if i >= p.vocab { break; }
            own = max(own, key(logits[start + i]));
            i += LANES;
        }
        highest = value_of(best_of(Best(max(own, 1u), lane), lane).key);
        var sum = 0.0;
        i = lane;
        loop {
            if i >= p.vocab { break; }
            let x = logits[start + i];
            sum += select(0.0, exp(x - highest), key(x) != 0u);
            i += LANES;
        }
        log_sum = log(sum_up(vec4(sum), lane).x);
    }
    var k = 0u;
    loop {
        if k >= p.keep { break; }
        let best = best_of(two.first, lane);
        if lane == 0u {
            let score = (value_of(best.key) - highest) - log_sum;
            top[row * p.keep + k] = select(vec2(score, f32(best.id)), vec2(UNCHOOSABLE, -1.0), best.id == BAD);
        }
        if best.id % LANES == lane && best.id != BAD {
            two = Two(two.second, Best(0u, BAD));
            if two.first.id == BAD { two = look(start, limit, lane, best); }
        }
        k += 1u;
    }
}
