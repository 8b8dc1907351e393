//! What the graphs of a whole batch read of it: ids, and what their positions see.

use super::architecture::Architecture;
use super::config::T5Config;
use crate::batch::{Batch, BatchShape, Segments};
use crate::ops::{NO_ROW, Sight, gather_index, segment_ranges};

impl T5Config {
    /// The leaves that [`super::Builder::states`] and its loss read of a batch, by name. To be written with every batch.
    pub fn batch_leaves(&self, batch: &Batch) -> Vec<(&'static str, Vec<u32>)> {
        let shape = batch.shape;
        if self.architecture.is_one_stack() {
            return joined_rows(batch, self.architecture == Architecture::PrefixLm);
        }
        let index = |ids: &[u32], lens: &[u32], width: usize| {
            gather_index(ids, |i: usize| i % width < lens[i / width] as usize)
        };
        let mut leaves = vec![
            ("src_ids", batch.src_ids.clone()),
            ("src_index", index(&batch.src_ids, &batch.src_lens, shape.src_len)),
            ("tgt_ids", batch.tgt_in.clone()),
            ("tgt_index", index(&batch.tgt_in, &batch.tgt_lens, shape.tgt_len)),
            ("labels", batch.labels.clone()),
        ];
        if let Some(Segments { src, tgt }) = &batch.segments {
            let ranges = |own: &[u32], seen: &[u32], sight| segment_ranges(own, seen, shape.batch, sight);
            leaves.extend([
                ("src_ranges", ranges(src, src, self.encoder_attention.sight())),
                ("tgt_keys", ranges(tgt, tgt, Sight::UpToSelf)),
                ("tgt_queries", ranges(tgt, tgt, Sight::FromSelf)),
                ("cross_keys", ranges(tgt, src, Sight::Segment)),
                ("cross_queries", ranges(src, tgt, Sight::Segment)),
            ]);
        } else {
            leaves.push(("src_lens", batch.src_lens.clone()));
            leaves.extend(self.encoder_attention.leaves(&batch.src_lens, shape.src_len));
        }
        leaves
    }
}

/// The leaves of [`super::Builder::states`] where source and target share a row: each example's source, and behind it what a decoder
/// would read of its target, the start token and the target without its last token. So the end token of the source and the start
/// token stand between them. `sees_source`: whether positions of a source see all of it.
fn joined_rows(batch: &Batch, sees_source: bool) -> Vec<(&'static str, Vec<u32>)> {
    let BatchShape { batch: rows, src_len, tgt_len, .. } = batch.shape;
    let len = src_len + tgt_len;
    let one_each = |lens: &[u32], len: usize| -> Vec<u32> {
        lens.iter().flat_map(|&n| (0..len as u32).map(move |i| u32::from(i < n))).collect()
    };
    let segments = batch.segments.clone().unwrap_or_else(|| Segments {
        src: one_each(&batch.src_lens, src_len),
        tgt: one_each(&batch.tgt_lens, tgt_len),
    });
    let (mut ids, mut used) = (vec![0; rows * len], Vec::with_capacity(rows));
    let (mut row_of_target, mut target_of_row) = (vec![NO_ROW; rows * tgt_len], vec![NO_ROW; rows * len]);
    let (mut keys, mut queries) = (Vec::with_capacity(2 * rows * len), Vec::with_capacity(2 * rows * len));
    for row in 0..rows {
        let (src, tgt) = (&segments.src[row * src_len..][..src_len], &segments.tgt[row * tgt_len..][..tgt_len]);
        let last = src.iter().chain(tgt).copied().max().unwrap_or(0);
        let (mut at, mut src_at, mut tgt_at) = (0, 0, 0);
        for segment in 1..=last {
            let first = at;
            while src.get(src_at) == Some(&segment) {
                ids[row * len + at] = batch.src_ids[row * src_len + src_at];
                (at, src_at) = (at + 1, src_at + 1);
            }
            let source_end = at;
            while tgt.get(tgt_at) == Some(&segment) {
                let (place, target) = (row * len + at, row * tgt_len + tgt_at);
                ids[place] = batch.tgt_in[target];
                row_of_target[target] = place as u32;
                target_of_row[place] = target as u32;
                (at, tgt_at) = (at + 1, tgt_at + 1);
            }
            for own in first..at {
                let is_open = sees_source && own < source_end;
                keys.extend([first, if is_open { source_end } else { own + 1 }].map(|x| x as u32));
                queries.extend([if is_open { first } else { own }, at].map(|x| x as u32));
            }
        }
        // Padding sees nothing.
        let padding = [at as u32; 2].repeat(len - at);
        keys.extend(&padding);
        queries.extend(&padding);
        used.push(at);
    }
    let index = gather_index(&ids, |i| i % len < used[i / len]);
    vec![
        ("row_ids", ids),
        ("row_index", index),
        ("row_keys", keys),
        ("row_queries", queries),
        ("row_of_target", row_of_target),
        ("target_of_row", target_of_row),
        ("labels", batch.labels.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Example;

    fn example(source: &[u32], target: &[u32]) -> Example {
        Example { source: source.to_vec(), target: target.to_vec() }
    }

    fn leaf(leaves: &[(&'static str, Vec<u32>)], name: &str) -> Vec<u32> {
        leaves.iter().find(|(known, _)| *known == name).unwrap().1.clone()
    }

    /// Written out by hand: two examples in a row of 5 source and 6 target places, and a row without any.
    #[test]
    fn sources_and_targets_are_joined() {
        let examples = [example(&[5, 6, 1], &[7, 1]), example(&[1], &[8, 9, 1])];
        let shape = BatchShape { batch: 2, src_len: 5, tgt_len: 6, packed: true };
        let batch = Batch::collate(&[examples.iter().collect(), Vec::new()], shape, 0, 40);
        let (closed, open) = (joined_rows(&batch, false), joined_rows(&batch, true));
        let first = |leaves: &[(&'static str, Vec<u32>)], name: &str, n: usize| leaf(leaves, name)[..n].to_vec();
        for leaves in [&closed, &open] {
            assert_eq!(first(leaves, "row_ids", 11), [5, 6, 1, 40, 7, 1, 40, 8, 9, 0, 0]);
            let none = NO_ROW;
            assert_eq!(first(leaves, "row_of_target", 6), [3, 4, 6, 7, 8, none]);
            assert_eq!(first(leaves, "target_of_row", 11), [none, none, none, 0, 1, none, 2, 3, 4, none, none]);
            assert!(
                leaf(leaves, "row_of_target")[6..]
                    .iter()
                    .chain(&leaf(leaves, "target_of_row")[11..])
                    .all(|&x| x == none)
            );
            assert_eq!(leaf(leaves, "row_keys")[22..], [0; 22]);
            // Of the index, how many positions count.
            assert_eq!(leaf(leaves, "row_index")[44..].iter().max(), Some(&9));
            assert_eq!(first(leaves, "labels", 6), [7, 1, 8, 9, 1, crate::batch::IGNORE]);
        }
        let pairs = |leaves: &[(&'static str, Vec<u32>)], name: &str| -> Vec<[u32; 2]> {
            leaf(leaves, name)[..22].as_chunks().0.to_vec()
        };
        let causal = [[0, 1], [0, 2], [0, 3], [0, 4], [0, 5], [5, 6], [5, 7], [5, 8], [5, 9], [9, 9], [9, 9]];
        assert_eq!(pairs(&closed, "row_keys"), causal);
        let seen_by = [[0, 5], [1, 5], [2, 5], [3, 5], [4, 5], [5, 9], [6, 9], [7, 9], [8, 9], [9, 9], [9, 9]];
        assert_eq!(pairs(&closed, "row_queries"), seen_by);
        let prefix = [[0, 3], [0, 3], [0, 3], [0, 4], [0, 5], [5, 6], [5, 7], [5, 8], [5, 9], [9, 9], [9, 9]];
        assert_eq!(pairs(&open, "row_keys"), prefix);
        let seen_by = [[0, 5], [0, 5], [0, 5], [3, 5], [4, 5], [5, 9], [6, 9], [7, 9], [8, 9], [9, 9], [9, 9]];
        assert_eq!(pairs(&open, "row_queries"), seen_by);
    }

    /// Without packing each example has a row, laid out as a packed row of one.
    #[test]
    fn rows_of_one_example_are_those_of_one_segment() {
        let examples = [example(&[5, 6, 1], &[7, 1]), example(&[1], &[8, 9, 1])];
        let rows: Vec<Vec<&Example>> = examples.iter().map(|example| vec![example]).collect();
        let leaves = |packed| {
            let shape = BatchShape { batch: 3, src_len: 4, tgt_len: 3, packed };
            joined_rows(&Batch::collate(&rows, shape, 0, 0), true)
        };
        assert_eq!(leaves(false), leaves(true));
    }

    /// Whom a query sees and who sees a key are the same relation.
    #[test]
    fn keys_and_queries_agree() {
        let examples = [example(&[5, 6, 1], &[7, 1]), example(&[1], &[8, 9, 1]), example(&[2, 2], &[3])];
        let shape = BatchShape { batch: 1, src_len: 7, tgt_len: 8, packed: true };
        let batch = Batch::collate(&[examples.iter().collect()], shape, 0, 0);
        for sees_source in [false, true] {
            let leaves = joined_rows(&batch, sees_source);
            let (keys, queries) = (leaf(&leaves, "row_keys"), leaf(&leaves, "row_queries"));
            let within =
                |ranges: &[u32], own: usize, at: usize| (ranges[2 * own]..ranges[2 * own + 1]).contains(&(at as u32));
            for query in 0..15 {
                for key in 0..15 {
                    assert_eq!(within(&keys, query, key), within(&queries, key, query), "{query} {key}");
                }
            }
            for ranges in [keys, queries] {
                let pairs = ranges.as_chunks::<2>().0;
                assert!(pairs.windows(2).all(|w| w[0][0] <= w[1][0] && w[0][1] <= w[1][1]), "{pairs:?}");
            }
        }
    }
}
