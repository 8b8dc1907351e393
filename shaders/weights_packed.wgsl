// Packed weights of a matmul: groups of four rows, whose loads of 16 bytes take turns.
alias Load = vec4<u32>;
const STRIDE = 4u; // from one load of a row to the next

// The first loads of rows col .. col+3, a group.
fn row_starts(col: u32) -> vec4<u32> {
    return p.b_offset4 + col / 4u * p.ldb4 + vec4(0u, 1u, 2u, 3u);
}

// Loads between rows that lie so many rows apart, a multiple of four.
fn rows_apart(rows: u32) -> u32 { return rows / 4u * p.ldb4; }
