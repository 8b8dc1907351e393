//! Random numbers as a pure function of a key: SplitMix64 (Steele, Lea and Flood 2014) run as a counter. And a hash.

/// What a stream of random numbers is for; streams of different purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// The order of documents in an epoch.
    Documents = 1,
    /// Which tokens of a segment are masked.
    Corruption = 2,
    /// Which examples meet in a batch.
    Examples = 3,
    /// The order of the batches of an epoch.
    Batches = 4,
    /// The first weights of a model.
    Weights = 5,
    /// Which examples are kept from training.
    HeldOut = 6,
    /// What kernels are timed on.
    Trials = 7,
    /// Which member of a mixture an example comes from.
    Mixture = 8,
    /// Which lines a vocabulary is learned from.
    Lines = 9,
    /// Weights and token ids of benchmarks.
    Benchmark = 10,
}

/// The `counter`-th number is `mix(key + counter * GAMMA)`: cheap to create anywhere, nothing to save.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

/// 2^64 divided by the golden ratio, odd: the step of SplitMix64.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

impl Rng {
    /// The stream of (seed, purpose, tags), for example tags = [epoch, index].
    pub fn new(seed: u64, purpose: Purpose, tags: &[u64]) -> Rng {
        let start = mix(seed.wrapping_add(GAMMA));
        let key = std::iter::once(purpose as u64)
            .chain(tags.iter().copied())
            .fold(start, |key, tag| mix(key.wrapping_mul(3).wrapping_add(mix(tag.wrapping_add(GAMMA)))));
        Rng { state: key }
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in 0..n without bias (Lemire 2019). Panics if n = 0.
    #[track_caller]
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "there is no number below 0");
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// An index, drawn with a probability in proportion to its weight; 0 if there are none. `sum`: of all weights.
    pub fn weighted(&mut self, weights: impl Iterator<Item = f64> + Clone, sum: f64) -> usize {
        let mut point = self.uniform() * sum;
        for (index, weight) in weights.clone().enumerate() {
            if point < weight {
                return index;
            }
            point -= weight;
        }
        // Rounding may leave a little beyond the last: it goes to the last that can be drawn at all.
        weights.enumerate().filter(|(_, weight)| *weight > 0.0).last().map_or(0, |(index, _)| index)
    }

    /// Normal with mean 0 and deviation 1 (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Fisher-Yates: each order has the same probability.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// A uniformly chosen order of 0..n, a function of (seed, purpose, epoch) alone.
pub fn permutation(seed: u64, purpose: Purpose, epoch: u64, n: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n).collect();
    Rng::new(seed, purpose, &[epoch]).shuffle(&mut order);
    order
}

/// FNV-1a of bytes, or of numbers: the same in every build and on every system. Its low bits mix poorly where there are few.
pub fn fnv1a<T: Into<u64>>(items: impl IntoIterator<Item = T>) -> u64 {
    items.into_iter().fold(0xCBF2_9CE4_8422_2325, |hash, item| (hash ^ item.into()).wrapping_mul(0x100_0000_01B3))
}

fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_splitmix64() {
        let mut rng = Rng { state: 0 };
        assert_eq!([rng.next_u64(), rng.next_u64()], [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
    }

    #[test]
    fn is_fnv1a() {
        assert_eq!((fnv1a(*b""), fnv1a(*b"foobar")), (0xCBF2_9CE4_8422_2325, 0x8594_4171_F739_67E8));
    }

    #[test]
    fn streams_are_distinct() {
        let first = |seed, purpose, tags: &[u64]| Rng::new(seed, purpose, tags).next_u64();
        let mut seen = std::collections::HashSet::new();
        for seed in 0..20 {
            for purpose in [Purpose::Documents, Purpose::Corruption, Purpose::Examples, Purpose::Batches] {
                assert!(seen.insert(first(seed, purpose, &[])));
                for a in 0..20 {
                    assert!(seen.insert(first(seed, purpose, &[a])));
                    for b in 0..20 {
                        assert!(seen.insert(first(seed, purpose, &[a, b])));
                    }
                }
            }
        }
    }

    #[test]
    fn below_is_uniform_and_in_range() {
        let mut rng = Rng::new(7, Purpose::Examples, &[]);
        let mut counts = [0u32; 6];
        for _ in 0..60_000 {
            counts[rng.below(6) as usize] += 1;
        }
        // Chi-squared with 5 degrees of freedom: 20.5 is passed once in a thousand.
        let chi: f64 = counts.iter().map(|&c| (f64::from(c) - 10_000.0).powi(2) / 10_000.0).sum();
        assert!(chi < 20.5, "{counts:?}");
        assert_eq!(rng.below(1), 0);
        assert!(rng.below(u64::MAX) < u64::MAX);
    }

    #[test]
    fn uniform_is_in_range_and_centred() {
        let mut rng = Rng::new(7, Purpose::Examples, &[]);
        let draws: Vec<f64> = (0..100_000).map(|_| rng.uniform()).collect();
        assert!(draws.iter().all(|x| (0.0..1.0).contains(x)));
        assert!((draws.iter().sum::<f64>() / 100_000.0 - 0.5).abs() < 0.005);
    }

    #[test]
    fn permutations_are_permutations() {
        for n in [0, 1, 2, 1000] {
            let mut order = permutation(3, Purpose::Documents, 5, n);
            assert_eq!(order, permutation(3, Purpose::Documents, 5, n));
            order.sort_unstable();
            assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
        assert_ne!(permutation(3, Purpose::Documents, 5, 1000), permutation(3, Purpose::Documents, 6, 1000));
        assert_ne!(permutation(3, Purpose::Documents, 5, 1000), permutation(4, Purpose::Documents, 5, 1000));
        assert_ne!(permutation(3, Purpose::Documents, 5, 1000), permutation(3, Purpose::Batches, 5, 1000));
    }

    #[test]
    fn every_order_is_as_likely() {
        let mut counts = std::collections::HashMap::new();
        for epoch in 0..24_000 {
            *counts.entry(permutation(1, Purpose::Documents, epoch, 4)).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 24);
        // 23 degrees of freedom: 49.7 is passed once in a thousand.
        let chi: f64 = counts.values().map(|&c| (f64::from(c) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 49.7, "{chi}");
    }
}
