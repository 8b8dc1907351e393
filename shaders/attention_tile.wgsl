// Tiles of a workgroup of SIDE x SIDE invocations, each of which scores 4 queries x 4 keys.

const PITCH = TILE + 1u; // of tiles in workgroup memory

// Scores of queries i .. i+3 (rows) and keys j .. j+3 (columns), biased and masked.
fn scores(w: Work, i: u32, j: u32, mask: Mask) -> array<vec4<f32>, 4> {
    let q0 = q_at(w, i);
    let q1 = q_at(w, i + 1u);
    let q2 = q_at(w, i + 2u);
    let q3 = q_at(w, i + 3u);
    let k0 = k_at(w, j);
    let k1 = k_at(w, j + 1u);
    let k2 = k_at(w, j + 2u);
    let k3 = k_at(w, j + 3u);
    var s: array<vec4<f32>, 4>;
    var d = 0u;
    loop {
        if d >= p.d4 { break; }
        let a0 = load_kv(k0, d);
        let a1 = load_kv(k1, d);
        let a2 = load_kv(k2, d);
        let a3 = load_kv(k3, d);
        let b0 = load_q(q0, d);
        let b1 = load_q(q1, d);
        let b2 = load_q(q2, d);
        let b3 = load_q(q3, d);
        s[0] += vec4(dot(b0, a0), dot(b0, a1), dot(b0, a2), dot(b0, a3));
        s[1] += vec4(dot(b1, a0), dot(b1, a1), dot(b1, a2), dot(b1, a3));
        s[2] += vec4(dot(b2, a0), dot(b2, a1), dot(b2, a2), dot(b2, a3));
        s[3] += vec4(dot(b3, a0), dot(b3, a1), dot(b3, a2), dot(b3, a3));
        d += 1u;
    }
    /* unroll */ for (var r = 0u; r < 4u; r++) { s[r] = biased(w, mask, i, r, j, s[r]); }
    return s;
}
