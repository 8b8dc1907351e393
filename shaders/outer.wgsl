// Outer products across one subgroup of SIDE lanes: a tile of 4 SIDE rows x 4 SIDE columns, of which lane l has columns
// 4 l .. 4 l + 3. Each lane loads four numbers of a side for a step, and learns the others' rows by shuffles: where loads
// are what costs (software rasterisers), that is 8 numbers for 16 SIDE multiply-adds. Needs subgroups of exactly SIDE.

alias Tile = array<vec4<f32>, 4u * SIDE>; // [row] of the lane's four columns

// tile += rows columns^T over four steps: rows[s] is this lane's s-th row, row s SIDE + l of the tile, with its steps as
// components; columns[d] is step d of this lane's four columns.
fn outer(tile: ptr<function, Tile>, rows: mat4x4<f32>, columns: mat4x4<f32>) {
    // In this order few values are alive at a time; others make LLVM spill, at half to a third of the speed.
    outer_rows(tile, 0u, rows[0], columns);
    outer_rows(tile, SIDE, rows[1], columns);
    outer_rows(tile, 2u * SIDE, rows[2], columns);
    outer_rows(tile, 3u * SIDE, rows[3], columns);
}

fn outer_rows(tile: ptr<function, Tile>, first: u32, row: vec4<f32>, columns: mat4x4<f32>) {
    for (var l = 0u; l < SIDE; l++) {
        var sum = (*tile)[first + l];
        sum = fma(vec4(subgroupShuffle(row.x, l)), columns[0], sum);
        sum = fma(vec4(subgroupShuffle(row.y, l)), columns[1], sum);
        sum = fma(vec4(subgroupShuffle(row.z, l)), columns[2], sum);
        sum = fma(vec4(subgroupShuffle(row.w, l)), columns[3], sum);
        (*tile)[first + l] = sum;
    }
}
