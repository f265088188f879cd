//! The versions of one key: a base, and the deltas committed after it.
//!
//! Differs from a single node's chain in that commits come from many homes: two may have drawn the
//! same time, so a delta is named by its [`Stamp`], and they arrive in any order.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_lattice::{Cell, Dot, Time, Writer};

use crate::Stamp;

/// One key's versions, readable at every time from the last fold on.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    base: Arc<Cell>,
    /// The deltas not in the base, with the snapshot that each was made from.
    deltas: BTreeMap<Stamp, (Time, Arc<Cell>)>,
}

impl Chain {
    /// A chain of a base and some deltas.
    #[must_use]
    pub fn new(base: Arc<Cell>) -> Chain {
        Chain {
            base,
            deltas: BTreeMap::new(),
        }
    }

    /// Adds a commit's delta; one that is here already changes nothing.
    pub fn push(&mut self, stamp: Stamp, snapshot: Time, delta: Arc<Cell>) {
        self.deltas.entry(stamp).or_insert((snapshot, delta));
    }

    /// Adds a delta so that it wins every tie against those of its time that came before.
    pub(crate) fn push_winning_ties(&mut self, stamp: Stamp, snapshot: Time, delta: Arc<Cell>) {
        let rivals = self
            .deltas
            .keys()
            .filter(|held| held.time == stamp.time && **held != stamp)
            .count();
        let mut delta = delta;
        if rivals > 0 {
            let winner = Writer(u32::MAX - 64 + u32::try_from(rivals).unwrap_or(0));
            Arc::make_mut(&mut delta).restamp(&|dot| {
                if dot.time == stamp.time && dot.writer == stamp.writer {
                    Dot::new(dot.time, winner, dot.sequence)
                } else {
                    dot
                }
            });
        }
        self.push(stamp, snapshot, delta);
    }

    /// The cell as of `at`; `None` if nothing is known of the key then.
    #[must_use]
    pub fn at(&self, at: Time) -> Option<Arc<Cell>> {
        let mut cell = Arc::clone(&self.base);
        for (stamp, (_, delta)) in &self.deltas {
            if stamp.time > at {
                break;
            }
            if cell.is_bottom() {
                cell = Arc::clone(delta);
            } else {
                Arc::make_mut(&mut cell).merge(delta);
            }
        }
        (!cell.is_bottom()).then_some(cell)
    }

    /// The cell with every delta that is here.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<Cell>> {
        self.at(Time::MAX)
    }

    /// The base alone.
    #[must_use]
    pub fn base(&self) -> &Arc<Cell> {
        &self.base
    }

    /// The deltas above `from` and at or below `through`, in order.
    pub fn between(
        &self,
        from: Time,
        through: Time,
    ) -> impl Iterator<Item = (Stamp, Time, &Arc<Cell>)> {
        self.deltas
            .iter()
            .filter(move |(stamp, _)| stamp.time > from && stamp.time <= through)
            .map(|(stamp, (snapshot, delta))| (*stamp, *snapshot, delta))
    }

    /// How many deltas are not in the base.
    #[must_use]
    pub fn delta_count(&self) -> usize {
        self.deltas.len()
    }

    /// Merges the deltas up to `line` into the base and forgets what nobody can need. The caller
    /// knows that every commit up to the line is here, that no snapshot below it will be read, and
    /// that every delta to come was made from a snapshot at or above it, except those that are
    /// here already.
    ///
    /// `hasty` forgets deletes that such a delta has not seen; a seeded bug.
    pub fn fold(&mut self, line: Time, hasty: bool) {
        let above = Stamp {
            time: line.next(),
            writer: Writer(0),
        };
        let kept = self.deltas.split_off(&above);
        let folded = std::mem::replace(&mut self.deltas, kept);
        if !folded.is_empty() {
            let base = Arc::make_mut(&mut self.base);
            for (_, delta) in folded.values() {
                base.merge(delta);
            }
        }
        let forget = self
            .deltas
            .values()
            .map(|(snapshot, _)| *snapshot)
            .fold(line, Time::min);
        if !self.base.is_bottom() {
            let forget = if hasty { line } else { forget };
            Arc::make_mut(&mut self.base).compact(line, forget);
        }
    }

    /// Whether nothing is left of the key.
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.deltas.is_empty() && self.base.is_bottom()
    }
}

#[cfg(test)]
mod tests {
    use tidemill_lattice::{Op, Value};

    use super::*;

    fn stamp(time: u64, writer: u32) -> Stamp {
        Stamp {
            time: Time::from_u64(time),
            writer: Writer(writer),
        }
    }

    fn add(stamp: Stamp, seen: Option<&Cell>) -> Arc<Cell> {
        let mut dots = || Dot::new(stamp.time, stamp.writer, 1);
        let before = stamp.time.prev();
        Arc::new(Cell::delta(seen, &Op::CounterAdd(1), before, &mut dots).expect("it fits"))
    }

    fn sum(cell: Option<&Cell>, at: u64) -> i128 {
        match cell.and_then(|cell| cell.view(Time::from_u64(at))) {
            Some(Value::Counter(counter)) => counter.value(),
            other => panic!("no counter: {other:?}"),
        }
    }

    #[test]
    fn two_commits_of_one_time_are_both_kept() {
        let mut chain = Chain::default();
        for writer in [2, 1, 2] {
            let stamp = stamp(10, writer);
            chain.push(stamp, Time::from_u64(9), add(stamp, None));
        }
        assert_eq!(chain.delta_count(), 2);
        assert_eq!(sum(chain.at(Time::from_u64(10)).as_deref(), 10), 2);
        assert!(chain.at(Time::from_u64(9)).is_none());
    }

    #[test]
    fn a_late_delta_with_an_old_snapshot_does_not_revive_what_was_deleted() {
        let first = stamp(10, 1);
        let begun = add(first, None);
        // Made from a snapshot before the delete, committed after it.
        let late = stamp(30, 2);
        let late_delta = add(late, Some(&begun));
        let mut dots = || Dot::new(Time::from_u64(20), Writer(1), 1);
        let delete = Cell::delta(Some(&begun), &Op::Delete, Time::from_u64(15), &mut dots);
        let mut chain = Chain::default();
        chain.push(first, Time::from_u64(9), begun);
        chain.push(
            stamp(20, 1),
            Time::from_u64(15),
            Arc::new(delete.expect("it fits")),
        );
        chain.push(late, Time::from_u64(12), late_delta);
        chain.fold(Time::from_u64(25), false);
        let newest = chain.newest();
        assert!(newest.is_none_or(|cell| cell.is_empty_at(Time::from_u64(40))));
        chain.fold(Time::from_u64(35), false);
        assert!(chain.is_forgotten());
    }
}
