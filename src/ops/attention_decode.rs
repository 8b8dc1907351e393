//! Attention of one query per sequence, for a step of decoding: over a cache, or over the encoder's output.

use crate::gpu::{Constant, Header, Shader};
use crate::graph::{Dtype, Launch, Launcher, Op, Tensor64};

/// `softmax(q k^T + bias) v` with one query per sequence and head.
///
/// Inputs, in order:
/// - over the encoder's output: `q [batch, heads d_kv]`, `kv [batch kv_len, windows 2 heads d_kv]`, each window `[k | v]`, and
///   the number of keys, `[batch]` (u32)
/// - causal, over a cache: `qkv [batch, 3 heads d_kv]`, its position, `[batch]` (u32), up to which keys are visible, and
///   the bias `[heads, 2 reach + 1]`, by clamped distance
///
/// Outputs: `[batch, heads d_kv]`, zeros where there are no keys; causal: the cache, laid out like `kv`, whose row at the
/// position becomes the new `[k | v]`. It is to be stored in a leaf; a position past its end writes nothing.
#[derive(Clone, Debug)]
pub struct AttentionDecode {
    pub batch: usize,
    pub heads: usize,
    pub d_kv: usize,
    pub kv_len: usize,
    /// Windows of `2 heads d_kv` side by side in each row of `kv`: several blocks' keys and values made by one product.
    pub windows: usize,
    /// Which of them is read.
    pub window: usize,
    /// Self-attention over a cache, with T5's position bias.
    pub causal: bool,
    /// Largest distance that the bias tells apart.
    pub reach: usize,
}

macro_rules! part {
    ($name:literal) => {
        include_str!(concat!("../../shaders/", $name, ".wgsl"))
    };
}

static ATTENTION_DECODE: Shader = Shader {
    name: "attention_decode",
    source: part!("attention_decode"),
    shared: &[],
    defaults: &[("DV", Constant::U32(1)), ("CAUSAL", Constant::Bool(false)), ("SPLIT", Constant::Bool(false))],
};

static ATTENTION_DECODE_JOIN: Shader =
    Shader { name: "attention_decode_join", source: part!("attention_decode_join"), shared: &[], defaults: &[] };

/// Keys to a workgroup: PART in attention_decode.wgsl. With one sequence, a GPU would otherwise have as many workgroups
/// as the model has heads, however long the sequence.
const PART: usize = 512;

/// Invocations of a workgroup.
const LANES: usize = 64;

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
        let kv = vec![self.batch * self.kv_len, self.kv_ld()];
        let mut outputs = vec![(vec![self.batch, self.inner()], Dtype::F32)];
        let (lens, third) = if self.causal {
            outputs.push((kv, Dtype::F32));
            (inputs[1], vec![self.heads, 2 * self.reach + 1])
        } else {
            assert_eq!(inputs[1], kv, "kv of {self:?}");
            (inputs[2], vec![self.batch])
        };
        assert_eq!(inputs[0], [self.batch, self.q_ld()], "q of {self:?}");
        assert_eq!(lens, [self.batch], "lens of {self:?}");
        assert_eq!(inputs[2], third, "{self:?}");
        outputs
    }

    fn launch(&self, l: &mut Launcher<'_>) {
        let d4 = self.d_kv.div_ceil(4);
        // Of 64 keys at a time: a dot product, and a team's share of the values.
        let teams = (LANES / d4).max(1);
        let per_tile = d4 + LANES / teams + 1;
        let parts = self.kv_len.div_ceil(PART);
        let tiles = self.kv_len.min(PART).div_ceil(LANES);
        l.iterations(tiles * per_tile + 2 * parts, &format!("decoding over {} positions", self.kv_len));
        let header =
            Header::new().u32("DV", d4.div_ceil(LANES) as u32).bool("CAUSAL", self.causal).bool("SPLIT", parts > 1);
        let header = if self.d_kv.is_multiple_of(4) {
            header.part(part!("attention_decode_vec4"))
        } else {
            header.part(part!("attention_row_f32")).part(part!("attention_decode_f32"))
        };
        let header = header.part(if self.causal { part!("attention_bias") } else { part!("attention_no_bias") });
        let rows = self.batch * self.heads;
        let stats = l.scratch(2 * rows * parts);
        let sums = if parts > 1 { l.scratch(rows * parts * 4 * d4) } else { l.output(0) };
        let mut bindings = if self.causal {
            vec![("q", l.input(0)), ("lens", l.input(1)), ("bias", l.input(2)), ("kv", l.output(1))]
        } else {
            vec![("q", l.input(0)), ("kv", l.input(1)), ("lens", l.input(2))]
        };
        bindings.extend([("stats", stats), ("out", sums)]);
        l.launch(Launch {
            shader: &ATTENTION_DECODE,
            header,
            bindings,
            params: vec![
                ("batch", self.batch.into()),
                ("heads", self.heads.into()),
                ("d_kv", self.d_kv.into()),
                ("d4", d4.into()),
                ("groups", teams.into()),
                ("kv_len", self.kv_len.into()),
                ("q_ld", self.q_ld().into()),
                ("kv_ld", self.kv_ld().into()),
                ("k_offset", self.k_offset().into()),
                ("v_offset", self.inner().into()),
                ("lanes", LANES.into()),
                ("reach", self.reach.into()),
                ("parts", parts.into()),
            ],
            workgroups: (rows * parts) as u64,
        });
        l.flops(self.flops());
        l.moves("q", self.batch * self.q_ld());
        // The cache once, and the new row of each sequence.
        let written = if self.causal { 2 * self.batch * self.inner() } else { 0 };
        l.moves("kv", 2 * self.batch * self.kv_len * self.inner() + written);
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
        let q = &inputs[0];
        let (mut kv, lens, bias) = if self.causal {
            (inputs[3].clone(), &inputs[1], Some(&inputs[2]))
        } else {
            (inputs[1].clone(), &inputs[2], None)
        };
        for (b, &at) in lens.data.iter().enumerate().filter(|(_, at)| self.causal && **at < self.kv_len as f64) {
            let row = &q.data[b * self.q_ld()..][inner..3 * inner];
            kv.data[(b * self.kv_len + at as usize) * self.kv_ld() + self.k_offset()..][..2 * inner]
                .copy_from_slice(row);
        }
        let mut out = Tensor64::zeros(&[self.batch, inner]);
        for b in 0..self.batch {
            let keys = (lens.data[b] as usize + usize::from(self.causal)).min(self.kv_len);
            for h in 0..self.heads {
                let q = &q.data[b * self.q_ld() + h * d_kv..][..d_kv];
                let row = |j: usize, offset: usize| {
                    let at = (b * self.kv_len + j) * self.kv_ld() + self.k_offset();
                    &kv.data[at + offset + h * d_kv..][..d_kv]
                };
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
                    let out = &mut out.data[b * inner + h * d_kv..][..d_kv];
                    out.iter_mut().zip(row(j, inner)).for_each(|(o, v)| *o += weight * v);
                }
            }
        }
        if self.causal { vec![out, kv] } else { vec![out] }
    }

    fn flops(&self) -> f64 {
        4.0 * (self.batch * self.heads * self.kv_len * self.d_kv) as f64
    }
}
