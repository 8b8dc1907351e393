//! Adafactor: for a matrix of n x m parameters it keeps n + m moments.
//!
//! Six passes for all tensors of a window: sums over tiles, row and column moments, numbers per tensor, size of the
//! update, numbers per tensor again, the update. Tables made once say which tile belongs where.

use super::clip::{CONTROL, WORKGROUP_SUM};
use super::optimizer::{Arenas, Moments};
use super::tiles::{SIDE, Scale, TILE, Tiles};
use crate::error::Result;
use crate::gpu::{Buffer, Constant, Dispatch, Header, Param, ProgramBuilder, Shader};

pub(super) struct Settings {
    pub eps1: f32,
    pub eps2: f32,
    pub threshold: f32,
    pub scale_parameter: bool,
    pub min_dim_factored: usize,
}

static SUMS: Shader = Shader {
    name: "adafactor_sums",
    source: include_str!("../../shaders/adafactor_sums.wgsl"),
    shared: &[CONTROL, TILE, WORKGROUP_SUM],
    defaults: &[],
};

static FACTORS: Shader = Shader {
    name: "adafactor_factors",
    source: include_str!("../../shaders/adafactor_factors.wgsl"),
    shared: &[CONTROL],
    defaults: &[],
};

static UPDATE: Shader = Shader {
    name: "adafactor_update",
    source: include_str!("../../shaders/adafactor_update.wgsl"),
    shared: &[CONTROL, TILE, WORKGROUP_SUM],
    defaults: &[("APPLY", Constant::Bool(false))],
};

pub(super) fn kernels() -> Vec<(&'static Shader, Header)> {
    let mut kernels = vec![(&SUMS, Header::new()), (&FACTORS, Header::new())];
    kernels.extend([false, true].map(|apply| (&UPDATE, Header::new().bool("APPLY", apply))));
    kernels
}

/// lr, the moments' decay beta2, 1 - beta2, weight decay. The decay is 0 at the first step: moments start as the first
/// squared gradients and need no bias correction.
pub(super) fn rates(decay_rate: f64, weight_decay: f64, lr: f64, step: u64) -> [f32; 4] {
    let rest = ((step + 1) as f64).powf(-decay_rate);
    [lr as f32, (1.0 - rest) as f32, rest as f32, weight_decay as f32]
}

/// The step size of `transformers.Adafactor` under `relative_step`.
pub(super) fn relative_step(step: u64, warmup_init: bool) -> f64 {
    let t = (step + 1) as f64;
    let most = if warmup_init { 1e-6 * t } else { 1e-2 };
    t.sqrt().recip().min(most)
}

/// Whether this tensor keeps row and column moments instead of one per parameter.
fn is_factored(shape: &[usize], min_dim_factored: usize) -> bool {
    matches!(*shape, [rows, cols] if rows.min(cols) >= min_dim_factored)
}

/// The passes' tables, moments and scratch on the device.
struct Recorder<'a> {
    arenas: &'a Arenas<'a>,
    settings: &'a Settings,
    tiles: &'a Tiles,
    blocks: Buffer,
    tile_rows: Buffer,
    tile_cols: Buffer,
    factors: Buffer,
    whole: Vec<Buffer>,
}

/// Records the six passes and returns the moments: `factors` (row means, then column means, of each factored tensor in
/// turn) and for each window `v` (the other tensors' moments in turn).
pub(super) fn record(builder: &mut ProgramBuilder, arenas: &Arenas<'_>, settings: &Settings) -> Result<Moments> {
    let tiles = Tiles::new(arenas, &|shape| is_factored(shape, settings.min_dim_factored))?;
    let recorder = Recorder::new(arenas, settings, &tiles)?;
    let scale = Scale { least: settings.scale_parameter.then_some(settings.eps2), threshold: settings.threshold };
    recorder.sums(builder);
    recorder.factors(builder);
    tiles.step_sizes(builder, arenas, &recorder.factors, &scale);
    recorder.update(builder, false);
    tiles.clip(builder, arenas, &recorder.factors, &scale);
    recorder.update(builder, true);
    let mut moments = vec![("adafactor.factors".to_owned(), recorder.factors, 4 * tiles.factors as u64)];
    let whole = recorder.whole.into_iter().zip(&tiles.whole).enumerate();
    moments.extend(whole.map(|(w, (buffer, &len))| (format!("adafactor.v.{w}"), buffer, 4 * len as u64)));
    moments.retain(|(.., bytes)| *bytes > 0);
    Ok(moments)
}

impl<'a> Recorder<'a> {
    fn new(arenas: &'a Arenas<'a>, settings: &'a Settings, tiles: &'a Tiles) -> Result<Recorder<'a>> {
        let gpu = arenas.gpu;
        let floats = |label: &str, len: usize| gpu.buffer(label, 4 * len as u64);
        Ok(Recorder {
            arenas,
            settings,
            tiles,
            blocks: gpu.buffer_of("adafactor blocks", &tiles.blocks)?,
            tile_rows: floats("adafactor row sums", SIDE * tiles.count())?,
            tile_cols: floats("adafactor column sums", SIDE * tiles.count())?,
            factors: floats("row and column moments", tiles.factors)?,
            whole: tiles.whole.iter().map(|&len| floats("second moments", len)).collect::<Result<_>>()?,
        })
    }

    fn params(&self, [first, count]: [usize; 2]) -> Vec<(&'static str, Param)> {
        vec![("first", first.into()), ("count", count.into()), ("eps1", self.settings.eps1.into())]
    }

    fn sums(&self, builder: &mut ProgramBuilder) {
        for (window, range) in self.tiles.windows() {
            builder.push(Dispatch {
                label: format!("adafactor sums {window}"),
                shader: &SUMS,
                header: Header::new(),
                bindings: vec![
                    ("tiles", self.tiles.tiles.all()),
                    ("pieces", self.tiles.pieces.all()),
                    ("control", self.arenas.control.all()),
                    ("grads", self.arenas.grads[window].all()),
                    ("params", self.arenas.params[window].all()),
                    ("tile_rows", self.tile_rows.all()),
                    ("tile_cols", self.tile_cols.all()),
                    ("tile_sums", self.tiles.sums.all()),
                ],
                params: self.params(range),
                workgroups: range[1] as u64,
            });
        }
    }

    fn factors(&self, builder: &mut ProgramBuilder) {
        builder.push(Dispatch {
            label: "adafactor moments".into(),
            shader: &FACTORS,
            header: Header::new(),
            bindings: vec![
                ("control", self.arenas.control.all()),
                ("blocks", self.blocks.all()),
                ("tile_rows", self.tile_rows.all()),
                ("tile_cols", self.tile_cols.all()),
                ("factors", self.factors.all()),
            ],
            params: vec![("blocks", self.tiles.blocks.len().into())],
            workgroups: self.tiles.blocks.len() as u64,
        });
    }

    fn update(&self, builder: &mut ProgramBuilder, apply: bool) {
        for (window, range) in self.tiles.windows() {
            builder.push(Dispatch {
                label: format!("adafactor {} {window}", if apply { "update" } else { "update size" }),
                shader: &UPDATE,
                header: Header::new().bool("APPLY", apply),
                bindings: vec![
                    ("tiles", self.tiles.tiles.all()),
                    ("pieces", self.tiles.pieces.all()),
                    ("control", self.arenas.control.all()),
                    ("grads", self.arenas.grads[window].all()),
                    ("factors", self.factors.all()),
                    ("params", self.arenas.params[window].all()),
                    ("v", self.whole[window].all()),
                    ("tile_sums", self.tiles.sums.all()),
                ],
                params: self.params(range),
                workgroups: range[1] as u64,
            });
        }
    }
}
