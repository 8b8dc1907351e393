// The mask of sequences with gaps: a query sees the keys whose bits are set.

@group(0) @binding(5) var<storage, read> shown: array<u32>; // [batch, kv_len / 32 rounded up] bits, the lowest first

alias Mask = u32; // where the sequence's bits begin

fn mask_of(w: Work, own: u32) -> Mask { return w.sequence * ((p.kv_len + 31u) / 32u); }

fn walk_of(w: Work) -> vec2<u32> { return vec2(0u, select(p.q_len, p.kv_len, WALKS_KEYS)); }

fn is_hidden(mask: Mask, slot: u32, query: u32, key: u32) -> bool {
    return key >= p.kv_len || ((shown[mask + key / 32u] >> (key % 32u)) & 1u) == 0u;
}
