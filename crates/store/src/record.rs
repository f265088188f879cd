//! The encoding of one commit in the log.
//!
//! | field | bytes |
//! |---|---|
//! | version, 1 | 1 |
//! | commit time | 8, big endian |
//! | writer | 4, big endian |
//! | time of the record before it | 8, big endian |
//! | request id | 16, big endian |
//! | snapshot | 8, big endian |
//! | consumed message: 0, or 1 and time and index | 1, or 1 + 8 + 4 |
//! | deltas: count, then each key and cell with its length before it | LEB128 lengths |
//! | messages: count, then each with its length before it | LEB128 lengths |
//! | XXH3-64 of everything before | 8, big endian |
//!
//! The engine has checksums of its own; these are the second line. The time of the record
//! before shows a record that is missing from the middle.
//!
//! Pure: it knows bytes, not where they are kept.

use bytes::{Buf, Bytes};
use tidemill_lattice::{Cell, Key, Time, Writer};
use xxhash_rust::xxh3::xxh3_64;

use crate::{Commit, MessageId};

const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 8;
/// The most that one record may take.
pub const LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// What only the sequencer knows of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The commit's time.
    pub time: Time,
    /// The life of the store that wrote it.
    pub writer: Writer,
    /// The time of the record before it, or of the checkpoint that covers that.
    pub previous: Time,
}

/// A record read back.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its place in the log.
    pub header: Header,
    /// The request's identity.
    pub request: u128,
    /// The snapshot that the request read from.
    pub snapshot: Time,
    /// The deltas, with committed dots.
    pub deltas: Vec<(Key, Cell)>,
    /// Outgoing messages.
    pub messages: Vec<Bytes>,
    /// The message handled.
    pub consumes: Option<MessageId>,
}

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// They end before the record does.
    #[error("it is cut off")]
    Short,
    /// They are not what was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// A later version wrote them.
    #[error("its version is {0}, this one reads {VERSION}")]
    Version(u8),
    /// They carry the right checksum over something that no version writes.
    #[error("its {0} can not be read: {1}")]
    Field(&'static str, String),
}

/// Encodes a commit whose deltas are stamped already.
#[must_use]
pub fn encode(header: Header, commit: &Commit) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + 96 * commit.deltas.len());
    out.push(VERSION);
    out.extend_from_slice(&header.time.as_u64().to_be_bytes());
    out.extend_from_slice(&header.writer.0.to_be_bytes());
    out.extend_from_slice(&header.previous.as_u64().to_be_bytes());
    out.extend_from_slice(&commit.request.to_be_bytes());
    out.extend_from_slice(&commit.snapshot.as_u64().to_be_bytes());
    match commit.consumes {
        None => out.push(0),
        Some((time, index)) => {
            out.push(1);
            out.extend_from_slice(&time.as_u64().to_be_bytes());
            out.extend_from_slice(&index.to_be_bytes());
        }
    }
    put_length(&mut out, commit.deltas.len());
    for (key, cell) in &commit.deltas {
        put_bytes(&mut out, key.as_bytes());
        put_cell(&mut out, cell);
    }
    put_length(&mut out, commit.messages.len());
    for message in &commit.messages {
        put_bytes(&mut out, message);
    }
    let checksum = xxh3_64(&out);
    out.extend_from_slice(&checksum.to_be_bytes());
    out
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    let mut rest = length;
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Encodes in place, leaving one byte for the length, which nearly always is enough.
fn put_cell(out: &mut Vec<u8>, cell: &Cell) {
    let start = out.len();
    out.push(0);
    cell.encode(out);
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(5);
    put_length(&mut prefix, length);
    out.splice(start..=start, prefix);
}

/// Reads a record, bodies shared with `bytes`.
///
/// # Errors
/// [`RecordError`] if it is anything but a whole record.
pub fn decode(bytes: &Bytes) -> Result<Record, RecordError> {
    let body_length = bytes
        .len()
        .checked_sub(CHECKSUM_BYTES)
        .ok_or(RecordError::Short)?;
    let (body, checksum) = bytes.split_at(body_length);
    if xxh3_64(body).to_be_bytes() != *checksum {
        return Err(RecordError::Checksum);
    }
    let mut rest = bytes.slice(..body_length);
    match take_u8(&mut rest)? {
        VERSION => {}
        other => return Err(RecordError::Version(other)),
    }
    let header = Header {
        time: take_time(&mut rest)?,
        writer: Writer(take(&mut rest, 4)?.get_u32()),
        previous: take_time(&mut rest)?,
    };
    let request = take(&mut rest, 16)?.get_u128();
    let snapshot = take_time(&mut rest)?;
    let consumes = match take_u8(&mut rest)? {
        0 => None,
        1 => Some((take_time(&mut rest)?, take(&mut rest, 4)?.get_u32())),
        other => {
            return Err(RecordError::Field(
                "consumed message",
                format!("tag {other}"),
            ));
        }
    };
    let deltas = take_deltas(&mut rest)?;
    let mut messages = Vec::new();
    for _ in 0..take_length(&mut rest)? {
        messages.push(take_bytes(&mut rest)?);
    }
    if !rest.is_empty() {
        return Err(RecordError::Field(
            "end",
            format!("{} bytes are left", rest.len()),
        ));
    }
    Ok(Record {
        header,
        request,
        snapshot,
        deltas,
        messages,
        consumes,
    })
}

fn take_deltas(rest: &mut Bytes) -> Result<Vec<(Key, Cell)>, RecordError> {
    let mut deltas = Vec::new();
    for _ in 0..take_length(rest)? {
        let key = Key::from_bytes(&take_bytes(rest)?)
            .map_err(|e| RecordError::Field("key", e.to_string()))?;
        let cell = Cell::decode(&take_bytes(rest)?)
            .map_err(|e| RecordError::Field("delta", e.to_string()))?;
        deltas.push((key, cell));
    }
    Ok(deltas)
}

fn take(rest: &mut Bytes, count: usize) -> Result<Bytes, RecordError> {
    if rest.len() < count {
        return Err(RecordError::Short);
    }
    Ok(rest.split_to(count))
}

fn take_u8(rest: &mut Bytes) -> Result<u8, RecordError> {
    Ok(take(rest, 1)?.get_u8())
}

fn take_time(rest: &mut Bytes) -> Result<Time, RecordError> {
    Ok(Time::from_u64(take(rest, 8)?.get_u64()))
}

fn take_length(rest: &mut Bytes) -> Result<usize, RecordError> {
    let mut length = 0_u64;
    for shift in (0..35).step_by(7) {
        let byte = take_u8(rest)?;
        length |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(length)
                .map_err(|e| RecordError::Field("length", e.to_string()));
        }
    }
    Err(RecordError::Field("length", "it is too long".to_owned()))
}

fn take_bytes(rest: &mut Bytes) -> Result<Bytes, RecordError> {
    let length = take_length(rest)?;
    take(rest, length)
}
