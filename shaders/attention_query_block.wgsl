// Where a query stands, for the bias, if each key stands for QUERY_BLOCK queries: at its block's key; those behind the last
// whole block at the last key. `Mask`: attention_padded.wgsl's number of keys.
fn position_of(mask: Mask, query: u32) -> i32 { return i32(min(query / QUERY_BLOCK, max(mask, 1u) - 1u)); }
