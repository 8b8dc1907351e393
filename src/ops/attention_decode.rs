//! Attention of one query per row, for a step of decoding: over a cache, or over the encoder's output.

use crate::gpu::{Constant, Header, Shader};
use crate::graph::{Dtype, Launch, Launcher, Op, Tensor64};

/// `softmax(q k^T + bias) v` with one query per row and head. A row is a sequence, or one of the beams of a sequence.
///
/// Inputs, in order:
/// - over the encoder's output: `q [rows, heads d_kv]`; `kv [homes kv_len, windows 2 heads d_kv]`, each window `[k | v]`, where a
///   home is a source; the number of each source's keys, `[homes]` (u32); and the source that each row reads, `[rows]` (u32)
/// - causal, over a cache: `qkv [rows, 3 heads d_kv]`; the position of each, `[rows]` (u32), up to which keys are visible; the bias
///   `[heads, 2 reach + 1]`, by clamped distance; and the table `[rows, kv_len]` (u32): in which row of the cache the key and value
///   of each position lie. At its own position a row must name itself, and elsewhere no row that stands at that position
/// - causal, over a cache in which the rows' own keys lie already ([`super::AppendKv`]): after these four the cache, and the table
///   may name any row of it
///
/// Outputs: `[rows, heads d_kv]`, zeros where there are no keys; causal, if it stores: the cache, laid out like `kv` with a home for each row,
/// in which the row's own place at its position becomes the new `[k | v]`. It is to be stored in a leaf; a position past its end
/// writes nothing.
#[derive(Clone, Debug)]
pub struct AttentionDecode {
    pub rows: usize,
    /// Rows of the cache, which are `rows` if it stores; or sources.
    pub homes: usize,
    pub heads: usize,
    pub d_kv: usize,
    pub kv_len: usize,
    /// Windows of `2 heads d_kv` side by side in each row of `kv`: several blocks' keys and values made by one product.
    pub windows: usize,
    /// Which of them is read.
    pub window: usize,
    /// Self-attention over a cache, with T5's position bias.
    pub causal: bool,
    /// Of self-attention: whether each row's key and value are stored here, before it attends.
    pub stores: bool,
    /// Largest distance that the bias tells apart.
    pub reach: usize,
    /// Instead of the workgroups that suit the adapter, those of cards, or of software adapters; tests go through both.
    pub wide: Option<bool>,
}

/// How the keys are dealt out.
struct Cut {
    /// Invocations of a workgroup.
    lanes: usize,
    /// Keys that they take at a time.
    keys: usize,
    /// Keys of a workgroup. One adapter always has the same, so that no result depends on how long other rows are.
    part: usize,
}

/// A software adapter pays for each workgroup, each barrier and each invocation with nothing to do.
const NARROW: Cut = Cut { lanes: 64, keys: 64, part: 512 };
/// With one sequence, a card would have as many workgroups as the model has heads, however long the sequence. More than 128
/// keys are worth the second dispatch that puts the parts together.
const WIDE: Cut = Cut { lanes: 256, keys: 128, part: 128 };

macro_rules! part {
    ($name:literal) => {
        include_str!(concat!("../../shaders/", $name, ".wgsl"))
    };
}

static ATTENTION_DECODE: Shader = Shader {
    name: "attention_decode",
    source: part!("attention_decode"),
    shared: &[],
    defaults: &[
        ("DV", Constant::U32(1)),
        ("CAUSAL", Constant::Bool(false)),
        ("STORES", Constant::Bool(false)),
        ("SPLIT", Constant::Bool(false)),
        ("LANES", Constant::U32(64)),
        ("KEYS", Constant::U32(64)),
        ("PART", Constant::U32(512)),
    ],
};

static ATTENTION_DECODE_JOIN: Shader =
    Shader { name: "attention_decode_join", source: part!("attention_decode_join"), shared: &[], defaults: &[] };

impl AttentionDecode {
    fn inner(&self) -> usize {
        self.heads * self.d_kv
    }

    /// Elements from one row of `kv` to the next.
    fn kv_ld(&self) -> usize {
        self.windows * 2 * self.inner()
    }

    /// Elements of a row of `kv` before the keys.
    fn k_offset(&self) -> usize {
        self.window * 2 * self.inner()
    }

    fn q_ld(&self) -> usize {
        if self.causal { 3 * self.inner() } else { self.inner() }
    }
}

impl Op for AttentionDecode {
    fn name(&self) -> &'static str {
        "attention_decode"
    }

    fn infer(&self, inputs: &[&[usize]]) -> Vec<(Vec<usize>, Dtype)> {
        assert!(self.window < self.windows, "{self:?}");
        let kv = vec![self.homes * self.kv_len, self.kv_ld()];
        let mut outputs = vec![(vec![self.rows, self.inner()], Dtype::F32)];
        let (lens, n_lens, table) = if self.causal {
            if self.stores {
                assert_eq!(self.homes, self.rows, "{self:?}");
                outputs.push((kv, Dtype::F32));
            } else {
                assert_eq!(inputs[4], kv, "cache of {self:?}");
            }
            assert_eq!(inputs[2], [self.heads, 2 * self.reach + 1], "bias of {self:?}");
            (inputs[1], self.rows, vec![self.rows, self.kv_len])
        } else {
            assert!(!self.stores, "{self:?}");
            assert_eq!(inputs[1], kv, "kv of {self:?}");
            (inputs[2], self.homes, vec![self.rows])
        };
        assert_eq!(inputs[0], [self.rows, self.q_ld()], "q of {self:?}");
        assert_eq!(lens, [n_lens], "lens of {self:?}");
        assert_eq!(inputs[3], table, "table of {self:?}");
        outputs
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let d4 = self.d_kv.div_ceil(4);
        let Cut { lanes, keys, part } = if self.wide.unwrap_or(!l.caps.is_cpu()) { WIDE } else { NARROW };
        // Of some keys at a time: a dot product, and a team's share of the values.
        let teams = (lanes / d4).max(1);
        let per_tile = d4 + keys / teams + 1;
        let parts = self.kv_len.div_ceil(part);
        let tiles = self.kv_len.min(part).div_ceil(keys);
        l.iterations(tiles * per_tile + 2 * parts, &format!("decoding over {} positions", self.kv_len));
        let header = Header::new()
            .u32("DV", d4.div_ceil(lanes) as u32)
            .bool("CAUSAL", self.causal)
            .bool("STORES", self.stores)
            .bool("SPLIT", parts > 1)
            .u32("LANES", lanes as u32)
            .u32("KEYS", keys as u32)
            .u32("PART", part as u32);
        let header = if self.d_kv.is_multiple_of(4) {
            header.part(part!("attention_decode_vec4"))
        } else {
            header.part(part!("attention_row_f32")).part(part!("attention_decode_f32"))
        };
        let header = header.part(if self.causal { part!("attention_bias") } else { part!("attention_no_bias") });
        let rows = self.rows * self.heads;
        let stats = l.scratch(2 * rows * parts);
        let sums = if parts > 1 { l.scratch(rows * parts * 4 * d4) } else { l.output(0) };
        let mut bindings = if self.causal {
            let cache = if self.stores { l.output(1) } else { l.input(4) };
            vec![("q", l.input(0)), ("lens", l.input(1)), ("bias", l.input(2)), ("kv", cache)]
        } else {
            vec![("q", l.input(0)), ("kv", l.input(1)), ("lens", l.input(2))]
        };
        bindings.extend([("table", l.input(3)), ("stats", stats), ("out", sums)]);
        l.launch(Launch {
            shader: &ATTENTION_DECODE,
            header,
            bindings,
            params: vec![
                ("rows", self.rows.into()),
                ("homes", self.homes.into()),
                ("heads", self.heads.into()),
                ("d_kv", self.d_kv.into()),
                ("d4", d4.into()),
                ("groups", teams.into()),
                ("kv_len", self.kv_len.into()),
                ("q_ld", self.q_ld().into()),
                ("kv_ld", self.kv_ld().into()),
                ("k_offset", self.k_offset().into()),
                ("v_offset", self.inner().into()),
                ("keys", keys.into()),
                ("reach", self.reach.into()),
                ("parts", parts.into()),
            ],
            workgroups: (rows * parts) as u64,
        });
        l.flops(self.flops());
        l.moves("q", self.rows * self.q_ld());
        // The cache or the sources once, and what each row adds.
        let written = if self.stores { 2 * self.rows * self.inner() } else { 0 };
        l.moves("kv", 2 * self.homes * self.kv_len * self.inner() + written);
        if parts > 1 {
            l.launch(Launch {
                shader: &ATTENTION_DECODE_JOIN,
                header: Header::new(),
                bindings: vec![("sums", sums), ("stats", stats), ("out", l.output(0))],
                params: vec![
                    ("rows", rows.into()),
                    ("d_kv", self.d_kv.into()),
                    ("pitch", (4 * d4).into()),
                    ("parts", parts.into()),
                ],
                workgroups: (rows * self.d_kv).div_ceil(64) as u64,
            });
        }
    }

    fn oracle(&self, inputs: &[Tensor64]) -> Vec<Tensor64> {
        let (inner, d_kv) = (self.inner(), self.d_kv);
        let (q, table) = (&inputs[0], &inputs[3]);
        let (mut kv, lens, bias) = if self.causal {
            (inputs[4].clone(), &inputs[1], Some(&inputs[2]))
        } else {
            (inputs[1].clone(), &inputs[2], None)
        };
        let place = |home: usize, j: usize| (home * self.kv_len + j) * self.kv_ld() + self.k_offset();
        for (r, &at) in lens.data.iter().enumerate().filter(|(_, at)| self.stores && **at < self.kv_len as f64) {
            let row = &q.data[r * self.q_ld()..][inner..3 * inner];
            kv.data[place(r, at as usize)..][..2 * inner].copy_from_slice(row);
        }
        let mut out = Tensor64::zeros(&[self.rows, inner]);
        for r in 0..self.rows {
            let home = |j: usize| table.data[if self.causal { r * self.kv_len + j } else { r }] as usize;
            let len = lens.data[if self.causal { r } else { home(0) }] as usize;
            let keys = (len + usize::from(self.causal)).min(self.kv_len);
            for h in 0..self.heads {
                let q = &q.data[r * self.q_ld() + h * d_kv..][..d_kv];
                let row = |j: usize, offset: usize| &kv.data[place(home(j), j) + offset + h * d_kv..][..d_kv];
                let score = |j: usize| -> f64 {
                    let distance = (keys - 1 - j).min(self.reach);
                    let bias_of = |t: &Tensor64| t.data[h * (2 * self.reach + 1) + self.reach - distance];
                    let dot: f64 = q.iter().zip(row(j, 0)).map(|(q, k)| q * k).sum();
                    dot + bias.map_or(0.0, bias_of)
                };
                let scores: Vec<f64> = (0..keys).map(score).collect();
                let top = scores.iter().fold(f64::MIN, |m, &s| m.max(s));
                let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                for (j, s) in scores.iter().enumerate() {
                    let weight = (s - top).exp() / total;
                    let out = &mut out.data[r * inner + h * d_kv..][..d_kv];
                    out.iter_mut().zip(row(j, inner)).for_each(|(o, v)| *o += weight * v);
                }
            }
        }
        if self.stores { vec![out, kv] } else { vec![out] }
    }

    fn flops(&self) -> f64 {
        4.0 * (self.rows * self.heads * self.kv_len * self.d_kv) as f64
    }
}
