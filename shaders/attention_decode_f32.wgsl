// Reads and writes of attention_decode for any d_kv and alignment: a row's last vec4 is filled up with zeros.
// `at` counts elements, `d` counts vec4s inside a head's row.
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read_write> kv: array<f32>;
@group(0) @binding(8) var<storage, read_write> out: array<f32>;

fn load_q(at: u32, d: u32) -> vec4<f32> {
    let i = at + 4u * d;
    let left = p.d_kv - 4u * d;
    var v = vec4(q[i], 0.0, 0.0, 0.0);
    if left > 1u { v.y = q[i + 1u]; }
    if left > 2u { v.z = q[i + 2u]; }
    if left > 3u { v.w = q[i + 3u]; }
    return v;
}

fn load_kv(at: u32, d: u32) -> vec4<f32> {
    let i = at + 4u * d;
    let left = p.d_kv - 4u * d;
    var v = vec4(kv[i], 0.0, 0.0, 0.0);
    if left > 1u { v.y = kv[i + 1u]; }
    if left > 2u { v.z = kv[i + 2u]; }
    if left > 3u { v.w = kv[i + 3u]; }
    return v;
}

fn store_out(at: u32, d: u32, v: vec4<f32>) {
    for (var i = 0u; i < min(4u, p.d_kv - 4u * d); i++) { out[at + 4u * d + i] = v[i]; }
}

fn store_kv(at: u32, d: u32, v: vec4<f32>) {
    for (var i = 0u; i < min(4u, p.d_kv - 4u * d); i++) { kv[at + 4u * d + i] = v[i]; }
}
