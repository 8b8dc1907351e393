// The settings that the kernels which choose tokens share.

struct Settings {
    temperature: f32, // 0: take the likeliest
    top_k: u32, // 0: all
    top_p: f32, // 1: all
    limit: u32, // classes from here on are never chosen
    seed: vec2<u32>,
    pad: u32, // what a finished sequence emits
    n_eos: u32,
    eos: array<vec4<u32>, 4>, // tokens that finish a sequence
    max_new: u32, // tokens that a target may get after its prompt
    prompt: u32, // tokens that it has from the start, beyond the start token
    early_stopping: u32, // of beams: EARLY or NEVER, or neither
    reserved: u32,
}
