// What one optimiser step knows beside the arenas: its verdict on the gradient, its rates, and numbers per tensor.

struct Control {
    scale: f32, // of the summed gradients: clip / tokens
    norm: f32, // of the mean gradient, before clipping
    clip: f32,
    skipped: f32, // 1: no tokens or a non-finite norm; parameters and moments stay as they are
    rates: vec4<f32>, // written by the host before each step
    tensors: array<vec4<f32>>,
}
