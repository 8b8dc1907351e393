//! Plans that are kept for the next batch of their shape.

use super::{Plan, SlotPool};
use crate::error::{Error, Result};

/// Plans by what they compute and for which sizes. A bounded number: the least recently used go first.
pub struct Plans<K> {
    pool: SlotPool,
    /// The most recently used last.
    plans: Vec<(K, Plan)>,
    most: usize,
}

impl<K: PartialEq> Plans<K> {
    /// At most `most` plans, whose activations lie in the buffers of `pool`.
    pub fn new(most: usize, pool: SlotPool) -> Plans<K> {
        Plans { pool, plans: Vec::new(), most }
    }

    /// The plan of that key; compiles it if there is none. If there is no memory for it, all others go first.
    pub fn get(&mut self, key: K, compile: impl Fn(&SlotPool) -> Result<Plan>) -> Result<&Plan> {
        let plan = match self.plans.iter().position(|(k, _)| *k == key) {
            Some(at) => self.plans.remove(at).1,
            None => {
                if self.plans.len() == self.most {
                    self.plans.remove(0);
                }
                match compile(&self.pool) {
                    Err(Error::OutOfMemory(_)) if !self.plans.is_empty() => {
                        self.plans.clear();
                        self.pool.clear();
                        compile(&self.pool)?
                    }
                    compiled => compiled?,
                }
            }
        };
        self.plans.push((key, plan));
        let last = self.plans.len() - 1;
        Ok(&self.plans[last].1)
    }

    /// The plan of that key, if there is one.
    pub fn find(&self, key: &K) -> Option<&Plan> {
        self.plans.iter().find(|(k, _)| k == key).map(|(_, plan)| plan)
    }

    /// Forgets every plan.
    pub fn clear(&mut self) {
        self.plans.clear();
    }

    /// Bytes of activations.
    pub fn bytes(&self) -> u64 {
        self.pool.bytes()
    }
}
