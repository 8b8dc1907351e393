// Four numbers of a head's row at a time, for any d_kv and alignment: where they lie, and zeros past the row's end.
// `at` is the row's first element, `d` counts vec4s within the row.

// Past the end of the row, its last number again.
fn places(at: u32, d: u32) -> vec4<u32> {
    return at + min(4u * d + vec4(0u, 1u, 2u, 3u), vec4(p.d_kv - 1u));
}

fn within_row(d: u32, v: vec4<f32>) -> vec4<f32> {
    return select(vec4<f32>(), v, 4u * d + vec4(0u, 1u, 2u, 3u) < vec4(p.d_kv));
}
