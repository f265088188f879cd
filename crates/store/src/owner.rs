//! The one who changes a shard's table: the shard's thread.
//!
//! It adds deltas, folds them once nobody can read below them, packs what rests, notes what the
//! durable tier does not have, and evicts.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidemill_lattice::{Cell, Key, Time};

use crate::chain::Chain;
use crate::engine::{Stored, encode_stored};
use crate::entry::{Entry, Flags, Versions};
use crate::packed::Packed;
use crate::record::Entries;
use crate::rewritten::Rewritten;
use crate::table::{Place, Ticket, View, hash_of};
use crate::writing::Seen;

/// A large key is folded when it has so many deltas, and more the larger it is, since folding
/// touches all of it: one for so many bytes.
const FOLD_DELTAS: usize = 16;
const FOLD_BYTES: usize = 2048;
/// Places in which an owner remembers when a key was last removed.
const REMOVED_PLACES: usize = 4096;
/// Of the keys in memory, one in so many may be young once memory is full.
const YOUNG_PART: usize = 10;
/// Uses that prove a key: one may be by chance, as in a scan.
const PROVEN: u8 = 2;
/// Keys that one round of eviction looks at.
const EVICT_LOOKS: usize = 256;

/// What a checkpoint has to do for one key.
pub(crate) enum Fold {
    /// Nothing new.
    Clean,
    /// The value to store: the base, and the time that it is complete through.
    Store(Key, Vec<u8>, Time),
    /// Nothing is left of the key. `stored` tells whether the durable tier has it.
    Forget { key: Key, stored: bool },
}

/// The one who may change a shard's table.
pub(crate) struct Owner {
    view: Arc<View>,
    /// Keys with changes that the durable tier does not have.
    dirty: Vec<Place>,
    /// Keys with deltas, and the time of the first: about in order.
    unfolded: VecDeque<(Time, Place)>,
    /// The keys that came to memory and were not found used again yet, the oldest first.
    young: VecDeque<Place>,
    /// Those that were, in the order in which eviction looks at them.
    proven: VecDeque<Place>,
    /// The number of the last removal of a key, by the key's hash. A key that shares its place is
    /// loaded once more than it had to be.
    removed: Box<[u64]>,
    scratch: Vec<u8>,
}

/// A key's versions in the owner's hands.
pub(crate) struct Held<'a> {
    entry: &'a mut Entry,
    added_bytes: isize,
    scratch: &'a mut Vec<u8>,
}

impl Owner {
    /// The owner of a new table.
    pub(crate) fn new(view: Arc<View>) -> Owner {
        Owner {
            view,
            dirty: Vec::new(),
            unfolded: VecDeque::new(),
            young: VecDeque::new(),
            proven: VecDeque::new(),
            removed: vec![0; REMOVED_PLACES].into_boxed_slice(),
            scratch: Vec::new(),
        }
    }

    pub(crate) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Where a key is, if it is in memory.
    pub(crate) fn place(&self, key: &Key) -> Option<Place> {
        self.view.place(key)
    }

    /// Whether a key that was loaded after `ticket` was given may still be added: it has not
    /// been here and gone meanwhile.
    pub(crate) fn is_current(&self, key: &Key, ticket: Ticket) -> bool {
        self.removed[place_of(key)] <= ticket.0
    }

    /// Adds a key that a reader loaded, unless it is here by now or may have been and gone.
    pub(crate) fn offer(&mut self, key: Key, cell: Arc<Cell>, through: Time, ticket: Ticket) {
        if let Some(place) = self.place(&key) {
            self.view.entry(place, |entry| entry.touch());
        } else if self.is_current(&key, ticket) {
            self.add(key, Some((cell, through)));
        }
    }

    /// Adds a key that is not here.
    pub(crate) fn admit(&mut self, key: Key, stored: Option<Stored>) -> Place {
        let stored = stored.map(|stored| (Arc::new(stored.cell), stored.through));
        self.add(key, stored)
    }

    fn add(&mut self, key: Key, stored: Option<(Arc<Cell>, Time)>) -> Place {
        let is_stored = stored.is_some();
        if !is_stored {
            self.view.unstored.write().insert(key.clone());
        }
        let mut entry = match stored {
            Some((cell, through)) => self.entry_of(key, cell, through),
            None => Entry::new(key, Versions::Chain(Box::default()), Time::ZERO),
        };
        entry.flags.set(Flags::STORED, is_stored);
        entry.flags.set(Flags::CURRENT, is_stored);
        let place = self.view.insert(entry);
        let is_new = self
            .view
            .entry(place, |entry| entry.flags.set(Flags::IN_RING, true));
        if is_new == Some(true) {
            self.young.push_back(place);
        }
        place
    }

    fn entry_of(&mut self, key: Key, cell: Arc<Cell>, through: Time) -> Entry {
        let packed = if cell.is_bottom() {
            None
        } else {
            Packed::of(&cell, &mut self.scratch)
        };
        let versions = match packed {
            Some(packed) => Versions::Packed(packed),
            None => Versions::Chain(Box::new(Chain::new(cell, through))),
        };
        Entry::new(key, versions, through)
    }

    /// Shows `change` the versions at a place. If it adds a delta, the key is noted for folding
    /// and for the next checkpoint. For eviction the key is in use then, if it `was_here` before.
    pub(crate) fn with<T>(
        &mut self,
        place: Place,
        was_here: bool,
        change: impl FnOnce(&mut Held<'_>) -> T,
    ) -> Option<T> {
        let Owner {
            view,
            dirty,
            unfolded,
            scratch,
            ..
        } = self;
        view.entry(place, |entry| {
            if was_here {
                entry.touch();
            }
            let was_chain = matches!(entry.versions, Versions::Chain(_));
            let mut held = Held {
                entry,
                added_bytes: 0,
                scratch,
            };
            let outcome = change(&mut held);
            let Held {
                entry, added_bytes, ..
            } = held;
            if !was_chain {
                view.weigh_again(entry);
            } else {
                let weight = entry.weight_bytes.saturating_add_signed(added_bytes as i32);
                view.weigh(entry.weight_bytes, weight);
                entry.weight_bytes = weight;
            }
            if matches!(entry.versions, Versions::Chain(_) | Versions::Rewritten(_))
                && entry.flags.set(Flags::UNFOLDED, true)
            {
                // What was only looked at is packed again.
                let first = entry.first_delta().unwrap_or(Time::ZERO);
                unfolded.push_back((first, place));
            }
            if entry.delta_count() > 0 && entry.flags.set(Flags::QUEUED, true) {
                view.dirty.fetch_add(1, Ordering::Relaxed);
                dirty.push(place);
            }
            outcome
        })
    }

    /// Writes what is open at a place to the log's entries.
    pub(crate) fn close(&mut self, place: Place, entries: &mut Entries) {
        self.view.entry(place, |entry| {
            let Entry { key, versions, .. } = entry;
            match versions {
                Versions::Chain(chain) => chain.close(|time, snapshot, cell| {
                    entries.write(time, snapshot, key, cell);
                }),
                Versions::Rewritten(rewritten) => rewritten.close(key, entries),
                Versions::Packed(_) | Versions::Vacant => {}
            }
        });
    }

    /// Folds what nobody reads any more below `low_water`, and packs what rests then.
    pub(crate) fn settle(&mut self, low_water: Time) {
        while let Some((_, place)) = self.unfolded.pop_front_if(|(time, _)| *time <= low_water) {
            let Owner { view, scratch, .. } = self;
            let rest = view.entry(place, |entry| {
                entry.flags.set(Flags::UNFOLDED, false);
                if entry.settle(low_water) {
                    entry.flags.set(Flags::CURRENT, false);
                    view.weigh_again(entry);
                    return None;
                }
                if let Versions::Rewritten(rewritten) = &entry.versions {
                    entry.flags.set(Flags::UNFOLDED, true);
                    return Some(rewritten.time());
                }
                let Versions::Chain(chain) = &mut entry.versions else {
                    return None;
                };
                let first = chain.first_delta();
                let is_due = first.is_some_and(|first| first <= low_water)
                    && chain.delta_count() >= fold_at(entry.weight_bytes);
                if is_due {
                    let dropped = chain.fold(low_water);
                    view.conflicts.fetch_add(dropped, Ordering::Relaxed);
                    entry.flags.set(Flags::CURRENT, false);
                }
                let first = chain.first_delta();
                if first.is_none() && !entry.flags.has(Flags::HOT) {
                    entry.pack(scratch);
                }
                if is_due || first.is_none() {
                    view.weigh_again(entry);
                }
                // A large key waits for more.
                let is_listed = first.is_some_and(|first| first > low_water);
                entry.flags.set(Flags::UNFOLDED, is_listed);
                first.filter(|_| is_listed)
            });
            if let Some(first) = rest.flatten() {
                self.unfolded.push_back((first, place));
            }
        }
    }

    /// Puts a key on the list for a checkpoint that is under way, because its content has
    /// expired by `target`, if it was not on a list yet. Answers its place then.
    pub(crate) fn queue_expired(&mut self, key: &Key, target: Time) -> Option<Place> {
        let place = self.place(key)?;
        let is_queued = self.view.entry(place, |entry| {
            let is_expired = entry.delta_count() == 0
                && match &entry.versions {
                    Versions::Packed(packed) => packed.cell().is_empty_at(target),
                    Versions::Chain(chain) => chain.base().is_empty_at(target),
                    Versions::Rewritten(_) | Versions::Vacant => false,
                };
            is_expired && entry.flags.set(Flags::QUEUED, true)
        });
        if is_queued != Some(true) {
            return None;
        }
        self.view.dirty.fetch_add(1, Ordering::Relaxed);
        Some(place)
    }

    /// Takes the list of keys with unstored changes.
    pub(crate) fn take_dirty(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.dirty)
    }

    /// Folds a key through `target` and tells what the durable tier needs.
    pub(crate) fn fold(&mut self, place: Place, target: Time) -> Fold {
        let Owner { view, scratch, .. } = self;
        let folded = view.entry(place, |entry| {
            if entry.settle(target) {
                entry.flags.set(Flags::CURRENT, false);
                view.weigh_again(entry);
            }
            if let Versions::Packed(packed) = &entry.versions {
                let is_plain = packed.glance().is_some();
                if is_plain || entry.through > target {
                    return stored_form(entry, scratch);
                }
            }
            // What expires is seen only by folding.
            let chain = entry.chain();
            let first = chain.first_delta();
            if first.is_none_or(|first| first <= target) && chain.base_through() < target {
                let dropped = chain.fold(target);
                view.conflicts.fetch_add(dropped, Ordering::Relaxed);
                entry.flags.set(Flags::CURRENT, false);
            }
            let through = entry.base_through();
            // A base folded past the target waits for the next checkpoint: after a crash, the
            // records above the target would be replayed without what is forgotten here.
            if entry.is_forgotten() && through <= target {
                let stored = entry.flags.has(Flags::STORED);
                // Should it be written again before the durable tier has forgotten it, only
                // memory has it then.
                view.unstored.write().insert(entry.key.clone());
                let key = entry.key.clone();
                view.weigh_again(entry);
                return Fold::Forget { key, stored };
            }
            if !entry.flags.has(Flags::HOT) {
                entry.pack(scratch);
            }
            view.weigh_again(entry);
            stored_form(entry, scratch)
        });
        folded.unwrap_or(Fold::Clean)
    }

    /// Records that the durable tier has the base through `through` (`None`: what it had
    /// before), and keeps the key on the list if it has newer deltas.
    pub(crate) fn stored(&mut self, place: Place, through: Option<Time>) {
        let Owner { view, dirty, .. } = self;
        view.entry(place, |entry| {
            if let Some(through) = through {
                entry.flags.set(Flags::STORED, true);
                let is_current = entry.base_through() == through;
                entry.flags.set(Flags::CURRENT, is_current);
                view.unstored.write().remove(entry.key.as_bytes());
            }
            let is_behind = !entry.flags.has(Flags::CURRENT) && !is_blank(entry);
            let is_queued = entry.delta_count() > 0 || entry.is_forgotten() || is_behind;
            let has_changed = entry.flags.set(Flags::QUEUED, is_queued);
            if is_queued {
                dirty.push(place);
            }
            match (has_changed, is_queued) {
                (true, true) => view.dirty.fetch_add(1, Ordering::Relaxed),
                (true, false) => view.dirty.fetch_sub(1, Ordering::Relaxed),
                _ => 0,
            };
        });
    }

    /// Removes a key of which nothing is left, after the durable tier has forgotten it too.
    /// A key written again since stays.
    pub(crate) fn forget(&mut self, key: &Key) {
        let Some(place) = self.place(key) else {
            return;
        };
        let Owner { view, dirty, .. } = self;
        let is_gone = view.entry(place, |entry| {
            entry.flags.set(Flags::STORED, false);
            entry.flags.set(Flags::CURRENT, false);
            if entry.is_forgotten() {
                let was_queued = entry.flags.set(Flags::QUEUED, false);
                view.dirty.fetch_sub(was_queued.into(), Ordering::Relaxed);
                return true;
            }
            if entry.flags.set(Flags::QUEUED, true) {
                view.dirty.fetch_add(1, Ordering::Relaxed);
            }
            dirty.push(place);
            false
        });
        if is_gone == Some(true) {
            self.remove(place, key);
            self.view.unstored.write().remove(key.as_bytes());
        }
    }

    fn remove(&mut self, place: Place, key: &Key) {
        let number = self.view.remove(place);
        self.removed[place_of(key)] = number;
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
            let Some(place) = next else { break };
            let found = self.view.slot(place, |entry| look_over(entry, is_young));
            match found.unwrap_or(Found::Gone) {
                Found::Gone => {}
                Found::Used => self.proven.push_back(place),
                Found::Dirty if is_young => self.young.push_back(place),
                Found::Dirty => self.proven.push_back(place),
                Found::Unused(key) => {
                    self.remove(place, &key);
                    evicted += 1;
                }
            }
        }
        evicted
    }
}

/// What eviction finds of a key.
enum Found {
    Gone,
    /// In use.
    Used,
    /// Not used, and the durable tier does not have it.
    Dirty,
    Unused(Key),
}

fn look_over(entry: &mut Entry, is_young: bool) -> Found {
    if matches!(entry.versions, Versions::Vacant) {
        entry.flags.set(Flags::IN_RING, false);
        return Found::Gone;
    }
    let used = entry.used();
    if is_young && used >= PROVEN {
        return Found::Used;
    }
    if !is_young && used > 0 {
        entry.used.store(used - 1, Ordering::Relaxed);
        return Found::Used;
    }
    let is_clean = !entry.flags.has(Flags::QUEUED)
        && entry.delta_count() == 0
        && entry.flags.has(Flags::CURRENT);
    if !is_clean {
        return Found::Dirty;
    }
    entry.flags.set(Flags::IN_RING, false);
    Found::Unused(entry.key.clone())
}

/// What is to be stored of an entry.
fn stored_form(entry: &Entry, scratch: &mut Vec<u8>) -> Fold {
    if entry.flags.has(Flags::CURRENT) || is_blank(entry) {
        return Fold::Clean;
    }
    let through = entry.base_through();
    let value = match &entry.versions {
        // A rewritten key is a chain or packed before it comes here.
        Versions::Rewritten(_) | Versions::Vacant => return Fold::Clean,
        Versions::Chain(chain) => encode_stored(through, chain.base()),
        Versions::Packed(packed) => {
            scratch.clear();
            scratch.extend_from_slice(&through.as_u64().to_be_bytes());
            scratch.extend_from_slice(packed.as_bytes());
            scratch.as_slice().to_vec()
        }
    };
    Fold::Store(entry.key.clone(), value, through)
}

/// Whether there is no base, neither here nor in the durable tier.
fn is_blank(entry: &Entry) -> bool {
    let is_bottom = match &entry.versions {
        Versions::Chain(chain) => chain.has_no_base(),
        Versions::Packed(_) | Versions::Rewritten(_) | Versions::Vacant => false,
    };
    is_bottom && !entry.flags.has(Flags::STORED)
}

impl Held<'_> {
    /// What the key holds, to decide by. It is unpacked to `unpacked`, if that is asked for.
    pub(crate) fn seen<'s>(&'s self, unpacked: &'s OnceCell<Cell>) -> Seen<'s> {
        match &self.entry.versions {
            Versions::Vacant => Seen::nothing(),
            Versions::Packed(packed) => Seen::packed(packed, unpacked),
            Versions::Rewritten(rewritten) => Seen::rewritten(rewritten, unpacked),
            Versions::Chain(chain) => Seen::chain(chain),
        }
    }

    /// Adds the delta of the commit at `time`, made at `snapshot`.
    pub(crate) fn push(&mut self, delta: Cell, time: Time, snapshot: Time) {
        self.added_bytes += self.entry.chain().push(time, snapshot, delta);
    }

    /// The next dot of what is open at this time, if anything is.
    pub(crate) fn open_at(&self, time: Time) -> Option<u32> {
        match &self.entry.versions {
            Versions::Chain(chain) => chain.open_at(time),
            Versions::Rewritten(rewritten) if rewritten.time() == time => rewritten.open,
            Versions::Packed(_) | Versions::Rewritten(_) | Versions::Vacant => None,
        }
    }

    /// Opens a delta that is closed at the turn's end, or adds to the one that is open.
    pub(crate) fn write(&mut self, delta: Cell, time: Time, snapshot: Time, dots: u32) {
        if self.rewrite(&delta, time, snapshot, dots) {
            return;
        }
        if self.open_at(time).is_some() {
            self.added_bytes += self.entry.chain().amend(&delta, dots) as isize;
        } else {
            self.added_bytes += self.entry.chain().open(time, snapshot, delta, dots);
        }
    }
}

impl Held<'_> {
    /// Writes over a packed key or adds to it, or to one that was packed before this turn, where
    /// that is what the delta does. Tells whether it did.
    fn rewrite(&mut self, delta: &Cell, time: Time, snapshot: Time, dots: u32) -> bool {
        let Held { entry, scratch, .. } = self;
        match &mut entry.versions {
            Versions::Packed(before) if entry.through < time => {
                let rewritten = Rewritten::new(before, delta, time, snapshot, dots, scratch);
                let is_done = rewritten.is_some();
                if let Some(rewritten) = rewritten {
                    entry.versions = Versions::Rewritten(Box::new(rewritten));
                }
                is_done
            }
            Versions::Rewritten(rewritten)
                if rewritten.time() == time && rewritten.open.is_some() =>
            {
                rewritten.again(delta, dots, scratch)
            }
            _ => false,
        }
    }
}

/// Where an owner remembers a key's removal. Its shard follows from the high bits of the hash's
/// low twelve, so others are taken here.
fn place_of(key: &Key) -> usize {
    (hash_of(key) >> 32) as usize % REMOVED_PLACES
}

/// With so many deltas a key is folded.
fn fold_at(weight_bytes: u32) -> usize {
    let weight_bytes = weight_bytes as usize;
    if weight_bytes <= FOLD_BYTES {
        1
    } else {
        FOLD_DELTAS + weight_bytes / FOLD_BYTES
    }
}
