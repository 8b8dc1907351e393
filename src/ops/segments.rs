//! Which positions of a row see each other if the row holds several examples.

/// What a position sees of the positions of its own segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// All of them.
    Segment,
    /// Those up to its own index: the keys of a causal query.
    UpToSelf,
    /// Those from its own index on: the queries that see a key, where attention is causal.
    FromSelf,
    /// Those at most so many positions away, on either side.
    Within(usize),
}

/// For each position the range of those that it sees: what [`super::Mask::Segments`] reads.
///
/// `own`, `[rows, n]`, and `seen`, `[rows, m]`, hold segment ids: from 1 on and never falling along a row, 0 for the padding
/// at its end. Returns `[rows, n, 2]`, the first position seen and the one after the last; neither ever falls along a row, so
/// that the ranges of neighbours have no more between them than they see. Padding, and segments that `seen` lacks, see nothing.
///
/// Panics if the ids are not of that form.
#[track_caller]
pub fn segment_ranges(own: &[u32], seen: &[u32], rows: usize, sight: Sight) -> Vec<u32> {
    let (n, m) = (own.len() / rows, seen.len() / rows);
    assert!(own.len() == rows * n && seen.len() == rows * m, "{rows} rows of {} and {} ids", own.len(), seen.len());
    let mut ranges = Vec::with_capacity(2 * own.len());
    for (own, seen) in own.chunks(n).zip(seen.chunks(m)) {
        assert!(is_ordered(own) && is_ordered(seen), "segments out of order: {own:?}, {seen:?}");
        let (mut first, mut end) = (0, 0);
        for (i, &segment) in own.iter().enumerate() {
            let is_new = i == 0 || own[i - 1] != segment;
            if is_new {
                let ids = seen[end..].iter();
                first = end + if segment == 0 { 0 } else { ids.take_while(|&&s| s != 0 && s < segment).count() };
                end = first + seen[first..].iter().take_while(|&&s| s == segment && s != 0).count();
            }
            let (from, to) = match sight {
                Sight::Segment => (first, end),
                Sight::UpToSelf => (first, end.min(i + 1).max(first)),
                Sight::FromSelf => (first.max(i).min(end), end),
                Sight::Within(radius) => {
                    (first.max(i.saturating_sub(radius)).min(end), end.min(i.saturating_add(radius + 1)).max(first))
                }
            };
            ranges.extend([from as u32, to as u32]);
        }
    }
    ranges
}

/// Whether ids never fall, but for the zeros at the end.
fn is_ordered(ids: &[u32]) -> bool {
    ids.windows(2).all(|pair| pair[1] == 0 || (pair[0] != 0 && pair[0] <= pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(ranges: &[u32]) -> Vec<(u32, u32)> {
        ranges.as_chunks().0.iter().map(|[first, end]| (*first, *end)).collect()
    }

    #[test]
    fn positions_see_their_segment() {
        let ids = [1, 1, 2, 3, 3, 3, 0, 0];
        let all = pairs(&segment_ranges(&ids, &ids, 1, Sight::Segment));
        assert_eq!(all, [(0, 2), (0, 2), (2, 3), (3, 6), (3, 6), (3, 6), (6, 6), (6, 6)]);
        let before = pairs(&segment_ranges(&ids, &ids, 1, Sight::UpToSelf));
        assert_eq!(before, [(0, 1), (0, 2), (2, 3), (3, 4), (3, 5), (3, 6), (6, 6), (6, 6)]);
        let after = pairs(&segment_ranges(&ids, &ids, 1, Sight::FromSelf));
        assert_eq!(after, [(0, 2), (1, 2), (2, 3), (3, 6), (4, 6), (5, 6), (6, 6), (6, 6)]);
        let near = pairs(&segment_ranges(&ids, &ids, 1, Sight::Within(1)));
        assert_eq!(near, [(0, 2), (0, 2), (2, 3), (3, 5), (3, 6), (4, 6), (6, 6), (6, 6)]);
    }

    #[test]
    fn segments_that_one_side_lacks_see_nothing() {
        let (targets, sources) = ([1, 2, 2, 4, 5, 0, 0, 0, 0, 0], [2, 3, 3, 5, 0, 0, 0, 0, 0, 0]);
        let seen = pairs(&segment_ranges(&targets, &sources, 2, Sight::Segment));
        assert_eq!(seen, [(0, 0), (0, 1), (0, 1), (3, 3), (3, 4), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)]);
        let seen = pairs(&segment_ranges(&sources, &targets, 2, Sight::Segment));
        assert_eq!(seen[..5], [(1, 3), (3, 3), (3, 3), (4, 5), (5, 5)]);
    }

    #[test]
    fn both_sides_agree_and_nothing_falls() {
        let mut rng = crate::rng::Rng::new(7, crate::rng::Purpose::Examples, &[0]);
        for _ in 0..300 {
            let mut side = |n: usize| {
                let mut ids: Vec<u32> = (0..n).map(|_| 1 + rng.below(6) as u32).collect();
                ids.sort_unstable();
                let padding = rng.below(n as u64 + 1) as usize;
                ids[n - padding..].fill(0);
                ids
            };
            let (q, k) = (side(9), side(13));
            let forth = pairs(&segment_ranges(&q, &k, 1, Sight::Segment));
            let back = pairs(&segment_ranges(&k, &q, 1, Sight::Segment));
            let causal = pairs(&segment_ranges(&q, &q, 1, Sight::UpToSelf));
            let causal_back = pairs(&segment_ranges(&q, &q, 1, Sight::FromSelf));
            let near = pairs(&segment_ranges(&q, &q, 1, Sight::Within(2)));
            for ranges in [&forth, &back, &causal, &causal_back, &near] {
                assert!(ranges.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 <= w[1].1), "{ranges:?} of {q:?}, {k:?}");
            }
            let within = |range: (u32, u32), at: usize| (range.0..range.1).contains(&(at as u32));
            for i in 0..q.len() {
                for j in 0..k.len() {
                    let visible = q[i] != 0 && q[i] == k[j];
                    assert_eq!((within(forth[i], j), within(back[j], i)), (visible, visible), "{q:?} {k:?} {i} {j}");
                }
                for j in 0..q.len() {
                    let is_near = q[i] != 0 && q[i] == q[j] && i.abs_diff(j) <= 2;
                    assert_eq!((within(near[i], j), within(near[j], i)), (is_near, is_near), "{q:?} {i} {j}");
                    let visible = q[i] != 0 && q[i] == q[j] && j <= i;
                    assert_eq!((within(causal[i], j), within(causal_back[j], i)), (visible, visible), "{q:?} {i} {j}");
                }
            }
        }
    }
}
