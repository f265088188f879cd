//! The versions of one key: a base, and the deltas committed after it.
//!
//! Pure. It knows times and cells; it does not know who reads, what is logged, or where the
//! base is stored.

use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;
use tidemill_lattice::{Cell, Time};

use crate::packed::Packed;

/// One key's versions: readable at every time from the last fold on.
#[derive(Debug)]
pub struct Chain {
    base: Base,
    base_through: Time,
    /// Ascending, all above `base_through`.
    deltas: SmallVec<[Delta; 1]>,
    /// The base with all deltas, made by the first reader that wants it.
    newest: OnceLock<Arc<Cell>>,
    /// An older `newest` that readers still held when a delta came, and how many of the
    /// deltas it has: what the next `newest` starts from.
    behind: Option<(Arc<Cell>, usize)>,
}

/// A base that was packed is unpacked by the first who has to look into it.
#[derive(Debug)]
enum Base {
    Cell(Arc<Cell>),
    Packed(Packed, OnceLock<Arc<Cell>>),
}

impl Base {
    fn cell(&self) -> &Arc<Cell> {
        match self {
            Base::Cell(cell) => cell,
            Base::Packed(packed, cell) => cell.get_or_init(|| Arc::new(packed.cell())),
        }
    }

    /// The cell, leaving nothing.
    fn take(&mut self) -> Arc<Cell> {
        match std::mem::replace(self, Base::Packed(Packed::NOTHING, OnceLock::new())) {
            Base::Cell(cell) => cell,
            Base::Packed(packed, cell) => {
                cell.into_inner().unwrap_or_else(|| Arc::new(packed.cell()))
            }
        }
    }

    /// Nothing is ever packed that could be forgotten.
    fn is_bottom(&self) -> bool {
        matches!(self, Base::Cell(cell) if cell.is_bottom())
    }

    fn weight_bytes(&self) -> usize {
        match self {
            Base::Cell(cell) => size_of::<Cell>() + cell.weight_bytes(),
            Base::Packed(packed, _) => packed.weight_bytes(),
        }
    }
}

#[derive(Debug)]
struct Delta {
    time: Time,
    /// What its writer had seen.
    snapshot: Time,
    cell: Arc<Cell>,
    /// How many dots its writer drew, while it may still add to it: nobody has been told of it
    /// yet, and no log has it.
    open: Option<u32>,
}

impl Delta {
    /// Whether nothing below it shows any more: it deletes whatever had been written by its time.
    fn replaces(&self) -> bool {
        self.cell.deleted_at() == self.time
    }

    fn weight_bytes(&self) -> usize {
        size_of::<Cell>() + self.cell.weight_bytes()
    }
}

impl Default for Chain {
    fn default() -> Chain {
        Chain::new(Arc::new(Cell::empty()), Time::ZERO)
    }
}

impl Chain {
    /// A chain that begins with a base complete through a time.
    #[must_use]
    pub fn new(base: Arc<Cell>, base_through: Time) -> Chain {
        Chain::begin(Base::Cell(base), base_through)
    }

    /// The same, with a base that was packed.
    pub(crate) fn unpacked(packed: Packed, base_through: Time) -> Chain {
        Chain::begin(Base::Packed(packed, OnceLock::new()), base_through)
    }

    fn begin(base: Base, base_through: Time) -> Chain {
        Chain {
            base,
            base_through,
            deltas: SmallVec::new(),
            newest: OnceLock::new(),
            behind: None,
        }
    }

    /// The base alone, if it is small and there is nothing else.
    pub(crate) fn pack(&self, scratch: &mut Vec<u8>) -> Option<Packed> {
        if !self.deltas.is_empty() {
            return None;
        }
        match &self.base {
            Base::Packed(packed, _) => Some(packed.clone()),
            Base::Cell(cell) if cell.is_bottom() => None,
            Base::Cell(cell) => Packed::of(cell, scratch),
        }
    }

    /// The time that the base is complete through. Reads below it are no longer possible.
    #[must_use]
    pub fn base_through(&self) -> Time {
        self.base_through
    }

    /// The base alone.
    #[must_use]
    pub fn base(&self) -> &Arc<Cell> {
        self.base.cell()
    }

    /// Whether nothing is known of the key below the deltas.
    pub(crate) fn has_no_base(&self) -> bool {
        self.base.is_bottom()
    }

    /// The deltas not folded into the base yet.
    #[must_use]
    pub fn delta_count(&self) -> usize {
        self.deltas.len()
    }

    /// The commit time of the oldest delta that is not folded.
    #[must_use]
    pub fn first_delta(&self) -> Option<Time> {
        self.deltas.first().map(|delta| delta.time)
    }

    /// Whether nothing is left of the key.
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.deltas.is_empty() && self.has_no_base()
    }

    /// Adds the delta of the commit at `time`, made from what was seen at `snapshot`. Mostly
    /// times ascend; one that comes late finds its place, since merging needs no order. What
    /// is in the chain already, or at or below the base's time, changes nothing.
    pub fn push(&mut self, time: Time, snapshot: Time, delta: Cell) {
        if time <= self.base_through {
            return;
        }
        self.insert(time, snapshot, delta, None);
    }

    /// Adds a delta of a write that its writer may add to until [`Chain::close`], having drawn so
    /// many dots for it.
    pub(crate) fn open(&mut self, time: Time, snapshot: Time, delta: Cell, dots: u32) {
        if time > self.base_through {
            self.insert(time, snapshot, delta, Some(dots));
        }
    }

    /// The next dot of the open delta at this time, if there is one.
    pub(crate) fn open_at(&self, time: Time) -> Option<u32> {
        let last = self.deltas.last().filter(|last| last.time == time)?;
        last.open
    }

    /// Adds to the open delta, which is the last. Answers by how many bytes it has grown.
    pub(crate) fn amend(&mut self, delta: &Cell, dots: u32) -> usize {
        let Some(last) = self.deltas.last_mut() else {
            return 0;
        };
        let before = last.weight_bytes();
        match self.newest.take() {
            Some(newest) if Arc::ptr_eq(&newest, &last.cell) => {}
            Some(mut newest) => {
                if let Some(cell) = Arc::get_mut(&mut newest) {
                    cell.merge(delta);
                    cell.gather();
                    self.newest = OnceLock::from(newest);
                }
            }
            None => {}
        }
        self.behind = None;
        let cell = Arc::make_mut(&mut last.cell);
        cell.merge(delta);
        cell.gather();
        last.open = Some(dots);
        last.weight_bytes().saturating_sub(before)
    }

    /// Shows the open deltas, which are closed then, with their times and snapshots.
    pub(crate) fn close(&mut self, mut each: impl FnMut(Time, Time, &Cell)) {
        for delta in &mut self.deltas {
            if delta.open.take().is_some() {
                each(delta.time, delta.snapshot, &delta.cell);
            }
        }
    }

    fn insert(&mut self, time: Time, snapshot: Time, delta: Cell, open: Option<u32>) {
        let end = self.deltas.len();
        let place = match self.deltas.last() {
            Some(last) if last.time >= time => {
                match self.deltas.binary_search_by_key(&time, |delta| delta.time) {
                    Ok(_) => return,
                    Err(place) => place,
                }
            }
            _ => end,
        };
        if place < end {
            // What was merged by count has another count now.
            self.behind = None;
        }
        let delta = Delta {
            time,
            snapshot,
            cell: Arc::new(delta),
            open,
        };
        if delta.replaces() && place == end {
            self.newest = OnceLock::from(Arc::clone(&delta.cell));
            self.behind = None;
        } else if let Some(mut newest) = self.newest.take() {
            if let Some(cell) = Arc::get_mut(&mut newest) {
                cell.merge(&delta.cell);
                self.behind = None;
                self.newest = OnceLock::from(newest);
            } else if place == end {
                self.behind = Some((newest, end));
            }
        }
        self.deltas.insert(place, delta);
    }

    /// The cell with everything merged; `None` if nothing is known of the key.
    #[must_use]
    pub fn newest(&self) -> Option<&Cell> {
        let cell = if self.deltas.is_empty() {
            self.base.cell()
        } else {
            self.newest.get_or_init(|| self.merge_newest())
        };
        (!cell.is_bottom()).then_some(&**cell)
    }

    /// The cell as of `at`, which must not be below the base's time; `None` if nothing was
    /// written by then.
    #[must_use]
    pub fn at(&self, at: Time) -> Option<Arc<Cell>> {
        let count = match self.deltas.last() {
            Some(last) if last.time <= at => self.deltas.len(),
            Some(_) => self.deltas.partition_point(|delta| delta.time <= at),
            None => 0,
        };
        if count == 0 {
            return (!self.base.is_bottom()).then(|| Arc::clone(self.base.cell()));
        }
        let cell = if count == self.deltas.len() {
            Arc::clone(self.newest.get_or_init(|| self.merge_newest()))
        } else {
            self.merged(None, 0, count)
        };
        (!cell.is_bottom()).then_some(cell)
    }

    fn merge_newest(&self) -> Arc<Cell> {
        match &self.behind {
            Some((cell, have)) => self.merged(Some(cell), *have, self.deltas.len()),
            None => self.merged(None, 0, self.deltas.len()),
        }
    }

    /// The deltas of a range on top of `start`, or else of the base.
    fn merged(&self, start: Option<&Arc<Cell>>, from: usize, to: usize) -> Arc<Cell> {
        let deltas = self.deltas.get(from..to).unwrap_or_default();
        let (start, deltas) = match deltas.iter().rposition(Delta::replaces) {
            Some(last) => (&deltas[last].cell, &deltas[last + 1..]),
            None => (start.unwrap_or_else(|| self.base.cell()), deltas),
        };
        match deltas {
            [] => Arc::clone(start),
            [only] if start.is_bottom() => Arc::clone(&only.cell),
            _ => {
                let mut cell = Cell::clone(start);
                for delta in deltas {
                    cell.merge(&delta.cell);
                }
                Arc::new(cell)
            }
        }
    }

    /// Folds the deltas up to `line` into the base and compacts it. The caller knows that no
    /// snapshot below it will be read, that every commit up to it is here, and that every
    /// commit to come has seen at least as much. Answers how many deltas of a losing type were
    /// dropped.
    ///
    /// A delta that stays may be of a writer that had seen less than `line`. What has been
    /// deleted or has expired is remembered for its sake, see [`Cell::compact`].
    pub fn fold(&mut self, line: Time) -> u64 {
        if line <= self.base_through {
            return 0;
        }
        let count = self.deltas.partition_point(|delta| delta.time <= line);
        let forget = self.deltas[count..]
            .iter()
            .map(|delta| delta.snapshot)
            .min();
        if count > 0 {
            let whole = if count == self.deltas.len() {
                self.newest.take()
            } else {
                None
            };
            let base = whole.unwrap_or_else(|| self.merge_into_base(count));
            self.base = Base::Cell(base);
            self.deltas.drain(..count);
            if self.deltas.is_empty() {
                // Most keys rest: room for deltas would be a good part of a small one.
                self.deltas = SmallVec::new();
            }
        }
        self.newest = OnceLock::new();
        self.behind = None;
        self.base_through = line;
        let forget = forget.map_or(line, |seen| seen.min(line));
        let mut base = self.base.take();
        let compacted = Arc::make_mut(&mut base).compact(line, forget);
        self.base = Base::Cell(base);
        compacted.conflicts as u64
    }

    fn merge_into_base(&mut self, count: usize) -> Arc<Cell> {
        let deltas = self.deltas.get(..count).unwrap_or_default();
        if deltas.iter().any(Delta::replaces) {
            return self.merged(None, 0, count);
        }
        let mut base = self.base.take();
        for (index, delta) in deltas.iter().enumerate() {
            if index == 0 && base.is_bottom() {
                base = Arc::clone(&delta.cell);
            } else {
                Arc::make_mut(&mut base).merge(&delta.cell);
            }
        }
        base
    }

    /// Approximate heap size in bytes.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        let deltas: usize = self.deltas.iter().map(Delta::weight_bytes).sum();
        size_of::<Chain>() + self.base.weight_bytes() + deltas
    }
}

#[cfg(test)]
mod tests {
    use tidemill_lattice::{Dot, Op, Writer};

    use super::*;

    #[test]
    fn a_busy_key_folds_although_its_writers_overlap() {
        let at = Time::from_u64;
        let mut chain = Chain::default();
        for step in 1..200_u64 {
            let mut dots = || Dot::new(at(10 * step), Writer(1), 0);
            let seen = at((10 * step).saturating_sub(25));
            let delta = Cell::delta(None, &Op::CounterAdd(1), seen, &mut dots).expect("it fits");
            chain.push(at(10 * step), seen, delta);
            chain.fold(at((10 * step).saturating_sub(30)));
            assert!(chain.delta_count() <= 3, "{} deltas", chain.delta_count());
        }
    }

    #[test]
    fn a_replayed_delta_does_not_bring_back_what_is_forgotten() {
        let at = Time::from_u64;
        let mut number = 0;
        let mut make = |seen: Option<&Cell>, op: &Op, time: u64| {
            number += 1;
            let mut dots = || Dot::new(at(time), Writer(1), number);
            Cell::delta(seen, op, at(time - 1), &mut dots).expect("the operation fits")
        };
        let added = make(None, &Op::CounterAdd(1), 2);
        let deleted = make(Some(&added), &Op::Delete, 4);
        let mut chain = Chain::default();
        chain.push(at(2), at(1), added.clone());
        chain.push(at(4), at(3), deleted);
        chain.fold(at(5));
        assert!(chain.is_forgotten());
        chain.push(at(2), at(1), added);
        assert!(chain.is_forgotten());
        assert!(chain.at(at(9)).is_none());
    }
}
