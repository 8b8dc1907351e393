//! A model asked without decoding: what it makes of texts ([`Encoder`]), how likely it finds targets ([`TargetScorer`]), which
//! labels it gives ([`Classifier`]), how it goes on with series of numbers ([`PatchReader`]).
//!
//! Both run batches of rows of like length. Neither the order of the rows, nor what shares a batch with them, nor padding
//! changes a bit of a row's result.

mod classify;
mod encode;
mod quantiles;
mod score;
mod sentence;

use std::collections::BTreeMap;
use std::ops::Range;

pub use classify::{Classifier, LabelScores};
pub use encode::{Embeddings, EncodeOptions, Encoder, HiddenStates, Pooling};
pub use quantiles::{PatchReader, Patches};
pub use score::{TargetScore, TargetScorer};
pub use sentence::SentenceHead;
#[cfg(feature = "hub")]
pub(crate) use sentence::module_folders;

use crate::error::{Error, Result};
use crate::model::Model;

/// Plans that are kept.
const MOST_PLANS: usize = 8;

/// Positions that a batch may have, padding included. Larger ones make no adapter faster.
const MOST_POSITIONS: usize = 8192;

/// The length that rows are padded to: few distinct ones, so that plans are used again, at an eighth of padding at most. With 16
/// positions the products are never of the kind that suits few rows, whose rounding differs.
fn bucket(len: usize) -> usize {
    len.next_multiple_of((len.next_power_of_two() / 8).max(16))
}

/// Rows in batches of like sizes. `sizes`: each row's lengths, such as of source and target. Gives for each batch its sizes and
/// its rows' indices; the longest come first, since memory taken for them serves the shorter ones.
fn batches<const N: usize>(sizes: &[[usize; N]]) -> Vec<([usize; N], Vec<usize>)> {
    let mut by_size: BTreeMap<[usize; N], Vec<usize>> = BTreeMap::new();
    for (row, lens) in sizes.iter().enumerate() {
        by_size.entry(lens.map(bucket)).or_default().push(row);
    }
    let mut batches = Vec::new();
    for (lens, rows) in by_size.into_iter().rev() {
        let most = (MOST_POSITIONS / lens.iter().sum::<usize>()).clamp(1, 64);
        // A power of two, so that there are few shapes.
        let most = 1 << most.ilog2();
        batches.extend(rows.chunks(most).map(|rows| (lens, rows.to_vec())));
    }
    batches
}

/// Rows as a batch of `rows.len().next_power_of_two()` rows of `len` ids, padded.
fn padded(rows: &[&[u32]], len: usize, pad: u32) -> (usize, Vec<u32>, Vec<u32>) {
    let batch = rows.len().next_power_of_two();
    let mut ids = vec![pad; batch * len];
    let mut lens = vec![0u32; batch];
    for (b, row) in rows.iter().enumerate() {
        ids[b * len..][..row.len()].copy_from_slice(row);
        lens[b] = row.len() as u32;
    }
    (batch, ids, lens)
}

/// What each part of a batch's result belongs to: `len` elements for each of `n` rows.
fn parts(n: usize, len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).map(move |b| b * len..(b + 1) * len)
}

/// Refuses rows that are empty or hold ids that the model does not have.
fn check_ids(model: &Model, what: &str, rows: &[Vec<u32>]) -> Result<()> {
    let vocab = model.config.vocab_size;
    for (i, row) in rows.iter().enumerate() {
        if row.is_empty() {
            return Err(Error::Input(format!("{what} {i} has no token: even an empty text has an end token")));
        }
        if let Some(id) = row.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::Input(format!(
                "{what} {i}: token id {id} is outside of the model's vocabulary of {vocab}: the tokenizer does not belong to \
                 this model"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_batch_of_its_length() {
        let sizes: Vec<[usize; 2]> = (0..300).map(|i| [1 + i * 7 % 90, 1 + i % 20]).collect();
        let mut seen = vec![0; sizes.len()];
        for ([src, tgt], rows) in batches(&sizes) {
            assert!(src % 16 == 0 && tgt % 16 == 0 && rows.len().next_power_of_two() * (src + tgt) <= MOST_POSITIONS);
            for row in rows {
                seen[row] += 1;
                assert!(
                    sizes[row][0] <= src && src < sizes[row][0] + 16 + sizes[row][0] / 4,
                    "{:?} in {src}",
                    sizes[row]
                );
            }
        }
        assert_eq!(seen, vec![1; sizes.len()]);
        let huge = batches(&[[100_000]]);
        assert_eq!(huge, [([bucket(100_000)], vec![0])]);
    }
}
