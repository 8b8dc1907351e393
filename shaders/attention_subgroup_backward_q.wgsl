// Gradient of q: attention_backward_q.wgsl for subgroups of a fixed size.
//
// One subgroup per (sequence, head, TILE queries) walks over the keys TILE at a time; a lane has four queries.

const WALKS_KEYS = true;

@compute @workgroup_size(SIDE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let w = work(group, p.q_len);
    if !w.valid { return; }
    let i = w.first + 4u * lane;
    let row = stat_row(w, i);
    let mask = mask_of(w, i);
    let walk = walk_of(w);
    let last = stat_row(w, p.q_len - 1u);
    let stat = transpose(mat4x2(
        stats[min(row, last)],
        stats[min(row + 1u, last)],
        stats[min(row + 2u, last)],
        stats[min(row + 3u, last)],
    ));
    var dq: Sums;
    var j = walk.x;
    loop {
        if j >= walk.y { break; }
        keep_tile(w, j, i, lane);
        var biases = biases_before(w, j, i);
        let here = min(p.tile, walk.y - j);
        var r = 0u;
        loop {
            if r >= here { break; }
            let key = j + r;
            let keep = vec4(
                keep_weight(row, key),
                keep_weight(row + 1u, key),
                keep_weight(row + 2u, key),
                keep_weight(row + 3u, key),
            );
            let s = score(w, key, i, mask, kept[r], &biases);
            let dscore = exp(s - stat[0]) * (kept_dweights[r] * keep - stat[1]);
            add_row(&dq, row_of_kv(k_at(w, key), lane), dscore);
            r += 1u;
        }
        j += TILE;
    }
    keep_sums(&dq);
    let columns = columns_within(i, p.q_len);
    var c = 0u;
    loop {
        if c >= columns { break; }
        store_kept((w.sequence * p.q_len + i + c) * p.out_ld + p.out_offset + w.head * p.d_kv, c, 1.0);
        c += 1u;
    }
}
