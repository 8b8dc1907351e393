// The mask of decoder self-attention: a query sees the keys up to its own position.

alias Mask = u32; // how many keys there are

fn mask_of(w: Work, own: u32) -> Mask { return p.kv_len; }

fn walk_of(w: Work) -> vec2<u32> {
    if WALKS_KEYS { return vec2(0u, min(p.kv_len, w.first + TILE)); }
    return vec2(w.first, p.q_len);
}

fn is_hidden(mask: Mask, slot: u32, query: u32, key: u32) -> bool { return key >= mask || key > query; }
