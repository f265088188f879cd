//! The versions of one key: a base, and the deltas committed after it.
//!
//! Pure. It knows times and cells; it does not know who reads, what is logged, or where the
//! base is stored.

use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;
use tidemill_lattice::{Cell, Time};

use crate::history::{History, Version};
use crate::packed::Packed;

/// So many deltas are kept ready to be merged; older ones, which only old snapshots still tell
/// apart, as bytes.
const READY: usize = 8;

/// One key's versions: readable at every time from the last fold on.
#[derive(Debug)]
pub struct Chain {
    base: Base,
    base_through: Time,
    /// Ascending, all above `base_through` and below the other deltas.
    older: Option<Box<History>>,
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
            older: None,
            deltas: SmallVec::new(),
            newest: OnceLock::new(),
            behind: None,
        }
    }

    /// The base alone, if it is small and there is nothing else.
    pub(crate) fn pack(&self, scratch: &mut Vec<u8>) -> Option<Packed> {
        if self.delta_count() > 0 {
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
        self.older_count() + self.deltas.len()
    }

    fn older_count(&self) -> usize {
        self.older.as_ref().map_or(0, |older| older.len())
    }

    fn older(&self) -> impl Iterator<Item = Version<'_>> {
        self.older.iter().flat_map(|older| older.iter())
    }

    /// How many deltas are at or below a time.
    fn count_through(&self, time: Time) -> usize {
        match (&self.older, self.deltas.first()) {
            (Some(older), first) if first.is_none_or(|first| first.time > time) => {
                older.count_through(time)
            }
            _ => {
                let ready = self.deltas.partition_point(|delta| delta.time <= time);
                self.older_count() + ready
            }
        }
    }

    /// The commit time of the oldest delta that is not folded.
    #[must_use]
    pub fn first_delta(&self) -> Option<Time> {
        let older = self.older.as_ref().and_then(|older| older.first());
        older.or_else(|| self.deltas.first().map(|delta| delta.time))
    }

    /// Whether nothing is left of the key.
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.delta_count() == 0 && self.has_no_base()
    }

    /// Adds the delta of the commit at `time`, made from what was seen at `snapshot`. Mostly
    /// times ascend; one that comes late finds its place, since merging needs no order. What
    /// is in the chain already, or at or below the base's time, changes nothing. Answers by how
    /// many bytes the chain has grown, which may be less than nothing.
    pub fn push(&mut self, time: Time, snapshot: Time, delta: Cell) -> isize {
        if time <= self.base_through {
            return 0;
        }
        self.insert(time, snapshot, delta, None)
    }

    /// Adds a delta of a write that its writer may add to until [`Chain::close`], having drawn so
    /// many dots for it.
    pub(crate) fn open(&mut self, time: Time, snapshot: Time, delta: Cell, dots: u32) -> isize {
        if time <= self.base_through {
            return 0;
        }
        self.insert(time, snapshot, delta, Some(dots))
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

    fn insert(&mut self, time: Time, snapshot: Time, delta: Cell, open: Option<u32>) -> isize {
        let before = self.older_weight_bytes();
        let unpacked = match &self.older {
            Some(older) if older.last() >= Some(time) => self.ready_again(),
            _ => 0,
        };
        let end = self.deltas.len();
        let place = match self.deltas.last() {
            Some(last) if last.time >= time => {
                match self.deltas.binary_search_by_key(&time, |delta| delta.time) {
                    Ok(_) => return unpacked - before,
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
                self.behind = Some((newest, self.older_count() + end));
            }
        }
        let added = delta.weight_bytes() as isize;
        self.deltas.insert(place, delta);
        let packed = self.pack_older();
        unpacked + added - packed + self.older_weight_bytes() - before
    }

    fn older_weight_bytes(&self) -> isize {
        let older = self.older.as_ref();
        older.map_or(0, |older| older.weight_bytes() as isize)
    }

    /// Keeps what is more than [`READY`] as bytes. Answers what it took before.
    fn pack_older(&mut self) -> isize {
        let mut packed_bytes = 0;
        while self.deltas.len() > READY
            && let Some(first) = self.deltas.first()
            && first.open.is_none()
            && History::takes(&first.cell)
        {
            packed_bytes += first.weight_bytes() as isize;
            let older = self.older.get_or_insert_default();
            older.push(first.time, first.snapshot, &first.cell);
            self.deltas.remove(0);
        }
        packed_bytes
    }

    /// Makes all deltas ready, as one that comes late has its place among the older ones. Answers
    /// what they take.
    fn ready_again(&mut self) -> isize {
        let older = self.older.take().unwrap_or_default();
        let deltas = older.iter().map(|version| Delta {
            time: version.time,
            snapshot: version.snapshot,
            cell: Arc::new(version.cell()),
            open: None,
        });
        let ready: Vec<Delta> = deltas.collect();
        let bytes: usize = ready.iter().map(Delta::weight_bytes).sum();
        self.deltas.insert_many(0, ready);
        bytes as isize
    }

    /// The cell with everything merged; `None` if nothing is known of the key.
    #[must_use]
    pub fn newest(&self) -> Option<&Cell> {
        let cell = if self.delta_count() == 0 {
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
        let all = self.delta_count();
        let count = match self.deltas.last() {
            Some(last) if last.time <= at => all,
            _ => self.count_through(at),
        };
        if count == 0 {
            return (!self.base.is_bottom()).then(|| Arc::clone(self.base.cell()));
        }
        let cell = if count == all {
            Arc::clone(self.newest.get_or_init(|| self.merge_newest()))
        } else {
            self.merged(None, 0, count)
        };
        (!cell.is_bottom()).then_some(cell)
    }

    fn merge_newest(&self) -> Arc<Cell> {
        match &self.behind {
            Some((cell, have)) => self.merged(Some(cell), *have, self.delta_count()),
            None => self.merged(None, 0, self.delta_count()),
        }
    }

    /// The deltas of a range on top of `start`, or else of the base.
    fn merged(&self, start: Option<&Arc<Cell>>, from: usize, to: usize) -> Arc<Cell> {
        let older = self.older_count();
        let ready = from.saturating_sub(older)..to.saturating_sub(older);
        let deltas = self.deltas.get(ready).unwrap_or_default();
        let start = || start.unwrap_or_else(|| self.base.cell());
        if let Some(last) = deltas.iter().rposition(Delta::replaces) {
            return on_top(&deltas[last].cell, &deltas[last + 1..]);
        }
        if from >= older {
            return on_top(start(), deltas);
        }
        on_top(&self.older_merged(start(), from, to.min(older)), deltas)
    }

    /// The same of the older deltas alone.
    fn older_merged(&self, start: &Arc<Cell>, from: usize, to: usize) -> Arc<Cell> {
        let range: Vec<Version<'_>> = self.older().skip(from).take(to - from).collect();
        let (mut cell, rest) = match range.iter().rposition(|version| version.replaces) {
            Some(last) => (range[last].cell(), &range[last + 1..]),
            None => (Cell::clone(start), &range[..]),
        };
        for version in rest {
            cell.merge(&version.cell());
        }
        Arc::new(cell)
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
        let count = self.count_through(line);
        if count > 0 {
            let whole = if count == self.delta_count() {
                self.newest.take()
            } else {
                None
            };
            let base = whole.unwrap_or_else(|| self.merge_into_base(count));
            self.base = Base::Cell(base);
            self.drop_first(count);
        }
        let older = self.older().map(|version| version.snapshot);
        let ready = self.deltas.iter().map(|delta| delta.snapshot);
        let forget = older.chain(ready).min();
        self.newest = OnceLock::new();
        self.behind = None;
        self.base_through = line;
        let forget = forget.map_or(line, |seen| seen.min(line));
        let mut base = self.base.take();
        let compacted = Arc::make_mut(&mut base).compact(line, forget);
        self.base = Base::Cell(base);
        compacted.conflicts as u64
    }

    fn drop_first(&mut self, count: usize) {
        let older = count.min(self.older_count());
        if let Some(history) = &mut self.older {
            history.remove_first(older);
        }
        self.older = self.older.take().filter(|older| older.len() > 0);
        self.deltas.drain(..count - older);
        if self.deltas.is_empty() {
            // Most keys rest: room for deltas would be a good part of a small one.
            self.deltas = SmallVec::new();
        }
    }

    fn merge_into_base(&mut self, count: usize) -> Arc<Cell> {
        let older = self.older_count();
        let ready = self.deltas.get(..count.saturating_sub(older));
        let ready = ready.unwrap_or_default();
        let replaces = self.older().take(count).any(|version| version.replaces);
        if replaces || ready.iter().any(Delta::replaces) {
            return self.merged(None, 0, count);
        }
        let mut base = self.base.take();
        for version in self.older().take(count) {
            Arc::make_mut(&mut base).merge(&version.cell());
        }
        for delta in ready {
            if base.is_bottom() {
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
        let older = self.older.as_ref().map_or(0, |older| older.weight_bytes());
        size_of::<Chain>() + self.base.weight_bytes() + older + deltas
    }
}

/// Deltas on top of a cell.
fn on_top(start: &Arc<Cell>, deltas: &[Delta]) -> Arc<Cell> {
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
