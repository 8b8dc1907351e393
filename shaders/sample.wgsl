// The next token of each sequence from its logits, by the settings: the likeliest, or a draw among those that top-k and
// top-p leave. Then the sequence's state moves on by one position.
//
// One workgroup of LANES per sequence; every invocation goes over every LANES-th class. Cut-offs are found without
// sorting, by bisection on the bits of the logits (as integers in the order of the floats), three probes a round. Classes below
// all further probes are left out as soon as that is known, so that after a few rounds a handful is left to go over.
// Sums add up invocation by invocation in a fixed order, so that equal seeds give equal tokens in any batch.

struct Params {
    batch: u32,
    vocab: u32,
    len: u32, // positions that a sequence can have
    shares: u32, // of a row in `found`; 0: the likeliest is not known yet
    rounds: u32, // CUT_ROUNDS; a run-time bound, since some compilers unroll every constant one
    grid_x: u32,
    first_group: u32,
}

const LEAST_WEIGHT = 1e-30; // top-p of 0 leaves the likeliest

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<uniform> settings: Settings;
@group(0) @binding(2) var<storage, read> logits: array<f32>; // [batch, vocab]
@group(0) @binding(3) var<storage, read> sequences: array<u32>; // [batch]: which draws a sequence gets
@group(0) @binding(4) var<storage, read_write> ids: array<u32>; // [batch]: the newest token
@group(0) @binding(5) var<storage, read_write> tokens: array<u32>; // [len, batch]
@group(0) @binding(6) var<storage, read_write> finished: array<u32>; // [batch]
@group(0) @binding(7) var<storage, read_write> pos: array<u32>; // [batch]: where the newest token stands
@group(0) @binding(8) var<storage, read> found: array<vec2<u32>>; // [batch, shares] of (key, id): see likeliest.wgsl
@group(0) @binding(9) var<storage, read_write> listed: array<vec2<u32>>; // [batch, ceil(vocab / LANES), LANES] of (id, logit)

// The classes of an invocation that a search has not left out: `count` in `listed`, if they are there, else all that are its.
struct Own {
    first: u32, // in `listed`
    start: u32, // in `logits`
    count: u32,
    is_listed: bool,
}

fn class_of(own: Own, i: u32, lane: u32) -> vec2<u32> {
    if own.is_listed { return listed[own.first + i * LANES]; }
    let id = lane + i * LANES;
    return vec2(id, bitcast<u32>(logits[own.start + id]));
}

// The likeliest class below `limit`, the first of equals.
fn likeliest(sequence: u32, limit: u32, lane: u32) -> u32 {
    let start = sequence * p.vocab;
    var best = Best(0u, BAD);
    var i = lane;
    loop {
        if i >= p.shares { break; }
        let share = found[sequence * p.shares + i];
        best = better(Best(share.x, share.y), best);
        i += LANES;
    }
    i = select(limit, lane, p.shares == 0u);
    loop {
        if i >= limit { break; }
        let k = key(logits[start + i]);
        if k > best.key { best = Best(k, i); }
        i += LANES;
    }
    return best_of(best, lane).id;
}

// Probability of a logit, up to a factor.
fn weight(x: f32, top: f32) -> f32 {
    return exp((x - top) / settings.temperature);
}

// The least key that top-k and top-p leave: each the largest t such that the logits with keys of t or more reach a sum, of
// their number or of their weights. Lists in `own` what is left.
//
// Every round leaves about a quarter of low .. high. Their number is fixed, since a barrier in a loop whose end depends on data
// is refused by FXC. A round too many changes nothing: its probes are all `high`, which the sums do not reach. Both searches are
// one loop, with a round between them that weighs what the first has left: compilers take their time over barriers.
fn cut_off(own: ptr<function, Own>, top: f32, lane: u32) -> u32 {
    var low = 1u;
    var listed_from = 1u; // the least key that is in the list
    var high = key(top) + 1u;
    var target_sum = f32(settings.top_k);
    var round = select(0u, p.rounds, settings.top_k == 0u);
    let end = select(2u * p.rounds + 1u, p.rounds, settings.top_p >= 1.0);
    loop {
        if round >= end { break; }
        let by_weight = round >= p.rounds;
        let is_first = round == p.rounds;
        if is_first { high = key(top) + 1u; }
        let width = high - low;
        var probes = low + max(vec3(1u), vec3(width / 4u, width / 2u, width - max(1u, width / 4u)));
        if is_first { probes = vec3(low); }
        var sum = vec3<f32>();
        let lists = low > listed_from;
        let from_list = *own;
        var kept = 0u;
        var i = 0u;
        loop {
            if i >= from_list.count { break; }
            // Four at a time: a card waits for one load as long as for four.
            let last = from_list.count - 1u;
            let a = class_of(from_list, i, lane);
            let b = class_of(from_list, min(i + 1u, last), lane);
            let c = class_of(from_list, min(i + 2u, last), lane);
            let d = class_of(from_list, min(i + 3u, last), lane);
            let ids = vec4(a.x, b.x, c.x, d.x);
            let x = bitcast<vec4<f32>>(vec4(a.y, b.y, c.y, d.y));
            /* unroll */ for (var j = 0u; j < 4u; j++) {
                // No branch: FXC would then see the barrier in flow that varies.
                let k = select(0u, key(x[j]), i + j < from_list.count);
                let w = select(1.0, weight(x[j], top), by_weight);
                sum += select(vec3<f32>(), vec3(w), vec3(k) >= probes);
                if lists && k >= low {
                    listed[from_list.first + kept * LANES] = vec2(ids[j], bitcast<u32>(x[j]));
                    kept += 1u;
                }
            }
            i += 4u;
        }
        if lists {
            listed_from = low;
            (*own).count = kept;
            (*own).is_listed = true;
        }
        sum = sum_up(vec4(sum, 0.0), lane).xyz;
        let reached = sum >= vec3(target_sum);
        if is_first { target_sum = max(settings.top_p * sum.x, LEAST_WEIGHT); }
        else if reached.z { low = probes.z; }
        else if reached.y { low = probes.y; high = probes.z; }
        else if reached.x { low = probes.x; high = probes.y; }
        else { high = probes.x; }
        round += 1u;
    }
    return low;
}

// Invocation 0, whose own classes are `own`, draws a class with a key of at least `cut`, from the lanes' sums of weights in
// part_sum and the numbers of their classes in part_id.
fn draw(own: Own, top: f32, cut: u32, uniform_below_1: f32, likeliest: u32) -> u32 {
    var all = 0.0;
    var l = 0u;
    loop {
        if l >= LANES { break; }
        all += part_sum[l].x;
        l += 1u;
    }
    var left = uniform_below_1 * all;
    var chosen = likeliest;
    l = 0u;
    loop {
        if l >= LANES { break; }
        if left < part_sum[l].x { break; }
        left -= part_sum[l].x;
        l += 1u;
    }
    // Rounding may leave nothing: then the likeliest stands.
    if l == LANES { return chosen; }
    let drawn = Own(own.first + l, own.start, part_id[l], own.is_listed);
    var i = 0u;
    loop {
        if i >= drawn.count { break; }
        let entry = class_of(drawn, i, l);
        let x = bitcast<f32>(entry.y);
        if key(x) >= cut {
            let w = select(0.0, weight(x, top), weight(x, top) >= settings.min_p);
            if w > 0.0 { chosen = entry.x; }
            if left < w { break; }
            left -= w;
        }
        i += 1u;
    }
    return chosen;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let sequence = p.first_group + group.y * p.grid_x + group.x;
    if sequence >= p.batch { return; }
    let start = sequence * p.vocab;
    let limit = min(settings.limit, p.vocab);
    var token = likeliest(sequence, limit, lane);
    let is_number = token != BAD;

    if settings.temperature > 0.0 && settings.top_k != 1u {
        let top = logits[start + select(0u, token, is_number)];
        let slots = (p.vocab + LANES - 1u) / LANES;
        let count = select(0u, (limit - lane - 1u) / LANES + 1u, lane < limit);
        var own = Own(sequence * slots * LANES + lane, start, count, false);
        let cut = cut_off(&own, top, lane);
        var sum = 0.0;
        var i = 0u;
        loop {
            if i >= own.count { break; }
            let x = bitcast<f32>(class_of(own, i, lane).y);
            let w = weight(x, top);
            if key(x) >= cut && w >= settings.min_p { sum += w; }
            i += 1u;
        }
        workgroupBarrier();
        part_sum[lane] = vec4(sum);
        part_id[lane] = own.count;
        storageBarrier();
        workgroupBarrier();
        if lane == 0u && is_number {
            let random = pcg4d(vec4(sequences[sequence], pos[sequence], settings.seed));
            token = draw(own, top, cut, (f32(random.x >> 8u) + 0.5) / 16777216.0, token);
        }
    }

    if lane > 0u { return; }
    if finished[sequence] != 0u { token = settings.pad; }
    if token == BAD || is_end(token) { finished[sequence] = 1u; }
    let at = pos[sequence] + 1u;
    if at >= p.len { return; }
    tokens[at * p.batch + sequence] = token;
    // The next step embeds it.
    ids[sequence] = select(token, settings.pad, token == BAD);
    pos[sequence] = at;
}
