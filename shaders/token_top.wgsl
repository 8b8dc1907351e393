// What goes over a row of `logits` for its likeliest classes. Kernels that include this have `logits`, `p.vocab` and the
// reductions of token_reduce.wgsl.

const UNCHOOSABLE = -1e30; // the log-probability where a row has fewer classes; their id is -1

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

// What is taken from a logit, one after the other, to make a log-probability of it: the highest logit, and the logarithm of the
// sum over all classes, also over those that are never chosen. `best`: the lane's best class below `limit`.
fn log_parts(start: u32, limit: u32, lane: u32, best: Best) -> vec2<f32> {
    var own = best.key;
    var i = limit + lane;
    loop {
        if i >= p.vocab { break; }
        own = max(own, key(logits[start + i]));
        i += LANES;
    }
    let highest = value_of(best_of(Best(max(own, 1u), lane), lane).key);
    var sum = 0.0;
    i = lane;
    loop {
        if i >= p.vocab { break; }
        let x = logits[start + i];
        sum += select(0.0, exp(x - highest), key(x) != 0u);
        i += LANES;
    }
    return vec2(highest, log(sum_up(vec4(sum), lane).x));
}

fn log_prob(x: f32, parts: vec2<f32>) -> f32 {
    return (x - parts.x) - parts.y;
}

// The best class of all lanes as (log-probability, id).
fn pair_of(best: Best, parts: vec2<f32>) -> vec2<f32> {
    let pair = vec2(log_prob(value_of(best.key), parts), f32(best.id));
    return select(pair, vec2(UNCHOOSABLE, -1.0), best.id == BAD);
}

// What the lane has left after `best` was given away.
fn without(two: Two, best: Best, start: u32, limit: u32, lane: u32) -> Two {
    if best.id % LANES != lane || best.id == BAD { return two; }
    if two.second.id == BAD { return look(start, limit, lane, best); }
    return Two(two.second, Best(0u, BAD));
}
