// Gradients of k, v and the position bias: attention_backward_kv.wgsl for subgroups of a fixed size.
//
// One subgroup per (sequence, head, TILE keys) walks over the queries TILE at a time; a lane has four keys. The bias
// depends on the distance alone: its gradient sums the diagonals of (query, key). From one query to the next a diagonal
// moves one key along, from the lane's last key to the next lane's first; when it leaves the last lane its sum is whole.
// Each subgroup writes its own sums, which `column_sum` adds up in a fixed order.

const WALKS_KEYS = false;

@group(0) @binding(9) var<storage, read_write> dbias: array<f32>; // [key tiles, batch, heads, 2 reach + 1]

@compute @workgroup_size(SIDE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let w = work(group, p.kv_len);
    if !w.valid { return; }
    let j = w.first + 4u * lane;
    let mask = mask_of(w, j);
    let walk = walk_of(w);
    var dk: Sums;
    var dv: Sums;
    var diagonal = vec4<f32>(); // of the lane's keys and the next query
    var ends = vec2<f32>(); // distances <= -reach and >= reach
    var i = walk.x;
    loop {
        if i >= walk.y { break; }
        keep_tile(w, i, j, lane);
        var biases = biases_before(w, i, j);
        let here = min(p.tile, walk.y - i);
        var r = 0u;
        loop {
            if r >= here { break; }
            let query = i + r;
            let row = stat_row(w, query);
            let stat = stats[row];
            let keep = vec4(
                keep_weight(row, j),
                keep_weight(row, j + 1u),
                keep_weight(row, j + 2u),
                keep_weight(row, j + 3u),
            );
            let probability = exp(score(w, query, j, mask, kept[r], &biases) - stat.x);
            let dscore = probability * (kept_dweights[r] * keep - stat.y);
            add_row(&dv, row_of_dout(o_at(w, query), lane), probability * keep);
            add_row(&dk, row_of_q(q_at(w, query), lane), dscore);
            if HAS_BIAS {
                diagonal += dscore;
                let leaving = diagonal.w;
                let entering = subgroupShuffle(leaving, (lane + SIDE - 1u) % SIDE);
                diagonal = vec4(select(entering, 0.0, lane == 0u), diagonal.xyz);
                if lane == SIDE - 1u { ends += store_dbias(w, i32(j + 3u) - i32(query), leaving); }
            }
            r += 1u;
        }
        i += TILE;
    }
    keep_sums(&dk);
    store_keys(w, j, p.out_offset);
    keep_sums(&dv);
    store_keys(w, j, p.second_offset);
    if HAS_BIAS {
        for (var c = 0u; c < 4u; c++) {
            ends += store_dbias(w, i32(j + c) - i32(walk.y), diagonal[c]);
        }
        let below = subgroupAdd(ends.x);
        let above = subgroupAdd(ends.y);
        // The distances that no diagonal of this subgroup has.
        let reach = i32(p.reach);
        let least = i32(w.first) - i32(walk.y);
        let most = i32(w.first + TILE - 1u) - i32(walk.x);
        var distance = i32(lane) - reach;
        loop {
            if distance > reach { break; }
            var sum = 0.0;
            if distance == -reach { sum += below; }
            if distance == reach { sum += above; }
            let is_end = abs(distance) == reach;
            if is_end || distance < least || distance > most { dbias[dbias_at(w, distance)] = sum; }
            distance += i32(SIDE);
        }
    }
}

// Stores the kept sums of keys j .. j + 3.
fn store_keys(w: Work, j: u32, offset: u32) {
    let columns = columns_within(j, p.kv_len);
    var c = 0u;
    loop {
        if c >= columns { break; }
        store_kept((w.sequence * p.kv_len + j + c) * p.out_ld + w.head * p.d_kv + offset, c, 1.0);
        c += 1u;
    }
}

fn row_of_q(at: u32, lane: u32) -> Row {
    var row: Row;
    for (var x = 0u; x < DV; x++) { row[x] = load_q(at, min(lane + SIDE * x, p.d4 - 1u)); }
    return row;
}

fn dbias_at(w: Work, distance: i32) -> u32 {
    let row = ((w.first / TILE) * p.batch + w.sequence) * p.heads + w.head;
    return row * (2u * p.reach + 1u) + u32(distance + i32(p.reach));
}

// Stores the sum of a distance that the bias tells apart; returns it as (<= -reach, >= reach) if it does not.
fn store_dbias(w: Work, distance: i32, sum: f32) -> vec2<f32> {
    if distance <= -i32(p.reach) { return vec2(sum, 0.0); }
    if distance >= i32(p.reach) { return vec2(0.0, sum); }
    dbias[dbias_at(w, distance)] = sum;
    return vec2<f32>();
}
