// The mask of encoder and cross-attention: a query sees the keys that are not padding.

@group(0) @binding(5) var<storage, read> lens: array<u32>; // [batch]

alias Mask = u32; // how many keys there are

fn mask_of(w: Work, own: u32) -> Mask { return min(lens[w.sequence], p.kv_len); }

fn walk_of(w: Work) -> vec2<u32> {
    let keys = mask_of(w, 0u);
    if WALKS_KEYS { return vec2(0u, keys); }
    return vec2(select(0u, p.q_len, w.first >= keys), p.q_len);
}

fn is_hidden(mask: Mask, slot: u32, query: u32, key: u32) -> bool { return key >= mask; }
