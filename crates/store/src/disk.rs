//! The disk under a store, as far as the store asks it anything itself. It is handed in, so
//! that a test can run out of space or fail a write at a chosen moment.

use std::fmt;
use std::io;
use std::path::Path;

/// A moment at which a store writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Before a group of commits is written to the log.
    BeforeAppend,
    /// After it was written, and synced if it had to be: an error here is a write that
    /// reached the disk and reported a failure.
    AfterAppend,
    /// Before a part of a checkpoint is written.
    BeforeCheckpoint,
    /// Before a failed group is voided.
    BeforeFence,
}

/// What a store asks of the disk that it lies on.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Bytes that this process may still write below `directory`.
    ///
    /// # Errors
    /// What the system says.
    fn free_bytes(&self, directory: &Path) -> io::Result<u64>;

    /// The identity of the machine's boot, as long as which lasts whatever was handed to the
    /// operating system is there. `None` where it can not be told.
    fn boot(&self) -> Option<String> {
        None
    }

    /// Called at each step; an error makes the step fail.
    ///
    /// # Errors
    /// Only to inject a fault: a real disk has none here.
    fn step(&self, step: Step) -> io::Result<()> {
        let _ = step;
        Ok(())
    }
}

/// The disk of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(directory)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn boot(&self) -> Option<String> {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
    }
}
