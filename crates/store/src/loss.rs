//! How often a tail of what had been answered was lost, and how far state reached each time.
//!
//! An answer of [`Durability::Memory`](crate::Durability) may be lost with the machine, and one that
//! was given before the log had it, of an update or of a plain commit, also with the process. Afterwards times go on above those that were lost, so a time
//! alone does not tell whether what somebody saw is still here: together with the number of losses
//! at that time it does.
//!
//! What can be known is kept in a small file. Before a life's first answer that may be lost, it
//! says so there, durably, with the identity of the machine's boot; an orderly end takes that
//! back. A life that is found to have ended otherwise has lost something if it gave such answers:
//! what the log had only with the machine, so not where the boot is still the same; the others also
//! with the process. Whether really something was missing can not be told, so it counts as a loss. How far
//! state reaches for certain: without the others through the greatest time in the log, since commits
//! are logged in the order of their times; with them through the greatest snapshot of an entry,
//! since everything at or below it was with the log before that entry.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use tidemill_lattice::Time;
use xxhash_rust::xxh3::xxh3_64;

use crate::{Disk, Error};

const NAME: &str = "LOSSES";
const MAGIC: [u8; 5] = *b"loss\x01";
const CHECKSUM_BYTES: usize = 8;
/// Losses remembered one by one. Whoever had seen something before older ones has lost it.
const KEPT: usize = 4096;
/// The life has answered what may be lost: what the log had, and what it had not.
const COMMITS: u8 = 1;
const UPDATES: u8 = 2;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Record {
    /// What the life has answered that may be lost.
    unsafe_answers: u8,
    /// The machine's boot in which it began to.
    boot: Vec<u8>,
    /// How many losses there were.
    count: u32,
    /// Through which time state had survived, for the last ones of them, the latest last.
    survived: Vec<Time>,
}

/// The losses of one store. Cheap to ask.
#[derive(Debug)]
pub(crate) struct Losses {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    /// As in the record, to look at without its lock.
    unsafe_answers: AtomicU8,
    record: Mutex<Record>,
}

/// How far the state that a life left reaches for certain.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reach {
    /// The greatest time in the log or the checkpoint.
    pub(crate) last: Time,
    /// The greatest snapshot of an entry of the log, or the checkpoint's time.
    pub(crate) seen: Time,
}

impl Losses {
    /// Reads the file of a directory, and counts a loss if the life before had one.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the file is damaged; [`Error::Io`] if it can not be read or written.
    pub(crate) fn open(
        directory: &Path,
        disk: Arc<dyn Disk>,
        reach: Reach,
    ) -> Result<Losses, Error> {
        let mut record = read(directory)?;
        let answers = std::mem::take(&mut record.unsafe_answers);
        let boot = std::mem::take(&mut record.boot);
        let same_machine = disk.boot().is_some_and(|now| now.as_bytes() == boot);
        let lost = match answers {
            0 => false,
            COMMITS => !same_machine,
            _ => true,
        };
        if lost {
            let survived = if answers & UPDATES == 0 {
                reach.last
            } else {
                reach.seen
            };
            record.count = record.count.saturating_add(1);
            record.survived.push(survived);
            let excess = record.survived.len().saturating_sub(KEPT);
            record.survived.drain(..excess);
            tracing::warn!(
                losses = record.count,
                %survived,
                "the last run ended before its last answers of durability `memory` were safe"
            );
        }
        let losses = Losses {
            directory: directory.to_owned(),
            disk,
            unsafe_answers: AtomicU8::new(0),
            record: Mutex::new(record),
        };
        if answers != 0 {
            losses.write(&losses.record.lock())?;
        }
        Ok(losses)
    }

    /// How many losses there were.
    pub(crate) fn count(&self) -> u32 {
        self.record.lock().count
    }

    /// Whether everything through `time`, as it was seen when there had been `count` losses, is
    /// still here.
    pub(crate) fn kept(&self, count: u32, time: Time) -> bool {
        let record = self.record.lock();
        let Some(later) = record.count.checked_sub(count) else {
            return false;
        };
        if later == 0 {
            return true;
        }
        // The first loss after that count tells; state through it has survived the others too.
        let first = record.survived.len().checked_sub(later as usize);
        first
            .and_then(|index| record.survived.get(index))
            .is_some_and(|survived| time <= *survived)
    }

    /// Says durably that a commit will be answered that may be lost. Cheap but for the first.
    pub(crate) fn commits(&self) -> Result<(), Error> {
        self.note(COMMITS)
    }

    /// The same of what is answered before the log has it.
    pub(crate) fn updates(&self) -> Result<(), Error> {
        self.note(UPDATES)
    }

    fn note(&self, what: u8) -> Result<(), Error> {
        if self.unsafe_answers.load(Ordering::Acquire) & what != 0 {
            return Ok(());
        }
        let mut record = self.record.lock();
        let mut noted = record.clone();
        noted.unsafe_answers |= what;
        noted.boot = self.disk.boot().unwrap_or_default().into_bytes();
        noted.boot.truncate(usize::from(u8::MAX));
        self.write(&noted)?;
        self.unsafe_answers
            .store(noted.unsafe_answers, Ordering::Release);
        *record = noted;
        Ok(())
    }

    /// The life ends, and everything it answered is on the disk.
    pub(crate) fn end(&self) -> Result<(), Error> {
        let mut record = self.record.lock();
        if record.unsafe_answers == 0 {
            return Ok(());
        }
        record.unsafe_answers = 0;
        record.boot.clear();
        self.unsafe_answers.store(0, Ordering::Release);
        self.write(&record)
    }

    fn write(&self, record: &Record) -> Result<(), Error> {
        put(&self.directory, &encode(record)).map_err(|error| Error::Io {
            operation: "writing the file LOSSES",
            directory: self.directory.clone(),
            cause: error.to_string(),
        })
    }
}

/// Whether the file of a directory that is only read can be.
///
/// # Errors
/// As [`Losses::open`].
pub(crate) fn look(directory: &Path) -> Result<(), Error> {
    read(directory).map(|_| ())
}

fn read(directory: &Path) -> Result<Record, Error> {
    let mut bytes = Vec::new();
    let read = File::open(directory.join(NAME)).and_then(|mut file| file.read_to_end(&mut bytes));
    match read {
        Ok(_) => decode(&bytes).ok_or_else(|| Error::Corrupt {
            directory: directory.to_owned(),
            place: format!("the file {NAME}"),
            cause: "it is not what was written".to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
        Err(error) => Err(Error::Io {
            operation: "reading the file LOSSES",
            directory: directory.to_owned(),
            cause: error.to_string(),
        }),
    }
}

/// Writes the file so that after any crash it is the old one or the new one.
fn put(directory: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join("LOSSES.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(NAME))?;
    File::open(directory)?.sync_all()
}

fn encode(record: &Record) -> Vec<u8> {
    let mut out = Vec::from(MAGIC);
    out.push(record.unsafe_answers);
    out.push(u8::try_from(record.boot.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(&record.boot);
    out.extend_from_slice(&record.count.to_be_bytes());
    for time in &record.survived {
        out.extend_from_slice(&time.as_u64().to_be_bytes());
    }
    let checksum = xxh3_64(&out);
    out.extend_from_slice(&checksum.to_be_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
    if xxh3_64(body).to_be_bytes() != *checksum {
        return None;
    }
    let (&[unsafe_answers, boot_bytes], rest) =
        body.strip_prefix(&MAGIC)?.split_first_chunk::<2>()?;
    let (boot, rest) = rest.split_at_checked(usize::from(boot_bytes))?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let (times, rest) = rest.as_chunks::<8>();
    rest.is_empty().then(|| Record {
        unsafe_answers,
        boot: boot.to_vec(),
        count: u32::from_be_bytes(*count),
        survived: times
            .iter()
            .map(|time| Time::from_u64(u64::from_be_bytes(*time)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_encoding_and_damage_is_refused() {
        let record = Record {
            unsafe_answers: COMMITS | UPDATES,
            boot: b"a boot".to_vec(),
            count: 7,
            survived: vec![Time::from_micros(5), Time::from_micros(9)],
        };
        let bytes = encode(&record);
        assert_eq!(decode(&bytes), Some(record));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None, "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(decode(&damaged), None, "byte {at}");
        }
        assert_eq!(decode(&encode(&Record::default())), Some(Record::default()));
    }
}
