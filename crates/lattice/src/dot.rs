//! The identity and order of one write.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Time;

/// Who stamps writes: one incarnation of a node, never a client.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Writer(pub u32);

/// The identity of one write, and its place in the total order of all writes: commit time, then
/// writer, then the write's number within its commit.
///
/// Before a commit has its time, its writes carry *provisional* dots, later rewritten by
/// [`Cell::restamp`](crate::Cell::restamp). A provisional dot's time must be above the snapshot
/// that the writer reads.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Dot {
    /// Commit time.
    pub time: Time,
    /// The node incarnation that drew the time.
    pub writer: Writer,
    /// Number of the write within its commit, in program order.
    pub sequence: u32,
}

impl Dot {
    /// Below every dot of a real write.
    pub const ZERO: Dot = Dot {
        time: Time::ZERO,
        writer: Writer(0),
        sequence: 0,
    };

    /// A dot of these parts.
    pub const fn new(time: Time, writer: Writer, sequence: u32) -> Dot {
        Dot {
            time,
            writer,
            sequence,
        }
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}#{}", self.time, self.writer.0, self.sequence)
    }
}
