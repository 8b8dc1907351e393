//! AdamW and AdamWScale: two moments per parameter.

use super::clip::CONTROL;
use super::optimizer::{Arenas, Moments};
use super::tiles::{Scale, TILE, Tiles};
use crate::error::Result;
use crate::gpu::{Dispatch, Header, Param, ProgramBuilder, Shader};

static ADAMW: Shader =
    Shader { name: "adamw", source: include_str!("../../shaders/adamw.wgsl"), shared: &[CONTROL], defaults: &[] };

static ADAMW_SCALE: Shader = Shader {
    name: "adamw_scale",
    source: include_str!("../../shaders/adamw_scale.wgsl"),
    shared: &[CONTROL, TILE],
    defaults: &[],
};

pub(super) fn kernels() -> Vec<(&'static Shader, Header)> {
    vec![(&ADAMW, Header::new()), (&ADAMW_SCALE, Header::new())]
}

/// What the kernels need to know beside the rates.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    pub betas: [f64; 2],
    pub eps: f64,
}

impl Settings {
    fn params(self) -> Vec<(&'static str, Param)> {
        let [beta1, beta2] = self.betas;
        vec![
            ("beta1", (beta1 as f32).into()),
            ("beta1_rest", ((1.0 - beta1) as f32).into()),
            ("beta2", (beta2 as f32).into()),
            ("beta2_rest", ((1.0 - beta2) as f32).into()),
            ("eps", (self.eps as f32).into()),
        ]
    }
}

/// `lr / (1 - beta1^t)`, `lr * weight_decay`, `1 / sqrt(1 - beta2^t)` with t = step + 1.
pub(super) fn rates(betas: [f64; 2], weight_decay: f64, lr: f64, step: u64) -> [f32; 4] {
    let t = (step + 1) as f64;
    let [correction1, correction2] = betas.map(|beta| 1.0 - beta.powf(t));
    [(lr / correction1) as f32, (lr * weight_decay) as f32, correction2.sqrt().recip() as f32, 0.0]
}

/// `lr sqrt(1 - beta2^t) / (1 - beta1^t)`, which each tensor's root mean square is multiplied by, and `lr * weight_decay`.
pub(super) fn scaled_rates(betas: [f64; 2], weight_decay: f64, lr: f64, step: u64) -> [f32; 4] {
    let t = (step + 1) as f64;
    let [correction1, correction2] = betas.map(|beta| 1.0 - beta.powf(t));
    [(lr * correction2.sqrt() / correction1) as f32, (lr * weight_decay) as f32, 0.0, 0.0]
}

/// Records the passes of AdamWScale: sums of squared parameters, step sizes, the update. Returns the moments `m` and `v` of each
/// window's tensors in turn.
pub(super) fn record_scaled(
    builder: &mut ProgramBuilder,
    arenas: &Arenas<'_>,
    settings: Settings,
    least: f64,
) -> Result<Moments> {
    let tiles = Tiles::new(arenas, &|_| false)?;
    tiles.squares(builder, arenas.params, &tiles.sums);
    let none = arenas.gpu.buffer("no factors", 4)?;
    tiles.step_sizes(builder, arenas, &none, &Scale { least: Some(least as f32), threshold: 1.0 });
    let mut moments = Moments::new();
    for (window, [first, count]) in tiles.windows() {
        let bytes = 4 * tiles.whole[window] as u64;
        if bytes == 0 {
            continue;
        }
        let m = arenas.gpu.buffer("first moments", bytes)?;
        let v = arenas.gpu.buffer("second moments", bytes)?;
        builder.push(Dispatch {
            label: format!("adamw-scale {window}"),
            shader: &ADAMW_SCALE,
            header: Header::new(),
            bindings: vec![
                ("tiles", tiles.tiles.all()),
                ("pieces", tiles.pieces.all()),
                ("control", arenas.control.all()),
                ("grads", arenas.grads[window].all()),
                ("params", arenas.params[window].all()),
                ("m", m.all()),
                ("v", v.all()),
            ],
            params: [vec![("first", first.into()), ("count", count.into())], settings.params()].concat(),
            workgroups: count as u64,
        });
        moments.push((format!("adamw_scale.m.{window}"), m, bytes));
        moments.push((format!("adamw_scale.v.{window}"), v, bytes));
    }
    Ok(moments)
}

/// Records AdamW's update of every window and returns the moments `m` and `v`, laid out as the arenas are.
pub(super) fn record(builder: &mut ProgramBuilder, arenas: &Arenas<'_>, settings: Settings) -> Result<Moments> {
    let mut moments = Moments::new();
    for (window, (params, grads)) in arenas.params.iter().zip(arenas.grads).enumerate() {
        let bytes = params.bytes();
        let m = arenas.gpu.buffer("first moments", bytes)?;
        let v = arenas.gpu.buffer("second moments", bytes)?;
        builder.push(Dispatch {
            label: format!("adamw {window}"),
            shader: &ADAMW,
            header: Header::new(),
            bindings: vec![
                ("control", arenas.control.all()),
                ("grads", grads.all()),
                ("params", params.all()),
                ("m", m.all()),
                ("v", v.all()),
            ],
            params: [vec![("len4", ((bytes / 16) as usize).into())], settings.params()].concat(),
            workgroups: (bytes / 16).div_ceil(256),
        });
        moments.push((format!("adamw.m.{window}"), m, bytes));
        moments.push((format!("adamw.v.{window}"), v, bytes));
    }
    Ok(moments)
}
