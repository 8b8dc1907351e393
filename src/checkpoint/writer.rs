//! Writes safetensors, streaming: one tensor at a time is in memory.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::{Error, Result};

/// A tensor to write as it is: little-endian, row-major bytes.
#[derive(Debug, Clone, Copy)]
pub struct RawTensor<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

/// Writes `model.safetensors` as f32 and syncs it to the disk. `values` is asked once for each of `shapes` (name, shape),
/// in order of name, and returns the tensor row-major. Refuses NaN and infinity: such a file would replace a good
/// checkpoint by a useless one.
///
/// # Panics
/// If a name comes twice, or `values` returns another number of elements than the shape has.
pub fn write_model(
    path: impl AsRef<Path>,
    shapes: &[(String, Vec<usize>)],
    mut values: impl FnMut(&str) -> Result<Vec<f32>>,
) -> Result<()> {
    let entries = shapes.iter().map(|(name, shape)| (name.as_str(), Dtype::F32, shape.as_slice())).collect();
    write_file(path.as_ref(), entries, |name, file| {
        let values = values(name)?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let what = format!("parameter {name} is {} at element {at}; not saving it", values[at]);
            return Err(Error::Numeric(format!("{what} (training diverged: lower the learning rate)")));
        }
        for chunk in values.chunks(CHUNK) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_le_bytes()).collect();
            file.write(&bytes)?;
        }
        Ok(())
    })
}

/// Writes any tensors, such as an optimiser's state, and syncs the file to the disk.
///
/// # Panics
/// If a name comes twice, or a tensor's bytes do not fit its type and shape.
pub fn write_tensors(path: impl AsRef<Path>, tensors: &[RawTensor]) -> Result<()> {
    let by_name: HashMap<&str, &[u8]> = tensors.iter().map(|tensor| (tensor.name, tensor.bytes)).collect();
    let entries = tensors.iter().map(|tensor| (tensor.name, tensor.dtype, tensor.shape)).collect();
    write_file(path.as_ref(), entries, |name, file| file.write(by_name[name]))
}

/// Elements converted to bytes at once.
const CHUNK: usize = 1 << 16;

struct Output<'a> {
    path: &'a Path,
    file: BufWriter<File>,
    written: usize,
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len();
        self.file.write_all(bytes).map_err(Error::io("write", self.path))
    }
}

/// Wide types first, then by name, as the safetensors library orders them: every tensor is aligned, and the file is the
/// same, byte for byte, as one that transformers wrote.
fn write_file(
    path: &Path,
    mut entries: Vec<(&str, Dtype, &[usize])>,
    mut write_data: impl FnMut(&str, &mut Output) -> Result<()>,
) -> Result<()> {
    entries.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let header = header(&entries);
    let file = File::create(path).map_err(Error::io("create", path))?;
    let mut output = Output { path, file: BufWriter::with_capacity(1 << 20, file), written: 0 };
    output.write(&(header.len() as u64).to_le_bytes())?;
    output.write(&header)?;
    for &(name, dtype, shape) in &entries {
        let end = output.written + byte_len(dtype, shape);
        write_data(name, &mut output)?;
        assert_eq!(output.written, end, "tensor {name} {dtype} {shape:?}: data of another length");
    }
    output.file.flush().map_err(Error::io("write", path))?;
    output.file.get_ref().sync_all().map_err(Error::io("write", path))
}

fn header(entries: &[(&str, Dtype, &[usize])]) -> Vec<u8> {
    let mut names = BTreeSet::new();
    let mut offset = 0;
    let infos = entries.iter().map(|&(name, dtype, shape)| {
        assert!(names.insert(name), "tensor {name} comes twice");
        let start = offset;
        offset += byte_len(dtype, shape);
        (name.to_owned(), TensorInfo { dtype, shape: shape.to_vec(), data_offsets: (start, offset) })
    });
    // transformers refuses files whose metadata lacks the format.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Metadata::new(Some(format), infos.collect()).map(|metadata| serde_json::to_vec(&metadata));
    let Ok(Ok(mut header)) = header else { panic!("offsets computed here are contiguous") };
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    header
}

fn byte_len(dtype: Dtype, shape: &[usize]) -> usize {
    shape.iter().product::<usize>() * dtype.bitsize() / 8
}
