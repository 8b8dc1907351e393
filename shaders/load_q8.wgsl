// Operand `src` of 8-bit integers in groups of four rows, whose 16 bytes take turns, with the scales of their blocks of 32
// behind them, read four consecutive elements of a row at a time.
@group(0) @binding(1) var<storage, read> src: array<u32>;

// Elements col .. col+3 of a row; `valid` is 0 or at least 4.
fn load4(row: u32, col: u32, valid: u32) -> vec4<f32> {
    if valid == 0u { return vec4<f32>(); }
    let group = row / 4u * p.ld;
    let scale = bitcast<f32>(src[group + p.scales + col / 32u * 4u + row % 4u]);
    return scale * vec4<f32>(unpack4xI8(src[group + col / 16u * 16u + row % 4u * 4u + col % 16u / 4u]));
}
