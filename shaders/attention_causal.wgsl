// The mask of decoder self-attention: a query sees the keys up to its own position.
const CAUSAL = true;

fn n_keys(sequence: u32) -> u32 { return p.kv_len; }
