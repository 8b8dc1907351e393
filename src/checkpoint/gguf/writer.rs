//! Writes GGUF 3, streaming: one tensor at a time is in memory.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use super::super::weights::{Encoding, TensorInfo};
use super::{BlockFormat, Dtype};
use crate::error::{Error, Result};
use crate::files::write_streamed;

/// The value of a setting, in the width that llama.cpp looks for.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    U32(u32),
    F32(f32),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    Floats(Vec<f32>),
    Integers(Vec<i32>),
    Bytes(Vec<u8>),
}

/// What tensors are aligned to, the format's default.
const ALIGNMENT: usize = 32;

/// Writes a file. `bytes` is asked once for each of `tensors`, in their order.
///
/// # Errors
/// The file cannot be written; then there is none, or still the old one.
///
/// # Panics
/// If `bytes` gives another number of bytes than the tensor has.
pub(crate) fn write_gguf<'a>(
    path: &Path,
    settings: &[(String, Value)],
    tensors: &[(String, TensorInfo)],
    mut bytes: impl FnMut(&str) -> Result<Cow<'a, [u8]>>,
) -> Result<()> {
    let mut head = Vec::new();
    head.extend(b"GGUF");
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((settings.len() as u64).to_le_bytes());
    for (key, value) in settings {
        text(&mut head, key);
        value.write(&mut head);
    }
    let mut offset = 0;
    for (name, info) in tensors {
        text(&mut head, name);
        head.extend((info.shape.len() as u32).to_le_bytes());
        info.shape.iter().rev().for_each(|&n| head.extend((n as u64).to_le_bytes()));
        head.extend(number_of(info.encoding)?.to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset = (offset + len_of(name, info)?).next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
    write_streamed(path, |file| {
        let put = |file: &mut dyn Write, bytes: &[u8]| file.write_all(bytes).map_err(Error::io("write", path));
        put(file, &head)?;
        for (name, info) in tensors {
            let bytes = bytes(name)?;
            assert_eq!(bytes.len(), len_of(name, info)?, "bytes of tensor {name}");
            put(file, &bytes)?;
            put(file, &[0; ALIGNMENT][..bytes.len().next_multiple_of(ALIGNMENT) - bytes.len()])?;
        }
        Ok(())
    })
}

fn len_of(name: &str, info: &TensorInfo) -> Result<usize> {
    info.bytes().ok_or_else(|| {
        Error::Input(format!("tensor {name} of the shape {:?} cannot be held as {}", info.shape, info.encoding))
    })
}

/// The format's number for how a tensor is stored.
fn number_of(encoding: Encoding) -> Result<u32> {
    Ok(match encoding {
        Encoding::Plain(Dtype::F32) => 0,
        Encoding::Plain(Dtype::F16) => 1,
        Encoding::Blocks(BlockFormat::Q4_0) => 2,
        Encoding::Blocks(BlockFormat::Q4_1) => 3,
        Encoding::Blocks(BlockFormat::Q5_0) => 6,
        Encoding::Blocks(BlockFormat::Q5_1) => 7,
        Encoding::Blocks(BlockFormat::Q8_0) => 8,
        Encoding::Blocks(BlockFormat::Q4K) => 12,
        Encoding::Blocks(BlockFormat::Q5K) => 13,
        Encoding::Blocks(BlockFormat::Q6K) => 14,
        Encoding::Plain(Dtype::BF16) => 30,
        Encoding::Plain(other) => return Err(Error::Input(format!("GGUF files of models hold no {other}"))),
    })
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        let list = |out: &mut Vec<u8>, kind: u32, len: usize| {
            out.extend(9u32.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((len as u64).to_le_bytes());
        };
        let kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
        match self {
            Value::U32(number) => {
                kind(out, 4);
                out.extend(number.to_le_bytes());
            }
            Value::F32(number) => {
                kind(out, 6);
                out.extend(number.to_le_bytes());
            }
            Value::Flag(flag) => {
                kind(out, 7);
                out.push((*flag).into());
            }
            Value::Text(value) => {
                kind(out, 8);
                text(out, value);
            }
            Value::Bytes(bytes) => {
                list(out, 0, bytes.len());
                out.extend(bytes);
            }
            Value::Integers(numbers) => {
                list(out, 5, numbers.len());
                numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
            }
            Value::Floats(numbers) => {
                list(out, 6, numbers.len());
                numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
            }
            Value::Texts(texts) => {
                list(out, 8, texts.len());
                texts.iter().for_each(|one| text(out, one));
            }
        }
    }
}
