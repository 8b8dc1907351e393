// Scores with T5's relative position bias, one number per head and clamped distance.
const HAS_BIAS = true;

@group(0) @binding(4) var<storage, read> bias: array<f32>; // [heads, 2 reach + 1]

// For key position - query position = `distance`.
fn bias_at(head: u32, distance: i32) -> f32 {
    let reach = i32(p.reach);
    return bias[head * (2u * p.reach + 1u) + u32(clamp(distance, -reach, reach) + reach)];
}
