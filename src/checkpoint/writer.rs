//! Writes safetensors, streaming: one tensor at a time is in memory.
//!
//! The safetensors library makes the header. Its `serialize_to_file` is not used: it takes no tensor that may fail to be read,
//! syncs nothing, and makes files that only their owner may read.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::{Error, Result};

/// Writes `model.safetensors` as f32 and syncs it to the disk. `values` is asked once for each of `shapes` (name, shape),
/// in order of name, and returns the tensor row-major. Refuses NaN and infinity: such a file would replace a good
/// checkpoint by a useless one. The file is the same, byte for byte, as one that transformers wrote.
///
/// # Panics
/// If a name comes twice, or `values` returns another number of elements than the shape has.
pub fn write_model(
    path: impl AsRef<Path>,
    shapes: &[(String, Vec<usize>)],
    mut values: impl FnMut(&str) -> Result<Vec<f32>>,
) -> Result<()> {
    let f32s = |(name, shape): &(String, Vec<usize>)| (name.clone(), Dtype::F32, shape.clone());
    write_tensors(path.as_ref(), shapes.iter().map(f32s).collect(), |name| {
        let values = values(name)?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let what = format!("parameter {name} is {} at element {at}; not saving it", values[at]);
            return Err(Error::Numeric(format!("{what} (training diverged: lower the learning rate)")));
        }
        Ok(Numbers(values.into_iter().map(|x| f32::from_bits(x.to_bits().to_le())).collect()))
    })
}

/// Numbers as their bytes: a tensor may be too large for a second copy.
struct Numbers(Vec<f32>);

impl AsRef<[u8]> for Numbers {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Writes a safetensors file and syncs it. `bytes` is asked once for each of `tensors` (name, type, shape), in order of name,
/// for the tensor's bytes: row-major, little-endian.
///
/// # Panics
/// If a name comes twice, or `bytes` returns too few or too many.
pub(crate) fn write_tensors<B: AsRef<[u8]>>(
    path: &Path,
    mut tensors: Vec<(String, Dtype, Vec<usize>)>,
    mut bytes: impl FnMut(&str) -> Result<B>,
) -> Result<()> {
    let write = |file: &mut BufWriter<File>, bytes: &[u8]| file.write_all(bytes).map_err(Error::io("write", path));
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let header = header(tensors.iter().map(|(name, dtype, shape)| (&**name, *dtype, &**shape)));
    let file = File::create(path).map_err(Error::io("create", path))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    write(&mut file, &(header.len() as u64).to_le_bytes())?;
    write(&mut file, &header)?;
    for (name, dtype, shape) in &tensors {
        let bytes = bytes(name)?;
        assert_eq!(bytes.as_ref().len(), len_of(*dtype, shape), "bytes of tensor {name} {shape:?}");
        write(&mut file, bytes.as_ref())?;
    }
    file.flush().and_then(|()| file.get_ref().sync_all()).map_err(Error::io("write", path))
}

fn len_of(dtype: Dtype, shape: &[usize]) -> usize {
    dtype.bitsize() / 8 * shape.iter().product::<usize>()
}

/// A safetensors file of these tensors (name, shape, numbers), in memory.
///
/// # Panics
/// If a name comes twice, or a tensor has another number of elements than its shape.
pub fn tensor_file(tensors: &[(String, Vec<usize>, &[f32])]) -> Vec<u8> {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let header = header(sorted.iter().map(|(name, shape, _)| (&**name, Dtype::F32, &**shape)));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    for (name, shape, values) in sorted {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values of tensor {name} {shape:?}");
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes
}

fn header<'a>(tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize])>) -> Vec<u8> {
    let mut names = BTreeSet::new();
    let mut offset = 0;
    let infos = tensors.map(|(name, dtype, shape)| {
        assert!(names.insert(name), "tensor {name} comes twice");
        let start = offset;
        offset += len_of(dtype, shape);
        (name.to_owned(), TensorInfo { dtype, shape: shape.to_vec(), data_offsets: (start, offset) })
    });
    // transformers refuses files whose metadata lacks the format.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Metadata::new(Some(format), infos.collect()).map(|metadata| serde_json::to_vec(&metadata));
    let Ok(Ok(mut header)) = header else { panic!("offsets computed here are contiguous") };
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    header
}
