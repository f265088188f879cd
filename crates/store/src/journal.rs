//! A look through the engine's journals before the engine opens them.
//!
//! Where a journal can not be read, the engine takes what follows for the torn end of its last
//! write and cuts it off, also in the middle of the file: commits that were answered would be
//! gone without a word. Nor does its checksum cover a batch's sequence number, which decides
//! what is newest. So each batch is checked here first, and what breaks off is told from what
//! is damaged:
//!
//! - what breaks off is the end of the newest journal: the file ends, or holds zeros, where the
//!   batch should go on. It was never answered as durable, and is cut;
//! - damaged is every other place: whole batches follow it, or the last one is there up to its
//!   trailer, or a newer journal follows.
//!
//! It knows the format of fjall 3 and reads files only. It knows nothing of keys or values.
//!
//! | entry | bytes |
//! |---|---|
//! | start: 1, items, sequence number | 1 + 4 + 8 |
//! | item: 2, type, compression, keyspace, key length, value length, stored length, key, value | 1 + 1 + 1 + 8 + 2 + 4 + 4 + … |
//! | clear: 4, keyspace | 1 + 8 |
//! | end: 3, XXH3-64 of the items, `FJL` 3 | 1 + 8 + 4 |
//!
//! Numbers are little endian.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: [u8; 4] = [b'F', b'J', b'L', 3];
const START_BYTES: usize = 13;
/// What a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;
/// So many bits of a trailer may be wrong for it to count as one that was written.
const TRAILER_BITS_OFF: u32 = 2;
/// The engine keeps the highest bit for itself.
const SEQUENCE_LIMIT: u64 = 1 << 62;

/// How a journal ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The newest journal breaks off after so many bytes.
    Torn { file: PathBuf, valid_bytes: u64 },
    /// Something else than what was written begins at this byte.
    Damaged {
        file: PathBuf,
        at_byte: u64,
        cause: String,
    },
}

/// Looks through the journals in the engine's directory, the oldest first. Stops at the first
/// damage.
pub(crate) fn check(engine: &Path) -> io::Result<Option<Finding>> {
    let journals = list(engine)?;
    let mut after = None;
    for (index, file) in journals.iter().enumerate() {
        let newest = index + 1 == journals.len();
        let found = check_one(file, newest, &mut after)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Cuts what breaks off.
pub(crate) fn cut(file: &Path, valid_bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(file)?;
    file.set_len(valid_bytes)?;
    file.sync_all()
}

fn list(engine: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(engine) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let number = path
            .extension()
            .is_some_and(|extension| extension == "jnl")
            .then(|| path.file_stem()?.to_str()?.parse::<u64>().ok())
            .flatten();
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Why a batch ends where it does.
enum Batch {
    /// Whole, with its sequence number.
    Whole(u64),
    /// Only zeros or nothing are where it should begin.
    None,
    Broken(String),
}

fn check_one(path: &Path, newest: bool, after: &mut Option<u64>) -> io::Result<Option<Finding>> {
    let file = File::open(path)?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut valid_bytes = 0;
    let cause = loop {
        match read_batch(&mut reader)? {
            Batch::Whole(sequence) if sequence >= SEQUENCE_LIMIT => {
                break "a sequence number is out of range".to_owned();
            }
            Batch::Whole(sequence) if after.is_some_and(|after| sequence <= after) => {
                break "a sequence number is out of order".to_owned();
            }
            Batch::Whole(sequence) => {
                *after = Some(sequence);
                valid_bytes = reader.stream_position()?;
            }
            Batch::None => {
                if rest_is_zero(&mut reader)? {
                    return Ok(None);
                }
                break "no batch begins there".to_owned();
            }
            Batch::Broken(cause) => break cause,
        }
    };
    let damaged = Finding::Damaged {
        file: path.to_owned(),
        at_byte: valid_bytes,
        cause,
    };
    if !newest {
        return Ok(Some(damaged));
    }
    let mut rest = Vec::new();
    reader.seek(SeekFrom::Start(valid_bytes))?;
    reader.read_to_end(&mut rest)?;
    if breaks_off(&rest, valid_bytes)? {
        let file = path.to_owned();
        return Ok(Some(Finding::Torn { file, valid_bytes }));
    }
    Ok(Some(damaged))
}

/// Reads one batch. An error is the system's; whatever the bytes say is an answer.
fn read_batch(reader: &mut impl Read) -> io::Result<Batch> {
    match parse_batch(reader) {
        Ok(batch) => Ok(batch),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Ok(Batch::Broken("a batch is cut off".to_owned()))
        }
        Err(e) => Err(e),
    }
}

fn parse_batch(reader: &mut impl Read) -> io::Result<Batch> {
    let broken = |cause: &str| Ok(Batch::Broken(cause.to_owned()));
    let mut tag = [0];
    if reader.read(&mut tag)? == 0 || tag == [0] {
        return Ok(Batch::None);
    }
    if tag != [START] {
        return broken("no batch begins there");
    }
    let items = u32::from_le_bytes(take(reader)?);
    let sequence = u64::from_le_bytes(take(reader)?);
    let mut hasher = Xxh3::new();
    for _ in 0..items {
        let whole = match take::<1>(reader)? {
            [ITEM] => hash_item(reader, &mut hasher)?,
            [CLEAR] => {
                hasher.update(&[CLEAR]);
                hasher.update(&take::<8>(reader)?);
                true
            }
            _ => false,
        };
        if !whole {
            return broken("an item of a batch is not one");
        }
    }
    if take(reader)? != [END] {
        return broken("a batch does not end after its items");
    }
    if u64::from_le_bytes(take(reader)?) != hasher.digest() {
        return broken("a batch's checksum is wrong");
    }
    if take(reader)? != TRAILER {
        return broken("a batch's trailer is wrong");
    }
    Ok(Batch::Whole(sequence))
}

/// Hashes an item after its tag, and tells whether it is one.
fn hash_item(reader: &mut impl Read, hasher: &mut Xxh3) -> io::Result<bool> {
    let head: [u8; 20] = take(reader)?;
    hasher.update(&[ITEM]);
    hasher.update(&head);
    let [_, compression, _, _, _, _, _, _, _, _, k0, k1, lengths @ ..] = head;
    let (value, stored) = lengths.split_at(4);
    // What is not compressed is as long as it is stored.
    if compression > 1 || compression == 0 && value != stored {
        return Ok(false);
    }
    let stored = stored
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let mut left = u64::from(u16::from_le_bytes([k0, k1])) + stored;
    let mut buffer = [0; 4096];
    while left > 0 {
        let part = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let part = &mut buffer[..part];
        reader.read_exact(part)?;
        hasher.update(part);
        left -= part.len() as u64;
    }
    Ok(true)
}

fn take<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn rest_is_zero(reader: &mut impl Read) -> io::Result<bool> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Ok(true);
        }
        if buffer.iter().take(count).any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
}

/// Whether the newest journal breaks off where `rest` begins, at `offset` in the file.
fn breaks_off(rest: &[u8], offset: u64) -> io::Result<bool> {
    let written = rest.len() - rest.iter().rev().take_while(|byte| **byte == 0).count();
    let rest = rest.get(..written).unwrap_or_default();
    for at in 1..rest.len().saturating_sub(START_BYTES) {
        let begins = rest[at] == START && matches!(rest[at + START_BYTES], ITEM | CLEAR);
        if begins && matches!(read_batch(&mut &rest[at..])?, Batch::Whole(_)) {
            return Ok(false);
        }
    }
    Ok(!ends_in_trailer(rest) || misses_a_sector(rest, offset))
}

fn ends_in_trailer(rest: &[u8]) -> bool {
    let Some(last) = rest.last_chunk::<4>() else {
        return false;
    };
    let off = u32::from_le_bytes(*last) ^ u32::from_le_bytes(TRAILER);
    off.count_ones() <= TRAILER_BITS_OFF
}

/// Whether a part that a disk writes whole holds nothing: after a power cut, the end of a write
/// may be there and its beginning not.
fn misses_a_sector(rest: &[u8], offset: u64) -> bool {
    let first = (SECTOR_BYTES - offset % SECTOR_BYTES) as usize;
    let (head, body) = rest.split_at(first.min(rest.len()));
    let empty = |part: &[u8]| part.iter().all(|byte| *byte == 0);
    empty(head) || body.chunks(SECTOR_BYTES as usize).any(empty)
}
