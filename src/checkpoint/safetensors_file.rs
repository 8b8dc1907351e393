//! The safetensors format.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use safetensors::SafeTensors;

use super::mapped::MappedFile;
use super::weights::{Encoding, TensorInfo, WeightSource};
use crate::error::{Error, Result};

/// The tensors of one file.
pub(super) struct SafetensorsFile {
    file: MappedFile,
    tensors: BTreeMap<String, Tensor>,
}

struct Tensor {
    info: TensorInfo,
    /// Byte range in the file, checked to lie within it.
    range: Range<usize>,
}

impl SafetensorsFile {
    /// Reads and checks the header: lengths, offsets, shapes.
    pub fn new(file: MappedFile) -> Result<SafetensorsFile> {
        let (header_len, metadata) = SafeTensors::read_metadata(&file).map_err(|e| {
            let what = "not a complete safetensors file";
            Error::file(&file.path, format!("{what}: {e} (an interrupted download? fetch or copy it again)"))
        })?;
        let data_start = size_of::<u64>() + header_len;
        let tensor = |info: &safetensors::tensor::TensorInfo| Tensor {
            info: TensorInfo { encoding: Encoding::Plain(info.dtype), shape: info.shape.clone() },
            range: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
        };
        let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, tensor(info))).collect();
        Ok(SafetensorsFile { file, tensors })
    }
}

impl WeightSource for SafetensorsFile {
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
