// What makes scores of products: the bias and the mask.

// Scores of query i + r and keys j .. j + 3 from their products. `mask`: of the invocation's four positions, which begin with i
// if the kernel WALKS_KEYS, else with j.
fn biased(w: Work, mask: Mask, i: u32, r: u32, j: u32, products: vec4<f32>) -> vec4<f32> {
    var row = products;
    if HAS_BIAS {
        let d = i32(j) - position_of(mask, i + r);
        row += vec4(bias_at(w.head, d), bias_at(w.head, d + 1), bias_at(w.head, d + 2), bias_at(w.head, d + 3));
    }
    let hidden = vec4(
        is_hidden(mask, select(0u, r, WALKS_KEYS), i + r, j),
        is_hidden(mask, select(1u, r, WALKS_KEYS), i + r, j + 1u),
        is_hidden(mask, select(2u, r, WALKS_KEYS), i + r, j + 2u),
        is_hidden(mask, select(3u, r, WALKS_KEYS), i + r, j + 3u),
    );
    return select(row, vec4(MASKED), hidden);
}
