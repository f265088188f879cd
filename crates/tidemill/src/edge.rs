//! The machine's clock and randomness, for the parts that get them handed in.

use rustix::time::{ClockId, clock_gettime};
use std::time::{SystemTime, UNIX_EPOCH};
use tidemill_lattice::{Clock, Entropy};

/// The wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the wall clock"
    )]
    fn now_micros(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        since_epoch.map_or(0, |time| {
            u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
        })
    }

    fn coarse_micros(&self) -> u64 {
        let since_epoch = clock_gettime(ClockId::RealtimeCoarse);
        let seconds = u64::try_from(since_epoch.tv_sec).unwrap_or(0);
        let micros = u64::try_from(since_epoch.tv_nsec).unwrap_or(0) / 1000;
        seconds.saturating_mul(1_000_000).saturating_add(micros)
    }
}

/// The system's randomness.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OsEntropy;

impl Entropy for OsEntropy {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that draws randomness"
    )]
    fn fill(&self, bytes: &mut [u8]) {
        // Without randomness there are no identities and no token; going on with
        // predictable ones would be worse than ending.
        getrandom::fill(bytes).expect("the system has a source of randomness");
    }
}
