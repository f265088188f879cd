//! The versions of all keys in memory, in shards behind short locks.
//!
//! Readers take a shard's lock shared for one look-up. Only the sequencer changes chains;
//! readers add cold keys. It knows chains and keys, not the engine: whoever misses a key
//! here loads it and offers it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockWriteGuard};
use tidemill_lattice::{Cell, Key, Time};

use crate::chain::Chain;
use crate::engine::Stored;

const SHARDS: usize = 64;
/// So many deltas on one key are folded at the next commit, if no pin forbids it; more on a
/// large key, since folding touches all of it: one for so many bytes.
const FOLD_DELTAS: usize = 16;
const FOLD_BYTES: usize = 2048;

pub(crate) struct Tables {
    shards: Vec<RwLock<Shard>>,
    hasher: RandomState,
    /// The keys in memory, ordered, for scans.
    index: RwLock<BTreeMap<Bytes, Key>>,
    bytes: AtomicI64,
    keys: AtomicU64,
    conflicts: AtomicU64,
}

#[derive(Default)]
pub(crate) struct Shard {
    slots: HashMap<Key, Slot>,
    /// Keys with changes that the durable tier does not have.
    dirty: Vec<Key>,
    /// Counts removals, so that a reader does not bring back what it loaded before one.
    removals: u64,
}

struct Slot {
    chain: Chain,
    /// Whether the key is in its shard's `dirty` list, or in a checkpoint's.
    queued: bool,
    /// The durable tier holds the base as of this time; `None` if it holds nothing.
    stored: Option<Time>,
    /// Read since eviction last came by.
    used: AtomicBool,
    weight: usize,
    /// Fold when there are so many deltas.
    fold_at: usize,
}

/// What a look-up found.
pub(crate) enum Found {
    Here(Option<Arc<Cell>>),
    /// Not in memory; pass the ticket to [`Tables::offer`].
    Cold(Ticket),
}

/// When a key was found missing.
#[derive(Clone, Copy)]
pub(crate) struct Ticket {
    shard: usize,
    removals: u64,
}

/// What a checkpoint has to do for one key.
pub(crate) enum Fold {
    /// Nothing new.
    Clean,
    /// The base and the time that it is complete through.
    Store(Arc<Cell>, Time),
    /// Nothing is left of the key. `stored` tells whether the durable tier has it.
    Forget { stored: bool },
}

impl Tables {
    pub(crate) fn new() -> Tables {
        Tables {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            index: RwLock::default(),
            bytes: AtomicI64::new(0),
            keys: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
        }
    }

    fn shard_of(&self, key: &Key) -> usize {
        // The shard's own map hashes with another seed, so its buckets stay even.
        (self.hasher.hash_one(key) % SHARDS as u64) as usize
    }

    fn write(&self, key: &Key) -> RwLockWriteGuard<'_, Shard> {
        self.shards[self.shard_of(key)].write()
    }

    /// The cell of a key as of `at`, if the key is in memory.
    pub(crate) fn get(&self, key: &Key, at: Time) -> Found {
        let index = self.shard_of(key);
        let shard = self.shards[index].read();
        match shard.slots.get(key) {
            Some(slot) => {
                slot.used.store(true, Ordering::Relaxed);
                Found::Here(slot.chain.at(at))
            }
            None => Found::Cold(Ticket {
                shard: index,
                removals: shard.removals,
            }),
        }
    }

    /// The cell of a key with everything applied, for the sequencer.
    pub(crate) fn newest(&self, key: &Key) -> Option<Arc<Cell>> {
        let shard = self.shards[self.shard_of(key)].read();
        shard.slots.get(key)?.chain.at(Time::MAX)
    }

    pub(crate) fn has(&self, key: &Key) -> bool {
        self.shards[self.shard_of(key)]
            .read()
            .slots
            .contains_key(key)
    }

    /// Adds a key that was loaded after `ticket` was given, unless it is here by now or may
    /// have been and gone.
    pub(crate) fn offer(&self, key: &Key, cell: Arc<Cell>, through: Time, ticket: Ticket) {
        let mut shard = self.shards[ticket.shard].write();
        if shard.removals == ticket.removals && !shard.slots.contains_key(key) {
            self.add(&mut shard, key, Some((cell, through)));
        }
    }

    /// Adds a key for the sequencer, whom nobody else can overtake.
    pub(crate) fn admit(&self, key: &Key, stored: Option<Stored>) {
        let mut shard = self.write(key);
        if !shard.slots.contains_key(key) {
            self.add(
                &mut shard,
                key,
                stored.map(|stored| (Arc::new(stored.cell), stored.through)),
            );
        }
    }

    fn add(&self, shard: &mut Shard, key: &Key, stored: Option<(Arc<Cell>, Time)>) {
        let through = stored.as_ref().map(|(_, through)| *through);
        let chain = stored.map_or_else(Chain::default, |(cell, through)| Chain::new(cell, through));
        let weight = weigh(key, &chain);
        let used = AtomicBool::new(true);
        let slot = Slot {
            chain,
            queued: false,
            stored: through,
            used,
            fold_at: FOLD_DELTAS + weight / FOLD_BYTES,
            weight,
        };
        shard.slots.insert(key.clone(), slot);
        self.index.write().insert(key.to_bytes(), key.clone());
        self.keys.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(weight as i64, Ordering::Relaxed);
    }

    /// Applies the delta of the commit at `time`, made at `snapshot`. The key is here: the sequencer admitted it
    /// and evicts nothing in between.
    pub(crate) fn apply(&self, key: Key, delta: Cell, time: Time, snapshot: Time, low_water: Time) {
        let mut guard = self.write(&key);
        if !guard.slots.contains_key(&key) {
            self.add(&mut guard, &key, None);
        }
        let shard = &mut *guard;
        let Some(slot) = shard.slots.get_mut(&key) else {
            return;
        };
        let added = delta.weight_bytes();
        slot.chain.push(time, snapshot, delta);
        slot.weight += added;
        self.bytes.fetch_add(added as i64, Ordering::Relaxed);
        if slot.chain.delta_count() >= slot.fold_at
            && slot
                .chain
                .first_delta()
                .is_some_and(|first| first <= low_water)
        {
            self.fold_slot(&key, slot, low_water);
        }
        if !slot.queued {
            slot.queued = true;
            shard.dirty.push(key);
        }
    }

    fn fold_slot(&self, key: &Key, slot: &mut Slot, low_water: Time) {
        let dropped = slot.chain.fold(low_water);
        self.conflicts.fetch_add(dropped, Ordering::Relaxed);
        let weight = weigh(key, &slot.chain);
        let change = weight as i64 - slot.weight as i64;
        slot.fold_at = fold_at(&slot.chain, weight);
        slot.weight = weight;
        self.bytes.fetch_add(change, Ordering::Relaxed);
    }

    /// Puts a key on the list for a checkpoint that is under way, because its content has
    /// expired by `target`. Tells whether it was not on a list yet.
    pub(crate) fn queue_expired(&self, key: &Key, target: Time) -> bool {
        let mut guard = self.write(key);
        let Some(slot) = guard.slots.get_mut(key) else {
            return false;
        };
        let expired = slot.chain.delta_count() == 0 && slot.chain.base().is_empty_at(target);
        let fresh = expired && !slot.queued;
        slot.queued |= fresh;
        fresh
    }

    /// Takes the list of keys with unstored changes.
    pub(crate) fn take_dirty(&self) -> Vec<Key> {
        let mut keys = Vec::new();
        for shard in &self.shards {
            keys.append(&mut shard.write().dirty);
        }
        keys
    }

    /// Folds a key through `target` and tells what the durable tier needs.
    pub(crate) fn fold(&self, key: &Key, target: Time) -> Fold {
        let mut guard = self.write(key);
        let Some(slot) = guard.slots.get_mut(key) else {
            return Fold::Clean;
        };
        if slot.chain.first_delta().is_none_or(|first| first <= target) {
            self.fold_slot(key, slot, target);
        }
        let through = slot.chain.base_through();
        // A base folded past the target waits for the next checkpoint: after a crash, the
        // records above the target would be replayed without what is forgotten here.
        if slot.chain.is_forgotten() && through <= target {
            return Fold::Forget {
                stored: slot.stored.is_some(),
            };
        }
        let unwritten = slot.stored.is_none() && slot.chain.base().is_bottom();
        if unwritten || slot.stored == Some(through) {
            return Fold::Clean;
        }
        Fold::Store(Arc::clone(slot.chain.base()), through)
    }

    /// Records that the durable tier has the key's base through `through` (`None`: what it had
    /// before), and keeps the key on the list if it has newer deltas.
    pub(crate) fn stored(&self, key: &Key, through: Option<Time>) {
        let mut guard = self.write(key);
        let shard = &mut *guard;
        let Some(slot) = shard.slots.get_mut(key) else {
            return;
        };
        if through.is_some() {
            slot.stored = through;
        }
        slot.queued = slot.chain.delta_count() > 0 || slot.chain.is_forgotten();
        if slot.queued {
            shard.dirty.push(key.clone());
        }
    }

    /// Removes a key of which nothing is left, after the durable tier has forgotten it too.
    /// A key written again since stays.
    pub(crate) fn forget(&self, key: &Key) {
        let mut guard = self.write(key);
        let shard = &mut *guard;
        let Some(slot) = shard.slots.get_mut(key) else {
            return;
        };
        slot.stored = None;
        if slot.chain.is_forgotten() {
            self.remove(shard, key);
        } else {
            slot.queued = true;
            shard.dirty.push(key.clone());
        }
    }

    fn remove(&self, shard: &mut Shard, key: &Key) {
        let Some(slot) = shard.slots.remove(key) else {
            return;
        };
        shard.removals += 1;
        self.index.write().remove(key.as_bytes());
        self.keys.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(slot.weight as i64, Ordering::Relaxed);
    }

    /// Second-chance eviction (Corbató 1968) of clean keys in one shard: what was not read
    /// since the last visit leaves.
    pub(crate) fn evict(&self, shard: usize, budget_bytes: u64) {
        let mut guard = self.shards[shard % SHARDS].write();
        let shard = &mut *guard;
        let unused = |slot: &Slot| {
            let clean = !slot.queued
                && slot.chain.delta_count() == 0
                && slot.stored == Some(slot.chain.base_through());
            clean && !slot.used.swap(false, Ordering::Relaxed)
        };
        let keys: Vec<Key> = shard
            .slots
            .iter()
            .filter(|(_, slot)| unused(slot))
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            if self.bytes() <= budget_bytes {
                break;
            }
            self.remove(shard, &key);
        }
    }

    /// Up to `limit` keys in memory with this encoded prefix above `after`, in order.
    pub(crate) fn keys_after(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Key> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let index = self.index.read();
        index
            .range::<[u8], _>((from, Bound::Unbounded))
            .take_while(|(bytes, _)| bytes.starts_with(prefix))
            .take(limit)
            .map(|(_, key)| key.clone())
            .collect()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed).max(0) as u64
    }

    pub(crate) fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    pub(crate) fn conflicts(&self) -> u64 {
        self.conflicts.load(Ordering::Relaxed)
    }
}

fn weigh(key: &Key, chain: &Chain) -> usize {
    size_of::<Slot>() + 2 * size_of::<Key>() + key.as_bytes().len() + chain.weight_bytes()
}

/// Twice what is left, so that deltas which a pin holds are not looked at for each commit.
fn fold_at(chain: &Chain, weight: usize) -> usize {
    (2 * chain.delta_count()).max(FOLD_DELTAS + weight / FOLD_BYTES)
}
