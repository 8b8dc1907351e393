// The gradient of a tile of attention weights, made again from q, k, v and the saved statistics.

struct TileGradient {
    weight: array<vec4<f32>, 4>, // after dropout
    dscore: array<vec4<f32>, 4>,
}

// For queries i .. i+3 (rows) and keys j .. j+3 (columns).
fn tile_gradient(w: Work, i: u32, j: u32, mask: Mask) -> TileGradient {
    let s = scores(w, i, j, mask);
    let g0 = o_at(w, i);
    let g1 = o_at(w, i + 1u);
    let g2 = o_at(w, i + 2u);
    let g3 = o_at(w, i + 3u);
    let v0 = v_at(w, j);
    let v1 = v_at(w, j + 1u);
    let v2 = v_at(w, j + 2u);
    let v3 = v_at(w, j + 3u);
    var dweight: array<vec4<f32>, 4>;
    var d = 0u;
    loop {
        if d >= p.d4 { break; }
        let a0 = load_kv(v0, d);
        let a1 = load_kv(v1, d);
        let a2 = load_kv(v2, d);
        let a3 = load_kv(v3, d);
        let b0 = load_dout(g0, d);
        let b1 = load_dout(g1, d);
        let b2 = load_dout(g2, d);
        let b3 = load_dout(g3, d);
        dweight[0] += vec4(dot(b0, a0), dot(b0, a1), dot(b0, a2), dot(b0, a3));
        dweight[1] += vec4(dot(b1, a0), dot(b1, a1), dot(b1, a2), dot(b1, a3));
        dweight[2] += vec4(dot(b2, a0), dot(b2, a1), dot(b2, a2), dot(b2, a3));
        dweight[3] += vec4(dot(b3, a0), dot(b3, a1), dot(b3, a2), dot(b3, a3));
        d += 1u;
    }
    // Apart until they are whole: FXC does not compile stores by index into an array of a struct.
    var weight = array<vec4<f32>, 4>();
    var dscore = array<vec4<f32>, 4>();
    /* unroll */ for (var r = 0u; r < 4u; r++) {
        let row = row_gradient(w, i + r, j, s[r], dweight[r]);
        weight[r] = row.weight;
        dscore[r] = row.dscore;
    }
    return TileGradient(weight, dscore);
}
