//! The versions of one shard's keys in memory.
//!
//! A [`View`] is for everybody: it finds a key without a lock on the table. An [`Owner`] is the
//! one who changes it, the shard's thread. What the two share of one key is a latch over its
//! chain, held for the moment of one look or one change: values change in place, since copying
//! a large one for each of its writes would cost more than the readers' moment.
//!
//! It knows chains and keys, not the engine: whoever misses a key here loads it and offers it.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};
use tidemill_lattice::{Cell, Key, Time};
use xxhash_rust::xxh3::xxh3_64;

use crate::chain::Chain;
use crate::engine::Stored;
use crate::meter::ShardMeter;

/// So many deltas on one key are folded at the next commit, if no pin forbids it; more on a
/// large key, since folding touches all of it: one for so many bytes.
const FOLD_DELTAS: usize = 16;
const FOLD_BYTES: usize = 2048;
/// Uses that are counted: a key in use outlasts so many rounds of eviction.
const USED_MAX: u8 = 3;
/// Uses that prove a key: one may be by chance, as in a scan.
const PROVEN: u8 = 2;
/// Places in which an owner remembers when a key was last removed.
const REMOVED_PLACES: usize = 4096;
/// Of the keys in memory, one in so many may be young once memory is full.
const YOUNG_PART: usize = 10;
/// Keys that one round of eviction looks at.
const EVICT_LOOKS: usize = 256;

/// One shard's keys, to read.
#[derive(Default)]
pub(crate) struct View {
    slots: papaya::HashMap<Key, Slot, RandomState>,
    /// The keys that the durable tier does not have, ordered, for scans.
    unstored: RwLock<BTreeSet<Key>>,
    /// Counts removals, so that a reader does not bring back what it loaded before one. Raised
    /// before the key goes.
    removals: AtomicU64,
    bytes: AtomicU64,
    keys: AtomicU64,
    conflicts: AtomicU64,
    dirty: AtomicU64,
    meter: Arc<ShardMeter>,
}

struct Slot {
    versions: Mutex<Versions>,
    /// How often it was read or written since eviction last came by, up to [`USED_MAX`].
    used: AtomicU8,
}

struct Versions {
    chain: Chain,
    /// Whether the key is in the shard's `dirty` list, or in a checkpoint's.
    queued: bool,
    /// The durable tier holds the base as of this time; `None` if it holds nothing.
    stored: Option<Time>,
    weight: usize,
    /// Fold when there are so many deltas.
    fold_at: usize,
}

/// What a look-up found.
pub(crate) enum Found {
    Here(Option<Arc<Cell>>),
    /// It was folded past the time asked for.
    Folded,
    /// Not in memory; pass the ticket to [`Owner::offer`].
    Cold(Ticket),
}

/// When a key was found missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// What the durable tier had of a missing key.
pub(crate) struct Loaded {
    pub(crate) ticket: Ticket,
    pub(crate) stored: Option<Stored>,
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

impl View {
    /// The cell of a key as of `at`, if the key is in memory.
    pub(crate) fn get(&self, key: &Key, at: Time) -> Found {
        let removals = self.removals.load(Ordering::Acquire);
        let slots = self.slots.pin();
        match slots.get(key) {
            Some(slot) => {
                slot.touch();
                let versions = slot.versions.lock();
                if versions.chain.base_through() > at {
                    return Found::Folded;
                }
                Found::Here(versions.chain.at(at))
            }
            None => Found::Cold(Ticket(removals)),
        }
    }

    /// `None` if the key is in memory.
    pub(crate) fn missing(&self, key: &Key) -> Option<Ticket> {
        let removals = self.removals.load(Ordering::Acquire);
        (!self.slots.pin().contains_key(key)).then_some(Ticket(removals))
    }

    /// Up to `limit` keys that only memory has, with this encoded prefix, above `after`, in order.
    pub(crate) fn unstored_after(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Vec<Key> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let unstored = self.unstored.read();
        unstored
            .range::<[u8], _>((from, Bound::Unbounded))
            .take_while(|key| key.as_bytes().starts_with(prefix))
            .take(limit)
            .cloned()
            .collect()
    }

    /// Approximate heap size of the versions.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    pub(crate) fn conflicts(&self) -> u64 {
        self.conflicts.load(Ordering::Relaxed)
    }

    /// Keys whose newest value the durable tier does not have.
    pub(crate) fn dirty(&self) -> u64 {
        self.dirty.load(Ordering::Relaxed)
    }

    /// What is counted of the shard.
    pub(crate) fn meter(&self) -> &Arc<ShardMeter> {
        &self.meter
    }

    /// Only the owner calls it, so reading and writing need not be one step.
    fn weigh(&self, before: usize, after: usize) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let bytes = (bytes + after as u64).saturating_sub(before as u64);
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

impl Slot {
    fn touch(&self) {
        let used = self.used.load(Ordering::Relaxed);
        // Most reads of a hot key find it full: then its line is not written. Of two at once one
        // may go uncounted.
        if used < USED_MAX {
            self.used.store(used + 1, Ordering::Relaxed);
        }
    }
}

/// The one who may change a shard's table.
pub(crate) struct Owner {
    view: Arc<View>,
    /// Keys with changes that the durable tier does not have.
    dirty: Vec<Key>,
    /// The keys that came to memory and were not found used again yet, the oldest first.
    young: VecDeque<Key>,
    /// Those that were, in the order in which eviction looks at them.
    proven: VecDeque<Key>,
    /// The number of the last removal of a key, by the key's hash. A key that shares its place is
    /// loaded once more than it had to be.
    removed: Box<[u64]>,
}

/// A key's versions in the owner's hands.
pub(crate) struct Held<'a> {
    view: &'a View,
    versions: parking_lot::MutexGuard<'a, Versions>,
}

impl Owner {
    /// The owner of a new table.
    pub(crate) fn new(view: Arc<View>) -> Owner {
        Owner {
            view,
            dirty: Vec::new(),
            young: VecDeque::new(),
            proven: VecDeque::new(),
            removed: vec![0; REMOVED_PLACES].into_boxed_slice(),
        }
    }

    pub(crate) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Whether a key that was loaded after `ticket` was given may still be added: it has not
    /// been here and gone meanwhile.
    pub(crate) fn is_current(&self, key: &Key, ticket: Ticket) -> bool {
        self.removed[place_of(key)] <= ticket.0
    }

    /// Adds a key that a reader loaded, unless it is here by now or may have been and gone.
    pub(crate) fn offer(&mut self, key: &Key, cell: Arc<Cell>, through: Time, ticket: Ticket) {
        if let Some(slot) = self.view.slots.pin().get(key) {
            return slot.touch();
        }
        if self.is_current(key, ticket) {
            self.add(key, Some((cell, through)));
        }
    }

    fn remove(&mut self, key: &Key, weight: usize) {
        let number = self.view.remove(key, weight);
        self.removed[place_of(key)] = number;
    }

    /// Adds a key that is not here.
    pub(crate) fn admit(&mut self, key: &Key, stored: Option<Stored>) {
        self.add(
            key,
            stored.map(|stored| (Arc::new(stored.cell), stored.through)),
        );
    }

    fn add(&mut self, key: &Key, stored: Option<(Arc<Cell>, Time)>) {
        let through = stored.as_ref().map(|(_, through)| *through);
        let chain = stored.map_or_else(Chain::default, |(cell, through)| Chain::new(cell, through));
        let weight = weigh(key, &chain);
        let versions = Versions {
            chain,
            queued: false,
            stored: through,
            fold_at: FOLD_DELTAS + weight / FOLD_BYTES,
            weight,
        };
        if through.is_none() {
            self.view.unstored.write().insert(key.clone());
        }
        let slot = Slot {
            versions: Mutex::new(versions),
            // What is read or written once need not stay.
            used: AtomicU8::new(0),
        };
        self.view.slots.pin().insert(key.clone(), slot);
        self.young.push_back(key.clone());
        self.view.keys.fetch_add(1, Ordering::Relaxed);
        self.view.weigh(0, weight);
    }

    /// Whether the key is in memory.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.view.slots.pin().contains_key(key)
    }

    /// Shows `change` a key's versions, if the key is here. If it adds a delta, the key is noted
    /// for the next checkpoint. For eviction the key is in use then, if it `was_here` before.
    pub(crate) fn with<T>(
        &mut self,
        key: &Key,
        was_here: bool,
        change: impl FnOnce(&mut Held<'_>) -> T,
    ) -> Option<T> {
        let slots = self.view.slots.pin();
        let slot = slots.get(key)?;
        if was_here {
            slot.touch();
        }
        let mut held = Held {
            view: &self.view,
            versions: slot.versions.lock(),
        };
        let outcome = change(&mut held);
        let versions = &mut *held.versions;
        if !versions.queued && versions.chain.delta_count() > 0 {
            versions.queued = true;
            self.view.dirty.fetch_add(1, Ordering::Relaxed);
            self.dirty.push(key.clone());
        }
        Some(outcome)
    }

    /// Puts a key on the list for a checkpoint that is under way, because its content has
    /// expired by `target`. Tells whether it was not on a list yet.
    pub(crate) fn queue_expired(&mut self, key: &Key, target: Time) -> bool {
        let slots = self.view.slots.pin();
        let Some(slot) = slots.get(key) else {
            return false;
        };
        let mut versions = slot.versions.lock();
        let chain = &versions.chain;
        let expired = chain.delta_count() == 0 && chain.base().is_empty_at(target);
        let fresh = expired && !versions.queued;
        versions.queued |= fresh;
        self.view.dirty.fetch_add(fresh.into(), Ordering::Relaxed);
        fresh
    }

    /// Takes the list of keys with unstored changes.
    pub(crate) fn take_dirty(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.dirty)
    }

    /// Folds a key through `target` and tells what the durable tier needs.
    pub(crate) fn fold(&mut self, key: &Key, target: Time) -> Fold {
        let slots = self.view.slots.pin();
        let Some(slot) = slots.get(key) else {
            return Fold::Clean;
        };
        let mut held = Held {
            view: &self.view,
            versions: slot.versions.lock(),
        };
        let first = held.versions.chain.first_delta();
        if first.is_none_or(|first| first <= target) {
            held.fold(key, target);
        }
        let versions = &*held.versions;
        let through = versions.chain.base_through();
        // A base folded past the target waits for the next checkpoint: after a crash, the
        // records above the target would be replayed without what is forgotten here.
        if versions.chain.is_forgotten() && through <= target {
            let stored = versions.stored.is_some();
            // Should it be written again before the durable tier has forgotten it, only memory
            // has it then.
            self.view.unstored.write().insert(key.clone());
            return Fold::Forget { stored };
        }
        let unwritten = versions.stored.is_none() && versions.chain.base().is_bottom();
        if unwritten || versions.stored == Some(through) {
            return Fold::Clean;
        }
        Fold::Store(Arc::clone(versions.chain.base()), through)
    }

    /// Records that the durable tier has the key's base through `through` (`None`: what it had
    /// before), and keeps the key on the list if it has newer deltas.
    pub(crate) fn stored(&mut self, key: &Key, through: Option<Time>) {
        let slots = self.view.slots.pin();
        let Some(slot) = slots.get(key) else {
            return;
        };
        let mut versions = slot.versions.lock();
        if through.is_some() {
            versions.stored = through;
            self.view.unstored.write().remove(key.as_bytes());
        }
        let was_queued = versions.queued;
        versions.queued = versions.chain.delta_count() > 0 || versions.chain.is_forgotten();
        if versions.queued {
            self.dirty.push(key.clone());
        }
        match (was_queued, versions.queued) {
            (true, false) => self.view.dirty.fetch_sub(1, Ordering::Relaxed),
            (false, true) => self.view.dirty.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    /// Removes a key of which nothing is left, after the durable tier has forgotten it too.
    /// A key written again since stays.
    pub(crate) fn forget(&mut self, key: &Key) {
        let slots = self.view.slots.pin();
        let Some(slot) = slots.get(key) else {
            return;
        };
        let mut versions = slot.versions.lock();
        versions.stored = None;
        if versions.chain.is_forgotten() {
            let weight = versions.weight;
            let was_queued = versions.queued;
            drop(versions);
            drop(slots);
            self.remove(key, weight);
            self.view.unstored.write().remove(key.as_bytes());
            self.view
                .dirty
                .fetch_sub(was_queued.into(), Ordering::Relaxed);
        } else {
            let is_fresh = !std::mem::replace(&mut versions.queued, true);
            drop(versions);
            self.view
                .dirty
                .fetch_add(is_fresh.into(), Ordering::Relaxed);
            self.dirty.push(key.clone());
        }
    }

    /// Evicts clean keys, some at a time, as S3-FIFO does (Yang et al. 2023): what is new and not
    /// used again leaves soon, so that keys which are read once push out each other; what was
    /// used again stays for as many rounds as it was used. Answers how many left.
    pub(crate) fn evict(&mut self, budget_bytes: u64) -> u64 {
        let mut evicted = 0;
        for _ in 0..EVICT_LOOKS.min(self.young.len() + self.proven.len()) {
            if self.view.bytes() <= budget_bytes {
                break;
            }
            let all = self.young.len() + self.proven.len();
            let is_young = self.young.len() * YOUNG_PART > all || self.proven.is_empty();
            let next = if is_young {
                self.young.pop_front()
            } else {
                self.proven.pop_front()
            };
            let Some(key) = next else { break };
            match self.view.look_over(&key, is_young) {
                Look::Gone => {}
                Look::Used => self.proven.push_back(key),
                Look::Dirty if is_young => self.young.push_back(key),
                Look::Dirty => self.proven.push_back(key),
                Look::Unused(weight) => {
                    self.remove(&key, weight);
                    evicted += 1;
                }
            }
        }
        evicted
    }
}

/// What eviction finds of a key.
enum Look {
    Gone,
    /// In use.
    Used,
    /// Not used, and the durable tier does not have it.
    Dirty,
    Unused(usize),
}

impl View {
    fn look_over(&self, key: &Key, is_young: bool) -> Look {
        let slots = self.slots.pin();
        let Some(slot) = slots.get(key) else {
            return Look::Gone;
        };
        let used = slot.used.load(Ordering::Relaxed);
        if is_young && used >= PROVEN {
            return Look::Used;
        }
        if !is_young && used > 0 {
            slot.used.store(used - 1, Ordering::Relaxed);
            return Look::Used;
        }
        let versions = slot.versions.lock();
        let is_clean = !versions.queued
            && versions.chain.delta_count() == 0
            && versions.stored == Some(versions.chain.base_through());
        if is_clean {
            Look::Unused(versions.weight)
        } else {
            Look::Dirty
        }
    }
}

impl View {
    /// Answers the number of the removal.
    fn remove(&self, key: &Key, weight: usize) -> u64 {
        let number = self.removals.fetch_add(1, Ordering::Release) + 1;
        self.slots.pin().remove(key);
        self.keys.fetch_sub(1, Ordering::Relaxed);
        self.weigh(weight, 0);
        number
    }
}

impl Held<'_> {
    /// The key's cell with everything applied; `None` if nothing is known of it.
    pub(crate) fn newest(&self) -> Option<&Cell> {
        self.versions.chain.newest()
    }

    /// Adds the delta of the commit at `time`, made at `snapshot`, and folds what has gathered.
    pub(crate) fn push(
        &mut self,
        key: &Key,
        delta: Cell,
        time: Time,
        snapshot: Time,
        low_water: Time,
    ) {
        let versions = &mut *self.versions;
        let added = delta.weight_bytes() + size_of::<Cell>();
        versions.chain.push(time, snapshot, delta);
        versions.weight += added;
        let is_full = versions.chain.delta_count() >= versions.fold_at;
        let first = versions.chain.first_delta();
        self.view.weigh(0, added);
        if is_full && first.is_some_and(|first| first <= low_water) {
            self.fold(key, low_water);
        }
    }

    fn fold(&mut self, key: &Key, line: Time) {
        let versions = &mut *self.versions;
        let dropped = versions.chain.fold(line);
        self.view.conflicts.fetch_add(dropped, Ordering::Relaxed);
        let weight = weigh(key, &versions.chain);
        self.view.weigh(versions.weight, weight);
        versions.fold_at = fold_at(&versions.chain, weight);
        versions.weight = weight;
    }
}

/// Where an owner remembers a key's removal. Its shard follows from the high bits of the hash's
/// low twelve, so others are taken here.
fn place_of(key: &Key) -> usize {
    (xxh3_64(key.as_bytes()) >> 32) as usize % REMOVED_PLACES
}

/// The table's entry, its place in the ring, and what it holds.
fn weigh(key: &Key, chain: &Chain) -> usize {
    size_of::<Slot>() + 2 * size_of::<Key>() + key.as_bytes().len() + chain.weight_bytes()
}

/// Twice what is left, so that deltas which a pin holds are not looked at for each commit.
fn fold_at(chain: &Chain, weight: usize) -> usize {
    (2 * chain.delta_count()).max(FOLD_DELTAS + weight / FOLD_BYTES)
}
