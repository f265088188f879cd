//! The writes of one step: one delta a key, reduced in program order.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemill_lattice::{Cell, Dot, Key, Writer};
use tidemill_store::PROVISIONAL;
use xxhash_rust::xxh3::xxh3_64;

/// What one step, or everything below one call, has written.
///
/// Its own dots are `(PROVISIONAL, tag, 0..next)`. Deltas may also name dots with
/// lower tags, those of ancestors that the step has seen (a set's remove does).
#[derive(Clone, Debug)]
pub struct Buffer {
    tag: u32,
    next: u32,
    deltas: HashTable<(Key, Cell)>,
}

fn hash_of(key: &Key) -> u64 {
    xxh3_64(key.as_bytes())
}

impl Buffer {
    /// An empty buffer whose dots carry this tag.
    #[must_use]
    pub fn new(tag: u32) -> Self {
        Self {
            tag,
            next: 0,
            deltas: HashTable::new(),
        }
    }

    /// The tag that its dots carry.
    #[must_use]
    pub fn tag(&self) -> u32 {
        self.tag
    }

    /// True when nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deltas.is_empty()
    }

    /// How many keys were written.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.deltas.len()
    }

    /// The delta of a key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Cell> {
        let found = self.deltas.find(hash_of(key), |(held, _)| held == key);
        found.map(|(_, delta)| delta)
    }

    /// The written keys that begin with these bytes.
    pub(crate) fn keys_from<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a Key> {
        let keys = self.deltas.iter().map(|(key, _)| key);
        keys.filter(move |key| key.as_bytes().starts_with(prefix))
    }

    /// The next dot in program order.
    pub(crate) fn next_dot(&mut self) -> Dot {
        let sequence = self.next;
        self.next += 1;
        Dot {
            time: PROVISIONAL,
            writer: Writer(self.tag),
            sequence,
        }
    }

    /// Merges a delta made with this buffer's dots.
    pub(crate) fn merge(&mut self, key: Key, delta: Cell) {
        let is_it = |(held, _): &(Key, Cell)| *held == key;
        let place = self
            .deltas
            .entry(hash_of(&key), is_it, |(held, _)| hash_of(held));
        match place {
            Entry::Vacant(entry) => {
                entry.insert((key, delta));
            }
            Entry::Occupied(mut entry) => {
                let (_, held) = entry.get_mut();
                held.merge(&delta);
                // A loop that adds to a counter leaves one addend, not one for each turn.
                held.gather();
            }
        }
    }

    /// Adds once more to a counter that this buffer has added to: see [`Cell::add_again`].
    pub(crate) fn add_again(&mut self, key: &Key, addend: i64) -> bool {
        let found = self.deltas.find_mut(hash_of(key), |(held, _)| held == key);
        found.is_some_and(|(_, delta)| delta.add_again(addend))
    }

    /// Takes over the writes of steps that have ended, given in the order of their
    /// tags, as this buffer's own next writes.
    ///
    /// Every buffer's own tag is at or above this one's; dots of other tags belong to
    /// steps that this buffer's step sees too and stay as they are.
    pub fn absorb(&mut self, steps: &[Arc<Buffer>]) {
        if let [only] = steps
            && self.deltas.is_empty()
            && self.next == 0
            && only.tag == self.tag
        {
            self.clone_from(only);
            return;
        }
        let mut offsets = BTreeMap::new();
        let mut next = self.next;
        for step in steps {
            offsets.insert(step.tag, next);
            next += step.next;
        }
        let tag = Writer(self.tag);
        let rename = |dot: Dot| match offsets.get(&dot.writer.0) {
            Some(offset) if dot.time == PROVISIONAL => Dot {
                time: PROVISIONAL,
                writer: tag,
                sequence: offset + dot.sequence,
            },
            _ => dot,
        };
        for step in steps {
            for (key, delta) in &step.deltas {
                let mut delta = delta.clone();
                delta.restamp(&rename);
                self.merge(key.clone(), delta);
            }
        }
        self.next = next;
    }

    /// The deltas, sorted by key.
    #[must_use]
    pub fn into_deltas(self) -> Vec<(Key, Cell)> {
        let mut deltas: Vec<(Key, Cell)> = self.deltas.into_iter().collect();
        deltas.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        deltas
    }
}
