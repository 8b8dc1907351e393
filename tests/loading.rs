//! What reading weights takes of the host's memory: never a second copy of the model.

#[path = "fuzz/memory.rs"]
mod memory;

use std::path::Path;

use t5_wgpu::checkpoint::Weights;

/// Besides tensors: names, a reader's buffer.
const REST: usize = 20 << 10;

/// One test alone in its program, since memory is counted for all of it.
#[test]
fn at_most_one_tensor_is_in_memory() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (path, tensors) in [
        ("golden/flan", 0),
        ("data/sources/flan-gguf", 0),
        ("data/sources/gguf/blocks.gguf", 1),
        ("data/sources/mt5-bin", 1),
        ("data/sources/mt5-shards", 1),
        ("data/sources/mt5-flax", 1),
        ("data/sources/mt5-t5x", 1),
    ] {
        let weights = Weights::open(tests.join(path)).unwrap();
        let (mut largest, mut all) = (0, 0);
        let look = || {
            for name in weights.names() {
                let bytes = weights.look_f32(name, weights.shape(name).unwrap(), |values| 4 * values.len()).unwrap();
                (largest, all) = (bytes.max(largest), all + bytes);
            }
        };
        let ((), peak) = memory::peak_of(look);
        assert!(peak <= tensors * largest + REST, "{path}: {peak} bytes, the largest tensor {largest}, all {all}");
        assert!(all > 48 << 10, "{path}: too small to tell, {all} bytes");
    }
}
