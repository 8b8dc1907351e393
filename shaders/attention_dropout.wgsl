// Dropout on the attention weights.
@group(0) @binding(1) var<uniform> key: vec4<u32>;

fn keep_weight(row: u32, j: u32) -> f32 { return keep(row * p.kv_len + j, p.site, key, p.rate); }
