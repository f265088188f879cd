//! The lock that makes one store the only user of a directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use crate::Error;

/// Holds a directory until dropped, or until the process is gone.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Creates the directory if needed and takes its lock.
    pub(crate) fn take(directory: &Path) -> Result<DirectoryLock, Error> {
        let fail = |e: io::Error| fail(directory, &e);
        std::fs::create_dir_all(directory).map_err(fail)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join("LOCK"))
            .map_err(fail)?;
        lock(&mut file, directory)?;
        // Who holds it is a courtesy: a full disk must not keep a store from opening.
        let note = write_pid(&mut file);
        if let Err(error) = note {
            tracing::warn!(%error, "could not note the process id in the lock file");
        }
        Ok(DirectoryLock { _file: file })
    }

    /// Takes the lock of a directory that is there, and changes nothing in it.
    pub(crate) fn take_existing(directory: &Path) -> Result<DirectoryLock, Error> {
        let mut file = File::open(directory.join("LOCK")).map_err(|e| fail(directory, &e))?;
        lock(&mut file, directory)?;
        Ok(DirectoryLock { _file: file })
    }
}

fn fail(directory: &Path, error: &io::Error) -> Error {
    Error::Io {
        operation: "opening the lock file",
        directory: directory.to_path_buf(),
        cause: error.to_string(),
    }
}

fn lock(file: &mut File, directory: &Path) -> Result<(), Error> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let read = file.read_to_string(&mut pid);
            let pid = read.ok().and_then(|_| pid.trim().parse().ok());
            Err(Error::InUse {
                directory: directory.to_path_buf(),
                pid,
            })
        }
        Err(TryLockError::Error(e)) => Err(fail(directory, &e)),
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}
