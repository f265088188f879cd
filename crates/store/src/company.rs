//! How many commit at the same time, and how long a sync of the log is held back for them.
//!
//! Clients that wait for their commits come in step with the log: those that a sync has answered
//! ask again while the next one runs, and each sync serves a part of them, often the smaller one.
//! A short wait after a sync brings them together, and the disk syncs once for all; databases
//! know it as a commit delay. It is taken only where others are expected, and never by one client
//! alone.
//!
//! It decides from what it is told; it knows no queue and no clock.

use std::time::Duration;

/// The longest wait, which is as long as the last sync took where that is less: it costs at most
/// what one more sync does, and saves one. Where syncs are slow, so much is enough to answer those
/// whom one has served and to hear of them again.
const WAIT_MAX_US: u64 = 2_000;

/// What is known of those who commit durably.
#[derive(Debug, Default)]
pub(crate) struct Company {
    /// Writes that are believed to be asked for at the same time.
    together: usize,
    /// When the last sync ended, in microseconds, and how long is waited from then on.
    ended_us: u64,
    wait_us: u64,
}

/// For what a sync is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// So many writes are enough.
    pub(crate) writes: usize,
    pub(crate) wait: Duration,
}

impl Company {
    /// Notes a sync that took from `began_us` to `ended_us` and served so many writes, while so
    /// many others were asked for.
    pub(crate) fn synced(&mut self, served: usize, asked: usize, began_us: u64, ended_us: u64) {
        // Who did not come this time may come the next.
        let before = self.together - self.together.div_ceil(8);
        self.together = before.max(served + asked);
        self.ended_us = ended_us;
        self.wait_us = ended_us.saturating_sub(began_us).min(WAIT_MAX_US);
    }

    /// What the next sync is to wait for now that so many writes are asked for.
    pub(crate) fn expected(&self, asked: usize, now_us: u64) -> Option<Expected> {
        let since_us = now_us.checked_sub(self.ended_us)?;
        let left_us = self.wait_us.saturating_sub(since_us);
        let others = asked > 0 && asked < self.together;
        (others && left_us > 0).then(|| Expected {
            writes: self.together,
            wait: Duration::from_micros(left_us),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(writes: usize, micros: u64) -> Option<Expected> {
        let wait = Duration::from_micros(micros);
        Some(Expected { writes, wait })
    }

    #[test]
    fn one_alone_waits_for_nobody() {
        let mut company = Company::default();
        assert_eq!(company.expected(1, 0), None);
        company.synced(1, 0, 1_000, 1_400);
        assert_eq!(company.expected(1, 1_400), None);
        assert_eq!(company.expected(0, 1_400), None);
    }

    #[test]
    fn those_who_were_answered_are_waited_for_as_long_as_a_sync() {
        let mut company = Company::default();
        company.synced(40, 24, 1_000, 1_400);
        assert_eq!(company.expected(24, 1_400), expected(64, 400));
        assert_eq!(company.expected(60, 1_750), expected(64, 50));
        assert_eq!(company.expected(64, 1_750), None, "all are here");
        assert_eq!(
            company.expected(63, 1_800),
            None,
            "they have had their time"
        );
        assert_eq!(company.expected(24, 900), None, "the clock was set back");
        company.synced(64, 0, 2_000, 90_000);
        assert_eq!(company.expected(1, 90_000), expected(64, WAIT_MAX_US));
    }

    #[test]
    fn who_stays_away_is_forgotten() {
        let mut company = Company::default();
        company.synced(64, 0, 0, 100);
        let mut waits = 0;
        while company.expected(1, 100).is_some() {
            company.synced(1, 0, 0, 100);
            waits += 1;
        }
        assert!((10..30).contains(&waits), "{waits}");
    }
}
