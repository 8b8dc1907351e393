// Elements taken one by one: rows of any length.
alias Elem = f32;
alias Ids = u32;
const WIDTH = 1u; // numbers in an element

fn edot(a: Elem, b: Elem) -> f32 { return a * b; }
fn emax(a: Elem) -> f32 { return a; }
fn esum(a: Elem) -> f32 { return a; }
// The numbers' positions in their row, for element i.
fn eids(i: u32) -> Ids { return i; }
// An element out of four consecutive numbers.
fn first_of(v: vec4<f32>) -> Elem { return v.x; }
