//! How kernels read operands that may be packed (see [`Dtype`]): the source parts that unpack them, and where rows and scales
//! lie.

use crate::gpu::Header;
use crate::graph::{Dtype, GROUP, Operand};

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
    let row_words = dtype.row_words(cols);
    match dtype.is_packed() {
        true => Rows { ld: GROUP * row_words, scales: if dtype == Dtype::Q8 { GROUP * cols / 4 } else { 0 } },
        false => Rows { ld: row_words, scales: 0 },
    }
}

/// Elements of one load by `matmul_rows` and `matmul_deep`: 16 bytes.
pub(super) fn load_len(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 | Dtype::U32 => 4,
        Dtype::F16 | Dtype::Bf16 => 8,
        Dtype::Q8 => 16,
    }
}

/// The part of a shader with `load4`: four consecutive elements of a row of `src`. `vec4`: rows of f32 are multiples of four.
pub(super) fn load_part(operand: Operand, vec4: bool) -> &'static str {
    match operand.dtype {
        Dtype::F32 | Dtype::U32 if vec4 => include_str!("../../shaders/load_vec4.wgsl"),
        Dtype::F32 | Dtype::U32 => include_str!("../../shaders/load_f32.wgsl"),
        Dtype::F16 => include_str!("../../shaders/load_f16.wgsl"),
        Dtype::Bf16 => include_str!("../../shaders/load_bf16.wgsl"),
        Dtype::Q8 => include_str!("../../shaders/load_q8.wgsl"),
    }
}

/// The parts of `matmul_rows` and `matmul_deep` with the place, the type and the meaning of a load.
pub(super) fn weights_parts(header: Header, dtype: Dtype) -> Header {
    let packed = |part| header.clone().part(include_str!("../../shaders/weights_packed.wgsl")).part(part);
    match dtype {
        Dtype::F32 | Dtype::U32 => header.part(include_str!("../../shaders/weights_f32.wgsl")),
        Dtype::F16 => packed(include_str!("../../shaders/weights_f16.wgsl")),
        Dtype::Bf16 => packed(include_str!("../../shaders/weights_bf16.wgsl")),
        Dtype::Q8 => packed(include_str!("../../shaders/weights_q8.wgsl")),
    }
}
