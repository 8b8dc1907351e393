// What the attention kernels of one subgroup share: lane l owns columns 4 l .. 4 l + 3 of a tile, and loads rows l,
// SIDE + l, 2 SIDE + l and 3 SIDE + l. Whatever a lane keeps for later it alone reads, so that there is no barrier.
//
// What the group walks over lies along the rows: keys, with queries along the columns, or the reverse (WALKS_KEYS).

alias Sums = array<vec4<f32>, 4u * SIDE * DV>; // [d] of the lane's four columns
alias Row = array<vec4<f32>, DV>; // vec4s l, SIDE + l, .. of a row of d_kv
alias Four = array<u32, 4>; // where four rows begin

// What a loop takes row by row: the scores of a tile, in the end the sums. Such a loop has a short text, where one unrolled
// over registers costs compilers seconds. More than 32 elements: Mesa unrolls loops over arrays of fewer.
var<private> kept: array<vec4<f32>, 4u * SIDE * DV + 32u>;

fn four_q(w: Work, i: Four) -> Four { return Four(q_at(w, i[0]), q_at(w, i[1]), q_at(w, i[2]), q_at(w, i[3])); }
fn four_k(w: Work, j: Four) -> Four { return Four(k_at(w, j[0]), k_at(w, j[1]), k_at(w, j[2]), k_at(w, j[3])); }

fn lane_rows(row: u32, lane: u32) -> Four {
    return Four(row + lane, row + lane + SIDE, row + lane + 2u * SIDE, row + lane + 3u * SIDE);
}

fn lane_columns(column: u32) -> Four { return Four(column, column + 1u, column + 2u, column + 3u); }

// `rows` where a condition known to the compiler holds, else `columns`.
fn select_four(columns: Four, rows: Four, take_rows: bool) -> Four {
    if take_rows { return rows; }
    return columns;
}

fn four_from_q(at: Four, d: u32) -> mat4x4<f32> {
    return mat4x4(load_q(at[0], d), load_q(at[1], d), load_q(at[2], d), load_q(at[3], d));
}

fn four_from_kv(at: Four, d: u32) -> mat4x4<f32> {
    return mat4x4(load_kv(at[0], d), load_kv(at[1], d), load_kv(at[2], d), load_kv(at[3], d));
}

// sums[d] += row[d] weight, for one row of the whole subgroup and a weight for each of the lane's columns.
fn add_row(sums: ptr<function, Sums>, row: Row, weight: vec4<f32>) {
    for (var x = 0u; x < DV; x++) {
        for (var l = 0u; l < SIDE; l++) {
            for (var c = 0u; c < 4u; c++) {
                let d = 4u * (x * SIDE + l) + c;
                (*sums)[d] = fma(vec4(subgroupShuffle(row[x][c], l)), weight, (*sums)[d]);
            }
        }
    }
}

fn keep_tile_rows(tile: ptr<function, Tile>) { for (var r = 0u; r < TILE; r++) { kept[r] = (*tile)[r]; } }

fn keep_sums(sums: ptr<function, Sums>) { for (var x = 0u; x < 4u * SIDE * DV; x++) { kept[x] = (*sums)[x]; } }

// Stores column c of the kept sums, times `scale`.
fn store_kept(at: u32, c: u32, scale: f32) {
    var d = 0u;
    loop {
        if d >= p.d4 { break; }
        let i = 4u * d;
        store_out(at, d, scale * vec4(kept[i][c], kept[i + 1u][c], kept[i + 2u][c], kept[i + 3u][c]));
        d += 1u;
    }
}

// How many of the lane's four columns exist.
fn columns_within(column: u32, len: u32) -> u32 { return min(len - min(column, len), 4u); }

fn row_of_kv(at: u32, lane: u32) -> Row {
    var row: Row;
    for (var x = 0u; x < DV; x++) { row[x] = load_kv(at, min(lane + SIDE * x, p.d4 - 1u)); }
    return row;
}

// The biases of the lane's first three columns one row before `row`: what `score` moves along.
fn biases_before(w: Work, row: u32, column: u32) -> vec3<f32> {
    let step = select(-1, 1, WALKS_KEYS);
    let start = step * (i32(row) - i32(column));
    return vec3(bias_at(w.head, start - step), bias_at(w.head, start - 2 * step), bias_at(w.head, start - 3 * step));
}

// A row's products with the lane's four columns, biased and masked. Rows come one after the other: since the bias depends
// on the distance alone, all but the first column's have been read for the row before.
fn score(w: Work, row: u32, column: u32, mask: Mask, products: vec4<f32>, biases: ptr<function, vec3<f32>>) -> vec4<f32> {
    var s = products;
    if HAS_BIAS {
        let b = vec4(bias_at(w.head, select(-1, 1, WALKS_KEYS) * (i32(row) - i32(column))), *biases);
        *biases = b.xyz;
        s += b;
    }
    let along = vec4(row);
    let across = column + vec4(0u, 1u, 2u, 3u);
    let key = select(across, along, WALKS_KEYS);
    let query = select(along, across, WALKS_KEYS);
    let hidden = vec4(
        is_hidden(mask, 0u, query.x, key.x),
        is_hidden(mask, 1u, query.y, key.y),
        is_hidden(mask, 2u, query.z, key.z),
        is_hidden(mask, 3u, query.w, key.w),
    );
    return select(s, vec4(MASKED), hidden);
}
