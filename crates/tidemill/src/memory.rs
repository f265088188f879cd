//! The allocator, and the one place that asks it for anything but memory.
#![expect(unsafe_code, reason = "a function of the allocator's C library")]

use std::time::Duration;

/// Values are written on one thread and let go on another, which this one takes better than the C
/// library's: a twelfth less time for a `SET` of 256 B, a tenth for a call of a component. Without
/// huge pages: with them a node at rest holds nearly twice the memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As long as the allocator keeps for itself what was let go.
const PERIOD: Duration = Duration::from_secs(1);

// SAFETY: the signature is that of `mimalloc.h`.
unsafe extern "C" {
    /// Gives back to the system what has been free for a second; all of it with `force`. Any thread
    /// may call it at any time.
    safe fn mi_collect(force: bool);
}

/// Gives back what this thread had and others have let go, as far as it is free.
pub(crate) fn rest() {
    mi_collect(false);
}

/// Gives back memory that is not used any more, for ever. By itself the allocator does so only
/// while it is asked for more: a node that rests after a large request would keep what that took.
pub(crate) async fn give_back() {
    let mut interval = tokio::time::interval(PERIOD);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        mi_collect(false);
    }
}
