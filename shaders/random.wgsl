// Counter-based randomness (pcg4d; Jarzynski and Olano 2020): nothing is stored, the backward pass draws the same again.

fn pcg4d(seed: vec4<u32>) -> vec4<u32> {
    var v = seed * 1664525u + 1013904223u;
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    v = v ^ (v >> vec4<u32>(16u));
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    return v;
}

// 1 / (1 - rate) where element `i` of dropout site `site` is kept, else 0. `key`: seed (low, high), step (low, high).
fn keep(i: u32, site: u32, key: vec4<u32>, rate: f32) -> f32 {
    let mixed = pcg4d(vec4<u32>(i, site, key.x ^ (key.z * 0x9e3779b9u), key.y ^ key.w ^ (key.z >> 7u)));
    let uniform_below_1 = f32(mixed.x >> 8u) * (1.0 / 16777216.0);
    return select(0.0, 1.0 / (1.0 - rate), uniform_below_1 >= rate);
}
