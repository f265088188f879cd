//! Log tails held for others: what a partition's owner has not written to stable storage yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::record::Entry;
use crate::{Generation, PartitionId};

/// The unflushed end of a log.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    /// Whose log it is.
    pub generation: Generation,
    /// The position of its first entry; everything before is on stable storage.
    pub start: usize,
    /// The entries.
    pub entries: Vec<Arc<Entry>>,
}

impl Tail {
    /// The position after its last entry.
    #[must_use]
    pub fn end(&self) -> usize {
        self.start + self.entries.len()
    }
}

/// What a member holds for others, and what it has promised not to take any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standby {
    tails: BTreeMap<PartitionId, Tail>,
    sealed: BTreeMap<PartitionId, Generation>,
}

/// What became of an offered tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Everything up to this position is held.
    Through(usize),
    /// A newer generation has sealed the partition.
    Sealed,
}

impl Standby {
    /// Begins with tails that outlived the process before.
    pub(crate) fn with(tails: BTreeMap<PartitionId, Tail>) -> Standby {
        Standby {
            tails,
            sealed: BTreeMap::new(),
        }
    }

    /// From now on nothing older than `generation` is taken for this partition.
    pub(crate) fn seal(&mut self, partition: PartitionId, generation: Generation) {
        let sealed = self.sealed.entry(partition).or_default();
        *sealed = generation.max(*sealed);
    }

    pub(crate) fn sealed(&self, partition: PartitionId) -> Generation {
        self.sealed.get(&partition).copied().unwrap_or_default()
    }

    /// Keeps what a closed partition leaves behind, if it is more than what is held.
    pub(crate) fn keep(&mut self, partition: PartitionId, tail: Tail) {
        let held = self.tails.entry(partition).or_default();
        if (tail.generation, tail.end()) >= (held.generation, held.end()) {
            *held = tail;
        }
    }

    /// Takes entries from `from` on; `flushed` is what stable storage has.
    pub(crate) fn take(
        &mut self,
        partition: PartitionId,
        generation: Generation,
        from: usize,
        entries: &[Arc<Entry>],
        flushed: usize,
    ) -> Taken {
        if generation < self.sealed(partition) {
            return Taken::Sealed;
        }
        let tail = self.tails.entry(partition).or_default();
        if generation < tail.generation {
            return Taken::Sealed;
        }
        if generation > tail.generation {
            *tail = Tail {
                generation,
                // Not `from`: what is between may have been lost on the way.
                start: flushed,
                entries: Vec::new(),
            };
        }
        if from > tail.end() && from <= flushed {
            // What is missing in between is on stable storage.
            tail.start = from;
            tail.entries.clear();
        }
        if from >= tail.start && from <= tail.end() {
            let known = tail.end() - from;
            tail.entries
                .extend(entries.get(known..).unwrap_or_default().iter().cloned());
        }
        let flushed = flushed.min(tail.end()).saturating_sub(tail.start);
        tail.entries.drain(..flushed);
        tail.start += flushed;
        Taken::Through(tail.end())
    }

    pub(crate) fn tail(&self, partition: PartitionId) -> Option<&Tail> {
        self.tails.get(&partition)
    }

    pub(crate) fn tails(&self) -> &BTreeMap<PartitionId, Tail> {
        &self.tails
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RequestId;

    fn entries(count: u32) -> Vec<Arc<Entry>> {
        let entry = |place| {
            Arc::new(Entry::Sent {
                id: RequestId::default(),
                place,
            })
        };
        (0..count).map(entry).collect()
    }

    #[test]
    fn a_tail_grows_in_order_and_is_cut_where_it_is_flushed() {
        let (p, generation) = (PartitionId(0), Generation::default());
        let all = entries(6);
        let mut standby = Standby::default();
        let mut take = |from: usize, to: usize, flushed| {
            standby.take(p, generation, from, &all[from..to], flushed)
        };
        assert_eq!(take(0, 2, 0), Taken::Through(2));
        assert_eq!(take(3, 5, 0), Taken::Through(2), "a gap is not taken");
        assert_eq!(take(1, 5, 1), Taken::Through(5), "an overlap is");
        assert_eq!(take(1, 3, 1), Taken::Through(5), "nor is anything lost");
        assert_eq!(standby.tail(p).map(|tail| tail.start), Some(1));
    }

    #[test]
    fn the_first_of_a_generation_to_arrive_may_not_be_the_first_that_was_sent() {
        let (p, all) = (PartitionId(0), entries(4));
        let new = Generation {
            epoch: 2,
            ..Generation::default()
        };
        let mut standby = Standby::default();
        standby.take(p, Generation::default(), 0, &all, 0);
        let taken = standby.take(p, new, 3, &all[3..], 2);
        assert_eq!(taken, Taken::Through(2));
        assert_eq!(standby.take(p, new, 2, &all[2..], 2), Taken::Through(4));
    }

    #[test]
    fn a_sealed_partition_takes_nothing_older() {
        let (p, all) = (PartitionId(0), entries(1));
        let new = Generation {
            epoch: 2,
            ..Generation::default()
        };
        let mut standby = Standby::default();
        standby.seal(p, new);
        assert_eq!(
            standby.take(p, Generation::default(), 0, &all, 0),
            Taken::Sealed
        );
        assert_eq!(standby.take(p, new, 0, &all, 0), Taken::Through(1));
    }
}
