// The scores of the next tokens as the settings want them, in place, by the rules and in the order of transformers'
// logits processors: repetition penalty, tokens that would repeat an n-gram, bad words, the least length, what the answers
// allow, the forced end, suppressed tokens. NORMALIZE: the scores are made log-probabilities first, as beams need them.
//
// One workgroup of LANES per row. First every invocation goes over every LANES-th class; then the invocations share the row's
// history and the lists. A row's token at position p lies in the row that the caches' table names, so that beams need no copies.
// Suppressed scores are -1e30: no infinities, which a compiler may take to be absent.

struct Params {
    rows: u32,
    vocab: u32,
    len: u32, // positions that a sequence can have
    grid_x: u32,
    first_group: u32,
}

const SUPPRESSED = -1e30;
const NO_NODE = 0xffffffffu; // beside all answers

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<uniform> settings: Settings;
@group(0) @binding(2) var<storage, read_write> logits: array<f32>; // [rows, vocab]
@group(0) @binding(3) var<storage, read> tokens: array<u32>; // [len, rows]
@group(0) @binding(4) var<storage, read> cache_row: array<u32>; // [rows, len]
@group(0) @binding(5) var<storage, read> pos: array<u32>; // [rows]
// Suppressed ids, those suppressed at the beginning, where each bad word begins and ends, the bad words; and the trie of answers:
// nodes of (first, number) of their children, each (token, node), in the order of the tokens. Places count from the beginning.
// Behind them whole words for each row, a bit for each token that is allowed.
@group(0) @binding(6) var<storage, read> rules: array<u32>;

// The row's token at a position up to the newest.
fn history(row: u32, position: u32) -> u32 {
    return tokens[position * p.rows + min(cache_row[row * p.len + position], p.rows - 1u)];
}

// Where the child of a node of the trie lies, by its token; NO_NODE if there is none.
fn child(node: u32, token: u32) -> u32 {
    var low = rules[node];
    var left = rules[node + 1u];
    loop {
        if left == 0u { break; }
        let half = left / 2u;
        let at = low + 2u * half;
        if rules[at] == token { return rules[at + 1u]; }
        if rules[at] < token {
            low = at + 2u;
            left -= half + 1u;
        } else {
            left = half;
        }
    }
    return NO_NODE;
}

// The node of what the row has made.
fn node_of(row: u32, at: u32) -> u32 {
    var node = settings.trie;
    var position = settings.prompt + 1u;
    loop {
        if position > at || node == NO_NODE { break; }
        node = child(node, history(row, position));
        position += 1u;
    }
    return node;
}

fn is_allowed(row: u32, node: u32, token: u32) -> bool {
    if settings.mask != 0u {
        let word = rules[settings.mask + row * ((p.vocab + 31u) / 32u) + token / 32u];
        if ((word >> (token % 32u)) & 1u) == 0u { return false; }
    }
    if settings.trie == 0u { return true; }
    // Behind an answer, or beside all of them, there is only the end.
    if node == NO_NODE { return is_end(token); }
    if rules[node + 1u] == 0u { return is_end(token); }
    return child(node, token) != NO_NODE;
}

fn suppress(row: u32, token: u32) {
    if token < p.vocab { logits[row * p.vocab + token] = SUPPRESSED; }
}

// Whether the last tokens are those that begin in the list at `first`.
fn ends_with(row: u32, at: u32, first: u32, count: u32) -> bool {
    var same = true;
    for (var i = 0u; i < count; i++) { same = same && history(row, at + 1u + i - count) == rules[first + i]; }
    return same;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = p.first_group + group.y * p.grid_x + group.x;
    if row >= p.rows { return; }
    let start = row * p.vocab;
    let at = min(pos[row], p.len - 1u);
    let made = at - min(settings.prompt, at);
    var shift = 0.0;
    if NORMALIZE {
        var own = Best(1u, lane);
        var i = lane;
        loop {
            if i >= p.vocab { break; }
            own = better(Best(key(logits[start + i]), lane), own);
            i += LANES;
        }
        let highest = value_of(best_of(own, lane).key);
        var sum = 0.0;
        i = lane;
        loop {
            if i >= p.vocab { break; }
            let x = logits[start + i];
            sum += select(0.0, exp(x - highest), key(x) != 0u);
            i += LANES;
        }
        shift = highest + log(sum_up(vec4(sum), lane).x);
    }
    var node = 0u;
    if settings.trie != 0u { node = node_of(row, at); }
    // The last token may have to be the end.
    let is_forced = settings.forced_last != NO_TOKEN && made + 1u >= settings.max_new;
    var i = lane;
    loop {
        if i >= p.vocab { break; }
        var x = logits[start + i] - shift;
        if !is_allowed(row, node, i) { x = SUPPRESSED; }
        if is_forced { x = select(SUPPRESSED, 0.0, i == settings.forced_last); }
        logits[start + i] = x;
        i += LANES;
    }
    storageBarrier();
    if !is_forced && settings.repetition_penalty != 1.0 {
        var position = lane;
        loop {
            if position > at { break; }
            let token = history(row, position);
            var is_first = token < p.vocab;
            var q = 0u;
            loop {
                if q >= position || !is_first { break; }
                is_first = history(row, q) != token;
                q += 1u;
            }
            if is_first {
                let x = logits[start + token];
                logits[start + token] = select(x / settings.repetition_penalty, x * settings.repetition_penalty, x < 0.0);
            }
            position += LANES;
        }
    }
    storageBarrier();
    let n = settings.no_repeat_ngram;
    if !is_forced && n > 0u && at + 2u >= n {
        var position = n - 1u + lane;
        loop {
            if position > at { break; }
            var same = true;
            for (var k = 1u; k < n; k++) { same = same && history(row, position - k) == history(row, at + 1u - k); }
            if same { suppress(row, history(row, position)); }
            position += LANES;
        }
    }
    let begin = settings.n_suppress + settings.n_begin;
    var word = lane;
    loop {
        if word >= settings.n_words || is_forced { break; }
        let first = rules[begin + 2u * word];
        let count = rules[begin + 2u * word + 1u];
        // transformers looks for a word of several tokens only where it is not longer than what is there.
        let fits = count == 1u || count <= at + 1u;
        if fits { if ends_with(row, at, first, count - 1u) { suppress(row, rules[first + count - 1u]); } }
        word += LANES;
    }
    if made < settings.min_new && lane < min(settings.n_eos, 16u) && !is_forced {
        suppress(row, settings.eos[lane / 4u][lane % 4u]);
    }
    let suppressed = select(settings.n_suppress, begin, made == settings.begin);
    i = lane;
    loop {
        if i >= suppressed { break; }
        suppress(row, rules[i]);
        i += LANES;
    }
}
