// How far each sequence's guessed tokens are those that the model chooses, and the next guesses. A sequence has `width` rows:
// its newest token, and behind it the drafts, each at the position after the row before.
//
// The likeliest token of a row is what comes behind the row's token. So the first row's is right, and each one after it if
// the draft of its row is the token that was chosen right before. These become tokens of the sequence, up to an end token.
// Then the sequence's last tokens, three of them or else fewer, are looked for in the source and among the tokens made, and what
// stood behind the latest such place is the next guess.
//
// One workgroup of LANES per sequence. `found` has the likeliest of each share of a row: see likeliest.wgsl.

struct Params {
    batch: u32,
    width: u32, // rows of a sequence, WIDTH at most
    len: u32, // positions that a sequence can have
    src_len: u32,
    shares: u32, // of a row in `found`
    grid_x: u32,
    first_group: u32,
}

const WIDTH = 16u;
const GRAM = 0x40000000u; // one more token that agrees counts more than any place

const CHOSEN = 1u; // the last token of a step
const GUESSED = 2u; // a draft that was right

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<uniform> settings: Settings;
@group(0) @binding(2) var<storage, read> found: array<vec2<u32>>; // [batch, width, shares] of (key, id)
@group(0) @binding(3) var<storage, read> src_ids: array<u32>; // [batch, src_len]
@group(0) @binding(4) var<storage, read> src_lens: array<u32>; // [batch]
@group(0) @binding(5) var<storage, read_write> ids: array<u32>; // [batch, width]: the newest token, and drafts
@group(0) @binding(6) var<storage, read_write> tokens: array<u32>; // [len, batch]
@group(0) @binding(7) var<storage, read_write> finished: array<u32>; // [batch]
@group(0) @binding(8) var<storage, read_write> pos: array<u32>; // [batch, width]: where the rows' tokens stand
@group(0) @binding(9) var<storage, read_write> origin: array<u32>; // [len, batch]: CHOSEN, GUESSED, or 0: no token yet

var<workgroup> chosen: array<u32, WIDTH>; // the likeliest token behind each row
var<workgroup> drafts: array<u32, WIDTH>;
var<workgroup> begin: vec2<u32>; // the position of the newest token before this step, and whether the sequence is finished

// The token at a position: of this step, or from before.
fn token_at(position: u32, sequence: u32) -> u32 {
    if position > begin.x { return chosen[min(position - begin.x - 1u, WIDTH - 1u)]; }
    return tokens[position * p.batch + sequence];
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let sequence = p.first_group + group.y * p.grid_x + group.x;
    if sequence >= p.batch { return; }
    let row = sequence * p.width + lane;
    if lane < min(p.width, WIDTH) {
        var best = Best(0u, BAD);
        var i = 0u;
        loop {
            if i >= p.shares { break; }
            let share = found[row * p.shares + i];
            best = better(Best(share.x, share.y), best);
            i += 1u;
        }
        chosen[lane] = best.id;
        drafts[lane] = ids[row];
    }
    if lane == 0u { begin = vec2(pos[row], finished[sequence]); }
    workgroupBarrier();

    let at = begin.x;
    var is_over = begin.y != 0u;
    var made = 0u;
    loop {
        if is_over || made >= p.width || at + made + 1u >= p.len { break; }
        // A draft that is not what was chosen in its place ends the step before it.
        if made > 0u {
            if drafts[made] != chosen[made - 1u] { break; }
        }
        is_over = chosen[made] == BAD || is_end(chosen[made]);
        made += 1u;
    }
    let newest = at + made;

    // The place with the most tokens in agreement, and the latest of these. Places of the source come first, then the sequence's
    // positions. A sequence that is finished looks for nothing.
    let src_len = min(src_lens[sequence], p.src_len);
    let last = token_at(newest, sequence);
    let second = token_at(max(newest, 1u) - 1u, sequence);
    let third = token_at(max(newest, 2u) - 2u, sequence);
    let places = select(src_len + newest, 0u, begin.y != 0u);
    var best = Best(0u, BAD);
    var place = lane;
    loop {
        if place >= places { break; }
        let in_source = place < src_len;
        // Position 0 is the start token, which nobody looks for; something must follow.
        let before = select(place - src_len, place + 1u, in_source); // tokens of this text up to the place, from 1 on
        let own = select(min(before, p.len - 1u), 0u, in_source);
        let source = sequence * p.src_len;
        let here = select(token_at(own, sequence), src_ids[source + min(place, max(src_len, 1u) - 1u)], in_source);
        let follows = select(before > 0u, place + 1u < src_len, in_source);
        if follows && newest > 0u && here == last {
            var grams = 1u;
            if before > 1u && newest > 1u {
                var b = 0u;
                if in_source { b = src_ids[source + place - 1u]; } else { b = token_at(place - src_len - 1u, sequence); }
                if b == second {
                    grams = 2u;
                    if before > 2u && newest > 2u {
                        var c = 0u;
                        if in_source { c = src_ids[source + place - 2u]; } else { c = token_at(place - src_len - 2u, sequence); }
                        if c == third { grams = 3u; }
                    }
                }
            }
            // Places come in ascending order.
            if grams * GRAM >= (best.key & (3u * GRAM)) { best = Best(grams * GRAM + place, place); }
        }
        place += LANES;
    }
    best = best_of(best, lane);

    if begin.y != 0u { return; }
    if lane < made {
        let to = (at + 1u + lane) * p.batch + sequence;
        tokens[to] = chosen[lane];
        origin[to] = select(GUESSED, CHOSEN, lane + 1u == made);
    }
    if lane < min(p.width, WIDTH) {
        var next = select(last, settings.pad, last == BAD);
        if lane > 0u {
            next = settings.pad;
            if best.id < src_len {
                if best.id + lane < src_len { next = src_ids[sequence * p.src_len + best.id + lane]; }
            } else if best.id != BAD {
                // What lies between the place and the newest token, again and again.
                let base = best.id - src_len;
                next = token_at(base + 1u + (lane - 1u) % max(newest - base, 1u), sequence);
            }
        }
        ids[row] = next;
        pos[row] = newest + lane;
    }
    if lane == 0u && is_over { finished[sequence] = 1u; }
}
