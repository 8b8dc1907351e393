//! GGUF, the files of llama.cpp, versions 2 and 3: settings, a vocabulary and tensors in one file.
//!
//! The head is read as a whole, up to a limit; tensors are read where they lie in the mapping. Layout:
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod blocks;
#[cfg(feature = "train")]
mod writer;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use blocks::BlockFormat;
#[cfg(feature = "train")]
pub(crate) use writer::{Value, write_gguf};

use super::mapped::MappedFile;
use super::weights::{Encoding, TensorInfo, WeightSource};
use super::{Dtype, open};
use crate::error::{Error, Result};

/// A GGUF file: its settings, and its tensors.
pub(crate) struct GgufFile {
    file: MappedFile,
    settings: BTreeMap<String, Setting>,
    tensors: BTreeMap<String, Tensor>,
}

/// The value of a setting. Numbers of all widths are one kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Setting {
    Integer(i64),
    Float(f64),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i64>),
    Floats(Vec<f64>),
    /// Lists of flags or of lists, which no T5 has.
    Other,
}

struct Tensor {
    info: TensorInfo,
    /// Byte range in the file, checked to lie within it.
    range: Range<usize>,
}

/// A head that is longer is no T5's: a vocabulary of a million pieces takes 40 MiB.
const LONGEST_HEAD: usize = 256 << 20;

/// The most values that all lists of a head have together, each of which takes more memory than bytes of the file.
const MOST_VALUES: usize = 8 << 20;

const MOST_DIMENSIONS: usize = 4;

impl GgufFile {
    /// Opens a file.
    ///
    /// # Errors
    /// It is no GGUF file, of another version, cut short or damaged.
    pub fn open(path: &Path) -> Result<GgufFile> {
        GgufFile::new(MappedFile::open(path)?)
    }

    pub(super) fn new(file: MappedFile) -> Result<GgufFile> {
        let parsed = parse(&file);
        let (settings, tensors) = parsed.map_err(|what| {
            Error::file(
                &file.path,
                format!("not a GGUF file that can be read: {what} (an interrupted download? fetch it again)"),
            )
        })?;
        Ok(GgufFile { file, settings, tensors })
    }

    /// The file that a model's path stands for, if that is a GGUF file: itself, or the one in a folder without other weights.
    pub fn of_model(model: &Path) -> Result<Option<GgufFile>> {
        open::gguf_of(model)?.map(|path| GgufFile::open(&path)).transpose()
    }

    pub fn path(&self) -> &Path {
        &self.file.path
    }

    pub fn setting(&self, key: &str) -> Option<&Setting> {
        self.settings.get(key)
    }

    /// # Errors
    /// The setting is no text.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "text", |setting| match setting {
            Setting::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// # Errors
    /// The setting is no whole number from 0 on.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "size", |setting| match setting {
            Setting::Integer(number) => usize::try_from(*number).ok(),
            _ => None,
        })
    }

    /// # Errors
    /// The setting is no number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "number", |setting| match setting {
            Setting::Integer(number) => Some(*number as f64),
            Setting::Float(number) => Some(*number),
            _ => None,
        })
    }

    /// # Errors
    /// The setting is neither true nor false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "flag", |setting| match setting {
            Setting::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    fn typed<'a, T>(&'a self, key: &str, kind: &str, get: impl Fn(&'a Setting) -> Option<T>) -> Result<Option<T>> {
        let Some(setting) = self.setting(key) else { return Ok(None) };
        let wrong = || Error::file(self.path(), format!("the setting {key} is no {kind}"));
        get(setting).map(Some).ok_or_else(wrong)
    }
}

impl WeightSource for GgufFile {
    fn tensors(&self) -> BTreeMap<String, TensorInfo> {
        self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.info.clone())).collect()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(self.file[tensor.range.clone()].into()),
            None => Err(Error::file(&self.file.path, format!("there is no tensor {name}"))),
        }
    }

    fn place(&self, _: Option<&str>) -> PathBuf {
        self.file.path.clone()
    }
}

type Parsed = (BTreeMap<String, Setting>, BTreeMap<String, Tensor>);

fn parse(file: &[u8]) -> Result<Parsed, String> {
    let mut head = Head { rest: &file[..file.len().min(LONGEST_HEAD)], values: 0 };
    if head.take(4)? != b"GGUF" {
        return Err("it does not begin with GGUF".into());
    }
    let version = u32::from_le_bytes(head.array()?);
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 1..=3) => {
            return Err("it is big-endian; convert it with gguf-convert-endian".into());
        }
        _ => return Err(format!("it has version {version}, only 2 and 3 are read; convert the model again")),
    }
    let [n_tensors, n_settings] = [head.size()?, head.size()?];
    let mut settings = BTreeMap::new();
    for _ in 0..n_settings {
        let key = head.text()?;
        let kind = u32::from_le_bytes(head.array()?);
        let value = head.setting(kind).map_err(|what| format!("setting {key}: {what}"))?;
        if settings.insert(key.clone(), value).is_some() {
            return Err(format!("it has two settings {key}"));
        }
    }
    let alignment = match settings.get("general.alignment") {
        None => 32,
        Some(Setting::Integer(number @ 1..=0x10000)) if number & (number - 1) == 0 => *number as usize,
        Some(other) => return Err(format!("general.alignment is {other:?}, no power of two")),
    };
    let mut found = Vec::new();
    for _ in 0..n_tensors {
        let name = head.text()?;
        let n_dimensions = u32::from_le_bytes(head.array()?) as usize;
        if n_dimensions > MOST_DIMENSIONS {
            return Err(format!("tensor {name} has {n_dimensions} dimensions"));
        }
        // The first is the innermost.
        let mut shape = (0..n_dimensions).map(|_| head.size()).collect::<Result<Vec<usize>, String>>()?;
        shape.reverse();
        let encoding = encoding(u32::from_le_bytes(head.array()?)).map_err(|what| format!("tensor {name} {what}"))?;
        found.push((name, TensorInfo { encoding, shape }, head.size()?));
    }
    let start = (file.len().min(LONGEST_HEAD) - head.rest.len()).next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    let mut ranges = Vec::new();
    for (name, info, offset) in found {
        let len = info.bytes().ok_or_else(|| {
            format!("tensor {name} has the shape {:?}, which {} cannot have", info.shape, info.encoding)
        })?;
        let begin = start.checked_add(offset).filter(|_| offset.is_multiple_of(alignment));
        let range =
            begin.and_then(|begin| Some(begin..begin.checked_add(len)?)).filter(|range| range.end <= file.len());
        let range = range.ok_or_else(|| format!("tensor {name} of {len} bytes at {offset} is not within the file"))?;
        if !range.is_empty() {
            ranges.push((range.start, range.end, name.clone()));
        }
        if tensors.insert(name.clone(), Tensor { info, range }).is_some() {
            return Err(format!("it has two tensors {name}"));
        }
    }
    ranges.sort();
    match ranges.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        Some(pair) => Err(format!("the tensors {} and {} overlap", pair[0].2, pair[1].2)),
        None => Ok((settings, tensors)),
    }
}

/// ggml's numbers of types.
fn encoding(number: u32) -> Result<Encoding, String> {
    Ok(match number {
        0 => Encoding::Plain(Dtype::F32),
        1 => Encoding::Plain(Dtype::F16),
        2 => Encoding::Blocks(BlockFormat::Q4_0),
        3 => Encoding::Blocks(BlockFormat::Q4_1),
        6 => Encoding::Blocks(BlockFormat::Q5_0),
        7 => Encoding::Blocks(BlockFormat::Q5_1),
        8 => Encoding::Blocks(BlockFormat::Q8_0),
        12 => Encoding::Blocks(BlockFormat::Q4K),
        13 => Encoding::Blocks(BlockFormat::Q5K),
        14 => Encoding::Blocks(BlockFormat::Q6K),
        24 => Encoding::Plain(Dtype::I8),
        25 => Encoding::Plain(Dtype::I16),
        26 => Encoding::Plain(Dtype::I32),
        27 => Encoding::Plain(Dtype::I64),
        28 => Encoding::Plain(Dtype::F64),
        30 => Encoding::Plain(Dtype::BF16),
        _ => {
            let known =
                [(9, "Q8_1"), (10, "Q2_K"), (11, "Q3_K"), (15, "Q8_K"), (34, "TQ1_0"), (35, "TQ2_0"), (39, "MXFP4")];
            let name = known.iter().find(|(other, _)| *other == number).map_or("", |(_, name)| name);
            let name = if matches!(number, 16..=23 | 29) { "of the IQ family" } else { name };
            return Err(format!(
                "has the type {number} {name}; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K are read: take one \
                 of these"
            ));
        }
    })
}

/// What is left of the head. Nothing that it says about lengths is believed before so many bytes are seen to be there.
struct Head<'a> {
    rest: &'a [u8],
    /// Of lists, read so far.
    values: usize,
}

impl<'a> Head<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or("it is cut short")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn size(&mut self) -> Result<usize, String> {
        let size = u64::from_le_bytes(self.array()?);
        usize::try_from(size).map_err(|_| format!("it has a length of {size}"))
    }

    fn text(&mut self) -> Result<String, String> {
        let len = self.size()?;
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| "a text is no UTF-8".into())
    }

    fn setting(&mut self, kind: u32) -> Result<Setting, String> {
        Ok(match kind {
            0..=5 | 10 | 11 => Setting::Integer(self.integer(kind)?),
            6 | 12 => Setting::Float(self.float(kind)?),
            7 => Setting::Flag(self.array()? != [0u8]),
            8 => Setting::Text(self.text()?),
            9 => {
                let (kind, n) = (u32::from_le_bytes(self.array()?), self.size()?);
                self.values = self.values.saturating_add(n);
                if self.values > MOST_VALUES || n > self.rest.len() {
                    return Err(format!("a list of {n} values, more than there can be"));
                }
                match kind {
                    0..=5 | 10 | 11 => Setting::Integers((0..n).map(|_| self.integer(kind)).collect::<Result<_, _>>()?),
                    6 | 12 => Setting::Floats((0..n).map(|_| self.float(kind)).collect::<Result<_, _>>()?),
                    7 => self.take(n).map(|_| Setting::Other)?,
                    8 => Setting::Texts((0..n).map(|_| self.text()).collect::<Result<_, _>>()?),
                    _ => return Err(format!("a list of values of the type {kind}")),
                }
            }
            _ => return Err(format!("the type {kind} is none")),
        })
    }

    fn integer(&mut self, kind: u32) -> Result<i64, String> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array()?).into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => u32::from_le_bytes(self.array()?).into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            10 => {
                let number = u64::from_le_bytes(self.array()?);
                i64::try_from(number).map_err(|_| format!("{number} is too large"))?
            }
            _ => i64::from_le_bytes(self.array()?),
        })
    }

    fn float(&mut self, kind: u32) -> Result<f64, String> {
        Ok(if kind == 6 { f32::from_le_bytes(self.array()?).into() } else { f64::from_le_bytes(self.array()?) })
    }
}
