//! Older versions of a busy key as bytes, one after the other.
//!
//! While somebody still reads an old snapshot, a key that many write collects versions. Each as a
//! cell ready to be merged would take several times its value; as bytes it takes a few dozen beside.
//!
//! | field of a version | bytes |
//! |---|---|
//! | commit time | 8, little endian |
//! | how far what its writer saw lies below it | LEB128 |
//! | length of the cell, doubled; one more where nothing below it shows | LEB128 |
//! | the cell, as [`Cell::encode`] writes it | |
//!
//! Pure: it knows times and encoded cells, not who reads them. The bytes never leave the process.

use tidemill_lattice::{Cell, Time};

/// Larger cells are not for here: copying them for each version would cost more than is saved.
const CELL_MAX_BYTES: usize = 512;
/// Room is added for a part of what is there, so that little of it is empty.
const ROOM_PART: usize = 8;
const ROOM_MIN_BYTES: usize = 256;

/// Versions in the order of their times.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    bytes: Vec<u8>,
    count: usize,
    last: Time,
}

/// One version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version<'a> {
    pub(crate) time: Time,
    /// What its writer had seen.
    pub(crate) snapshot: Time,
    /// Whether nothing below it shows any more.
    pub(crate) replaces: bool,
    cell: &'a [u8],
}

impl Version<'_> {
    /// The delta.
    ///
    /// # Panics
    /// If the memory of this process was damaged: a cell wrote these bytes.
    pub(crate) fn cell(&self) -> Cell {
        Cell::decode_copied(self.cell).expect("a cell wrote these bytes")
    }
}

impl History {
    /// Whether a cell is small enough to be kept so.
    pub(crate) fn takes(cell: &Cell) -> bool {
        cell.weight_bytes() <= CELL_MAX_BYTES
    }

    /// Adds a version above all that are here.
    pub(crate) fn push(&mut self, time: Time, snapshot: Time, cell: &Cell) {
        let mut encoded = Vec::with_capacity(64);
        cell.encode(&mut encoded);
        let replaces = cell.deleted_at() == time;
        let behind = time.as_u64().saturating_sub(snapshot.as_u64());
        let room = encoded.len() + 24;
        if self.bytes.capacity() - self.bytes.len() < room {
            let more = room.max(self.bytes.len() / ROOM_PART).max(ROOM_MIN_BYTES);
            self.bytes.reserve_exact(more);
        }
        self.bytes.extend_from_slice(&time.as_u64().to_le_bytes());
        put_varint(&mut self.bytes, behind);
        let length = (encoded.len() as u64) << 1;
        put_varint(&mut self.bytes, length | u64::from(replaces));
        self.bytes.extend_from_slice(&encoded);
        self.count += 1;
        self.last = time;
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The first version's time.
    pub(crate) fn first(&self) -> Option<Time> {
        self.iter().next().map(|version| version.time)
    }

    /// The last version's time.
    pub(crate) fn last(&self) -> Option<Time> {
        (self.count > 0).then_some(self.last)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Version<'_>> {
        Versions { rest: &self.bytes }
    }

    /// How many versions are at or below a time.
    pub(crate) fn count_through(&self, time: Time) -> usize {
        if self.last <= time {
            return self.count;
        }
        self.iter()
            .take_while(|version| version.time <= time)
            .count()
    }

    /// Removes the first versions.
    pub(crate) fn remove_first(&mut self, count: usize) {
        let mut versions = Versions { rest: &self.bytes };
        let removed = versions.by_ref().take(count).count();
        let from = self.bytes.len() - versions.rest.len();
        self.bytes.drain(..from);
        self.count -= removed;
        if self.bytes.len() < self.bytes.capacity() / 2 {
            self.bytes.shrink_to_fit();
        }
    }

    /// Its size in bytes.
    pub(crate) fn weight_bytes(&self) -> usize {
        size_of::<History>() + self.bytes.capacity()
    }
}

struct Versions<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Versions<'a> {
    type Item = Version<'a>;

    fn next(&mut self) -> Option<Version<'a>> {
        let (time, rest) = self.rest.split_first_chunk::<8>()?;
        self.rest = rest;
        let time = u64::from_le_bytes(*time);
        let behind = take_varint(&mut self.rest)?;
        let length = take_varint(&mut self.rest)?;
        let (cell, rest) = self.rest.split_at_checked((length >> 1) as usize)?;
        self.rest = rest;
        Some(Version {
            time: Time::from_u64(time),
            snapshot: Time::from_u64(time.saturating_sub(behind)),
            replaces: length & 1 == 1,
            cell,
        })
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tidemill_lattice::{Dot, Op, Payload, Writer};

    use super::*;

    fn delta(time: u64) -> Cell {
        let op = Op::RegisterSet(Payload::bytes(vec![7; 16]));
        let mut dots = || Dot::new(Time::from_u64(time), Writer(1), 0);
        Cell::delta(None, &op, Time::ZERO, &mut dots).expect("it fits")
    }

    #[test]
    fn versions_come_back_and_go_from_the_front() {
        let at = Time::from_u64;
        let mut history = History::default();
        assert_eq!((history.first(), history.last()), (None, None));
        for time in 1..=300_u64 {
            history.push(at(1000 * time), at(1000 * time - 3 * time), &delta(time));
        }
        let deleted = Cell::tombstone(Dot::new(at(400_000), Writer(1), 0));
        history.push(at(400_000), at(0), &deleted);
        assert_eq!(history.len(), 301);
        assert_eq!(history.count_through(at(2_999)), 2);
        assert_eq!(history.count_through(at(400_000)), 301);
        history.remove_first(100);
        assert_eq!(history.first(), Some(at(101_000)));
        assert_eq!(history.last(), Some(at(400_000)));
        let versions: Vec<Version<'_>> = history.iter().collect();
        assert_eq!(versions.len(), 201);
        assert_eq!(versions[0].snapshot, at(101_000 - 303));
        assert_eq!(versions[0].cell(), delta(101));
        assert!(!versions[0].replaces && versions[200].replaces);
        assert_eq!(versions[200].cell(), deleted);
        history.remove_first(201);
        assert_eq!((history.len(), history.first()), (0, None));
    }

    #[test]
    fn a_version_takes_a_few_dozen_bytes_beside_its_value() {
        let mut history = History::default();
        let now = 1_700_000_000_000_000_u64 << 12;
        for step in 0..1000_u64 {
            let time = now + step * 5000;
            history.push(
                Time::from_u64(time),
                Time::from_u64(time - 40_000),
                &delta(time),
            );
        }
        let each = history.weight_bytes() / 1000;
        assert!(each - 16 < 48, "{each}");
    }
}
