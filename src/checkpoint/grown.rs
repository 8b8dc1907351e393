//! A checkpoint with rows for more tokens than it was saved with.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Dtype;
use super::weights::{EMBEDDINGS, Encoding, TensorInfo, WeightSource, Weights};
use crate::error::Result;

/// The same tensors, but the tables of tokens have more rows.
struct Grown {
    inner: Weights,
    /// Rows whose mean the new ones are.
    known: usize,
    /// Rows that are new: those up to here, from `known` on.
    ids: usize,
}

impl Weights {
    /// The same with tables of tokens (embedding and head) of `ids` rows or more: the rows from `known` on, as many as there are
    /// ids, are the mean of those before them. It is what transformers' resize_token_embeddings begins new tokens with, but for
    /// the noise.
    ///
    /// # Errors
    /// Two tensors are the same parameter.
    pub fn with_rows(self, known: usize, ids: usize) -> Result<Weights> {
        let remark = self.remark().map(str::to_owned);
        let mut grown = Weights::of(Grown { inner: self, known, ids })?;
        grown.remark = remark;
        Ok(grown)
    }
}

impl Grown {
    fn is_table(name: &str) -> bool {
        EMBEDDINGS.contains(&name) || name == "lm_head.weight"
    }
}

impl WeightSource for Grown {
    fn tensors(&self) -> BTreeMap<String, TensorInfo> {
        let info = |name: &str| {
            let (encoding, shape) = (self.inner.encoding(name)?, self.inner.shape(name)?);
            Some(match shape {
                [rows, width] if Grown::is_table(name) => {
                    TensorInfo { encoding: Encoding::Plain(Dtype::F32), shape: vec![self.ids.max(*rows), *width] }
                }
                _ => TensorInfo { encoding, shape: shape.to_vec() },
            })
        };
        self.inner.names().filter_map(|name| Some((name.to_owned(), info(name)?))).collect()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let (Some(encoding), Some(shape)) = (self.inner.encoding(name), self.inner.shape(name)) else {
            return Ok(Cow::Borrowed(&[]));
        };
        let [rows, width] = *shape else { return self.inner.bytes_of(name, encoding, shape) };
        if !Grown::is_table(name) {
            return self.inner.bytes_of(name, encoding, shape);
        }
        let mut values = self.inner.read_f32(name, shape)?;
        values.resize(self.ids.max(rows) * width, 0.0);
        let known = self.known.min(rows);
        let mut mean = vec![0.0f64; width];
        for row in values.chunks(width.max(1)).take(known) {
            mean.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) / known as f64);
        }
        for row in values.chunks_mut(width.max(1)).take(self.ids).skip(known) {
            row.iter_mut().zip(&mean).for_each(|(x, &mean)| *x = mean as f32);
        }
        Ok(values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>().into())
    }

    fn place(&self, tensor: Option<&str>) -> PathBuf {
        self.inner.place(tensor)
    }
}
