// A step of beam search for each source, as transformers does it: from the likeliest tokens of each of its beams to the beams
// that go on, the hypotheses that end here, and the caches' table.
//
// One workgroup per source. Invocation 0 merges the beams' lists, each in descending order, which is a few hundred comparisons
// for a handful of beams; then all rewrite the table, a position each: a beam's keys stay where they are, and it gets its
// parent's way to find them.
// The state of a source is beams[..]: whether it is done, the running scores, and the best ended hypotheses in
// descending order, each with its score, the position of its last token (0: none), its parent's row and its last token.

struct Params {
    batch: u32,
    beams: u32, // of a source
    keep: u32, // tokens of a beam's list, and continuations looked at
    len: u32, // positions that a sequence can have
    grid_x: u32,
    first_group: u32,
}

const MOST_BEAMS = 32u;
const MOST_KEPT = 544u; // MOST_BEAMS of every end token and one more
const EARLY = 1u;
const NEVER = 2u;
const OUT = -1e9; // taken from what is out of the race, as transformers does
const HOPELESS = -1e8; // below this a beam is not a real one
const DONE = 1.0;
const FAILED = 2.0; // no logit of a beam is a number

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<uniform> settings: Settings;
@group(0) @binding(2) var<storage, read> top: array<vec2<f32>>; // [batch beams, keep] of (log-probability, id)
@group(0) @binding(3) var<storage, read> penalties: array<f32>; // [len]: what a score of so many tokens is divided by
@group(0) @binding(4) var<storage, read_write> ids: array<u32>; // [batch beams]: the newest token
@group(0) @binding(5) var<storage, read_write> tokens: array<u32>; // [len, batch beams]
@group(0) @binding(6) var<storage, read_write> parents: array<u32>; // [len, batch beams]: the row before
@group(0) @binding(7) var<storage, read_write> pos: array<u32>; // [batch beams]: where the newest token stands
@group(0) @binding(8) var<storage, read_write> cache_row: array<u32>; // [batch beams, len]
@group(0) @binding(9) var<storage, read_write> beams: array<f32>; // [batch, 1 + 5 beams]

var<workgroup> kept_score: array<f32, MOST_KEPT>;
var<workgroup> kept_beam: array<u32, MOST_KEPT>;
var<workgroup> kept_token: array<u32, MOST_KEPT>;
var<workgroup> kept_ends: array<u32, MOST_KEPT>; // 1: a hypothesis ends with this token
var<workgroup> parent: array<u32, MOST_BEAMS>;
var<workgroup> shared_last: u32; // positions of the table to rewrite; 0 if the source is done

// The best continuations of all beams, the first beam of equals. False if a beam has no numbers.
fn merge(source: u32, state: u32) -> bool {
    let row = source * p.beams;
    var next: array<u32, MOST_BEAMS>;
    var head: array<f32, MOST_BEAMS>;
    for (var b = 0u; b < p.beams; b++) {
        let running = beams[state + 1u + b];
        let first = top[(row + b) * p.keep];
        if first.y < 0.0 && running > HOPELESS { return false; }
        next[b] = 0u;
        head[b] = running + first.x;
    }
    for (var k = 0u; k < p.keep; k++) {
        var best = 0u;
        for (var b = 1u; b < p.beams; b++) {
            if head[b] > head[best] { best = b; }
        }
        kept_score[k] = head[best];
        kept_beam[k] = best;
        let at = (row + best) * p.keep + next[best];
        kept_token[k] = select(u32(max(top[at].y, 0.0)), settings.pad, top[at].y < 0.0);
        next[best] += 1u;
        // A list is as long as the whole result, so that none ends before it.
        head[best] = beams[state + 1u + best] + top[min(at + 1u, (row + best + 1u) * p.keep - 1u)].x;
    }
    return true;
}

// Puts a hypothesis in its place among the ended ones, behind its equals.
fn insert(ended: u32, score: f32, at: u32, row: u32, token: u32) {
    var place = p.beams;
    loop {
        if place == 0u || beams[ended + 4u * (place - min(place, 1u))] >= score { break; }
        place -= 1u;
    }
    if place >= p.beams { return; }
    for (var i = p.beams - 1u; i > place; i--) {
        for (var j = 0u; j < 4u; j++) { beams[ended + 4u * i + j] = beams[ended + 4u * (i - 1u) + j]; }
    }
    beams[ended + 4u * place] = score;
    beams[ended + 4u * place + 1u] = f32(at);
    beams[ended + 4u * place + 2u] = f32(row);
    beams[ended + 4u * place + 3u] = f32(token);
}

// The first continuation from `first` on that ends (1) or does not (0); `keep` if there is none.
fn next_of(first: u32, ends: u32) -> u32 {
    var k = first;
    while k < p.keep && kept_ends[min(k, MOST_KEPT - 1u)] != ends { k += 1u; }
    return k;
}

// One step of a source that is not done.
fn advance(source: u32, state: u32, at: u32) {
    let row = source * p.beams;
    let ended = state + 1u + p.beams;
    let made = at - settings.prompt;
    let is_last = made >= settings.max_new;
    var is_full = true;
    for (var b = 0u; b < p.beams; b++) { is_full = is_full && beams[ended + 4u * b + 1u] > 0.0; }
    // Only the best `beams` continuations can be results; the others are there so that enough go on.
    for (var k = 0u; k < p.keep; k++) { kept_ends[k] = u32(is_last || is_end(kept_token[k])); }
    for (var k = 0u; k < p.beams; k++) {
        if kept_ends[k] == 1u && !(is_full && settings.early_stopping == EARLY) {
            insert(ended, kept_score[k] / penalties[min(made, p.len - 1u)], at, row + kept_beam[k], kept_token[k]);
        }
    }
    // What ends here is out of the race, but fills the places that nothing else takes. Both kinds are in descending order.
    var running = next_of(0u, 0u);
    var over = next_of(0u, 1u);
    for (var slot = 0u; slot < p.beams; slot++) {
        var best = running;
        var score = kept_score[min(running, p.keep - 1u)];
        if over < p.keep {
            let behind = kept_score[over] + OUT;
            if running >= p.keep || behind > score || (behind == score && over < running) {
                best = over;
                score = behind;
            }
        }
        if best == running { running = next_of(running + 1u, 0u); } else { over = next_of(over + 1u, 1u); }
        parent[slot] = kept_beam[best];
        beams[state + 1u + slot] = score;
        ids[row + slot] = kept_token[best];
        tokens[at * p.batch * p.beams + row + slot] = kept_token[best];
        parents[at * p.batch * p.beams + row + slot] = row + kept_beam[best];
        pos[row + slot] = at;
    }
    // Can the best running beam still become better than the worst result?
    var length = made;
    if settings.early_stopping == NEVER && penalties[min(settings.max_new, p.len - 1u)] > 1.0 { length = settings.max_new; }
    let possible = beams[state + 1u] / penalties[min(length, p.len - 1u)];
    let worst = beams[ended + 4u * (p.beams - 1u)];
    var improves = false;
    is_full = true;
    for (var b = 0u; b < p.beams; b++) {
        let has_ended = beams[ended + 4u * b + 1u] > 0.0;
        is_full = is_full && has_ended;
        improves = improves || possible > select(OUT, worst, has_ended);
    }
    if is_last || !improves || (is_full && settings.early_stopping == EARLY) { beams[state] = DONE; }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let source = p.first_group + group.y * p.grid_x + group.x;
    if source >= p.batch { return; }
    let state = source * (1u + 5u * p.beams);
    let row = source * p.beams;
    if lane == 0u {
        let at = pos[row] + 1u;
        var last = 0u;
        if beams[state] == 0.0 && at < p.len {
            if merge(source, state) {
                advance(source, state, at);
                last = at;
            } else {
                beams[state] = FAILED;
            }
        }
        shared_last = last;
    }
    workgroupBarrier();
    let last = shared_last;
    var home: array<u32, MOST_BEAMS>;
    var position = lane;
    loop {
        if position >= last { break; }
        for (var b = 0u; b < p.beams; b++) { home[b] = cache_row[(row + b) * p.len + position]; }
        for (var b = 0u; b < p.beams; b++) { cache_row[(row + b) * p.len + position] = home[parent[b]]; }
        position += 64u;
    }
}
