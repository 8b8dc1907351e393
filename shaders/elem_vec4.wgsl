// Elements taken four at a time: rows of a multiple of four.
alias Elem = vec4<f32>;
alias Ids = vec4<u32>;
const WIDTH = 4u; // numbers in an element

fn edot(a: Elem, b: Elem) -> f32 { return dot(a, b); }
fn emax(a: Elem) -> f32 { return max(max(a.x, a.y), max(a.z, a.w)); }
fn esum(a: Elem) -> f32 { return a.x + a.y + a.z + a.w; }
// The numbers' positions in their row, for element i.
fn eids(i: u32) -> Ids { return 4u * i + vec4<u32>(0u, 1u, 2u, 3u); }
// An element out of four consecutive numbers.
fn first_of(v: vec4<f32>) -> Elem { return v; }
