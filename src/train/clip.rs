//! The global norm of the gradient. It decides the scale of this step's gradients, and whether the step is skipped.

use super::optimizer::Arenas;
use crate::error::Result;
use crate::gpu::{Buffer, Dispatch, Header, ProgramBuilder, Shader};

pub(super) const CONTROL: &str = include_str!("../../shaders/optimizer_control.wgsl");
pub(super) const WORKGROUP_SUM: &str = include_str!("../../shaders/workgroup_sum.wgsl");

static GLOBAL_NORM: Shader =
    Shader { name: "global_norm", source: include_str!("../../shaders/global_norm.wgsl"), shared: &[], defaults: &[] };

static GLOBAL_NORM_FINISH: Shader = Shader {
    name: "global_norm_finish",
    source: include_str!("../../shaders/global_norm_finish.wgsl"),
    shared: &[CONTROL, WORKGROUP_SUM],
    defaults: &[],
};

pub(super) fn kernels() -> Vec<(&'static Shader, Header)> {
    vec![(&GLOBAL_NORM, Header::new()), (&GLOBAL_NORM_FINISH, Header::new())]
}

/// Bytes of a window that one workgroup sums.
const TILE_BYTES: u64 = 16_384 * 4;

/// Records the passes that fill the head of `control`: one per window and one to add up.
pub(super) fn record(builder: &mut ProgramBuilder, arenas: &Arenas<'_>, stats: &Buffer, max_norm: f32) -> Result<()> {
    let total: u64 = arenas.grads.iter().map(|w| w.bytes().div_ceil(TILE_BYTES)).sum();
    let parts = arenas.gpu.buffer("gradient norm", total * 4)?;
    let mut first = 0;
    for (window, grads) in arenas.grads.iter().enumerate() {
        let tiles = grads.bytes().div_ceil(TILE_BYTES);
        builder.push(Dispatch {
            label: format!("gradient norm {window}"),
            shader: &GLOBAL_NORM,
            header: Header::new(),
            bindings: vec![("stats", stats.all()), ("grads", grads.all()), ("parts", parts.all())],
            params: vec![
                ("len4", ((grads.bytes() / 16) as usize).into()),
                ("first", (first as usize).into()),
                ("tiles", (tiles as usize).into()),
            ],
            workgroups: tiles,
        });
        first += tiles;
    }
    builder.push(Dispatch {
        label: "gradient norm".into(),
        shader: &GLOBAL_NORM_FINISH,
        header: Header::new(),
        bindings: vec![("stats", stats.all()), ("parts", parts.all()), ("control", arenas.control.all())],
        params: vec![("len", (total as usize).into()), ("max_norm", max_norm.into())],
        workgroups: 1,
    });
    Ok(())
}
