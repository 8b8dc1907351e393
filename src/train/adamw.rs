//! AdamW: two moments per parameter, one pass per window.

use super::clip::CONTROL;
use super::optimizer::{Arenas, Moments};
use crate::error::Result;
use crate::gpu::{Dispatch, Header, ProgramBuilder, Shader};

static ADAMW: Shader =
    Shader { name: "adamw", source: include_str!("../../shaders/adamw.wgsl"), shared: &[CONTROL], defaults: &[] };

pub(super) fn kernels() -> Vec<(&'static Shader, Header)> {
    vec![(&ADAMW, Header::new())]
}

/// `lr / (1 - beta1^t)`, `lr * weight_decay`, `1 / sqrt(1 - beta2^t)` with t = step + 1.
pub(super) fn rates(betas: [f64; 2], weight_decay: f64, lr: f64, step: u64) -> [f32; 4] {
    let t = (step + 1) as f64;
    let [correction1, correction2] = betas.map(|beta| 1.0 - beta.powf(t));
    [(lr / correction1) as f32, (lr * weight_decay) as f32, correction2.sqrt().recip() as f32, 0.0]
}

/// Records the update of every window and returns the moments `m` and `v`, laid out as the arenas are.
pub(super) fn record(builder: &mut ProgramBuilder, arenas: &Arenas<'_>, betas: [f64; 2], eps: f64) -> Result<Moments> {
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
            params: vec![
                ("len4", ((bytes / 16) as usize).into()),
                ("beta1", (betas[0] as f32).into()),
                ("beta1_rest", ((1.0 - betas[0]) as f32).into()),
                ("beta2", (betas[1] as f32).into()),
                ("beta2_rest", ((1.0 - betas[1]) as f32).into()),
                ("eps", (eps as f32).into()),
            ],
            workgroups: (bytes / 16).div_ceil(256),
        });
        moments.push((format!("adamw.m.{window}"), m, bytes));
        moments.push((format!("adamw.v.{window}"), v, bytes));
    }
    Ok(moments)
}
