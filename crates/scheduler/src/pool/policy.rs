//! How a pool may grow and shrink.

use serde::{Deserialize, Serialize};

use crate::PolicyError;

/// The bounds of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolPolicy {
    /// How many workers are kept even if nobody wants one.
    pub min_workers: usize,
    /// How many workers may be at work at once. One that is blocked on a nested call of its
    /// own does not count, so that nested calls always find room.
    pub max_workers: usize,
    /// How many processes there may be at all: at work, idle, blocked, starting, stopping.
    pub max_processes: usize,
    /// How many workers may be starting at once.
    pub max_starting: usize,
    /// How many requests may wait.
    pub max_waiting: usize,
    /// How long a worker above the minimum may be idle, in microseconds.
    pub idle_timeout_us: u64,
    /// How long requests wait while every process is blocked and none can be added, in
    /// microseconds: the workers may be waiting for these very requests.
    pub stall_timeout_us: u64,
    /// How many starts may fail, without one in between whose worker did its work, before
    /// the pool stops trying for a while.
    pub max_start_failures: u32,
    /// How long it stops trying at first, in microseconds; doubled by each failure after.
    pub backoff_min_us: u64,
    /// The longest it stops trying, in microseconds.
    pub backoff_max_us: u64,
}

impl Default for PoolPolicy {
    fn default() -> Self {
        Self {
            min_workers: 0,
            max_workers: 8,
            max_processes: 64,
            max_starting: 4,
            max_waiting: 1_024,
            idle_timeout_us: 300_000_000,
            stall_timeout_us: 2_000_000,
            max_start_failures: 3,
            backoff_min_us: 500_000,
            backoff_max_us: 60_000_000,
        }
    }
}

impl PoolPolicy {
    /// Checks that the bounds agree with each other.
    ///
    /// # Errors
    /// [`PolicyError`] names the option to change.
    pub fn check(&self) -> Result<(), PolicyError> {
        let counts = [
            ("max_workers", self.max_workers),
            ("max_starting", self.max_starting),
            ("max_waiting", self.max_waiting),
            ("max_start_failures", self.max_start_failures as usize),
        ];
        if let Some((option, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(PolicyError::Zero { option });
        }
        let order = |holds: bool, low, high| match holds {
            true => Ok(()),
            false => Err(PolicyError::Order { low, high }),
        };
        order(
            self.min_workers <= self.max_workers,
            "min_workers",
            "max_workers",
        )?;
        order(
            self.max_workers <= self.max_processes,
            "max_workers",
            "max_processes",
        )?;
        order(
            self.backoff_min_us <= self.backoff_max_us,
            "backoff_min_us",
            "backoff_max_us",
        )
    }

    /// How long to stop trying after `failures` starts in a row have failed.
    pub(super) fn backoff_us(&self, failures: u32) -> u64 {
        let doublings = failures.saturating_sub(self.max_start_failures).min(63);
        self.backoff_min_us
            .saturating_mul(1 << doublings)
            .min(self.backoff_max_us)
    }
}
