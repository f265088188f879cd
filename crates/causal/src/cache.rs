//! A compute node's cache: copies of keys that their owners keep up to date by streams.
//!
//! An entry answers at every snapshot from its base to what its stream has reached. Whenever it is
//! not certain that nothing is missing, the whole stream's entries go.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_lattice::{Cell, Key, Time};

use crate::streams::{Push, StreamId};
use crate::{Canaries, Canary, Chain, PartitionId, Stamp};

/// What an owner hands to a cache with a value.
#[derive(Clone, Debug)]
pub struct Fill {
    /// The key's partition.
    pub partition: PartitionId,
    /// The stream that it belongs to from now on.
    pub stream: StreamId,
    /// The stream's place when it was read.
    pub sequence: u64,
    /// What the stream had reached.
    pub through: Time,
    /// Reads below it are not possible.
    pub base_through: Time,
    /// The base.
    pub base: Arc<Cell>,
    /// The deltas from the base to `through`.
    pub deltas: Vec<(Stamp, Arc<Cell>)>,
}

/// Deltas of an entry; with more it is dropped, to be read again with its owner's newer base.
const DELTAS_MAX: usize = 64;

#[derive(Clone, Debug)]
struct Entry {
    base_through: Time,
    chain: Chain,
}

#[derive(Clone, Debug)]
struct Subscription {
    stream: StreamId,
    sequence: u64,
    through: Time,
    entries: BTreeMap<Key, Entry>,
}

/// How a cache has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Reads answered.
    pub hits: u64,
    /// Reads not answered.
    pub misses: u64,
    /// Streams dropped for a gap.
    pub gaps: u64,
}

/// Copies of keys, by partition.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    subscriptions: BTreeMap<PartitionId, Subscription>,
    stats: CacheStats,
    canaries: Canaries,
}

impl Cache {
    /// An empty cache.
    #[must_use]
    pub fn new(canaries: Canaries) -> Cache {
        Cache {
            canaries,
            ..Cache::default()
        }
    }

    /// What a key holds at a snapshot: `None` if that is not known here.
    pub fn read(
        &mut self,
        partition: PartitionId,
        key: &Key,
        at: Time,
    ) -> Option<Option<Arc<Cell>>> {
        let found = self.subscriptions.get(&partition).and_then(|held| {
            let entry = held.entries.get(key)?;
            (entry.base_through <= at && at <= held.through).then(|| entry.chain.at(at))
        });
        if found.is_some() {
            self.stats.hits += 1;
        } else {
            self.stats.misses += 1;
        }
        found
    }

    /// The stream of a partition, to name when a key is added to it.
    #[must_use]
    pub fn stream(&self, partition: PartitionId) -> Option<StreamId> {
        self.subscriptions.get(&partition).map(|held| held.stream)
    }

    /// Keeps a key, if what its owner says still fits what the stream has brought since.
    pub fn fill(&mut self, key: Key, fill: Fill) {
        let held = self.subscriptions.entry(fill.partition);
        let subscription = held.or_insert_with(|| Subscription {
            stream: fill.stream,
            sequence: fill.sequence,
            through: fill.through,
            entries: BTreeMap::new(),
        });
        if subscription.stream < fill.stream {
            *subscription = Subscription {
                stream: fill.stream,
                sequence: fill.sequence,
                through: fill.through,
                entries: BTreeMap::new(),
            };
        }
        if subscription.stream != fill.stream || subscription.sequence != fill.sequence {
            return;
        }
        let mut chain = Chain::new(fill.base);
        for (stamp, delta) in fill.deltas {
            chain.push(stamp, stamp.time, delta);
        }
        let entry = Entry {
            base_through: fill.base_through,
            chain,
        };
        subscription.entries.insert(key, entry);
    }

    /// Takes a push. After a gap the stream's entries are dropped.
    pub fn push(&mut self, push: &Push) {
        let Some(held) = self.subscriptions.get_mut(&push.partition) else {
            return;
        };
        if held.stream != push.stream || push.sequence <= held.sequence {
            return;
        }
        if push.sequence > held.sequence + 1 && !self.canaries.has(Canary::CacheIgnoresGap) {
            self.subscriptions.remove(&push.partition);
            self.stats.gaps += 1;
            return;
        }
        held.sequence = push.sequence;
        held.through = held.through.max(push.through);
        for (key, stamp, delta) in &push.deltas {
            if let Some(entry) = held.entries.get_mut(key) {
                entry.chain.push(*stamp, stamp.time, Arc::clone(delta));
                if entry.chain.delta_count() > DELTAS_MAX {
                    held.entries.remove(key);
                }
            }
        }
    }

    /// How it has done.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        self.stats
    }
}
