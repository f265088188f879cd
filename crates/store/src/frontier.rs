//! The newest complete state, as a minimum over everybody who draws commit times.
//!
//! The log's sequencer and every shard have a slot. Whoever is about to draw a time first
//! *holds*: it puts into its slot a time that is not above any it will draw. It lets go once
//! what it drew is applied. Whoever asks for the newest complete state reads the clock first
//! and the slots afterwards. Both orders matter: a time drawn before the clock was read is
//! either applied or held by a slot, so it is never inside a snapshot that misses its writes.
//!
//! Pure: atomic words and times. The words are a parameter, so that a model checker can
//! try every interleaving of the very same code.

use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_lattice::Time;

/// A shared word. All operations are sequentially consistent: the proof needs one order of
/// what different threads did to different words.
pub trait Word: Send + Sync {
    /// A word that begins so.
    fn new(value: u64) -> Self;
    /// Reads it.
    fn load(&self) -> u64;
    /// Writes it.
    fn store(&self, value: u64);
    /// Raises it to `value` if it is below, and answers what it was.
    fn raise(&self, value: u64) -> u64;
    /// Changes it from `current` to `new`, or says what it is.
    ///
    /// # Errors
    /// What the word holds, if that is not `current`.
    fn exchange(&self, current: u64, new: u64) -> Result<u64, u64>;
}

impl Word for AtomicU64 {
    fn new(value: u64) -> AtomicU64 {
        AtomicU64::new(value)
    }

    fn load(&self) -> u64 {
        AtomicU64::load(self, Ordering::SeqCst)
    }

    fn store(&self, value: u64) {
        AtomicU64::store(self, value, Ordering::SeqCst);
    }

    fn raise(&self, value: u64) -> u64 {
        self.fetch_max(value, Ordering::SeqCst)
    }

    fn exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        self.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
    }
}

/// A slot that nobody holds.
const FREE: u64 = u64::MAX;

/// Its own pair of cache lines, so that shards do not slow each other down.
#[derive(Debug)]
#[repr(align(128))]
struct Padded<W>(W);

/// The clock that all times of a store are drawn from, and who is still at work below it.
#[derive(Debug)]
pub struct Frontier<W: Word = AtomicU64> {
    /// The greatest time drawn.
    clock: Padded<W>,
    stable: Padded<W>,
    slots: Box<[Padded<W>]>,
}

impl<W: Word> Frontier<W> {
    /// Everything at or below `floor` is complete; `slots` parties will draw times.
    #[must_use]
    pub fn new(floor: Time, slots: usize) -> Frontier<W> {
        Frontier {
            clock: Padded(W::new(floor.as_u64())),
            stable: Padded(W::new(floor.as_u64())),
            slots: (0..slots).map(|_| Padded(W::new(FREE))).collect(),
        }
    }

    /// Draws `count` times for the party of a slot, none below the physical clock `now_us`,
    /// and answers the first; the others follow it. From before they are drawn until
    /// [`Frontier::release`], the newest complete state stays below them.
    pub fn draw(&self, slot: usize, count: u64, now_us: u64) -> Time {
        let mut last = self.clock.0.load();
        if let Some(Padded(held)) = self.slots.get(slot)
            && held.load() == FREE
        {
            held.store(last.saturating_add(1));
        }
        loop {
            let first = last
                .saturating_add(1)
                .max(Time::from_micros(now_us).as_u64());
            let end = first.saturating_add(count.saturating_sub(1));
            match self.clock.0.exchange(last, end) {
                Ok(_) => return Time::from_u64(first),
                Err(newer) => last = newer,
            }
        }
    }

    /// What the party of a slot has drawn is applied, but for times from `rest` on.
    pub fn release(&self, slot: usize, rest: Option<Time>) {
        if let Some(Padded(held)) = self.slots.get(slot) {
            held.store(rest.map_or(FREE, Time::as_u64));
        }
    }

    /// Moves the clock up to a time that somebody has heard of.
    pub fn reach(&self, time: Time) {
        let time = time.as_u64();
        if self.clock.0.load() < time {
            self.clock.0.raise(time);
        }
    }

    /// Moves the clock up to the physical clock, so that snapshots follow it while nobody
    /// writes: whether a key has expired is judged by its reader's snapshot.
    pub fn tick(&self, now_us: u64) {
        self.reach(Time::from_micros(now_us));
    }

    /// The newest complete state: everything at or below it is applied. It never goes back.
    pub fn stable(&self) -> Time {
        let mut frontier = self.clock.0.load().saturating_add(1);
        for Padded(held) in &self.slots {
            frontier = frontier.min(held.load());
        }
        let found = frontier.saturating_sub(1);
        let known = self.stable.0.load();
        // Mostly somebody has raised it so far: a look costs a third of a locked instruction.
        let newest = if known < found {
            self.stable.0.raise(found).max(found)
        } else {
            known
        };
        Time::from_u64(newest)
    }

    /// The greatest time drawn or ticked.
    pub fn last(&self) -> Time {
        Time::from_u64(self.clock.0.load())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_drawn_is_not_stable_until_it_is_released() {
        let frontier: Frontier = Frontier::new(Time::from_u64(10), 2);
        assert_eq!(frontier.stable(), Time::from_u64(10));
        let first = frontier.draw(0, 3, 0);
        let other = frontier.draw(1, 1, 0);
        assert_eq!((first.as_u64(), other.as_u64()), (11, 14));
        assert_eq!(frontier.stable(), Time::from_u64(10));
        frontier.release(1, None);
        assert_eq!(frontier.stable(), Time::from_u64(10));
        frontier.release(0, Some(Time::from_u64(13)));
        assert_eq!(frontier.stable(), Time::from_u64(12));
        frontier.release(0, None);
        assert_eq!(frontier.stable(), Time::from_u64(14));
    }

    #[test]
    fn the_clock_follows_the_physical_one_and_never_goes_back() {
        let frontier: Frontier = Frontier::new(Time::ZERO, 1);
        frontier.tick(100);
        assert_eq!(frontier.stable(), Time::from_micros(100));
        assert_eq!(frontier.draw(0, 1, 50), Time::from_micros(100).next());
        frontier.release(0, None);
        frontier.tick(70);
        assert_eq!(frontier.last(), Time::from_micros(100).next());
    }
}
