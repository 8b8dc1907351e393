//! Files of `torch.save`: pickles that name tensors, and the bytes of these beside them.
//!
//! The crate `pytorch-reader` interprets the pickle. It builds tensors, dictionaries and numbers and runs nothing; whatever else a
//! file asks for is an error. Tensors are read from the file one at a time, when they are asked for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pytorch_reader::{DType, PytorchReader, Tensor};

use super::Dtype;
use super::mapped::MappedFile;
use super::weights::{Encoding, TensorInfo, WeightSource};
use crate::error::{Error, Result};

/// The tensors of one file.
pub(super) struct PytorchFile {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
    /// Bytes of the file.
    len: usize,
}

impl PytorchFile {
    /// Reads the pickle.
    pub fn new(file: &MappedFile) -> Result<PytorchFile> {
        let path = file.path.clone();
        if file.is_in_memory() {
            let what = "a file of PyTorch is read from a disk, not from memory: give its path, or bytes of safetensors";
            return Err(Error::file(path, what));
        }
        let reader = PytorchReader::new(&path).map_err(|e| refused(&path, &e.to_string()))?;
        Ok(PytorchFile { path, tensors: reader.into_tensors().into_iter().collect(), len: file.len() })
    }
}

fn refused(path: &Path, what: &str) -> Error {
    let remedy =
        "if a download was interrupted, fetch it again; else save it anew with torch.save(model.state_dict(), ...)";
    Error::file(path, format!("not a PyTorch file that can be read: {what} ({remedy})"))
}

impl WeightSource for PytorchFile {
    fn tensors(&self) -> BTreeMap<String, TensorInfo> {
        let info = |tensor: &Tensor| TensorInfo {
            encoding: Encoding::Plain(dtype(tensor.dtype())),
            shape: tensor.shape().to_vec(),
        };
        self.tensors.iter().map(|(name, tensor)| (name.clone(), info(tensor))).collect()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(Error::file(&self.path, format!("there is no tensor {name}")));
        };
        // A view may repeat its elements without end.
        if tensor.byte_len() > self.len {
            let what = format!("tensor {name} would take {} bytes, more than the file has", tensor.byte_len());
            return Err(refused(&self.path, &what));
        }
        tensor.read().map(Cow::Owned).map_err(|e| refused(&self.path, &e.to_string()))
    }

    fn place(&self, _: Option<&str>) -> PathBuf {
        self.path.clone()
    }
}

fn dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}
