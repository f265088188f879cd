//! Seeded bugs, so that a simulation can show that it would find them.
//!
//! Without the feature `canaries` there is no way to make a set that is not empty, and each
//! question below is a constant.

/// One seeded bug: a rule of the protocol left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Canary {
    /// Deltas leave for the participants before the record is safe.
    DeliverBeforeSafe,
    /// Opening a partition does not ask the homes for what it is owed.
    NoRedo,
    /// Opening a home does not deliver its records again.
    NoRedelivery,
    /// A frontier is published in a new epoch before its partitions are open.
    FrontierBeforeRedo,
    /// Stable is the least frontier, not the point before it.
    StableOffByOne,
    /// A retry is told of a record that is not safe yet.
    ReportBeforeSafe,
    /// A new owner neither seals nor asks anybody.
    NoSeal,
    /// Messages of older epochs are accepted.
    NoEpochCheck,
    /// A restarted process goes on under its old member id.
    KeepMemberId,
    /// Folding follows stable instead of the oldest snapshot.
    FoldAboveSnapshot,
    /// A cache applies a push although others before it are missing.
    CacheIgnoresGap,
    /// Of two writes at the same time, the one that arrives later wins.
    TieByArrival,
    /// What was deleted is forgotten before every writer to come has seen it.
    TombstoneEarly,
    /// A token holds the last commit only.
    TokenForgetsSnapshot,
    /// A second reply of a step is joined as well.
    StepReplyTwice,
    /// A delivery at or below the fold line is applied again.
    DeliveryAfterFold,
    /// The frontier's clock is read after its holds.
    ClockAfterHolds,
    /// The low-water mark does not wait for undelivered commits.
    LowWaterIgnoresUndelivered,
    /// A record's deltas are forgotten before every participant has flushed its mark.
    ForgetBeforeMarks,
    /// A former owner lets go of an unsafe commit time at once.
    HoldDroppedOnMove,
    /// A retry of a known request commits again.
    NoDeduplication,
}

impl Canary {
    /// All of them.
    pub const ALL: [Canary; 21] = [
        Canary::DeliverBeforeSafe,
        Canary::NoRedo,
        Canary::NoRedelivery,
        Canary::FrontierBeforeRedo,
        Canary::StableOffByOne,
        Canary::ReportBeforeSafe,
        Canary::NoSeal,
        Canary::NoEpochCheck,
        Canary::KeepMemberId,
        Canary::FoldAboveSnapshot,
        Canary::CacheIgnoresGap,
        Canary::TieByArrival,
        Canary::TombstoneEarly,
        Canary::TokenForgetsSnapshot,
        Canary::StepReplyTwice,
        Canary::DeliveryAfterFold,
        Canary::ClockAfterHolds,
        Canary::LowWaterIgnoresUndelivered,
        Canary::ForgetBeforeMarks,
        Canary::HoldDroppedOnMove,
        Canary::NoDeduplication,
    ];
}

/// The bugs switched on in one run; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Canaries {
    #[cfg(feature = "canaries")]
    set: u64,
}

impl Canaries {
    /// A set of one.
    #[cfg(feature = "canaries")]
    #[must_use]
    pub const fn only(canary: Canary) -> Canaries {
        Canaries {
            set: 1 << canary as u64,
        }
    }

    /// Whether a bug is switched on.
    #[must_use]
    pub const fn has(self, canary: Canary) -> bool {
        #[cfg(feature = "canaries")]
        return self.set & (1 << canary as u64) != 0;
        #[cfg(not(feature = "canaries"))]
        {
            let _ = canary;
            false
        }
    }
}
