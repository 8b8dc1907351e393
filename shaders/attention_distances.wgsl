// Gradient of the position bias, for kernels that walk over tiles of TILE queries x TILE keys with SIDE x SIDE invocations.
//
// The bias depends on the distance alone, so that its gradient sums the diagonals of a tile: one invocation per diagonal, no
// atomics. Each workgroup writes its own sums, which `column_sum` adds up in a fixed order. A kernel says where its tile has
// the gradient of a score: dscore_at(row, key).

@group(0) @binding(9) var<storage, read_write> dbias: array<f32>; // [key tiles, batch, heads, DISTANCES]

var<workgroup> by_distance: array<f32, DISTANCES>;
var<workgroup> ends: array<vec2<f32>, SIDE * SIDE>;

fn clear_distances(lane: u32) {
    var x = lane;
    loop {
        if x >= 2u * p.reach + 1u { break; }
        by_distance[x] = 0.0;
        x += SIDE * SIDE;
    }
}

// Adds up a tile whose first key stands so far behind its first query. Gives `outside` and what belongs to it: the sums of
// distances <= -reach and >= reach.
fn add_diagonals(first: i32, outside: vec2<f32>, lane: u32) -> vec2<f32> {
    var sums = outside;
    var diagonal = lane;
    loop {
        if diagonal >= 2u * p.tile - 1u { break; }
        let shift = i32(diagonal) - i32(TILE - 1u); // key - query inside the tile
        var sum = 0.0;
        var row = u32(max(-shift, 0));
        let last = min(p.tile, u32(i32(TILE) - shift));
        loop {
            if row >= last { break; }
            sum += dscore_at(row, u32(i32(row) + shift));
            row += 1u;
        }
        let distance = first + shift;
        if distance <= -i32(p.reach) {
            sums.x += sum;
        } else if distance >= i32(p.reach) {
            sums.y += sum;
        } else {
            by_distance[u32(distance + i32(p.reach))] += sum;
        }
        diagonal += SIDE * SIDE;
    }
    return sums;
}

fn store_distances(w: Work, outside: vec2<f32>, lane: u32) {
    ends[lane] = outside;
    workgroupBarrier();
    if lane == 0u {
        var sum = vec2<f32>();
        for (var x = 0u; x < SIDE * SIDE; x++) { sum += ends[x]; }
        by_distance[0] = sum.x;
        by_distance[2u * p.reach] = sum.y;
    }
    workgroupBarrier();
    let distances = 2u * p.reach + 1u;
    let row = ((w.first / TILE) * p.batch + w.sequence) * p.heads + w.head;
    var x = lane;
    loop {
        if x >= distances { break; }
        dbias[row * distances + x] = by_distance[x];
        x += SIDE * SIDE;
    }
}
