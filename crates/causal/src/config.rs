//! Settings of the protocol, and the time that comes with each event.

use tidemill_lattice::Time;

use crate::{Address, Canaries};

/// The time of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Microseconds that never step back, of no particular beginning: for deadlines.
    pub monotonic_us: u64,
    /// Unix microseconds as this machine has them: may jump, may differ between machines.
    pub wall_us: u64,
}

/// Settings that are the same on every node of a cluster. Times in microseconds.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of partitions; at least one.
    pub partitions: u16,
    /// Between two gossips of a member.
    pub gossip_us: u64,
    /// How many peers hear of each gossip.
    pub gossip_peers: usize,
    /// Until an unanswered message is sent again.
    pub retry_us: u64,
    /// Between two writes of a log that nobody waits for.
    pub lazy_flush_us: u64,
    /// Between two stable marks of a partition.
    pub mark_us: u64,
    /// Between two folds of a partition.
    pub fold_us: u64,
    /// Between two pushes to a cache.
    pub push_us: u64,
    /// How long a pin holds without being released.
    pub lease_us: u64,
    /// Silence after which a member is proposed for eviction.
    pub evict_us: u64,
    /// Silence after which it is so although the epoch has not settled.
    pub evict_unsettled_us: u64,
    /// Between two looks at the epoch object; a member whose last look is three times as old
    /// decides nothing.
    pub epoch_poll_us: u64,
    /// How long a request's id is known after its birth.
    pub retention_us: u64,
    /// How far wall clocks may be apart; work from further ahead is refused.
    pub clock_bound_us: u64,
    /// How long a compute node tries one request.
    pub attempt_us: u64,
    /// Where requests run that nobody called for: those that messages begin.
    pub executors: Vec<Address>,
    /// Entries of a log after which it is replaced by an image.
    pub image_entries: usize,
    /// Seeded bugs; none where it ships.
    pub canaries: Canaries,
}

impl Config {
    /// How long a member goes on without having seen that it still is one.
    #[must_use]
    pub fn unconfirmed_us(&self) -> u64 {
        3 * self.epoch_poll_us
    }

    /// What the floor of an epoch that is learnt now has to be at, at the least, to be above every
    /// snapshot that others give before they learn of it: their clocks may be ahead by the bound,
    /// and they may learn of it a while later.
    #[must_use]
    pub fn floor_least(&self, now: Now) -> Time {
        let ahead_us = self.clock_bound_us.saturating_add(self.unconfirmed_us());
        Time::from_micros(now.wall_us.saturating_add(ahead_us))
    }

    /// The floor of an epoch that is proposed now. By the bound more than the least: that is what
    /// is left for its way to its members, and for their clocks to be ahead of the proposer's.
    #[must_use]
    pub fn floor(&self, now: Now) -> Time {
        let least = self.floor_least(now);
        Time::from_micros(least.micros().saturating_add(self.clock_bound_us))
    }

    /// How far a right clock's time may be ahead of another right clock: by the bound, and by a
    /// floor that it began above.
    #[must_use]
    pub fn ahead_max_us(&self) -> u64 {
        let bounds_us = self.clock_bound_us.saturating_mul(3);
        bounds_us.saturating_add(self.unconfirmed_us())
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            partitions: 4,
            gossip_us: 5_000,
            gossip_peers: 2,
            retry_us: 25_000,
            lazy_flush_us: 20_000,
            mark_us: 40_000,
            fold_us: 30_000,
            push_us: 15_000,
            lease_us: 400_000,
            evict_us: 120_000,
            evict_unsettled_us: 600_000,
            epoch_poll_us: 60_000,
            retention_us: 86_400_000_000,
            clock_bound_us: 500_000,
            attempt_us: 1_500_000,
            executors: Vec::new(),
            image_entries: 24,
            canaries: Canaries::default(),
        }
    }
}
