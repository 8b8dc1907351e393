//! Adafactor: for a matrix of n x m parameters it keeps n + m moments.
//!
//! Six passes for all tensors of a window: sums over tiles, row and column moments, numbers per tensor, size of the
//! update, numbers per tensor again, the update. Tables made once say which tile belongs where.

use super::clip::{CONTROL, WORKGROUP_SUM};
use super::optimizer::{Arenas, Moments};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Constant, Dispatch, Header, Param, ProgramBuilder, Shader};
use crate::model::TensorSpan;

pub(super) struct Settings {
    pub eps1: f32,
    pub eps2: f32,
    pub threshold: f32,
    pub scale_parameter: bool,
    pub min_dim_factored: usize,
}

const TILE: &str = include_str!("../../shaders/adafactor_tile.wgsl");

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

static TENSORS: Shader = Shader {
    name: "adafactor_tensors",
    source: include_str!("../../shaders/adafactor_tensors.wgsl"),
    shared: &[CONTROL, WORKGROUP_SUM],
    defaults: &[("CLIP", Constant::Bool(false))],
};

static UPDATE: Shader = Shader {
    name: "adafactor_update",
    source: include_str!("../../shaders/adafactor_update.wgsl"),
    shared: &[CONTROL, TILE, WORKGROUP_SUM],
    defaults: &[("APPLY", Constant::Bool(false))],
};

pub(super) fn kernels() -> Vec<(&'static Shader, Header)> {
    let mut kernels = vec![(&SUMS, Header::new()), (&FACTORS, Header::new())];
    for second in [false, true] {
        kernels.push((&TENSORS, Header::new().bool("CLIP", second)));
        kernels.push((&UPDATE, Header::new().bool("APPLY", second)));
    }
    kernels
}

/// Rows and columns of a tile.
const SIDE: usize = 64;

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

/// Rows of the tables of adafactor_tile.wgsl, adafactor_factors.wgsl and adafactor_tensors.wgsl.
#[derive(Default)]
struct Tables {
    pieces: Vec<[u32; 8]>,
    /// Of each window.
    tiles: Vec<Vec<[u32; 4]>>,
    blocks: Vec<[u32; 8]>,
    tensors: Vec<[u32; 8]>,
    tile_count: usize,
    /// Row and column moments so far.
    factors: usize,
    /// Whole moments so far of each window.
    whole: Vec<usize>,
}

impl Tables {
    fn of(arenas: &Arenas<'_>, min_dim_factored: usize) -> Result<Tables> {
        let windows = arenas.params.len();
        let mut tables = Tables { tiles: vec![Vec::new(); windows], whole: vec![0; windows], ..Tables::default() };
        for (index, span) in arenas.spans.iter().enumerate() {
            tables.add(index, span, is_factored(&span.shape, min_dim_factored))?;
        }
        Ok(tables)
    }

    fn add(&mut self, index: usize, span: &TensorSpan, factored: bool) -> Result<()> {
        // What is not factored is taken flat, in rows of a tile's width.
        let cols = if factored { span.shape[1] } else { SIDE };
        let rows = if factored { span.shape[0] } else { 0 };
        let tiles_x = cols.div_ceil(SIDE);
        let first_tile = self.tile_count;
        let (rows_at, cols_at) = (self.factors, self.factors + rows);
        let mut rows_before = 0;
        for piece in &span.pieces {
            let tiles_y = piece.len.div_ceil(cols).div_ceil(SIDE);
            let moments_at = if factored { rows_at + rows_before } else { self.whole[piece.window] };
            let id = self.pieces.len();
            self.pieces.push(words([
                piece.offset,
                piece.len,
                cols,
                index,
                usize::from(factored),
                moments_at,
                cols_at,
                0,
            ])?);
            for y in 0..tiles_y {
                if factored {
                    let lines = SIDE.min(piece.rows - y * SIDE);
                    let at = moments_at + y * SIDE;
                    self.blocks.push(words([self.tile_count, 1, tiles_x, lines, cols, at, 0, 0])?);
                }
                for x in 0..tiles_x {
                    self.tiles[piece.window].push(words([id, y, x, self.tile_count])?);
                    self.tile_count += 1;
                }
            }
            if factored {
                rows_before += piece.rows;
            } else {
                self.whole[piece.window] += piece.len;
            }
        }
        let tiles = self.tile_count - first_tile;
        if factored {
            for x in 0..tiles_x {
                let lines = SIDE.min(cols - x * SIDE);
                let at = cols_at + x * SIDE;
                self.blocks.push(words([first_tile + x, tiles_x, tiles / tiles_x, lines, rows, at, 1, 0])?);
            }
            self.factors += rows + cols;
        }
        self.tensors.push(words([first_tile, tiles, rows_at, rows, span.len(), 0, 0, 0])?);
        Ok(())
    }
}

fn words<const N: usize>(values: [usize; N]) -> Result<[u32; N]> {
    let mut out = [0; N];
    for (word, value) in out.iter_mut().zip(values) {
        let too_large = |_| Error::Input("optimizer: the tensors exceed 2^32 elements".into());
        *word = u32::try_from(value).map_err(too_large)?;
    }
    Ok(out)
}

/// The passes' tables, moments and scratch on the device.
struct Recorder<'a> {
    arenas: &'a Arenas<'a>,
    settings: &'a Settings,
    tables: &'a Tables,
    tiles: Buffer,
    pieces: Buffer,
    blocks: Buffer,
    tensors: Buffer,
    tile_rows: Buffer,
    tile_cols: Buffer,
    tile_sums: Buffer,
    factors: Buffer,
    whole: Vec<Buffer>,
}

/// Records the six passes and returns the moments: `factors` (row means, then column means, of each factored tensor in
/// turn) and for each window `v` (the other tensors' moments in turn).
pub(super) fn record(builder: &mut ProgramBuilder, arenas: &Arenas<'_>, settings: &Settings) -> Result<Moments> {
    let tables = Tables::of(arenas, settings.min_dim_factored)?;
    let recorder = Recorder::new(arenas, settings, &tables)?;
    recorder.sums(builder);
    recorder.factors(builder);
    recorder.tensors(builder, false);
    recorder.update(builder, false);
    recorder.tensors(builder, true);
    recorder.update(builder, true);
    let mut moments = vec![("adafactor.factors".to_owned(), recorder.factors, 4 * tables.factors as u64)];
    let whole = recorder.whole.into_iter().zip(&tables.whole).enumerate();
    moments.extend(whole.map(|(w, (buffer, &len))| (format!("adafactor.v.{w}"), buffer, 4 * len as u64)));
    moments.retain(|(.., bytes)| *bytes > 0);
    Ok(moments)
}

impl<'a> Recorder<'a> {
    fn new(arenas: &'a Arenas<'a>, settings: &'a Settings, tables: &'a Tables) -> Result<Recorder<'a>> {
        let gpu = arenas.gpu;
        let floats = |label: &str, len: usize| gpu.buffer(label, 4 * len as u64);
        Ok(Recorder {
            arenas,
            settings,
            tables,
            tiles: gpu.buffer_of("adafactor tiles", &tables.tiles.concat())?,
            pieces: gpu.buffer_of("adafactor pieces", &tables.pieces)?,
            blocks: gpu.buffer_of("adafactor blocks", &tables.blocks)?,
            tensors: gpu.buffer_of("adafactor tensors", &tables.tensors)?,
            tile_rows: floats("adafactor row sums", SIDE * tables.tile_count)?,
            tile_cols: floats("adafactor column sums", SIDE * tables.tile_count)?,
            tile_sums: floats("adafactor tile sums", tables.tile_count)?,
            factors: floats("row and column moments", tables.factors)?,
            whole: tables.whole.iter().map(|&len| floats("second moments", len)).collect::<Result<_>>()?,
        })
    }

    /// For each window that has tiles: its index, the parameters of a kernel that walks them, how many there are.
    fn windows(&self) -> impl Iterator<Item = (usize, Vec<(&'static str, Param)>, u64)> {
        let mut first = 0;
        self.tables.tiles.iter().enumerate().map(move |(window, tiles)| {
            let params =
                vec![("first", first.into()), ("count", tiles.len().into()), ("eps1", self.settings.eps1.into())];
            first += tiles.len();
            (window, params, tiles.len() as u64)
        })
    }

    fn sums(&self, builder: &mut ProgramBuilder) {
        for (window, params, workgroups) in self.windows() {
            builder.push(Dispatch {
                label: format!("adafactor sums {window}"),
                shader: &SUMS,
                header: Header::new(),
                bindings: vec![
                    ("tiles", self.tiles.all()),
                    ("pieces", self.pieces.all()),
                    ("control", self.arenas.control.all()),
                    ("grads", self.arenas.grads[window].all()),
                    ("params", self.arenas.params[window].all()),
                    ("tile_rows", self.tile_rows.all()),
                    ("tile_cols", self.tile_cols.all()),
                    ("tile_sums", self.tile_sums.all()),
                ],
                params,
                workgroups,
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
            params: vec![("blocks", self.tables.blocks.len().into())],
            workgroups: self.tables.blocks.len() as u64,
        });
    }

    fn tensors(&self, builder: &mut ProgramBuilder, clip: bool) {
        let count = self.tables.tensors.len();
        builder.push(Dispatch {
            label: if clip { "adafactor clipping" } else { "adafactor step sizes" }.into(),
            shader: &TENSORS,
            header: Header::new().bool("CLIP", clip),
            bindings: vec![
                ("tensors", self.tensors.all()),
                ("factors", self.factors.all()),
                ("tile_sums", self.tile_sums.all()),
                ("control", self.arenas.control.all()),
            ],
            params: vec![
                ("count", count.into()),
                ("eps2", self.settings.eps2.into()),
                ("threshold", self.settings.threshold.into()),
                ("scale_parameter", u32::from(self.settings.scale_parameter).into()),
            ],
            workgroups: count as u64,
        });
    }

    fn update(&self, builder: &mut ProgramBuilder, apply: bool) {
        for (window, params, workgroups) in self.windows() {
            builder.push(Dispatch {
                label: format!("adafactor {} {window}", if apply { "update" } else { "update size" }),
                shader: &UPDATE,
                header: Header::new().bool("APPLY", apply),
                bindings: vec![
                    ("tiles", self.tiles.all()),
                    ("pieces", self.pieces.all()),
                    ("control", self.arenas.control.all()),
                    ("grads", self.arenas.grads[window].all()),
                    ("factors", self.factors.all()),
                    ("params", self.arenas.params[window].all()),
                    ("v", self.whole[window].all()),
                    ("tile_sums", self.tile_sums.all()),
                ],
                params,
                workgroups,
            });
        }
    }
}
