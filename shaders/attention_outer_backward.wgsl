// What the backward kernels of one subgroup share: the gradient of a tile's weights before the softmax.

@group(0) @binding(7) var<storage, read> stats: array<vec2<f32>>; // [batch, heads, q_len] of (lse, delta)

var<private> kept_dweights: Tile; // dout v^T

fn four_from_dout(at: Four, d: u32) -> mat4x4<f32> {
    return mat4x4(load_dout(at[0], d), load_dout(at[1], d), load_dout(at[2], d), load_dout(at[3], d));
}

fn row_of_dout(at: u32, lane: u32) -> Row {
    var row: Row;
    for (var x = 0u; x < DV; x++) { row[x] = load_dout(at, min(lane + SIDE * x, p.d4 - 1u)); }
    return row;
}

fn four_o(w: Work, i: Four) -> Four { return Four(o_at(w, i[0]), o_at(w, i[1]), o_at(w, i[2]), o_at(w, i[3])); }
fn four_v(w: Work, j: Four) -> Four { return Four(v_at(w, j[0]), v_at(w, j[1]), v_at(w, j[2]), v_at(w, j[3])); }

// Keeps q k^T and dout v^T of rows row .. row + TILE - 1 and columns column .. column + 3: in two rounds of one loop, since
// compilers take their time over `outer`.
fn keep_tile(w: Work, row: u32, column: u32, lane: u32) {
    let rows = lane_rows(row, lane);
    let columns = lane_columns(column);
    let q = four_q(w, select_four(columns, rows, !WALKS_KEYS));
    let g = four_o(w, select_four(columns, rows, !WALKS_KEYS));
    let k = four_k(w, select_four(columns, rows, WALKS_KEYS));
    let v = four_v(w, select_four(columns, rows, WALKS_KEYS));
    var step = 0u;
    var tile: Tile;
    loop {
        if step >= 2u * p.d4 { break; }
        if step == p.d4 {
            keep_tile_rows(&tile);
            tile = Tile();
        }
        var along_q = mat4x4<f32>();
        var along_k = mat4x4<f32>();
        if step < p.d4 {
            along_q = four_from_q(q, step);
            along_k = four_from_kv(k, step);
        } else {
            along_q = four_from_dout(g, step - p.d4);
            along_k = four_from_kv(v, step - p.d4);
        }
        if WALKS_KEYS {
            outer(&tile, along_k, transpose(along_q));
        } else {
            outer(&tile, along_q, transpose(along_k));
        }
        step += 1u;
    }
    kept_dweights = tile;
}
