// Where a query stands, for the bias: at its own index.
fn position_of(mask: Mask, query: u32) -> i32 { return i32(query); }
