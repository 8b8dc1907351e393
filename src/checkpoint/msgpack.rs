//! Flax's msgpack: nested maps with arrays at their ends, as `flax_model.msgpack` and T5X's `checkpoint` hold them.
//!
//! Arrays stay where they lie in the file. An array beyond a gigabyte is stored in chunks, which are joined when it is read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use rmp::Marker;
use rmp::decode;

use super::Dtype;
use super::mapped::MappedFile;
use super::weights::{Encoding, TensorInfo, WeightSource};
use crate::error::{Error, Result};

/// The arrays of one file. A name is the keys that lead to it, with `/` between them.
pub(super) struct MsgpackFile {
    file: MappedFile,
    tensors: BTreeMap<String, Tensor>,
}

struct Tensor {
    info: TensorInfo,
    /// Byte ranges in the file, one for each chunk.
    ranges: Vec<Range<usize>>,
}

/// What stands at the end of keys.
enum Leaf {
    Array(Tensor),
    Integer(u64),
    /// Flags, texts and whatever is no parameter.
    Other,
}

/// Flax's extensions of msgpack: an array, and a single number with its type.
const NDARRAY: i8 = 1;
const SCALAR: i8 = 3;

/// Marks a map as an array in chunks.
const CHUNKED: &str = "__msgpack_chunked_array__";

const MOST_DEPTH: usize = 64;
const LONGEST_NAME: usize = 512;

impl MsgpackFile {
    /// Walks through the file. Arrays are not read yet.
    pub fn new(file: MappedFile) -> Result<MsgpackFile> {
        let mut walk = Walk { whole: &file, rest: &file, leaves: BTreeMap::new() };
        let tensors = walk.value(&mut String::new(), 0).and_then(|()| match walk.rest {
            [] => tensors(walk.leaves),
            rest => Err(format!("{} bytes follow its end", rest.len())),
        });
        let tensors = tensors.map_err(|what| {
            Error::file(
                &file.path,
                format!("not a checkpoint of Flax that can be read: {what} (an interrupted download? fetch it again)"),
            )
        })?;
        Ok(MsgpackFile { file, tensors })
    }
}

impl WeightSource for MsgpackFile {
    fn tensors(&self) -> BTreeMap<String, TensorInfo> {
        self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.info.clone())).collect()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match self.tensors.get(name).map(|tensor| tensor.ranges.as_slice()) {
            Some([range]) => Ok(self.file[range.clone()].into()),
            Some(ranges) => Ok(ranges.iter().flat_map(|range| &self.file[range.clone()]).copied().collect()),
            None => Err(Error::file(&self.file.path, format!("there is no array {name}"))),
        }
    }

    fn place(&self, _: Option<&str>) -> PathBuf {
        self.file.path.clone()
    }
}

/// Joins chunks, and leaves out what is no parameter: the state of an optimiser.
fn tensors(mut leaves: BTreeMap<String, Leaf>) -> Result<BTreeMap<String, Tensor>, String> {
    let marks: Vec<String> = leaves.keys().filter_map(|name| name.strip_suffix(CHUNKED)).map(str::to_owned).collect();
    for prefix in marks {
        let mut shape = Vec::new();
        while let Some(Leaf::Integer(n)) = leaves.remove(&format!("{prefix}shape/{}", shape.len())) {
            shape.push(usize::try_from(n).map_err(|_| format!("{prefix} has a length of {n}"))?);
        }
        let (mut ranges, mut encoding, mut count) = (Vec::new(), None, 0);
        while let Some(Leaf::Array(chunk)) = leaves.remove(&format!("{prefix}chunks/{count}")) {
            if *encoding.get_or_insert(chunk.info.encoding) != chunk.info.encoding {
                return Err(format!("the chunks of {prefix} have several types"));
            }
            ranges.extend(chunk.ranges);
            count += 1;
        }
        let encoding = encoding.ok_or_else(|| format!("{prefix} has no chunks"))?;
        let info = TensorInfo { encoding, shape };
        if info.bytes() != Some(ranges.iter().map(Range::len).sum()) {
            return Err(format!("the chunks of {prefix} are too few or too many for its shape"));
        }
        leaves.insert(prefix.trim_end_matches('/').to_owned(), Leaf::Array(Tensor { info, ranges }));
    }
    // T5X calls the whole an optimizer, in which the parameters are the target.
    let own = |(name, leaf)| match leaf {
        Leaf::Array(tensor) => {
            let name: String = name;
            let name = name.strip_prefix("optimizer/").unwrap_or(&name);
            (!name.starts_with("state/")).then(|| (name.to_owned(), tensor))
        }
        Leaf::Integer(_) | Leaf::Other => None,
    };
    if leaves.keys().any(|name| name.ends_with("/kvstore/path")) {
        return Err("its arrays lie in folders of their own (TensorStore), and only arrays in the file are read; convert it once with: \
                    python -m transformers.models.t5.convert_t5x_checkpoint_to_pytorch (transformers 4)"
            .into());
    }
    Ok(leaves.into_iter().filter_map(own).collect())
}

struct Walk<'a> {
    whole: &'a [u8],
    rest: &'a [u8],
    leaves: BTreeMap<String, Leaf>,
}

fn cut(_: impl std::fmt::Debug) -> String {
    "it is cut short".into()
}

impl<'a> Walk<'a> {
    /// Reads one value, whose keys are `name`.
    fn value(&mut self, name: &mut String, depth: usize) -> Result<(), String> {
        if depth > MOST_DEPTH || name.len() > LONGEST_NAME {
            return Err("its maps lie too deep in each other, or their keys are too long".into());
        }
        let leaf = match self.marker()? {
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
                for _ in 0..decode::read_map_len(&mut self.rest).map_err(cut)? {
                    let key = self.text()?;
                    let before = name.len();
                    if before > 0 {
                        name.push('/');
                    }
                    name.push_str(key);
                    self.value(name, depth + 1)?;
                    name.truncate(before);
                }
                return Ok(());
            }
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
                for _ in 0..decode::read_array_len(&mut self.rest).map_err(cut)? {
                    self.value(name, depth + 1)?;
                }
                return Ok(());
            }
            Marker::FixExt1
            | Marker::FixExt2
            | Marker::FixExt4
            | Marker::FixExt8
            | Marker::FixExt16
            | Marker::Ext8
            | Marker::Ext16
            | Marker::Ext32 => {
                let meta = decode::read_ext_meta(&mut self.rest).map_err(cut)?;
                let payload = self.take(meta.size as usize)?;
                match meta.typeid {
                    NDARRAY | SCALAR => {
                        Leaf::Array(self.array(payload).map_err(|what| format!("array {name}: {what}"))?)
                    }
                    _ => Leaf::Other,
                }
            }
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                self.text()?;
                Leaf::Other
            }
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
                let len = decode::read_bin_len(&mut self.rest).map_err(cut)?;
                self.take(len as usize)?;
                Leaf::Other
            }
            Marker::FixPos(_) | Marker::U8 | Marker::U16 | Marker::U32 | Marker::U64 => {
                Leaf::Integer(decode::read_int(&mut self.rest).map_err(cut)?)
            }
            Marker::FixNeg(_) | Marker::I8 | Marker::I16 | Marker::I32 | Marker::I64 => {
                let _: i64 = decode::read_int(&mut self.rest).map_err(cut)?;
                Leaf::Other
            }
            Marker::F32 => decode::read_f32(&mut self.rest).map_err(cut).map(|_| Leaf::Other)?,
            Marker::F64 => decode::read_f64(&mut self.rest).map_err(cut).map(|_| Leaf::Other)?,
            Marker::True | Marker::False | Marker::Null => self.take(1).map(|_| Leaf::Other)?,
            Marker::Reserved => return Err("a byte means nothing in msgpack".into()),
        };
        // Values of a list have one name, and no parameter is among them.
        match self.leaves.insert(name.clone(), leaf) {
            Some(Leaf::Array(_)) => Err(format!("it has two arrays {name}")),
            _ => Ok(()),
        }
    }

    /// An array: a list of its shape, the name of its type, and its bytes.
    fn array(&self, payload: &'a [u8]) -> Result<Tensor, String> {
        let mut walk = Walk { whole: self.whole, rest: payload, leaves: BTreeMap::new() };
        if decode::read_array_len(&mut walk.rest).map_err(cut)? != 3 {
            return Err("it is no shape, type and bytes".into());
        }
        let dimensions = decode::read_array_len(&mut walk.rest).map_err(cut)?;
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(decode::read_int(&mut walk.rest).map_err(|_| "a length is none".to_owned())?);
        }
        let name = walk.text()?;
        let dtype = dtype(name).ok_or_else(|| format!("its type is {name}, which is not read"))?;
        let len = decode::read_bin_len(&mut walk.rest).map_err(cut)? as usize;
        // Both are slices of the file.
        let start = walk.rest.as_ptr().addr() - self.whole.as_ptr().addr();
        let info = TensorInfo { encoding: Encoding::Plain(dtype), shape };
        if walk.take(len)?.len() != len || info.bytes() != Some(len) || !walk.rest.is_empty() {
            return Err(format!("its {len} bytes are not those of the shape {:?}", info.shape));
        }
        let range = start..start + len;
        Ok(Tensor { info, ranges: Vec::from([range]) })
    }

    fn marker(&self) -> Result<Marker, String> {
        self.rest.first().map(|&byte| Marker::from_u8(byte)).ok_or_else(|| cut(()))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or_else(|| cut(()))?;
        self.rest = rest;
        Ok(taken)
    }

    fn text(&mut self) -> Result<&'a str, String> {
        self.marker()?;
        let len = decode::read_str_len(&mut self.rest).map_err(|_| "a key is no text".to_owned())?;
        std::str::from_utf8(self.take(len as usize)?).map_err(|_| "a text is no UTF-8".into())
    }
}

/// numpy's names. Old files call bfloat16 two bytes of nothing.
fn dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" | "V2" => Dtype::BF16,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::BOOL,
        _ => return None,
    })
}
