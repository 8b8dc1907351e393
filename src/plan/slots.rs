//! Decides which values share a buffer: offline assignment by liveness.
//!
//! wgpu tracks hazards per whole buffer and refuses a dispatch that binds one buffer both for reading and for writing,
//! so that a slot is a whole buffer and two values share it only if no step touches both.

/// The steps from which to which (inclusive) a value must keep its memory.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime<K> {
    pub key: K,
    pub first: usize,
    pub last: usize,
    pub bytes: u64,
}

impl<K> Lifetime<K> {
    fn overlaps(&self, other: &Lifetime<K>) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Gives each value a slot, and the slots' sizes in descending order.
///
/// Greedy by size: the largest value goes first and takes the first slot that is free for its whole life. A slot's size
/// is that of its first and largest value, so no slot ever grows.
pub fn assign<K>(lifetimes: &[Lifetime<K>]) -> (Vec<usize>, Vec<u64>) {
    let mut order: Vec<usize> = (0..lifetimes.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lifetimes[i].bytes), lifetimes[i].first));
    let mut slots: Vec<Vec<usize>> = Vec::new();
    let mut chosen = vec![0; lifetimes.len()];
    for i in order {
        let free = |slot: &Vec<usize>| slot.iter().all(|&j| !lifetimes[i].overlaps(&lifetimes[j]));
        let slot = slots.iter().position(free).unwrap_or_else(|| {
            slots.push(Vec::new());
            slots.len() - 1
        });
        slots[slot].push(i);
        chosen[i] = slot;
    }
    let sizes = slots.iter().map(|slot| lifetimes[slot[0]].bytes).collect();
    (chosen, sizes)
}

/// The largest sum of bytes alive at one step.
pub fn live_maximum<K>(lifetimes: &[Lifetime<K>]) -> u64 {
    let alive_at = |step| lifetimes.iter().filter(|l| l.first <= step && step <= l.last).map(|l| l.bytes).sum();
    lifetimes.iter().map(|l| alive_at(l.first)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(first: usize, last: usize, bytes: u64) -> Lifetime<()> {
        Lifetime { key: (), first, last, bytes }
    }

    #[test]
    fn values_alive_together_never_share() {
        let mut seed = 1u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for _ in 0..50 {
            let lives: Vec<_> = (0..60)
                .map(|_| {
                    let first = random(40) as usize;
                    life(first, first + random(6) as usize, 1 + random(1000))
                })
                .collect();
            let (slots, sizes) = assign(&lives);
            for i in 0..lives.len() {
                assert!(lives[i].bytes <= sizes[slots[i]]);
                for j in 0..i {
                    assert!(slots[i] != slots[j] || !lives[i].overlaps(&lives[j]));
                }
            }
            assert!(sizes.iter().sum::<u64>() >= live_maximum(&lives));
        }
    }

    #[test]
    fn a_chain_needs_two_slots() {
        let chain: Vec<_> = (0..10).map(|i| life(i, i + 1, 64)).collect();
        assert_eq!(assign(&chain).1, [64, 64]);
        assert_eq!(live_maximum(&chain), 128);
    }
}
