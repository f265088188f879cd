//! Snapshots in use: which times must stay readable.
//!
//! Pure but for its short lock: time is handed in. It knows times, no keys and no values.
//!
//! The invariant: the fold line never passes a live pin. A pin takes `stable` and enters the
//! list under the same lock under which the fold line is moved, so none is overlooked.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tidemill_lattice::Time;

use crate::Error;

/// The pins of one store, with its `stable` time and its fold line.
#[derive(Debug)]
pub struct Pins {
    lifetime_us: u64,
    stable: AtomicU64,
    fold_line: AtomicU64,
    list: Mutex<List>,
}

/// Pins in the order of their times and ids. It is the order taken too, but for [`Pins::hold`].
#[derive(Debug, Default)]
struct List {
    next_id: u64,
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    time: Time,
    /// When its first pin was taken, and its last one.
    since_us: u64,
    pinned_us: u64,
    count: u64,
}

impl Pins {
    /// No pins yet; `stable` is the newest complete state. A pin counts as expired
    /// `lifetime_us` microseconds after it was taken.
    #[must_use]
    pub fn new(stable: Time, lifetime_us: u64) -> Arc<Pins> {
        Arc::new(Pins {
            lifetime_us,
            stable: AtomicU64::new(stable.as_u64()),
            fold_line: AtomicU64::new(Time::ZERO.as_u64()),
            list: Mutex::default(),
        })
    }

    /// The newest complete state.
    #[must_use]
    pub fn stable(&self) -> Time {
        Time::from_u64(self.stable.load(Ordering::Acquire))
    }

    /// Raises `stable`: everything at or below it is applied. It never goes back.
    pub fn advance(&self, stable: Time) {
        let stable = stable.as_u64();
        // Mostly it is there already.
        if self.stable.load(Ordering::Acquire) < stable {
            self.stable.fetch_max(stable, Ordering::AcqRel);
        }
    }

    /// Pins `stable` at the physical time `now_us`.
    #[must_use]
    pub fn pin(self: &Arc<Self>, now_us: u64) -> Snapshot {
        let mut list = self.list.lock();
        let time = self.stable();
        let id = match list.entries.back_mut() {
            // Sharing an entry lengthens the older pin's life, so only neighbours do.
            Some(last)
                if last.time == time
                    && now_us.saturating_sub(last.since_us) <= self.lifetime_us / 64 =>
            {
                last.count += 1;
                last.pinned_us = last.pinned_us.max(now_us);
                last.id
            }
            _ => {
                let id = list.next_id;
                list.next_id += 1;
                list.entries.push_back(Entry {
                    id,
                    time,
                    since_us: now_us,
                    pinned_us: now_us,
                    count: 1,
                });
                id
            }
        };
        drop(list);
        Snapshot {
            time,
            id,
            pins: Arc::clone(self),
        }
    }

    /// Pins a time that is still readable, for a commit on its way: until its deltas are
    /// applied, nothing that it had not seen may be folded.
    ///
    /// # Errors
    /// [`Error::SnapshotExpired`] or [`Error::SnapshotAhead`] if it is not readable.
    pub fn hold(self: &Arc<Self>, time: Time, now_us: u64) -> Result<Snapshot, Error> {
        let mut list = self.list.lock();
        let stable = self.stable();
        if time > stable {
            return Err(Error::SnapshotAhead {
                snapshot: time,
                stable,
            });
        }
        let after = list.entries.partition_point(|entry| entry.time <= time);
        let same = after
            .checked_sub(1)
            .and_then(|index| list.entries.get_mut(index));
        let id = match same {
            Some(entry) if entry.time == time => {
                entry.count += 1;
                entry.id
            }
            _ => {
                self.check(time)?;
                let id = list.next_id;
                list.next_id += 1;
                let entry = Entry {
                    id,
                    time,
                    since_us: now_us,
                    pinned_us: now_us,
                    count: 1,
                };
                list.entries.insert(after, entry);
                id
            }
        };
        drop(list);
        Ok(Snapshot {
            time,
            id,
            pins: Arc::clone(self),
        })
    }

    /// Drops expired pins and moves the fold line up to the lowest live pin, or to `stable`
    /// if there is none. Everything at or below the result may be folded.
    pub fn low_water(&self, now_us: u64) -> Time {
        let mut list = self.list.lock();
        while let Some(oldest) = list.entries.front() {
            let expired = now_us.saturating_sub(oldest.pinned_us) > self.lifetime_us;
            if oldest.count > 0 && !expired {
                break;
            }
            list.entries.pop_front();
        }
        let line = list
            .entries
            .front()
            .map_or_else(|| self.stable(), |oldest| oldest.time);
        // Published under the lock and before any folding, so that a reader that finds its
        // snapshot above the line after reading has read unfolded state.
        self.fold_line.fetch_max(line.as_u64(), Ordering::SeqCst);
        line
    }

    /// The line below which state may be folded.
    #[must_use]
    pub fn fold_line(&self) -> Time {
        Time::from_u64(self.fold_line.load(Ordering::SeqCst))
    }

    /// Whether `snapshot` is still readable. To be asked after reading, not before.
    ///
    /// # Errors
    /// [`Error::SnapshotExpired`] if the fold line has passed it.
    pub fn check(&self, snapshot: Time) -> Result<(), Error> {
        let kept_from = self.fold_line();
        if snapshot < kept_from {
            return Err(Error::SnapshotExpired {
                snapshot,
                kept_from,
            });
        }
        Ok(())
    }

    /// How long ago the oldest live pin was taken, in microseconds; 0 without pins.
    #[must_use]
    pub fn oldest_age_us(&self, now_us: u64) -> u64 {
        let list = self.list.lock();
        let oldest = list.entries.iter().find(|entry| entry.count > 0);
        oldest.map_or(0, |entry| now_us.saturating_sub(entry.pinned_us))
    }

    fn entry_mut(list: &mut List, time: Time, id: u64) -> Option<&mut Entry> {
        let index = list
            .entries
            .binary_search_by_key(&(time, id), |entry| (entry.time, entry.id))
            .ok()?;
        list.entries.get_mut(index)
    }
}

/// A time whose state stays readable while this value lives (and for its lifetime at most).
#[derive(Debug)]
pub struct Snapshot {
    time: Time,
    id: u64,
    pins: Arc<Pins>,
}

impl Snapshot {
    /// The snapshot's time: commits at or below it are visible, others are not.
    #[must_use]
    pub fn time(&self) -> Time {
        self.time
    }
}

impl Clone for Snapshot {
    fn clone(&self) -> Snapshot {
        let mut list = self.pins.list.lock();
        // An expired pin has no entry any more: its copies are as expired as it is.
        if let Some(entry) = Pins::entry_mut(&mut list, self.time, self.id) {
            entry.count += 1;
        }
        Snapshot {
            time: self.time,
            id: self.id,
            pins: Arc::clone(&self.pins),
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let mut list = self.pins.list.lock();
        let Some(entry) = Pins::entry_mut(&mut list, self.time, self.id) else {
            return;
        };
        entry.count = entry.count.saturating_sub(1);
        while list.entries.front().is_some_and(|oldest| oldest.count == 0) {
            list.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Time {
        Time::from_micros(micros)
    }

    #[test]
    fn low_water_is_the_oldest_live_pin_or_stable() {
        let pins = Pins::new(at(10), 100);
        assert_eq!(pins.low_water(0), at(10));
        let first = pins.pin(0);
        pins.advance(at(20));
        let second = pins.pin(0);
        let third = pins.pin(0);
        pins.advance(at(30));
        assert_eq!((first.time(), second.time()), (at(10), at(20)));
        assert_eq!(pins.low_water(0), at(10));
        drop(first);
        assert_eq!(pins.low_water(0), at(20));
        drop(second);
        assert_eq!(
            pins.low_water(0),
            at(20),
            "a second pin of the same time holds it"
        );
        drop(third);
        assert_eq!(pins.low_water(0), at(30));
    }

    #[test]
    fn a_pin_dropped_out_of_order_does_not_hold_the_line() {
        let pins = Pins::new(at(10), 100);
        let first = pins.pin(0);
        pins.advance(at(20));
        let second = pins.pin(0);
        pins.advance(at(30));
        let third = pins.pin(0);
        drop(second);
        drop(first);
        assert_eq!(pins.low_water(0), at(30));
        assert_eq!(pins.check(third.time()), Ok(()));
    }

    #[test]
    fn an_expired_pin_lets_the_line_pass_and_its_reads_fail() {
        let pins = Pins::new(at(10), 100);
        let old = pins.pin(0);
        pins.advance(at(20));
        let young = pins.pin(50);
        pins.advance(at(30));
        assert_eq!(pins.low_water(100), at(10));
        assert_eq!(pins.low_water(101), at(20));
        assert!(matches!(
            pins.check(old.time()),
            Err(Error::SnapshotExpired { .. })
        ));
        assert_eq!(pins.check(young.time()), Ok(()));
    }

    #[test]
    fn dropping_an_expired_pin_does_not_release_a_newer_one_of_its_time() {
        let pins = Pins::new(at(10), 100);
        let old = pins.pin(0);
        assert_eq!(pins.low_water(500), at(10));
        let new = pins.pin(500);
        pins.advance(at(20));
        drop(old.clone());
        drop(old);
        assert_eq!(pins.low_water(500), at(10));
        drop(new);
        assert_eq!(pins.low_water(500), at(20));
    }

    #[test]
    fn a_late_pin_of_the_same_time_does_not_keep_an_old_one_alive() {
        let pins = Pins::new(at(10), 100);
        let old = pins.pin(0);
        let late = pins.pin(100);
        pins.advance(at(20));
        drop(late);
        assert_eq!(pins.low_water(101), at(20));
        drop(old);
    }

    #[test]
    fn a_hold_keeps_a_time_that_is_pinned_or_not_folded_yet() {
        let pins = Pins::new(at(10), 100);
        let first = pins.pin(0);
        pins.advance(at(20));
        let second = pins.pin(0);
        pins.advance(at(30));
        let held = pins.hold(first.time(), 0).expect("it is pinned");
        let between = pins.hold(at(15), 0).expect("it is above the fold line");
        drop(first);
        drop(second);
        assert_eq!(pins.low_water(0), at(10));
        drop(held);
        assert_eq!(pins.low_water(0), at(15));
        assert!(matches!(
            pins.hold(at(14), 0),
            Err(Error::SnapshotExpired { .. })
        ));
        assert!(matches!(
            pins.hold(at(31), 0),
            Err(Error::SnapshotAhead { .. })
        ));
        drop(between);
        assert_eq!(pins.low_water(0), at(30));
    }

    #[test]
    fn a_clone_holds_like_its_original() {
        let pins = Pins::new(at(10), 100);
        let first = pins.pin(0);
        let copy = first.clone();
        drop(first);
        pins.advance(at(20));
        assert_eq!(pins.low_water(0), at(10));
        assert_eq!(pins.oldest_age_us(7), 7);
        drop(copy);
        assert_eq!(pins.low_water(0), at(20));
        assert_eq!(pins.oldest_age_us(7), 0);
    }
}
