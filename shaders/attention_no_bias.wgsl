// Scores without a position bias: cross-attention has none.
const HAS_BIAS = false;

fn bias_at(head: u32, distance: i32) -> f32 { return 0.0; }
