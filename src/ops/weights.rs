//! How kernels read operands that may be packed (see [`Packing`]): the source parts that unpack them, and where rows and scales
//! lie.

use crate::gpu::Header;
use crate::graph::{Dtype, GROUP, Operand, Packing};

/// Where the rows of an operand lie, in elements, or in words where it is packed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    /// From one row to the next, or from one group of packed rows to the next.
    pub ld: usize,
    /// From a group to its scales; 0 where there are none.
    pub scales: usize,
}

/// The rows of a whole operand of `cols` columns.
pub(super) fn rows(dtype: Dtype, cols: usize) -> Rows {
    let Some(packing) = dtype.packing() else { return Rows { ld: dtype.row_words(cols), scales: 0 } };
    let [words, scale_words] = packing.words(cols);
    Rows { ld: GROUP * (words + scale_words), scales: if scale_words > 0 { GROUP * words } else { 0 } }
}

/// Elements of one load by `matmul_rows` and `matmul_deep`: 16 bytes.
pub(super) fn load_len(dtype: Dtype) -> usize {
    dtype.packing().map_or(4, Packing::load_len)
}

/// The parts of a shader with `load4`: four consecutive elements of a row of `src`. `vec4`: rows of f32 are multiples of four.
pub(super) fn load_parts(header: Header, operand: Operand, vec4: bool) -> Header {
    match operand.dtype.packing() {
        Some(packing) => packing.load_parts.iter().fold(header, |header, part| header.part(part)),
        None if vec4 => header.part(include_str!("../../shaders/load_vec4.wgsl")),
        None => header.part(include_str!("../../shaders/load_f32.wgsl")),
    }
}

/// The parts of `matmul_rows` and `matmul_deep` with the place, the type and the meaning of a load.
pub(super) fn weights_parts(header: Header, dtype: Dtype) -> Header {
    let parts = dtype.packing().map_or(F32_PARTS, |packing| packing.weights_parts);
    parts.iter().fold(header, |header, part| header.part(part))
}

const F32_PARTS: &[&str] =
    &[include_str!("../../shaders/weights_f32.wgsl"), include_str!("../../shaders/no_scales.wgsl")];
