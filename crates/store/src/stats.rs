//! Counters of a store: plain numbers, for whoever exports them.

use tidemill_lattice::Time;

/// What a store has done since it was opened, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys with versions in memory.
    pub keys: u64,
    /// Approximate heap size of those versions, in bytes.
    pub bytes: u64,
    /// Commits and updates logged.
    pub commits: u64,
    /// Groups of commits written to the log, each as one batch.
    pub flushes: u64,
    /// Groups that waited for a data sync.
    pub syncs: u64,
    /// Commits in groups, by the group's size: 1, 2, 3-4, 5-8, 9-16, 17-32, 33-64, more.
    pub commits_per_flush: [u64; 8],
    /// Bytes of log records not yet covered by a checkpoint.
    pub log_bytes: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// The time that the durable tier is complete through.
    pub checkpoint: Time,
    /// Age of the oldest live pin, in microseconds.
    pub oldest_pin_us: u64,
    /// Everything below may be folded.
    pub low_water: Time,
    /// The newest complete state.
    pub stable: Time,
    /// Messages sent and not consumed.
    pub messages_pending: u64,
    /// Deltas dropped because another type won the key.
    pub conflicts_dropped: u64,
    /// Whether a failed write has made the store read-only.
    pub read_only: bool,
    /// Requests recorded, about: what was written over is counted until it is compacted.
    pub requests: u64,
    /// Looks at a record that stood: retries that were answered, and commits that came second.
    pub requests_repeated: u64,
    /// Records whose result has expired, and ids that were forgotten after that.
    pub requests_swept: u64,
}

impl Stats {
    /// The index in [`Stats::commits_per_flush`] for a group of `count` commits.
    #[must_use]
    pub fn bucket(count: usize) -> usize {
        (count.max(1).next_power_of_two().trailing_zeros() as usize).min(7)
    }
}

#[cfg(test)]
mod tests {
    use super::Stats;

    #[test]
    fn buckets_are_powers_of_two() {
        let buckets = [1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 100_000].map(Stats::bucket);
        assert_eq!(buckets, [0, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]);
    }
}
