// The likeliest class of each share of each row's logits, with its key: half of the choice of a token on cards, where one
// workgroup would wait for memory most of its time. `sample` and `accept_drafts` find the likeliest of these.
//
// One workgroup of LANES per share.

struct Params {
    batch: u32,
    vocab: u32,
    shares: u32, // of a row
    share: u32, // classes of a workgroup
    grid_x: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<uniform> settings: Settings;
@group(0) @binding(2) var<storage, read> logits: array<f32>; // [batch, vocab]
@group(0) @binding(3) var<storage, read_write> found: array<vec2<u32>>; // [batch, shares] of (key, id)

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = p.first_group + group.y * p.grid_x + group.x;
    if index >= p.batch * p.shares { return; }
    let start = index / p.shares * p.vocab;
    let first = index % p.shares * p.share;
    let end = min(first + p.share, min(settings.limit, p.vocab));
    var best = Best(0u, BAD);
    var i = first + lane;
    loop {
        if i >= end { break; }
        let k = key(logits[start + i]);
        if k > best.key { best = Best(k, i); }
        i += LANES;
    }
    best = best_of(best, lane);
    if lane == 0u { found[index] = vec2(best.key, best.id); }
}
