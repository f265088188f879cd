//! What a store is opened with.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use crate::Disk;
use crate::disk::SystemDisk;
use crate::shard::{Driver, Sleeper};

/// How an [`Embedded`](crate::Embedded) store runs.
#[derive(Clone)]
pub struct Options {
    /// Where it keeps everything. Created if it is not there.
    pub directory: PathBuf,
    /// How long a snapshot stays readable, in microseconds.
    pub snapshot_lifetime_us: u64,
    /// Above so many bytes of versions in memory, clean keys leave for the durable tier.
    pub memory_bytes: u64,
    /// How many shards there are, each with a thread of its own.
    pub shards: usize,
    /// Who runs those threads.
    pub driver: Arc<dyn Driver>,
    /// The engine's cache of blocks, in bytes.
    pub cache_bytes: u64,
    /// A checkpoint begins after so many bytes of log, or fewer where the disk has little room.
    pub checkpoint_bytes: u64,
    /// A checkpoint begins after so many microseconds, if anything was logged.
    pub checkpoint_us: u64,
    /// Commits are refused when less space than this would stay free on the disk; or less than
    /// 512 MiB where 8 GiB were free at the opening, since more is gathered there.
    pub reserve_bytes: u64,
    /// The disk below.
    pub disk: Arc<dyn Disk>,
    /// Called now and then by each of the store's threads that has nothing to do, for what only a
    /// thread itself can give back.
    pub at_rest: fn(),
}

impl Options {
    /// The defaults for a directory.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Options {
        const MEBIBYTE: u64 = 1024 * 1024;
        Options {
            directory: directory.into(),
            snapshot_lifetime_us: 10 * 60 * 1_000_000,
            memory_bytes: 512 * MEBIBYTE,
            shards: thread::available_parallelism().map_or(1, usize::from),
            driver: Arc::new(Sleeper),
            cache_bytes: 64 * MEBIBYTE,
            checkpoint_bytes: 32 * MEBIBYTE,
            checkpoint_us: 10 * 1_000_000,
            reserve_bytes: 64 * MEBIBYTE,
            disk: Arc::new(SystemDisk),
            at_rest: || {},
        }
    }
}
