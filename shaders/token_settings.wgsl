// The settings that the kernels which choose tokens share.

const NO_TOKEN = 0xffffffffu;

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
    min_p: f32, // share of the likeliest's probability that a token must have to be drawn; 0: none
    repetition_penalty: f32, // divides the positive scores of tokens that are there already, and multiplies the negative
    no_repeat_ngram: u32, // 0: any may be repeated
    min_new: u32, // tokens before which there is no end token
    forced_last: u32, // the token at the most length; NO_TOKEN: any
    n_suppress: u32, // tokens that are never chosen
    n_begin: u32, // tokens that are not chosen behind `begin` new ones
    begin: u32,
    n_words: u32, // sequences that are not completed
    trie: u32, // where the root of the answers' trie lies; 0: any answer
    mask: u32, // where the bits of allowed tokens begin; 0: any token
    reserved_0: u32,
    reserved_1: u32,
}

// Whether a sequence ends with this token. A kernel that includes this has `settings`.
fn is_end(token: u32) -> bool {
    var ends = false;
    for (var e = 0u; e < min(settings.n_eos, 16u); e++) { ends = ends || token == settings.eos[e / 4u][e % 4u]; }
    return ends;
}
