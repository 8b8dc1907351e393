// The log-probabilities of what a row of logits offers, kept for every position: first that of the token that was chosen (CHOSEN),
// then those of the KEEP likeliest, in descending order, the lower id first of equals.
//
// One workgroup of LANES per row, as in top_tokens.wgsl. CHOSEN: the token is there already, at the row's position; without it
// the choice comes after this, and the likeliest are kept for the position that it will be about.
// NORMALIZED: the row holds log-probabilities already.

struct Params {
    rows: u32,
    vocab: u32,
    len: u32, // positions that a sequence can have
    keep: u32,
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<uniform> settings: Settings;
@group(0) @binding(2) var<storage, read> logits: array<f32>; // [rows, vocab]
@group(0) @binding(3) var<storage, read> tokens: array<u32>; // [len, rows]
@group(0) @binding(4) var<storage, read> pos: array<u32>; // [rows]
@group(0) @binding(5) var<storage, read_write> scores: array<vec2<f32>>; // [len, rows, CHOSEN + keep] of (log-probability, id)

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = p.first_group + group.y * p.grid_x + group.x;
    if row >= p.rows { return; }
    let start = row * p.vocab;
    let limit = min(settings.limit, p.vocab);
    let at = pos[row] + select(1u, 0u, CHOSEN);
    let writes = lane == 0u && at < p.len;
    let first = (min(at, p.len - 1u) * p.rows + row) * (p.keep + u32(CHOSEN));
    var two = look(start, limit, lane, Best(BAD, 0u));
    var parts = vec2<f32>();
    if !NORMALIZED { parts = log_parts(start, limit, lane, two.first); }
    if writes && CHOSEN {
        let token = min(tokens[min(at, p.len - 1u) * p.rows + row], p.vocab - 1u);
        let x = logits[start + token];
        scores[first] = vec2(select(log_prob(x, parts), UNCHOOSABLE, key(x) == 0u), f32(token));
    }
    var k = 0u;
    loop {
        if k >= p.keep { break; }
        let best = best_of(two.first, lane);
        if writes { scores[first + u32(CHOSEN) + k] = pair_of(best, parts); }
        two = without(two, best, start, limit, lane);
        k += 1u;
    }
}
