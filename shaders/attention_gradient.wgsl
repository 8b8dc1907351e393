// The gradient of attention weights, made again from scores and the saved statistics.

@group(0) @binding(7) var<storage, read> stats: array<vec2<f32>>; // [batch, heads, q_len] of (lse, delta)

struct RowGradient {
    weight: vec4<f32>, // after dropout
    dscore: vec4<f32>,
}

// For query i and keys j .. j + 3, from their scores and the products of v and the output's gradient.
fn row_gradient(w: Work, i: u32, j: u32, scores: vec4<f32>, dweight: vec4<f32>) -> RowGradient {
    let row = stat_row(w, min(i, p.q_len - 1u));
    let stat = stats[row];
    let exists = vec4(i < p.q_len) & (scores > vec4(0.5 * MASKED));
    let probability = select(vec4<f32>(), exp(scores - stat.x), exists);
    let kept = vec4(keep_weight(row, j), keep_weight(row, j + 1u), keep_weight(row, j + 2u), keep_weight(row, j + 3u));
    return RowGradient(probability * kept, probability * (dweight * kept - stat.y));
}
