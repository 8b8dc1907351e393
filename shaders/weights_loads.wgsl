// A load of each of four rows of b. A struct, since naga writes the helpers of an array of `Load` twice where Load is vec4<f32>.
struct Loads {
    x: Load,
    y: Load,
    z: Load,
    w: Load,
}

fn loads(at: vec4<u32>) -> Loads { return Loads(b[at.x], b[at.y], b[at.z], b[at.w]); }

// The i-th four weights of each row, as columns: `x * weights(..)` is x's product with each of the rows.
fn weights(l: Loads, i: u32) -> mat4x4<f32> {
    return mat4x4(weights4(l.x, i), weights4(l.y, i), weights4(l.z, i), weights4(l.w, i));
}
