//! A new store from a backup.
//!
//! It is built beside its place and moved there when it is whole and has been read through, so
//! a kill in the middle leaves nothing that opens. The new store's clock begins above the
//! backup's snapshot and its writer above the backup's, so no dot is given twice.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backup::{Block, Decoder, ReadError, Summary};
use crate::engine::{Change, Engine, FIRST_GROUP, encode_stored};
use crate::lock::DirectoryLock;
use crate::sizes::Sizes;
use crate::verify::inspect;
use crate::{Disk, Error};

/// In a directory that is being filled.
const MARKER: &str = "RESTORING";
const OPERATION: &str = "restoring a backup";
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Why there is no new store.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup is not whole. Nothing was left in the place.
    #[error(transparent)]
    Backup(#[from] ReadError),
    /// The store could not be written.
    #[error(transparent)]
    Store(#[from] Error),
    /// The place is taken.
    #[error("{directory} is not empty; restore into a new directory, or move this one away")]
    NotEmpty {
        /// What is in the way.
        directory: PathBuf,
    },
    /// What was written does not read back.
    #[error("what was written to {directory} does not read back: {cause}; check the disk")]
    NotWhole {
        /// Where it was written.
        directory: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

/// Makes the store of a backup at `directory`, which must be new or empty.
///
/// # Errors
/// [`RestoreError`]; nothing is at `directory` then.
pub fn restore(
    backup: impl Read,
    directory: &Path,
    disk: Arc<dyn Disk>,
) -> Result<Summary, RestoreError> {
    let failed = |operation| move |e: io::Error| io_error(operation, directory, &e);
    if !is_free(directory).map_err(failed("looking at the directory"))? {
        let directory = directory.to_owned();
        return Err(RestoreError::NotEmpty { directory });
    }
    let partial = partial_of(directory);
    let lock = make(&partial)?;
    let filled = fill(backup, &partial, disk).and_then(|summary| {
        check(&partial, summary)?;
        Ok(summary)
    });
    let summary = match filled {
        Ok(summary) => summary,
        Err(error) => {
            // What is left says itself that it is not whole.
            if let Err(left) = fs::remove_dir_all(&partial) {
                tracing::warn!(directory = %partial.display(), error = %left, "stays behind");
            }
            return Err(error);
        }
    };
    settle(&partial, directory).map_err(failed("moving the store to its place"))?;
    drop(lock);
    Ok(summary)
}

fn io_error(operation: &'static str, directory: &Path, error: &io::Error) -> Error {
    Error::Io {
        operation,
        directory: directory.to_owned(),
        cause: error.to_string(),
    }
}

fn is_free(directory: &Path) -> io::Result<bool> {
    match fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

fn partial_of(directory: &Path) -> PathBuf {
    let mut name = directory.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// Makes the directory to fill, in the place of one that a killed restore left.
fn make(partial: &Path) -> Result<DirectoryLock, RestoreError> {
    let failed = |e| io_error("making the directory", partial, &e);
    let left = partial.join(MARKER).try_exists().map_err(failed)?;
    if !left && !is_free(partial).map_err(failed)? {
        let directory = partial.to_owned();
        return Err(RestoreError::NotEmpty { directory });
    }
    let lock = DirectoryLock::take(partial)?;
    fs::write(partial.join(MARKER), b"").map_err(failed)?;
    let engine = partial.join("engine");
    if engine.try_exists().map_err(failed)? {
        fs::remove_dir_all(engine).map_err(failed)?;
    }
    Ok(lock)
}

fn fill(backup: impl Read, partial: &Path, disk: Arc<dyn Disk>) -> Result<Summary, RestoreError> {
    let mut decoder = Decoder::new(backup)?;
    let head = decoder.head();
    let engine = Engine::open(partial, disk, CACHE_BYTES, Sizes::for_free(0))?;
    while let Some(block) = decoder.block()? {
        let changes = match block {
            Block::Entries(entries) => entries
                .into_iter()
                .map(|(key, cell)| {
                    let value = encode_stored(head.snapshot, &cell);
                    Change::Put(key, value)
                })
                .collect(),
            Block::Messages(messages) => messages
                .into_iter()
                .map(|(id, body)| Change::Post(id, body))
                .collect(),
            Block::Requests(requests) => requests.into_iter().map(Change::Record).collect(),
        };
        engine.change(OPERATION, changes)?;
    }
    engine.change(OPERATION, vec![Change::Mark(head.snapshot, FIRST_GROUP)])?;
    // The next life counts on from here, and begins above the checkpoint.
    engine.begin(head.writer.0, &[], &[])?;
    decoder.summary().ok_or_else(|| {
        let at_byte = 0;
        ReadError::Cut { at_byte }.into()
    })
}

/// Reads back what was written.
fn check(partial: &Path, summary: Summary) -> Result<(), RestoreError> {
    let scratch = partial.join("scratch");
    let failed = |e| io_error("checking the new store", partial, &e);
    fs::create_dir(&scratch).map_err(failed)?;
    let report = inspect(partial, &scratch)?;
    fs::remove_dir_all(&scratch).map_err(failed)?;
    let cause = match report.damages.first() {
        Some(damage) => damage.to_string(),
        None if report.keys != summary.keys => {
            format!("it holds {} keys, not {}", report.keys, summary.keys)
        }
        None if (report.messages, report.requests) == (summary.messages, summary.requests) => {
            return Ok(());
        }
        None => "messages or records of requests are missing".to_owned(),
    };
    Err(RestoreError::NotWhole {
        directory: partial.to_owned(),
        cause,
    })
}

fn settle(partial: &Path, directory: &Path) -> io::Result<()> {
    File::open(partial)?.sync_all()?;
    fs::rename(partial, directory)?;
    fs::remove_file(directory.join(MARKER))?;
    File::open(directory)?.sync_all()?;
    match directory.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
