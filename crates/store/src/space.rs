//! Whether the disk has room: an estimate shared by everybody who writes, so that most
//! writes ask the system nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::{Disk, Error};

/// The system is asked again after so long, or when the estimate comes near the reserve.
const STALE_US: u64 = 250_000;

#[derive(Debug)]
pub(crate) struct Space {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    reserve_bytes: u64,
    free_bytes: AtomicI64,
    /// When the system was asked, plus one; 0 for never.
    asked_us: AtomicU64,
}

impl Space {
    pub(crate) fn new(directory: PathBuf, disk: Arc<dyn Disk>, reserve_bytes: u64) -> Space {
        Space {
            directory,
            disk,
            reserve_bytes,
            free_bytes: AtomicI64::new(0),
            asked_us: AtomicU64::new(0),
        }
    }

    /// Takes room for `bytes` of log: they reach the disk twice, in the journal and in a table.
    ///
    /// # Errors
    /// [`Error::Full`] if less than the reserve would stay free.
    pub(crate) fn take(&self, bytes: usize, now_us: u64) -> Result<(), Error> {
        let need = 2 * bytes as i64;
        let reserve = i64::try_from(self.reserve_bytes).unwrap_or(i64::MAX);
        let free = self.free_bytes.load(Ordering::Relaxed);
        let asked = self.asked_us.load(Ordering::Relaxed);
        let is_stale = asked == 0 || now_us.abs_diff(asked - 1) > STALE_US;
        if is_stale || free < reserve.saturating_mul(2).saturating_add(need) {
            let free = self.disk.free_bytes(&self.directory);
            let free = free.map_err(|e| Error::Io {
                operation: "asking for free space",
                directory: self.directory.clone(),
                cause: e.to_string(),
            })?;
            let free = i64::try_from(free).unwrap_or(i64::MAX);
            self.free_bytes.store(free, Ordering::Relaxed);
            self.asked_us.store(now_us + 1, Ordering::Relaxed);
        }
        let before = self.free_bytes.fetch_sub(need, Ordering::Relaxed);
        if before < reserve.saturating_add(need) {
            self.free_bytes.fetch_add(need, Ordering::Relaxed);
            return Err(Error::Full {
                directory: self.directory.clone(),
                free_bytes: before.max(0) as u64,
                reserve_bytes: self.reserve_bytes,
            });
        }
        Ok(())
    }
}
