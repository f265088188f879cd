//! Looks whether a store's directory is whole, while nobody uses it.
//!
//! Nothing in the directory is changed: the engine is opened on a shadow of it, with copies of
//! what opening changes (journals and lists) and links to what it only reads (tables). What is
//! found damaged is told with its place; for values that is the range of keys between the
//! readable ones around it.

use std::cmp::Ordering;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tidemill_lattice::{Key, Time};

use crate::engine::Engine;
use crate::fence;
use crate::journal::{self, Finding};
use crate::lock::DirectoryLock;
use crate::loss;
use crate::sizes::Sizes;
use crate::{Error, SystemDisk, recovery};

/// So many are told; a disk that has more is beyond a list.
const DAMAGES_MAX: usize = 100;
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Where readable keys are looked for within a range that seemed unreadable.
const SAMPLES: u32 = 32;

/// What a look through a store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Values of the durable tier that were read and are right.
    pub keys: u64,
    /// Their encoded size.
    pub value_bytes: u64,
    /// Commits in the log.
    pub records: u64,
    /// Messages that no commit has consumed.
    pub messages: u64,
    /// Records of requests that were read and are right.
    pub requests: u64,
    /// The life that wrote last.
    pub epoch: u32,
    /// The time that the durable tier is complete through.
    pub checkpoint: Time,
    /// The newest commit.
    pub stable: Time,
    /// Ends of writes that broke off. Harmless: nothing of them was answered as safe, and
    /// opening the store cuts them.
    pub torn: Vec<String>,
    /// What is not as it was written.
    pub damages: Vec<Damage>,
    /// There are more damages than are listed.
    pub more: bool,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where.
    pub place: String,
    /// What is wrong there.
    pub cause: String,
    /// The keys around the values that can not be read, where values are concerned.
    pub range: Option<Range>,
}

/// Keys between two that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The readable key before; `None` if there is none.
    pub after: Option<Key>,
    /// The readable key behind; `None` if there is none.
    pub before: Option<Key>,
}

impl Report {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.damages.is_empty()
    }

    fn add(&mut self, damage: Damage) {
        if self.damages.len() < DAMAGES_MAX {
            self.damages.push(damage);
        } else {
            self.more = true;
        }
    }

    fn add_error(&mut self, place: &str, error: Error) {
        let (place, cause) = match error {
            Error::Corrupt { place, cause, .. } => (place, cause),
            other => (place.to_owned(), other.to_string()),
        };
        let range = None;
        self.add(Damage {
            place,
            cause,
            range,
        });
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.cause)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |key: &Key| format!("{}/{}/{}", key.tenant(), key.app(), key.name_lossy());
        match (&self.after, &self.before) {
            (None, None) => write!(f, "all keys"),
            (Some(after), None) => write!(f, "the keys after {}", show(after)),
            (None, Some(before)) => write!(f, "the keys before {}", show(before)),
            (Some(after), Some(before)) => {
                write!(
                    f,
                    "the keys after {} and before {}",
                    show(after),
                    show(before)
                )
            }
        }
    }
}

/// Looks through the store in `directory`. `scratch` is an empty directory for what is needed
/// on the way; it takes as much space as the journals.
///
/// # Errors
/// [`Error::InUse`] if a store has the directory open; [`Error::Io`] if it can not be looked
/// at. What is found in it is in the report.
pub fn verify(directory: &Path, scratch: &Path) -> Result<Report, Error> {
    let _lock = DirectoryLock::take_existing(directory)?;
    inspect(directory, scratch)
}

/// The same for whoever holds the directory's lock.
pub(crate) fn inspect(directory: &Path, scratch: &Path) -> Result<Report, Error> {
    let failed = |operation| {
        move |e: io::Error| Error::Io {
            operation,
            directory: directory.to_owned(),
            cause: e.to_string(),
        }
    };
    let mut report = Report::default();
    let void = match fence::look(directory) {
        Ok(void) => void,
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            report.add_error("the file FENCE", corrupt_fence(directory, &e));
            None
        }
        Err(e) => return Err(failed("reading the file FENCE")(e)),
    };
    match loss::look(directory) {
        Ok(()) => {}
        Err(error @ Error::Corrupt { .. }) => report.add_error("the file LOSSES", error),
        Err(error) => return Err(error),
    }
    let finding = journal::check(&directory.join("engine")).map_err(failed("reading a journal"))?;
    if let Some(Finding::Torn { file, valid_bytes }) = finding {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        report.torn.push(format!(
            "the journal {name} breaks off at byte {valid_bytes}"
        ));
    }
    shadow(directory, scratch).map_err(failed("copying the journals"))?;
    let engine = match Engine::open(
        scratch,
        Arc::new(SystemDisk),
        CACHE_BYTES,
        Sizes::for_free(0),
    ) {
        Ok(engine) => engine,
        Err(error) => {
            report.add_error("the engine's files", error);
            return Ok(report);
        }
    };
    match recovery::recover(&engine, &mut recovery::owners(1), void) {
        Ok(recovered) => {
            report.records = recovered.logged.len() as u64;
            report.messages = recovered.pending.len() as u64;
            report.epoch = recovered.writer.0.saturating_sub(1);
            report.checkpoint = recovered.checkpoint;
            report.stable = recovered.floor;
            let torn = recovered.torn.iter();
            report
                .torn
                .extend(torn.map(|number| format!("the log's group {number} is torn")));
        }
        Err(error) => report.add_error("the log", error),
    }
    values(&engine, &mut report);
    requests(&engine, &mut report);
    Ok(report)
}

pub(crate) fn corrupt_fence(directory: &Path, error: &io::Error) -> Error {
    Error::Corrupt {
        directory: directory.to_owned(),
        place: "the file FENCE".to_owned(),
        cause: error.to_string(),
    }
}

/// Reads the record of every request. One that is damaged does not end the reading; where the
/// engine can not go on, that is told once.
fn requests(engine: &Engine, report: &mut Report) {
    for request in engine.requests(None) {
        match request {
            Ok(_) => report.requests += 1,
            Err(error) => report.add_error("the records of requests", error),
        }
        if report.more {
            return;
        }
    }
}

/// Reads every value, along the order of keys and by its key.
fn values(engine: &Engine, report: &mut Report) {
    let mut from: Bound<Bytes> = Bound::Unbounded;
    let mut last: Option<Bytes> = None;
    while !report.more {
        let start = from.as_ref().map(|key| &**key);
        let mut failed = None;
        for entry in engine.raw((start, Bound::Unbounded)) {
            match entry {
                Ok((key, value)) => {
                    value_at(engine, &key, &value, report);
                    last = Some(key);
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let Some(error) = failed else { return };
        let next = resume(engine, last.as_deref());
        let key = |bytes: &Bytes| Key::from_bytes(bytes).ok();
        let range = Range {
            after: last.as_ref().and_then(key),
            before: next.as_ref().and_then(key),
        };
        let cause = match error {
            Error::Corrupt { cause, .. } => cause,
            other => other.to_string(),
        };
        report.add(Damage {
            place: format!("values of {range}"),
            cause,
            range: Some(range),
        });
        let Some(next) = next else { return };
        from = Bound::Included(next);
    }
}

fn value_at(engine: &Engine, key: &Bytes, value: &Bytes, report: &mut Report) {
    if let Err(error) = engine.check_value(key, value) {
        return report.add_error("a value", error);
    }
    match engine.get_raw(key) {
        Ok(Some(found)) if found == *value => {
            report.keys += 1;
            report.value_bytes += value.len() as u64;
        }
        Ok(_) => {
            let cause = "it is in the table and is not found by its key".to_owned();
            report.add_error("the index", engine.corrupt(engine.place(key), cause));
        }
        Err(error) => {
            let place = engine.place(key);
            let cause = error.to_string();
            report.add(Damage {
                place,
                cause,
                range: None,
            });
        }
    }
}

/// What a read from a place in the order of keys on meets first.
enum Probe {
    Key(Bytes),
    End,
    Unreadable,
}

fn probe(engine: &Engine, from: &[u8]) -> Probe {
    let mut entries = engine.raw((Bound::Included(from), Bound::Unbounded));
    match entries.next() {
        None => Probe::End,
        Some(Ok((key, _))) => Probe::Key(key),
        Some(Err(_)) => Probe::Unreadable,
    }
}

/// The first readable key behind a damage that begins after `after`, by bisection: blocks are
/// ordered, so from some place on reading works again. Between two damages there may be
/// readable keys, so the part below is sampled too.
fn resume(engine: &Engine, after: Option<&[u8]>) -> Option<Bytes> {
    let low = after.unwrap_or_default();
    // Above every key: they begin with the name of a tenant.
    let mut found = bisect(engine, low, vec![0xff]);
    loop {
        let high = found.as_deref().unwrap_or(&[0xff]);
        let nearer = (1..SAMPLES).find_map(|part| {
            let place = between(low, high, part, SAMPLES);
            match probe(engine, &place) {
                Probe::Key(key) if *key < *high && *key > *low => Some(key),
                _ => None,
            }
        });
        match nearer {
            Some(key) => found = bisect(engine, low, key.to_vec()).or(Some(key)),
            None => return found,
        }
    }
}

/// The key read first from the lowest place found that can be read, if there is one.
fn bisect(engine: &Engine, low: &[u8], high: Vec<u8>) -> Option<Bytes> {
    let (mut low, mut high) = (low.to_vec(), high);
    let mut found = match probe(engine, &high) {
        Probe::Key(key) => Some(key),
        Probe::End | Probe::Unreadable => None,
    };
    loop {
        let middle = between(&low, &high, 1, 2);
        if middle.cmp(&low) != Ordering::Greater || middle.cmp(&high) != Ordering::Less {
            return found;
        }
        match probe(engine, &middle) {
            Probe::Unreadable => low = middle,
            Probe::End => high = middle,
            Probe::Key(key) => {
                found = Some(key);
                high = middle;
            }
        }
    }
}

/// The place `part / of` of the way from `low` to `high`, both read as fractions in base 256,
/// to one digit more than they have.
fn between(low: &[u8], high: &[u8], part: u32, of: u32) -> Vec<u8> {
    const DIGITS_MAX: usize = 4096;
    let digits = (low.len().max(high.len()) + 1).min(DIGITS_MAX);
    let digit = |bytes: &[u8], at: usize| i64::from(bytes.get(at).copied().unwrap_or(0));
    let mut rest = 0;
    let mut place = vec![0_i64; digits];
    // low + (high - low) * part / of, by long division from the first digit on.
    for (at, out) in place.iter_mut().enumerate() {
        let here = rest * 256 + (digit(high, at) - digit(low, at)) * i64::from(part);
        let whole = here.div_euclid(i64::from(of));
        rest = here.rem_euclid(i64::from(of));
        *out = digit(low, at) + whole;
    }
    let mut carry = 0;
    for out in place.iter_mut().rev() {
        let sum = *out + carry;
        *out = sum.rem_euclid(256);
        carry = sum.div_euclid(256);
    }
    let mut bytes: Vec<u8> = place.into_iter().map(|digit| digit as u8).collect();
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

/// Lays out in `scratch` what the engine needs to open.
fn shadow(directory: &Path, scratch: &Path) -> io::Result<()> {
    let source = directory.join("engine").canonicalize()?;
    let target = scratch.join("engine");
    fs::create_dir_all(target.join("keyspaces"))?;
    copy_files(&source, &target)?;
    for keyspace in directories(&source.join("keyspaces"))? {
        let target = target
            .join("keyspaces")
            .join(keyspace.file_name().unwrap_or_default());
        fs::create_dir(&target)?;
        copy_files(&keyspace, &target)?;
        for part in directories(&keyspace)? {
            let target = target.join(part.file_name().unwrap_or_default());
            fs::create_dir(&target)?;
            for table in fs::read_dir(&part)? {
                let table = table?;
                std::os::unix::fs::symlink(table.path(), target.join(table.file_name()))?;
            }
        }
    }
    Ok(())
}

fn directories(within: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(within)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn copy_files(source: &Path, target: &Path) -> io::Result<()> {
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            copy_file(&entry.path(), &target.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Copies a file, and leaves holes where it is zero: journals are laid out ahead.
fn copy_file(source: &Path, target: &Path) -> io::Result<()> {
    let mut source = File::open(source)?;
    let mut target = File::create_new(target)?;
    let mut buffer = vec![0; 1 << 16];
    let mut length = 0_u64;
    loop {
        let count = source.read(&mut buffer)?;
        let part = buffer.get(..count).unwrap_or_default();
        if part.is_empty() {
            return target.set_len(length);
        }
        if part.iter().any(|byte| *byte != 0) {
            target.seek(SeekFrom::Start(length))?;
            target.write_all(part)?;
        }
        length += part.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::between;

    #[test]
    fn places_are_between_and_in_order() {
        assert_eq!(between(&[], &[0xff], 1, 2), [0x7f, 0x80]);
        assert_eq!(between(b"ab", b"ad", 1, 2), b"ac");
        assert_eq!(between(b"a", b"b", 1, 4), b"a\x40");
        let mut low = b"default\0shop\0k/0001".to_vec();
        let high = b"default\0shop\0k/0002".to_vec();
        for _ in 0..64 {
            let middle = between(&low, &high, 1, 2);
            assert!(low < middle && middle < high, "{middle:?}");
            low = middle;
        }
    }
}
