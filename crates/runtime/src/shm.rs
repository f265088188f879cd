//! Large values beside the frames: files in a memory-backed directory that worker
//! processes map. The node itself never maps them (a file that shrinks under a
//! mapping kills the process that reads it); it writes and reads them whole.

use crate::protocol::Shared;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Values shared with workers, each file once however often it is sent.
///
/// A value is recognised by its place in memory: a hot key's reads give the same
/// [`Bytes`], which this table keeps alive, so the place cannot come to mean another
/// value. Least recently shared ones leave first; a leaving file may still be mapped.
pub(crate) struct SharedValues {
    directory: PathBuf,
    bytes_max: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_place: HashMap<(usize, usize), Entry>,
    bytes: usize,
    next: u64,
}

struct Entry {
    _alive: Bytes,
    name: String,
    used: u64,
}

impl SharedValues {
    /// Uses (and makes) this directory, holding at most so many bytes in it.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub(crate) fn open(directory: PathBuf, bytes_max: usize) -> io::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)?;
        Ok(Self {
            directory,
            bytes_max,
            table: Mutex::default(),
        })
    }

    /// Where the files are.
    #[must_use]
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.directory.join(name);
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(&path)
            .and_then(|mut file| file.write_all(bytes));
        if written.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        written
    }
}

impl Table {
    fn make_room(&mut self, directory: &Path, bytes_max: usize) {
        while self.bytes > bytes_max {
            let Some(oldest) = self
                .by_place
                .iter()
                .min_by_key(|(_, entry)| entry.used)
                .map(|(place, _)| *place)
            else {
                return;
            };
            if let Some(entry) = self.by_place.remove(&oldest) {
                self.bytes -= oldest.1;
                let _ = std::fs::remove_file(directory.join(entry.name));
            }
        }
    }
}

impl Shared for SharedValues {
    fn share(&self, bytes: &Bytes) -> Option<String> {
        if bytes.len() > self.bytes_max / 4 {
            return None;
        }
        let place = (bytes.as_ptr() as usize, bytes.len());
        let mut table = self.table.lock();
        table.next += 1;
        let now = table.next;
        if let Some(entry) = table.by_place.get_mut(&place) {
            entry.used = now;
            return Some(entry.name.clone());
        }
        let name = format!("v-{now}");
        if let Err(error) = self.write(&name, bytes) {
            tracing::warn!(%error, "no room for a shared value; it travels in the frame");
            return None;
        }
        table.bytes += bytes.len();
        table.by_place.insert(
            place,
            Entry {
                _alive: bytes.clone(),
                name: name.clone(),
                used: now,
            },
        );
        table.make_room(&self.directory, self.bytes_max);
        Some(name)
    }

    fn take(&self, name: &str, length: usize) -> io::Result<Bytes> {
        let plain = name.starts_with("w-")
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !plain {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a worker's file",
            ));
        }
        let path = self.directory.join(name);
        // Opening a pipe would wait for its other end, and this thread with it.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&path)?;
        let _ = std::fs::remove_file(&path);
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() != length as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} bytes where {length} were announced", metadata.len()),
            ));
        }
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

impl Drop for SharedValues {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(bytes_max: usize) -> (tempfile::TempDir, SharedValues) {
        let directory = tempfile::tempdir().unwrap();
        let shared = SharedValues::open(directory.path().join("shm"), bytes_max).unwrap();
        (directory, shared)
    }

    #[test]
    fn a_value_is_written_once() {
        let (_keep, shared) = open(1000);
        let value = Bytes::from(vec![7; 100]);
        let first = shared.share(&value).unwrap();
        assert_eq!(shared.share(&value.clone()).unwrap(), first);
        let other = shared.share(&Bytes::from(vec![7; 100])).unwrap();
        assert_ne!(other, first);
        assert_eq!(
            std::fs::read(shared.directory().join(first)).unwrap(),
            vec![7; 100]
        );
    }

    #[test]
    fn the_least_recently_shared_leaves() {
        let (_keep, shared) = open(400);
        let values: Vec<Bytes> = (0..5).map(|i| Bytes::from(vec![i; 100])).collect();
        let names: Vec<_> = values
            .iter()
            .map(|value| shared.share(value).unwrap())
            .collect();
        let there: Vec<bool> = names
            .iter()
            .map(|name| shared.directory().join(name).exists())
            .collect();
        assert_eq!(there, [false, true, true, true, true]);
        assert!(
            shared.share(&Bytes::from(vec![0; 101])).is_none(),
            "larger than a quarter"
        );
    }

    #[test]
    fn only_a_workers_own_file_of_the_right_length_is_taken() {
        let (keep, shared) = open(1000);
        std::fs::write(shared.directory().join("w-1-1"), b"abc").unwrap();
        assert!(shared.take("w-1-1", 4).is_err());
        std::fs::write(shared.directory().join("w-1-2"), b"abc").unwrap();
        assert_eq!(shared.take("w-1-2", 3).unwrap(), "abc");
        assert!(shared.take("w-1-2", 3).is_err(), "it is removed when taken");
        std::fs::write(keep.path().join("secret"), b"abc").unwrap();
        assert!(shared.take("w-/../../secret", 3).is_err());
        std::os::unix::fs::symlink(keep.path().join("secret"), shared.directory().join("w-2"))
            .unwrap();
        assert!(shared.take("w-2", 3).is_err());
        let pipe = shared.directory().join("w-3");
        let made = std::process::Command::new("mkfifo").arg(pipe).status();
        assert!(made.unwrap().success());
        assert!(shared.take("w-3", 3).is_err(), "and it does not wait");
    }
}
