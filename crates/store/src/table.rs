//! One shard's keys in memory, for everybody to read.
//!
//! A [`View`] finds a key without the shard's thread: by a latch over a small part of the table,
//! held for the moment of one look or one change. Values change in place, since copying a large
//! one for each of its writes would cost more than the readers' moment. Who changes what is here
//! is the shard's thread alone, see [`Owner`](crate::owner::Owner); a reader may only unpack a
//! hot key, which changes no version.
//!
//! A key that rests is packed: key and encoded cell lie in one entry of the table. One that is
//! being written, or is hot, or large, has a chain.
//!
//! It knows chains and keys, not the engine: whoever misses a key here loads it and offers it.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashTable;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tidemill_lattice::{Cell, Glance, Key, Time};
use xxhash_rust::xxh3::xxh3_64;

use crate::chain::Chain;
use crate::engine::Stored;
use crate::entry::{Entry, Flags, Versions};
use crate::meter::ShardMeter;
use crate::packed::Packed;
use crate::slab::Slab;

/// Parts of the table that are latched apart.
const PARTS: usize = 64;
/// Keys that stay unpacked for their readers.
const HOT_MAX: usize = 4096;

/// One shard's keys, to read.
pub(crate) struct View {
    pub(crate) parts: Box<[RwLock<Part>]>,
    /// The keys that the durable tier does not have, ordered, for scans.
    pub(crate) unstored: RwLock<BTreeSet<Key>>,
    /// Keys unpacked by readers, the oldest first.
    hot: Mutex<VecDeque<Place>>,
    /// Counts removals, so that a reader does not bring back what it loaded before one. Raised
    /// before the key goes.
    pub(crate) removals: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) keys: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) dirty: AtomicU64,
    meter: Arc<ShardMeter>,
}

/// A part of the table: places by the hashes of their keys.
#[derive(Default)]
pub(crate) struct Part {
    index: HashTable<u32>,
    slab: Slab<Entry>,
}

/// Where an entry lies: its part and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32);

/// What a look-up found.
pub(crate) enum Found {
    Here(Option<Arc<Cell>>),
    /// It was folded past the time asked for.
    Folded,
    /// Not in memory; pass the ticket to [`Owner::offer`](crate::owner::Owner::offer).
    Cold(Ticket),
}

/// What a key holds, lent for the moment of a look.
pub enum Look<'a> {
    /// One of the plainest cells.
    Plain(Glance<'a>),
    /// Any cell, tombstones included; `None` if nothing was ever written or all is forgotten.
    Cell(Option<&'a Cell>),
}

/// When a key was found missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(pub(crate) u64);

/// What the durable tier had of a missing key.
pub(crate) struct Loaded {
    pub(crate) ticket: Ticket,
    pub(crate) stored: Option<Stored>,
}

fn show(packed: &Packed, see: &mut dyn FnMut(Look<'_>)) {
    match packed.glance() {
        Some(glance) => see(Look::Plain(glance)),
        None => see(Look::Cell(Some(&packed.cell()))),
    }
}

pub(crate) fn hash_of(key: &Key) -> u64 {
    xxh3_64(key.as_bytes())
}

/// Keys of one shard have the low twelve bits of their hashes in a range, so others are taken.
pub(crate) fn part_of(hash: u64) -> usize {
    (hash >> 48) as usize % PARTS
}

impl Default for View {
    fn default() -> View {
        View {
            parts: (0..PARTS).map(|_| RwLock::default()).collect(),
            unstored: RwLock::default(),
            hot: Mutex::default(),
            removals: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            dirty: AtomicU64::new(0),
            meter: Arc::default(),
        }
    }
}

impl Part {
    fn find(&self, hash: u64, key: &Key) -> Option<u32> {
        let is_it = |place: &u32| self.slab.get(*place).is_some_and(|entry| entry.key == *key);
        self.index.find(hash, is_it).copied()
    }

    /// Where a key of that hash may be.
    pub(crate) fn likely(&self, hash: u64) -> Option<u32> {
        self.index.find(hash, |_| true).copied()
    }

    pub(crate) fn entry(&self, place: u32) -> Option<&Entry> {
        self.slab.get(place)
    }

    /// Adds a key that is not here.
    fn insert(&mut self, hash: u64, entry: Entry) -> u32 {
        let place = self.slab.insert(entry, |old, new| {
            new.flags.set(Flags::IN_RING, old.flags.has(Flags::IN_RING));
        });
        let slab = &self.slab;
        let hash_at = |place: &u32| slab.get(*place).map_or(0, |entry| hash_of(&entry.key));
        self.index.insert_unique(hash, place, hash_at);
        place
    }

    fn remove(&mut self, place: u32) {
        let Some(entry) = self.slab.get_mut(place) else {
            return;
        };
        let is_in_ring = entry.flags.has(Flags::IN_RING);
        entry.flags = Flags::default();
        entry.flags.set(Flags::IN_RING, is_in_ring);
        entry.versions = Versions::Vacant;
        let hash = hash_of(&entry.key);
        if let Ok(found) = self.index.find_entry(hash, |other| *other == place) {
            found.remove();
        }
        self.slab.free(place);
    }
}

impl Place {
    fn new(part: usize, place: u32) -> Place {
        Place(place * PARTS as u32 + part as u32)
    }

    fn part(self) -> usize {
        self.0 as usize % PARTS
    }

    fn in_part(self) -> u32 {
        self.0 / PARTS as u32
    }
}

impl View {
    fn part(&self, hash: u64) -> RwLockReadGuard<'_, Part> {
        self.parts[part_of(hash)].read()
    }

    /// Where a key is, if it is in memory.
    pub(crate) fn place(&self, key: &Key) -> Option<Place> {
        let hash = hash_of(key);
        let place = self.part(hash).find(hash, key)?;
        Some(Place::new(part_of(hash), place))
    }

    /// The entry at a place, to change it. For the owner alone, as are all that follow with it.
    pub(crate) fn entry<T>(&self, place: Place, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut part: RwLockWriteGuard<'_, Part> = self.parts[place.part()].write();
        let entry = part.slab.get_mut(place.in_part())?;
        if matches!(entry.versions, Versions::Vacant) {
            return None;
        }
        Some(change(entry))
    }

    /// As [`View::entry`], for a place that may be vacant by now.
    pub(crate) fn slot<T>(&self, place: Place, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut part = self.parts[place.part()].write();
        part.slab.get_mut(place.in_part()).map(change)
    }

    /// Adds a key that is not here.
    pub(crate) fn insert(&self, entry: Entry) -> Place {
        let hash = hash_of(&entry.key);
        self.keys.fetch_add(1, Ordering::Relaxed);
        self.weigh(0, entry.weight_bytes);
        let place = self.parts[part_of(hash)].write().insert(hash, entry);
        Place::new(part_of(hash), place)
    }

    /// Answers the number of the removal.
    pub(crate) fn remove(&self, place: Place) -> u64 {
        let number = self.removals.fetch_add(1, Ordering::Release) + 1;
        let mut part = self.parts[place.part()].write();
        if let Some(entry) = part.slab.get(place.in_part()) {
            self.weigh(entry.weight_bytes, 0);
        }
        part.remove(place.in_part());
        self.keys.fetch_sub(1, Ordering::Relaxed);
        number
    }

    /// The cell of a key as of `at`, if the key is in memory.
    pub(crate) fn get(&self, key: &Key, hash: u64, at: Time) -> Found {
        let removals = self.removals.load(Ordering::Acquire);
        let part = self.part(hash);
        let Some(place) = part.find(hash, key) else {
            return Found::Cold(Ticket(removals));
        };
        let Some(entry) = part.slab.get(place) else {
            return Found::Cold(Ticket(removals));
        };
        let is_hot = entry.touch();
        match &entry.versions {
            Versions::Vacant => Found::Here(None),
            Versions::Chain(chain) if chain.base_through() > at => Found::Folded,
            Versions::Chain(chain) => Found::Here(chain.at(at)),
            Versions::Packed(_) | Versions::Rewritten(_) if entry.through > at => Found::Folded,
            Versions::Rewritten(rewritten) => {
                let packed = rewritten.at(at).clone();
                drop(part);
                Found::Here(Some(Arc::new(packed.cell())))
            }
            Versions::Packed(packed) => {
                let packed = packed.clone();
                drop(part);
                let cell = Arc::new(packed.cell());
                if is_hot {
                    self.unpack(Place::new(part_of(hash), place), key);
                }
                Found::Here(Some(cell))
            }
        }
    }

    /// Shows `see` what a key holds as of `at`, if the key is in memory. Else answers as
    /// [`View::get`].
    pub(crate) fn look(
        &self,
        key: &Key,
        hash: u64,
        at: Time,
        see: &mut dyn FnMut(Look<'_>),
    ) -> Result<(), Found> {
        let removals = self.removals.load(Ordering::Acquire);
        let part = self.part(hash);
        let place = part.find(hash, key);
        let Some(entry) = place.and_then(|place| part.slab.get(place)) else {
            return Err(Found::Cold(Ticket(removals)));
        };
        entry.touch();
        match &entry.versions {
            Versions::Vacant => see(Look::Cell(None)),
            Versions::Packed(_) | Versions::Rewritten(_) if entry.through > at => {
                return Err(Found::Folded);
            }
            Versions::Rewritten(rewritten) => show(rewritten.at(at), see),
            Versions::Packed(packed) => show(packed, see),
            Versions::Chain(chain) if chain.base_through() > at => return Err(Found::Folded),
            Versions::Chain(chain) if at == Time::MAX => see(Look::Cell(chain.newest())),
            Versions::Chain(chain) => see(Look::Cell(chain.at(at).as_deref())),
        }
        Ok(())
    }

    /// Keeps a hot key unpacked, and lets the one that has been so for longest rest again.
    #[cold]
    fn unpack(&self, place: Place, key: &Key) {
        let is_unpacked = self.entry(place, |entry| {
            // Meanwhile it may have changed, or another one may have its place.
            let Versions::Packed(packed) = &entry.versions else {
                return false;
            };
            if entry.key != *key {
                return false;
            }
            let chain = Chain::new(Arc::new(packed.cell()), entry.through);
            entry.versions = Versions::Chain(Box::new(chain));
            entry.flags.set(Flags::HOT, true);
            self.weigh_again(entry);
            true
        });
        if is_unpacked != Some(true) {
            return;
        }
        let oldest = {
            let mut hot = self.hot.lock();
            hot.push_back(place);
            let is_full = hot.len() > HOT_MAX;
            hot.pop_front_if(|_| is_full)
        };
        if let Some(oldest) = oldest {
            self.entry(oldest, |entry| {
                entry.flags.set(Flags::HOT, false);
                entry.used.store(0, Ordering::Relaxed);
                entry.pack(&mut Vec::new());
                self.weigh_again(entry);
            });
        }
    }

    /// `None` if the key is in memory.
    pub(crate) fn missing(&self, key: &Key) -> Option<Ticket> {
        let removals = self.removals.load(Ordering::Acquire);
        self.place(key).is_none().then_some(Ticket(removals))
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

    /// Approximate size of the entries and their versions.
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

    pub(crate) fn weigh(&self, before: u32, after: u32) {
        if after >= before {
            self.bytes
                .fetch_add(u64::from(after - before), Ordering::Relaxed);
        } else {
            self.bytes
                .fetch_sub(u64::from(before - after), Ordering::Relaxed);
        }
    }

    pub(crate) fn weigh_again(&self, entry: &mut Entry) {
        let weight = entry.weigh();
        self.weigh(entry.weight_bytes, weight);
        entry.weight_bytes = weight;
    }
}
