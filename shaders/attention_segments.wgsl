// The mask of rows that hold several examples: a query sees a range of keys, and a key is seen by a range of queries.
// A group reads the ranges of the positions that it has a tile of, so that the walk goes from the first range to the last.

@group(0) @binding(5) var<storage, read> ranges: array<vec2<u32>>; // [batch, positions] of (first, end), neither ever falling

struct Mask {
    first: vec4<u32>,
    end: vec4<u32>,
}

fn own_len() -> u32 { return select(p.kv_len, p.q_len, WALKS_KEYS); }
fn walked_len() -> u32 { return select(p.q_len, p.kv_len, WALKS_KEYS); }

fn walk_of(w: Work) -> vec2<u32> {
    let row = w.sequence * own_len();
    let last = min(w.first + TILE, own_len()) - 1u;
    return vec2(ranges[row + w.first].x, min(ranges[row + last].y, walked_len()));
}

// A position past the end sees nothing.
fn range_of(w: Work, own: u32) -> vec2<u32> {
    let range = ranges[w.sequence * own_len() + min(own, own_len() - 1u)];
    return select(vec2<u32>(), range, own < own_len());
}

fn mask_of(w: Work, own: u32) -> Mask {
    let a = range_of(w, own);
    let b = range_of(w, own + 1u);
    let c = range_of(w, own + 2u);
    let d = range_of(w, own + 3u);
    return Mask(vec4(a.x, b.x, c.x, d.x), vec4(a.y, b.y, c.y, d.y));
}

fn is_hidden(mask: Mask, slot: u32, query: u32, key: u32) -> bool {
    let walked = select(query, key, WALKS_KEYS);
    return walked < mask.first[slot] || walked >= mask.end[slot];
}
