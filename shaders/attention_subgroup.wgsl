// out = softmax(q k^T + bias) v, and lse = log of the softmax's denominator, for the backward pass: attention.wgsl for
// subgroups of a fixed size.
//
// One subgroup per (sequence, head, TILE queries) walks over the keys TILE at a time with an online softmax. A lane has
// all scores of its four queries: the softmax needs no exchange between lanes.

const WALKS_KEYS = true;

@group(0) @binding(9) var<storage, read_write> lse: array<f32>; // [batch, heads, q_len]

@compute @workgroup_size(SIDE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let w = work(group, p.q_len);
    if !w.valid { return; }
    let i = w.first + 4u * lane;
    let row = stat_row(w, i);
    let mask = mask_of(w, i);
    let walk = walk_of(w);
    let q = four_q(w, lane_columns(i));
    var m = vec4<f32>(LEAST);
    var l = vec4<f32>();
    var o: Sums;
    var j = walk.x;
    loop {
        if j >= walk.y { break; }
        var tile = Tile();
        let k = four_k(w, lane_rows(j, lane));
        var d = 0u;
        loop {
            if d >= p.d4 { break; }
            outer(&tile, four_from_kv(k, d), transpose(four_from_q(q, d)));
            d += 1u;
        }
        var top = m;
        var biases = biases_before(w, j, i);
        let here = min(p.tile, walk.y - j);
        keep_tile_rows(&tile);
        var r = 0u;
        loop {
            if r >= here { break; }
            let s = score(w, j + r, i, mask, kept[r], &biases);
            kept[r] = s;
            top = max(top, s);
            r += 1u;
        }
        let shrink = exp(m - top);
        m = top;
        l *= shrink;
        for (var x = 0u; x < 4u * SIDE * DV; x++) { o[x] *= shrink; }
        r = 0u;
        loop {
            if r >= here { break; }
            let e = exp(kept[r] - m);
            l += e;
            add_row(&o, row_of_kv(v_at(w, j + r), lane), e * keep_queries(row, j + r));
            r += 1u;
        }
        j += TILE;
    }
    keep_sums(&o);
    let columns = columns_within(i, p.q_len);
    var c = 0u;
    loop {
        if c >= columns { break; }
        // A query that sees no key attends to nothing.
        let scale = select(0.0, 1.0 / l[c], l[c] > 0.0);
        store_kept(o_at(w, i + c), c, scale);
        lse[row + c] = select(0.0, m[c] + log(l[c]), l[c] > 0.0);
        c += 1u;
    }
}

fn keep_queries(row: u32, key: u32) -> vec4<f32> {
    return vec4(keep_weight(row, key), keep_weight(row + 1u, key), keep_weight(row + 2u, key), keep_weight(row + 3u, key));
}
