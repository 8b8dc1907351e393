// The mask of encoder and cross-attention: a query sees the keys that are not padding.
const CAUSAL = false;

@group(0) @binding(5) var<storage, read> lens: array<u32>; // [batch]

fn n_keys(sequence: u32) -> u32 { return min(lens[sequence], p.kv_len); }
