// Reads and writes of attention_decode, four numbers at a time: d_kv, rows and offsets are multiples of four.
// `at` counts elements, `d` counts vec4s inside a head's row.
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> kv: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> out: array<vec4<f32>>;

fn load_q(at: u32, d: u32) -> vec4<f32> { return q[at / 4u + d]; }
fn load_kv(at: u32, d: u32) -> vec4<f32> { return kv[at / 4u + d]; }
fn store_out(at: u32, d: u32, v: vec4<f32>) { out[at / 4u + d] = v; }
fn store_kv(at: u32, d: u32, v: vec4<f32>) { kv[at / 4u + d] = v; }
