// Reads and writes of the attention kernels for any d_kv and alignment: a row's last vec4 is filled up with zeros.
// `at` counts elements, `d` counts vec4s inside a head's row.
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> kv: array<f32>;
@group(0) @binding(6) var<storage, read> dout: array<f32>;
@group(0) @binding(8) var<storage, read_write> out: array<f32>;

fn load_q(at: u32, d: u32) -> vec4<f32> {
    let i = places(at, d);
    return within_row(d, vec4(q[i.x], q[i.y], q[i.z], q[i.w]));
}

fn load_kv(at: u32, d: u32) -> vec4<f32> {
    let i = places(at, d);
    return within_row(d, vec4(kv[i.x], kv[i.y], kv[i.z], kv[i.w]));
}

fn load_dout(at: u32, d: u32) -> vec4<f32> {
    let i = places(at, d);
    return within_row(d, vec4(dout[i.x], dout[i.y], dout[i.z], dout[i.w]));
}

fn store_out(at: u32, d: u32, v: vec4<f32>) {
    /* unroll */ for (var i = 0u; i < 4u; i++) {
        if 4u * d + i < p.d_kv { out[at + 4u * d + i] = v[i]; }
    }
}
