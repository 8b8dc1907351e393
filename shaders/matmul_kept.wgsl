// The results of a tile on their way to memory.

// One vec4 a row. More than 32 elements: Mesa unrolls loops over arrays of fewer.
var<private> kept: array<vec4<f32>, 64>;

// Stores the kept rows as rows row .. of c. A loop with a run-time bound, since the epilogue, once for each row, would take
// Mesa's compiler five times as long as the rest of the kernel.
fn emit_kept(row: u32, col: u32) {
    var i = 0u;
    loop {
        if i >= p.tile_rows { break; }
        emit4(row + i, col, kept[i]);
        i += 1u;
    }
}
