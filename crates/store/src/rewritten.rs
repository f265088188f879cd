//! A packed key that was overwritten or added to, and can still be read as it was.
//!
//! What an overwrite leaves of a key follows from the overwrite alone, and what an addition leaves of
//! a counter from the two numbers, so it is packed at once. Once nobody reads below it, the key has
//! only to drop what it was: no cell was made or merged.
//!
//! Pure: it knows times and packed cells.

use bytes::Bytes;
use tidemill_lattice::{Addition, Cell, Dot, Glance, Key, Overwrite, Payload, Time};

use crate::chain::Chain;
use crate::packed::{Packed, REGISTER_MAX_BYTES};
use crate::record::Entries;

/// A packed key and the write of it.
#[derive(Clone, Debug)]
pub(crate) struct Rewritten {
    /// What the key was.
    pub(crate) before: Packed,
    /// What it will be once the write is folded.
    pub(crate) value: Packed,
    /// What its writer had seen.
    snapshot: Time,
    change: Change,
    /// How many dots its writer drew, while it may still write again at this time.
    pub(crate) open: Option<u32>,
}

/// What was written.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// What the value says, over what the key held, which this dot ended. It has the write's time.
    Over(Dot),
    Added(Addition),
}

impl Change {
    /// What a delta does, and what it leaves of a packed key, which is gathered in `scratch`. `None`
    /// if that takes a cell.
    fn of(before: &Packed, delta: &Cell, scratch: &mut Vec<u8>) -> Option<Change> {
        scratch.clear();
        if let Some(overwrite) = delta.as_overwrite() {
            if overwrite.body.len() > REGISTER_MAX_BYTES {
                return None;
            }
            overwrite.encode_folded(scratch);
            return Some(Change::Over(overwrite.ended));
        }
        Change::added(before, delta.as_addition()?, scratch)
    }

    fn added(before: &Packed, addition: Addition, scratch: &mut Vec<u8>) -> Option<Change> {
        scratch.clear();
        let is_folded = addition.encode_folded(before.as_bytes(), scratch);
        is_folded.then_some(Change::Added(addition))
    }

    fn time(&self) -> Time {
        match self {
            Change::Over(ended) => ended.time,
            Change::Added(addition) => addition.dot.time,
        }
    }
}

impl Rewritten {
    /// Takes what the key was, if `delta` writes all of it at `time`, or adds to it. Gathers what is
    /// left in `scratch`. `before` is nothing any more then.
    pub(crate) fn new(
        before: &mut Packed,
        delta: &Cell,
        time: Time,
        snapshot: Time,
        dots: u32,
        scratch: &mut Vec<u8>,
    ) -> Option<Rewritten> {
        let change = Change::of(before, delta, scratch)?;
        (change.time() == time).then(|| Rewritten {
            before: std::mem::replace(before, Packed::NOTHING),
            value: Packed::from_bytes(scratch),
            snapshot,
            change,
            open: Some(dots),
        })
    }

    /// When it was written.
    pub(crate) fn time(&self) -> Time {
        self.change.time()
    }

    /// Writes it once more, at the same time. Tells whether that could be done.
    pub(crate) fn again(&mut self, delta: &Cell, dots: u32, scratch: &mut Vec<u8>) -> bool {
        let change = match (self.change, delta.as_addition()) {
            (Change::Added(first), Some(second)) => first
                .and(&second)
                .and_then(|both| Change::added(&self.before, both, scratch)),
            (Change::Over(_), Some(_)) => None,
            (_, None) => Change::of(&self.before, delta, scratch),
        };
        let Some(change) = change.filter(|change| change.time() == self.time()) else {
            return false;
        };
        self.value = Packed::from_bytes(scratch);
        self.change = change;
        self.open = Some(dots);
        true
    }

    /// Writes it to the log's entries, unless that was done.
    pub(crate) fn close(&mut self, key: &Key, entries: &mut Entries) {
        if self.open.take().is_none() {
            return;
        }
        match self.change {
            Change::Over(ended) => {
                let body = self.body();
                entries.overwrite(self.snapshot, key, &Overwrite { ended, body });
            }
            Change::Added(addition) => {
                entries.write(self.time(), self.snapshot, key, &addition.cell());
            }
        }
    }

    /// The body of what an overwrite wrote.
    fn body(&self) -> &[u8] {
        match self.value.glance() {
            Some(Glance::Register(body)) => body,
            // It was packed from a register.
            Some(Glance::Counter(_)) | None => &[],
        }
    }

    fn delta(&self) -> Cell {
        match self.change {
            Change::Over(ended) => {
                let payload = Payload::bytes(Bytes::copy_from_slice(self.body()));
                Cell::overwrite(ended, payload).unwrap_or_default()
            }
            Change::Added(addition) => addition.cell(),
        }
    }

    /// What it holds for who may still write at its time: what the write added stands beside the
    /// sum, since a sum takes no more of its own time.
    pub(crate) fn cell(&self) -> Cell {
        match self.change {
            Change::Over(_) => self.value.cell(),
            Change::Added(addition) => {
                let mut cell = self.before.cell();
                cell.merge(&addition.cell());
                cell
            }
        }
    }

    /// What a reader at a time sees, who does not read below what the key was complete through.
    pub(crate) fn at(&self, at: Time) -> &Packed {
        if at >= self.time() {
            &self.value
        } else {
            &self.before
        }
    }

    /// The same as a chain.
    pub(crate) fn into_chain(self, through: Time) -> Chain {
        let (time, delta) = (self.time(), self.delta());
        let mut chain = Chain::unpacked(self.before, through);
        match self.open {
            Some(dots) => chain.open(time, self.snapshot, delta, dots),
            None => chain.push(time, self.snapshot, delta),
        };
        chain
    }

    /// Its size on the heap in bytes.
    pub(crate) fn weight_bytes(&self) -> usize {
        size_of::<Rewritten>() + self.before.weight_bytes() + self.value.weight_bytes()
    }
}

#[cfg(test)]
mod tests {
    use tidemill_lattice::{Op, Writer};

    use super::*;

    fn dot(time: u64, sequence: u32) -> Dot {
        Dot::new(Time::from_u64(time), Writer(1), sequence)
    }

    fn write(time: u64, sequence: u32, body: &str) -> Cell {
        let payload = Payload::bytes(body.to_owned());
        Cell::overwrite(dot(time, sequence), payload).expect("there is a dot")
    }

    fn add(seen: Option<&Cell>, time: u64, sequence: u32, addend: i64) -> Cell {
        let mut dots = || dot(time, sequence);
        Cell::delta(seen, &Op::CounterAdd(addend), Time::ZERO, &mut dots).expect("it fits")
    }

    /// What `first` writes at 5 and is folded at 10, then written at 20 by both others, as a chain
    /// and as this.
    fn both(first: &Cell, deltas: impl Fn(&Cell) -> [Cell; 2]) -> (Chain, Rewritten) {
        let at = Time::from_u64;
        let mut chain = Chain::default();
        chain.push(at(5), at(4), first.clone());
        chain.fold(at(10));
        let scratch = &mut Vec::new();
        let mut before = chain.pack(scratch).expect("it rests");
        let [second, third] = deltas(&before.cell());
        chain.open(at(20), at(15), second.clone(), 2);
        chain.amend(&third, 4);
        let mut rewritten =
            Rewritten::new(&mut before, &second, at(20), at(15), 2, scratch).expect("it is small");
        assert!(rewritten.again(&third, 4, scratch));
        (chain, rewritten)
    }

    fn overwrites() -> (Chain, Rewritten) {
        both(&write(5, 0, "old"), |_| {
            [write(20, 0, "first"), write(20, 2, "second")]
        })
    }

    fn additions() -> (Chain, Rewritten) {
        both(&add(None, 5, 0, 40), |seen| {
            [add(Some(seen), 20, 0, 3), add(Some(seen), 20, 1, -1)]
        })
    }

    #[test]
    fn it_is_what_a_chain_would_be() {
        let at = Time::from_u64;
        for (mut chain, rewritten) in [overwrites(), additions()] {
            assert_eq!(rewritten.time(), at(20));
            for time in [10, 19, 20, 30] {
                let cell = chain.at(at(time)).expect("it was written");
                let packed = rewritten.at(at(time)).cell();
                let value = |cell: &Cell| cell.view(at(time)).map(|value| value.to_json(at(time)));
                assert_eq!(value(&packed), value(&cell), "at {time}");
            }
            let newest = chain.newest().expect("it was written");
            assert_eq!(rewritten.cell().view(at(30)), newest.view(at(30)));
            let mut same = rewritten.clone().into_chain(at(10));
            assert_eq!(same.open_at(at(20)), chain.open_at(at(20)));
            let closed = |chain: &mut Chain| {
                let mut all = Vec::new();
                chain.close(|time, snapshot, cell| all.push((time, snapshot, cell.clone())));
                all
            };
            assert_eq!(closed(&mut same), closed(&mut chain));
            same.fold(at(20));
            chain.fold(at(20));
            assert_eq!(same.base(), chain.base());
            assert_eq!(rewritten.value.cell(), **chain.base());
        }
    }

    #[test]
    fn the_log_gets_what_a_chain_would_give_it() {
        let key = Key::new("tenant", "app", "key").expect("a key");
        for (mut chain, mut rewritten) in [overwrites(), additions()] {
            let (mut one, mut other) = (Entries::default(), Entries::default());
            chain.close(|time, snapshot, cell| {
                match cell.as_overwrite() {
                    Some(overwrite) => one.overwrite(snapshot, &key, &overwrite),
                    None => one.write(time, snapshot, &key, cell),
                };
            });
            rewritten.close(&key, &mut other);
            let said = format!("{other:?}");
            assert_eq!(format!("{one:?}"), said);
            rewritten.close(&key, &mut other);
            assert_eq!(format!("{other:?}"), said, "once");
        }
    }

    #[test]
    fn what_takes_a_cell_is_not_done_here() {
        let scratch = &mut Vec::new();
        let (_, mut over) = overwrites();
        let large = write(20, 4, &"x".repeat(REGISTER_MAX_BYTES + 1));
        assert!(!over.again(&large, 6, scratch), "it is large");
        let counter = add(None, 5, 0, 1);
        assert!(!over.again(&add(Some(&counter), 20, 4, 1), 6, scratch));
        assert!(!over.again(&write(21, 0, "later"), 6, scratch));
        assert_eq!(over.body(), b"second");
        let at = Time::from_u64;
        let mut before = over.before.clone();
        let mut none = |delta: &Cell| {
            Rewritten::new(&mut before, delta, at(20), Time::ZERO, 6, scratch).is_none()
        };
        assert!(none(&large));
        assert!(none(&add(None, 20, 0, 1)), "it begins a counter");
        assert!(none(&write(19, 0, "another time")));
        assert_eq!(before.as_bytes(), over.before.as_bytes());
        let (_, mut added) = additions();
        assert!(added.again(&write(20, 2, "new"), 4, scratch));
        assert_eq!(added.body(), b"new");
    }
}
