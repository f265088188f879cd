//! Requests with a key that are on their way: the first of its id runs, the others join it.
//!
//! Pure: `T` is whatever a run is to those who join it.

use std::collections::HashMap;

/// The requests on their way.
pub(crate) struct InFlight<T> {
    entries: HashMap<u128, Entry<T>>,
    next_number: u64,
}

struct Entry<T> {
    /// Tells it from other runs of the same id.
    number: u64,
    digest: u128,
    /// How many wait for it.
    waiters: usize,
    /// It goes on when nobody waits.
    is_detached: bool,
    /// Nobody can join it.
    is_closed: bool,
    run: T,
}

/// What somebody who arrives finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival<T> {
    /// Nobody: he runs it, under this number.
    First(u64, T),
    /// A run that he waits for with the others.
    Joined(u64, T),
    /// A run that can not be waited for.
    Closed,
    /// A run with other arguments.
    Different,
}

impl<T: Clone> InFlight<T> {
    pub(crate) fn new() -> Self {
        Self {
            entries: HashMap::new(),
            next_number: 0,
        }
    }

    /// Somebody asks for a request and waits.
    pub(crate) fn arrive(&mut self, id: u128, digest: u128, run: impl FnOnce() -> T) -> Arrival<T> {
        if let Some(entry) = self.entries.get_mut(&id) {
            if entry.digest != digest {
                return Arrival::Different;
            }
            if entry.is_closed {
                return Arrival::Closed;
            }
            entry.waiters += 1;
            return Arrival::Joined(entry.number, entry.run.clone());
        }
        self.next_number += 1;
        let number = self.next_number;
        let run = run();
        let entry = Entry {
            number,
            digest,
            waiters: 1,
            is_detached: false,
            is_closed: false,
            run: run.clone(),
        };
        self.entries.insert(id, entry);
        Arrival::First(number, run)
    }

    /// Somebody does not wait any more. Whether the run is to be cancelled: then a new one may
    /// begin at once.
    pub(crate) fn leave(&mut self, id: u128, number: u64) -> bool {
        let Some(entry) = self.find(id, number) else {
            return false;
        };
        entry.waiters = entry.waiters.saturating_sub(1);
        let is_unwanted = entry.waiters == 0 && !entry.is_detached;
        if is_unwanted {
            self.entries.remove(&id);
        }
        is_unwanted
    }

    /// The run goes on whether anybody waits or not.
    pub(crate) fn detach(&mut self, id: u128, number: u64) {
        if let Some(entry) = self.find(id, number) {
            entry.is_detached = true;
        }
    }

    /// The run can not be joined from now on.
    pub(crate) fn close(&mut self, id: u128, number: u64) {
        if let Some(entry) = self.find(id, number) {
            entry.is_closed = true;
            entry.is_detached = true;
        }
    }

    /// The run is over.
    pub(crate) fn end(&mut self, id: u128, number: u64) {
        if self.find(id, number).is_some() {
            self.entries.remove(&id);
        }
    }

    fn find(&mut self, id: u128, number: u64) -> Option<&mut Entry<T>> {
        let entry = self.entries.get_mut(&id)?;
        (entry.number == number).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(table: &mut InFlight<char>, run: char) -> u64 {
        match table.arrive(7, 1, || run) {
            Arrival::First(number, made) if made == run => number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_second_joins_the_first_until_it_is_over() {
        let mut table = InFlight::new();
        let number = first(&mut table, 'a');
        assert_eq!(table.arrive(7, 1, || 'b'), Arrival::Joined(number, 'a'));
        assert_eq!(table.arrive(7, 2, || 'b'), Arrival::Different);
        assert!(matches!(table.arrive(8, 2, || 'c'), Arrival::First(_, 'c')));
        table.end(7, number);
        let again = first(&mut table, 'd');
        assert_ne!(number, again);
    }

    #[test]
    fn a_run_is_cancelled_when_the_last_one_has_left() {
        let mut table = InFlight::new();
        let number = first(&mut table, 'a');
        table.arrive(7, 1, || 'b');
        assert!(!table.leave(7, number), "the second still waits");
        assert!(table.leave(7, number));
        // The next one need not wait for the end of what is being cancelled.
        let again = first(&mut table, 'c');
        assert!(!table.leave(7, number), "of an earlier run");
        table.end(7, number);
        assert_eq!(table.arrive(7, 1, || 'd'), Arrival::Joined(again, 'c'));
    }

    #[test]
    fn a_detached_run_goes_on_alone_and_can_be_joined() {
        let mut table = InFlight::new();
        let number = first(&mut table, 'a');
        table.detach(7, number);
        assert!(!table.leave(7, number));
        assert_eq!(table.arrive(7, 1, || 'b'), Arrival::Joined(number, 'a'));
    }

    #[test]
    fn a_closed_run_is_neither_joined_nor_begun_again() {
        let mut table = InFlight::new();
        let number = first(&mut table, 'a');
        table.close(7, number);
        assert_eq!(table.arrive(7, 1, || 'b'), Arrival::Closed);
        assert!(!table.leave(7, number));
        assert_eq!(table.arrive(7, 1, || 'b'), Arrival::Closed);
        table.end(7, number);
        first(&mut table, 'c');
    }
}
