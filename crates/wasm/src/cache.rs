//! Compiled code on disk, by the content of the component and the engine that compiled it.
//!
//! Whoever can write a file that is loaded as machine code can do whatever the node can. So an
//! entry is loaded only if its code (HMAC-SHA-256, RFC 2104) is right: made with a key that the
//! node keeps elsewhere, over what the entry is for and what it holds. Anything else counts as
//! absent: damage, entries of another node, files that somebody put there.

use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::fs::{self, File, FileTimes};
use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use wasmtime::Engine;

const MAC_BYTES: usize = 32;
/// The largest entry that is read: code of the largest component.
const ENTRY_BYTES_MAX: u64 = 1 << 30;

/// The secret by which a node knows its own entries.
#[derive(Clone)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// A key of 32 random bytes, the same in every life of the node.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// A directory of compiled code.
pub struct Cache {
    directory: PathBuf,
    key: CacheKey,
    bytes_max: u64,
    /// Bytes in the directory, at least, once somebody has looked through it. One at a time does.
    bytes: Mutex<Option<u64>>,
}

/// What an entry is for: a component's content, and an engine.
pub(crate) struct EntryId {
    name: String,
}

impl EntryId {
    pub(crate) fn of(component: &[u8], engine: &Engine) -> Self {
        let mut hasher = StableHasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let name = format!(
            "{}-{}",
            hex(&Sha256::digest(component)),
            hex(&hasher.0.finalize()[..8])
        );
        Self { name }
    }
}

/// A hash that is the same in every build of this program.
struct StableHasher(Sha256);

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        let mut eight = [0; 8];
        eight.copy_from_slice(&digest[..8]);
        u64::from_le_bytes(eight)
    }
}

impl Cache {
    /// A cache in this directory, which is made when it is needed, of at most so many bytes.
    #[must_use]
    pub fn new(directory: PathBuf, key: CacheKey, bytes_max: u64) -> Self {
        Self {
            directory,
            key,
            bytes_max,
            bytes: Mutex::new(None),
        }
    }

    fn path(&self, id: &EntryId) -> PathBuf {
        self.directory.join(&id.name)
    }

    fn mac(&self, id: &EntryId, code: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key.0).ok()?;
        mac.update(id.name.as_bytes());
        mac.update(&[0]);
        mac.update(code);
        Some(mac)
    }

    /// The compiled code, if this node has put it there.
    pub(crate) fn get(&self, id: &EntryId, now: SystemTime) -> Option<Vec<u8>> {
        let path = self.path(id);
        let mut bytes = Vec::new();
        let file = open_plain(&path)?;
        file.take(ENTRY_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let at = bytes.len().checked_sub(MAC_BYTES)?;
        let (code, mac) = bytes.split_at(at);
        if self.mac(id, code)?.verify_slice(mac).is_err() {
            tracing::warn!(path = %path.display(), "compiled code in the cache is damaged or not this node's; compiling anew");
            let _ = fs::remove_file(&path);
            return None;
        }
        bytes.truncate(at);
        // What is used stays longest.
        if let Ok(file) = File::options().append(true).open(&path) {
            let _ = file.set_times(FileTimes::new().set_modified(now));
        }
        Some(bytes)
    }

    /// Keeps compiled code, and removes what was used longest ago where there is too much.
    pub(crate) fn put(&self, id: &EntryId, code: &[u8]) {
        if let Err(error) = self.write(id, code) {
            tracing::warn!(%error, directory = %self.directory.display(), "compiled code is not kept");
            return;
        }
        let mut bytes = self.bytes.lock();
        // An entry that was there already counts twice until somebody looks again.
        let sum = bytes.map(|bytes| bytes.saturating_add((code.len() + MAC_BYTES) as u64));
        *bytes = match sum {
            Some(sum) if sum <= self.bytes_max => Some(sum),
            Some(_) | None => self.sweep(&id.name),
        };
    }

    fn write(&self, id: &EntryId, code: &[u8]) -> std::io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let mac = self.mac(id, code).map(|mac| mac.finalize().into_bytes());
        let mac = mac.ok_or_else(|| std::io::Error::other("no key"))?;
        let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
        file.write_all(code)?;
        file.write_all(&mac)?;
        file.persist(self.path(id)).map_err(|error| error.error)?;
        Ok(())
    }

    /// Looks through the directory and gives the sum of its bytes. Where they are too many, an
    /// eighth of what may be there goes, so that not every new entry has to look for room.
    fn sweep(&self, keep: &str) -> Option<u64> {
        let entries = fs::read_dir(&self.directory).ok()?;
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
                Some((metadata.modified().ok()?, metadata.len(), entry.path()))
            })
            .collect();
        let mut bytes: u64 = files.iter().map(|(_, length, _)| length).sum();
        if bytes <= self.bytes_max {
            return Some(bytes);
        }
        files.sort();
        let enough = self.bytes_max - self.bytes_max / 8;
        for (_, length, path) in files {
            if bytes <= enough {
                break;
            }
            let is_kept = path.file_name().is_some_and(|name| name == keep);
            if !is_kept && fs::remove_file(&path).is_ok() {
                bytes -= length;
            }
        }
        Some(bytes)
    }
}

/// A file, but neither a directory nor a device nor what a link points to.
fn open_plain(path: &Path) -> Option<File> {
    let metadata = fs::symlink_metadata(path).ok()?;
    if !metadata.is_file() {
        return None;
    }
    File::open(path).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn cache(directory: &Path, bytes_max: u64) -> Cache {
        Cache::new(directory.to_owned(), CacheKey::new([7; 32]), bytes_max)
    }

    fn id(name: &str) -> EntryId {
        EntryId {
            name: name.to_owned(),
        }
    }

    #[test]
    fn an_entry_is_given_to_its_own_key_and_name_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let own = cache(directory.path(), 1 << 20);
        own.put(&id("a"), b"code");
        assert_eq!(own.get(&id("a"), NOW).as_deref(), Some(&b"code"[..]));
        assert_eq!(own.get(&id("b"), NOW), None);
        fs::copy(directory.path().join("a"), directory.path().join("b")).expect("copied");
        assert_eq!(own.get(&id("b"), NOW), None, "of another component");
        let key = CacheKey::new([8; 32]);
        let other = Cache::new(directory.path().to_owned(), key, 1 << 20);
        assert_eq!(other.get(&id("a"), NOW), None, "of another node");
    }

    #[test]
    fn no_damage_of_an_entry_is_overlooked() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = cache(directory.path(), 1 << 20);
        cache.put(&id("a"), b"code");
        let path = directory.path().join("a");
        let good = fs::read(&path).expect("an entry");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).expect("written");
            assert_eq!(cache.get(&id("a"), NOW), None, "byte {at}");
            fs::write(&path, &good[..at]).expect("written");
            assert_eq!(cache.get(&id("a"), NOW), None, "cut at {at}");
        }
        fs::write(&path, &good).expect("written");
        assert!(cache.get(&id("a"), NOW).is_some());
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let directory = tempfile::tempdir().expect("a directory");
        // Three entries fit, and where there are four an eighth goes beyond the one too many.
        let cache = cache(directory.path(), 3 * 132 + 60);
        for (age, name) in ["a", "b", "c"].iter().enumerate() {
            cache.put(&id(name), &[0; 100]);
            let used = NOW + Duration::from_secs(age as u64);
            assert!(cache.get(&id(name), used).is_some());
        }
        assert!(cache.get(&id("a"), NOW + Duration::from_secs(9)).is_some());
        cache.put(&id("d"), &[0; 100]);
        let is_there = |name| directory.path().join(name).exists();
        let kept = ["a", "b", "c", "d"].map(is_there);
        assert_eq!(kept, [true, false, true, true]);
    }

    #[test]
    fn a_directory_that_is_none_keeps_nothing_and_fails_nobody() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("file");
        fs::write(&file, "not a directory").expect("written");
        let cache = cache(&file, 1 << 20);
        cache.put(&id("a"), b"code");
        assert_eq!(cache.get(&id("a"), NOW), None);
        assert_eq!(fs::read(&file).expect("a file"), b"not a directory");
    }
}
