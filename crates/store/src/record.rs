//! The encoding of one group of commits in the log.
//!
//! | field | bytes |
//! |---|---|
//! | version, 3 | 1 |
//! | number of the group, rising by one | 8, big endian |
//! | writer | 4, big endian |
//! | lowest and greatest commit time in it | 8 + 8, big endian |
//! | entries, each with its kind before it, up to the checksum | |
//! | XXH3-64 of everything before | 8, big endian |
//!
//! An entry of kind 0 is a write of one key, of kind 1 a commit, of kind 2 an overwrite of one key:
//! what it held is ended by a dot of the entry's time and the group's writer, and a register of bytes
//! begins by the next dot. To kinds 0 and 2, 4 is added where time and snapshot are those of the entry
//! before.
//!
//! | field | kinds | bytes |
//! |---|---|---|
//! | commit time | 0, 1, 2 | 8, big endian |
//! | how far the snapshot lies below it | 0, 1, 2 | LEB128 |
//! | key and cell, each with its length before it | 0, 4 | LEB128 lengths |
//! | key with its length before it | 2, 6 | LEB128 length |
//! | sequence of the first dot | 2, 6 | LEB128 |
//! | bytes with their length before them | 2, 6 | LEB128 length |
//! | request id | 1 | 16, big endian |
//! | consumed message: 0, or 1 and time and index | 1 | 1, or 1 + 8 + 4 |
//! | deltas: count, then each key and cell with its length before it | 1 | LEB128 lengths |
//! | messages: count, then each with its length before it | 1 | LEB128 lengths |
//!
//! The engine has checksums of its own; these are the second line. The numbers show a group
//! that is missing from the middle.
//!
//! Version 2 had kinds 0 and 1 alone, and is read as well.
//!
//! Pure: it knows bytes, not where they are kept.

use bytes::{Buf, Bytes};
use tidemill_lattice::{Cell, Dot, Key, Overwrite, Payload, Time, Writer};
use xxhash_rust::xxh3::xxh3_64;

use crate::{Commit, MessageId};

const VERSION: u8 = 3;
const VERSIONS: std::ops::RangeInclusive<u8> = 2..=VERSION;
const HEADER_BYTES: usize = 1 + 8 + 4 + 8 + 8;
const CHECKSUM_BYTES: usize = 8;
const WRITE: u8 = 0;
const COMMIT: u8 = 1;
const OVERWRITE: u8 = 2;
const SAME_TIME: u8 = 4;
/// The most that one entry may take.
pub const LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// What a group says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// One above the group before it.
    pub number: u64,
    /// The life of the store that wrote it.
    pub writer: Writer,
    /// The lowest commit time in it.
    pub low: Time,
    /// The greatest commit time in it.
    pub high: Time,
}

/// One commit, or one write of a key, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The commit's time.
    pub time: Time,
    /// The snapshot that its writer read from.
    pub snapshot: Time,
    /// The request's identity; 0 for a write of one key.
    pub request: u128,
    /// The deltas, with committed dots.
    pub deltas: Vec<(Key, Cell)>,
    /// Outgoing messages.
    pub messages: Vec<Bytes>,
    /// The message handled.
    pub consumes: Option<MessageId>,
}

/// Why bytes are not a group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// They end before the group does.
    #[error("it is cut off")]
    Short,
    /// They are not what was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// Another version wrote them.
    #[error("its version is {0}, this one reads 2 to {VERSION}")]
    Version(u8),
    /// They carry the right checksum over something that no version writes.
    #[error("its {0} can not be read: {1}")]
    Field(&'static str, String),
}

/// Entries on their way into a group.
#[derive(Debug, Default)]
pub struct Entries {
    bytes: Vec<u8>,
    span: Option<(Time, Time)>,
    count: usize,
    /// Time and snapshot of the last entry, which the next one may have as well.
    last: Option<(Time, Time)>,
}

impl Entries {
    /// Adds a write of one key, whose delta is stamped already. Answers its size in bytes.
    pub fn write(&mut self, time: Time, snapshot: Time, key: &Key, delta: &Cell) -> usize {
        let before = self.bytes.len();
        self.begin(WRITE, time, snapshot);
        put_bytes(&mut self.bytes, key.as_bytes());
        put_cell(&mut self.bytes, delta);
        self.bytes.len() - before
    }

    /// Adds an overwrite of one key by a shard, whose writer is the group's. Answers its size in
    /// bytes.
    pub fn overwrite(&mut self, snapshot: Time, key: &Key, overwrite: &Overwrite<'_>) -> usize {
        let before = self.bytes.len();
        self.begin(OVERWRITE, overwrite.ended.time, snapshot);
        put_bytes(&mut self.bytes, key.as_bytes());
        put_varint(&mut self.bytes, overwrite.ended.sequence.into());
        put_bytes(&mut self.bytes, overwrite.body);
        self.bytes.len() - before
    }

    /// Adds a commit, whose deltas are stamped already. Answers its size in bytes.
    pub fn commit(&mut self, time: Time, commit: &Commit) -> usize {
        let before = self.bytes.len();
        self.begin(COMMIT, time, commit.snapshot);
        let out = &mut self.bytes;
        out.extend_from_slice(&commit.request.to_be_bytes());
        match commit.consumes {
            None => out.push(0),
            Some((time, index)) => {
                out.push(1);
                out.extend_from_slice(&time.as_u64().to_be_bytes());
                out.extend_from_slice(&index.to_be_bytes());
            }
        }
        put_length(out, commit.deltas.len());
        for (key, cell) in &commit.deltas {
            put_bytes(out, key.as_bytes());
            put_cell(out, cell);
        }
        put_length(out, commit.messages.len());
        for message in &commit.messages {
            put_bytes(out, message);
        }
        self.bytes.len() - before
    }

    fn begin(&mut self, kind: u8, time: Time, snapshot: Time) {
        let span = self.span.get_or_insert((time, time));
        *span = (span.0.min(time), span.1.max(time));
        self.count += 1;
        let is_same = kind != COMMIT && self.last == Some((time, snapshot));
        self.last = (kind != COMMIT).then_some((time, snapshot));
        if is_same {
            self.bytes.push(kind + SAME_TIME);
            return;
        }
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&time.as_u64().to_be_bytes());
        put_varint(
            &mut self.bytes,
            time.as_u64().saturating_sub(snapshot.as_u64()),
        );
    }

    /// Takes back the last entry, which took so many bytes.
    pub fn undo(&mut self, size_bytes: usize) {
        self.bytes
            .truncate(self.bytes.len().saturating_sub(size_bytes));
        self.count = self.count.saturating_sub(1);
        self.last = None;
        if self.count == 0 {
            self.span = None;
        }
    }

    /// Moves the entries of another list behind these.
    pub fn append(&mut self, other: Entries) {
        self.span = match (self.span, other.span) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (one, other) => one.or(other),
        };
        self.count += other.count;
        self.last = None;
        if self.bytes.is_empty() {
            self.bytes = other.bytes;
        } else {
            self.bytes.extend_from_slice(&other.bytes);
        }
    }

    /// The size of the entries in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The group's bytes, and what its header says.
    #[must_use]
    pub fn seal(&self, number: u64, writer: Writer) -> (Header, Vec<u8>) {
        let (low, high) = self.span.unwrap_or_default();
        let header = Header {
            number,
            writer,
            low,
            high,
        };
        let mut out = Vec::with_capacity(HEADER_BYTES + self.bytes.len() + CHECKSUM_BYTES);
        out.push(VERSION);
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&writer.0.to_be_bytes());
        out.extend_from_slice(&low.as_u64().to_be_bytes());
        out.extend_from_slice(&high.as_u64().to_be_bytes());
        out.extend_from_slice(&self.bytes);
        let checksum = xxh3_64(&out);
        out.extend_from_slice(&checksum.to_be_bytes());
        (header, out)
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    put_varint(out, length as u64);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// A cell with its length before it, encoded in place: two bytes are kept free for the length,
/// and the rest is moved where that was not enough.
fn put_cell(out: &mut Vec<u8>, cell: &Cell) {
    let at = out.len();
    out.extend_from_slice(&[0, 0]);
    cell.encode(out);
    let length = out.len() - at - 2;
    if length < 0x4000 {
        out[at] = (length as u8 & 0x7f) | 0x80;
        out[at + 1] = (length >> 7) as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(10);
    put_length(&mut prefix, length);
    out.splice(at..at + 2, prefix);
}

/// Reads a group's header and entries.
///
/// # Errors
/// [`RecordError`] says what is wrong with the bytes.
pub fn decode(bytes: &Bytes) -> Result<(Header, Vec<Entry>), RecordError> {
    let (header, mut rest) = open(bytes)?;
    let mut entries: Vec<Entry> = Vec::new();
    while rest.has_remaining() {
        let last = entries.last().map(|entry| (entry.time, entry.snapshot));
        entries.push(entry(&mut rest, header.writer, last)?);
    }
    let times = || entries.iter().map(|entry| entry.time);
    let span = (times().min(), times().max());
    if span != (Some(header.low), Some(header.high)) {
        let cause = "its entries have others".to_owned();
        return Err(RecordError::Field("lowest and greatest time", cause));
    }
    Ok((header, entries))
}

/// Checks version and checksum, and reads the header. Answers the bytes of the entries.
fn open(bytes: &Bytes) -> Result<(Header, Bytes), RecordError> {
    let version = *bytes.first().ok_or(RecordError::Short)?;
    let body = bytes
        .len()
        .checked_sub(CHECKSUM_BYTES)
        .filter(|length| *length >= HEADER_BYTES)
        .ok_or(RecordError::Short)?;
    let mut rest = bytes.slice(..body);
    let stored = bytes.slice(body..).get_u64();
    if xxh3_64(&rest) != stored {
        return Err(RecordError::Checksum);
    }
    if !VERSIONS.contains(&version) {
        return Err(RecordError::Version(version));
    }
    rest.advance(1);
    let header = Header {
        number: rest.get_u64(),
        writer: Writer(rest.get_u32()),
        low: Time::from_u64(rest.get_u64()),
        high: Time::from_u64(rest.get_u64()),
    };
    Ok((header, rest))
}

fn times(rest: &mut Bytes) -> Result<(Time, Time), RecordError> {
    let time = take_u64(rest)?;
    let snapshot = time
        .checked_sub(varint(rest, "snapshot")?)
        .ok_or_else(|| RecordError::Field("snapshot", "it lies before time began".to_owned()))?;
    Ok((Time::from_u64(time), Time::from_u64(snapshot)))
}

/// Reads an entry. `last` has the times of the one before.
fn entry(
    rest: &mut Bytes,
    writer: Writer,
    last: Option<(Time, Time)>,
) -> Result<Entry, RecordError> {
    let kind = take_u8(rest)?;
    let is_same = matches!(kind.checked_sub(SAME_TIME), Some(WRITE | OVERWRITE));
    let (kind, (time, snapshot)) = if is_same {
        let none = || RecordError::Field("time", "there is none before it".to_owned());
        (kind - SAME_TIME, last.ok_or_else(none)?)
    } else {
        (kind, times(rest)?)
    };
    let mut entry = Entry {
        time,
        snapshot,
        request: 0,
        deltas: Vec::new(),
        messages: Vec::new(),
        consumes: None,
    };
    match kind {
        WRITE => entry.deltas.push(delta(rest)?),
        OVERWRITE => entry.deltas.push(overwritten(rest, time, writer)?),
        COMMIT => {
            entry.request = rest.try_get_u128().map_err(|_| RecordError::Short)?;
            entry.consumes = match take_u8(rest)? {
                0 => None,
                1 => {
                    let time = Time::from_u64(take_u64(rest)?);
                    let index = rest.try_get_u32().map_err(|_| RecordError::Short)?;
                    Some((time, index))
                }
                other => {
                    let cause = format!("{other} is neither 0 nor 1");
                    return Err(RecordError::Field("consumed message", cause));
                }
            };
            for _ in 0..varint(rest, "number of deltas")? {
                entry.deltas.push(delta(rest)?);
            }
            for _ in 0..varint(rest, "number of messages")? {
                entry.messages.push(take_bytes(rest, "message")?);
            }
        }
        other => {
            let cause = format!("{other} is no kind of entry");
            return Err(RecordError::Field("entry", cause));
        }
    }
    Ok(entry)
}

fn key(rest: &mut Bytes) -> Result<Key, RecordError> {
    let key = take_bytes(rest, "key")?;
    Key::from_bytes(&key).map_err(|e| RecordError::Field("key", e.to_string()))
}

fn overwritten(rest: &mut Bytes, time: Time, writer: Writer) -> Result<(Key, Cell), RecordError> {
    let key = key(rest)?;
    let sequence = varint(rest, "sequence")?;
    let body = take_bytes(rest, "bytes")?;
    let ended = u32::try_from(sequence)
        .ok()
        .map(|sequence| Dot::new(time, writer, sequence));
    let cell = ended.and_then(|ended| Cell::overwrite(ended, Payload::bytes(body)));
    let too_large = || RecordError::Field("sequence", "it is too large".to_owned());
    Ok((key, cell.ok_or_else(too_large)?))
}

fn delta(rest: &mut Bytes) -> Result<(Key, Cell), RecordError> {
    let key = key(rest)?;
    let cell = take_bytes(rest, "cell")?;
    let cell = Cell::decode(&cell).map_err(|e| RecordError::Field("cell", e.to_string()))?;
    Ok((key, cell))
}

fn take_u8(rest: &mut Bytes) -> Result<u8, RecordError> {
    rest.try_get_u8().map_err(|_| RecordError::Short)
}

fn take_u64(rest: &mut Bytes) -> Result<u64, RecordError> {
    rest.try_get_u64().map_err(|_| RecordError::Short)
}

fn varint(rest: &mut Bytes, field: &'static str) -> Result<u64, RecordError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_u8(rest)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(RecordError::Field(field, "it is too long".to_owned()))
}

fn take_bytes(rest: &mut Bytes, field: &'static str) -> Result<Bytes, RecordError> {
    let length = usize::try_from(varint(rest, field)?)
        .map_err(|_| RecordError::Field(field, "it is too long".to_owned()))?;
    if length > rest.len() {
        return Err(RecordError::Short);
    }
    Ok(rest.split_to(length))
}
