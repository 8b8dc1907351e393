// Dropout of a product's results, with the mask of the op of that name.
@group(0) @binding(7) var<uniform> key: vec4<u32>;

// The factor of result `i` of c.
fn keep_result(i: u32) -> f32 { return keep(i, p.site, key, p.rate); }
