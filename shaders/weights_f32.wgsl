// Weights of a matmul as f32, four a load, row by row.
alias Load = vec4<f32>;
const LOAD4 = 1u; // vec4s of weights in a load
const STRIDE = 1u; // from one load of a row to the next

// The first loads of rows col .. col+3; rows beyond the last are the last again.
fn row_starts(col: u32) -> vec4<u32> {
    return p.b_offset4 + min(vec4(col) + vec4(0u, 1u, 2u, 3u), vec4(p.n - 1u)) * p.ldb4;
}

// Loads between rows that lie so many rows apart.
fn rows_apart(rows: u32) -> u32 { return rows * p.ldb4; }

fn weights4(load: Load, i: u32) -> vec4<f32> { return load; }
