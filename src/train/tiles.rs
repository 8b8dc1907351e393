//! Tensors of an arena cut into tiles: for optimisers whose steps follow from numbers of a whole tensor.
//!
//! A tile is 64 x 64 elements of one tensor, the work of one workgroup; tables made once say where it lies. Sums over
//! tiles become sums over tensors, and these become step sizes.

use std::ops::Range;

use super::clip::{CONTROL, WORKGROUP_SUM};
use super::optimizer::Arenas;
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Constant, Dispatch, Header, ProgramBuilder, Shader};
use crate::model::TensorSpan;

/// Rows and columns of a tile.
pub(super) const SIDE: usize = 64;

/// How kernels read the tables.
pub(super) const TILE: &str = include_str!("../../shaders/tensor_tiles.wgsl");

static SQUARES: Shader = Shader {
    name: "tensor_squares",
    source: include_str!("../../shaders/tensor_squares.wgsl"),
    shared: &[CONTROL, TILE, WORKGROUP_SUM],
    defaults: &[],
};

static SCALES: Shader = Shader {
    name: "tensor_scales",
    source: include_str!("../../shaders/tensor_scales.wgsl"),
    shared: &[CONTROL, WORKGROUP_SUM],
    defaults: &[("CLIP", Constant::Bool(false))],
};

pub(super) fn kernels() -> Vec<(&'static Shader, Header)> {
    let scales = [false, true].map(|clip| (&SCALES, Header::new().bool("CLIP", clip)));
    [vec![(&SQUARES, Header::new())], scales.to_vec()].concat()
}

/// What a tensor's step is multiplied by.
pub(super) struct Scale {
    /// Steps are relative to the root mean square of the tensor's parameters, which counts as this at least.
    pub least: Option<f32>,
    /// Root mean square of an update beyond which it is scaled down.
    pub threshold: f32,
}

/// The tensors of a set of arenas in tiles.
pub(super) struct Tiles {
    /// Of all windows, one after the other.
    pub tiles: Buffer,
    pub pieces: Buffer,
    /// A number for each tile: sums over it.
    pub sums: Buffer,
    /// What the moments of factored tensors are added up from.
    pub blocks: Vec<[u32; 8]>,
    /// Row and column moments of all factored tensors.
    pub factors: usize,
    /// Moments in each window of the tensors that are not factored.
    pub whole: Vec<usize>,
    tensors: Buffer,
    /// The tiles of each tensor.
    ranges: Vec<Range<usize>>,
    /// Tiles in each window.
    counts: Vec<usize>,
}

impl Tiles {
    /// `is_factored` says of a shape whether its tensor keeps moments of rows and columns only.
    ///
    /// # Errors
    /// `Input` for tensors of more than 2^32 elements; `OutOfMemory`.
    pub fn new(arenas: &Arenas<'_>, is_factored: &dyn Fn(&[usize]) -> bool) -> Result<Tiles> {
        let (gpu, tables) = (arenas.gpu, Tables::of(arenas, is_factored)?);
        Ok(Tiles {
            tiles: gpu.buffer_of("tiles", &tables.tiles.concat())?,
            pieces: gpu.buffer_of("pieces of tensors", &tables.pieces)?,
            sums: gpu.buffer("sums over tiles", 4 * tables.tile_count as u64)?,
            tensors: gpu.buffer_of("tensors", &tables.tensors)?,
            ranges: tables.tensors.iter().map(|row| row[0] as usize..(row[0] + row[1]) as usize).collect(),
            counts: tables.tiles.iter().map(Vec::len).collect(),
            blocks: tables.blocks,
            factors: tables.factors,
            whole: tables.whole,
        })
    }

    /// Tiles of all windows.
    pub fn count(&self) -> usize {
        self.counts.iter().sum()
    }

    /// The tiles of each tensor, in their order.
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// For each window: its number, its first tile and how many it has.
    pub fn windows(&self) -> impl Iterator<Item = (usize, [usize; 2])> {
        let mut first = 0;
        self.counts.iter().enumerate().map(move |(window, &count)| {
            first += count;
            (window, [first - count, count])
        })
    }

    /// Writes the sum of squares over each tile of these windows into `sums`, which has a number for each tile.
    pub fn squares(&self, builder: &mut ProgramBuilder, windows: &[Buffer], sums: &Buffer) {
        for (window, [first, count]) in self.windows() {
            builder.push(Dispatch {
                label: format!("squares {window}"),
                shader: &SQUARES,
                header: Header::new(),
                bindings: vec![
                    ("tiles", self.tiles.all()),
                    ("pieces", self.pieces.all()),
                    ("values", windows[window].all()),
                    ("tile_sums", sums.all()),
                ],
                params: vec![("first", first.into()), ("count", count.into())],
                workgroups: count as u64,
            });
        }
    }

    /// Makes of the sums of squared parameters the size of each tensor's step.
    pub fn step_sizes(&self, builder: &mut ProgramBuilder, arenas: &Arenas<'_>, factors: &Buffer, scale: &Scale) {
        self.scales(builder, arenas, factors, scale, false);
    }

    /// Makes of the sums of squared updates what the threshold leaves of that size.
    pub fn clip(&self, builder: &mut ProgramBuilder, arenas: &Arenas<'_>, factors: &Buffer, scale: &Scale) {
        self.scales(builder, arenas, factors, scale, true);
    }

    fn scales(&self, builder: &mut ProgramBuilder, arenas: &Arenas<'_>, factors: &Buffer, scale: &Scale, clip: bool) {
        builder.push(Dispatch {
            label: if clip { "clipping of updates" } else { "step sizes" }.into(),
            shader: &SCALES,
            header: Header::new().bool("CLIP", clip),
            bindings: vec![
                ("tensors", self.tensors.all()),
                ("factors", factors.all()),
                ("tile_sums", self.sums.all()),
                ("control", arenas.control.all()),
            ],
            params: vec![
                ("count", self.ranges.len().into()),
                ("least", scale.least.unwrap_or(0.0).into()),
                ("threshold", scale.threshold.into()),
                ("relative", u32::from(scale.least.is_some()).into()),
            ],
            workgroups: self.ranges.len() as u64,
        });
    }
}

/// Rows of the tables of tensor_tiles.wgsl, adafactor_factors.wgsl and tensor_scales.wgsl.
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
    fn of(arenas: &Arenas<'_>, is_factored: &dyn Fn(&[usize]) -> bool) -> Result<Tables> {
        let windows = arenas.params.len();
        let mut tables = Tables { tiles: vec![Vec::new(); windows], whole: vec![0; windows], ..Tables::default() };
        for (index, span) in arenas.spans.iter().enumerate() {
            tables.add(index, span, is_factored(&span.shape))?;
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
