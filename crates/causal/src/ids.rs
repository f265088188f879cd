//! Names.

use std::fmt;

use tidemill_lattice::{Time, Writer};

/// Where a process is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u32);

/// A range of slots with one owner and one log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u16);

/// One opening of a partition; the log takes writes of the greatest only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    /// The epoch in which it was opened.
    pub epoch: u64,
    /// The member that opened it: each epoch names one owner.
    pub member: Writer,
}

/// A commit's place in the total order of all commits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Commit time.
    pub time: Time,
    /// The member that drew it. Two members may draw the same time.
    pub writer: Writer,
}

/// The identity of a request, the same for every retry of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// When it was made, in Unix microseconds of its maker's clock.
    pub birth_us: u64,
    /// Who made it: a client, or the incarnation of a writer.
    pub client: u32,
    /// Its number there.
    pub number: u32,
    /// 0, or one more than its place among the messages of the request that sent it.
    pub child: u32,
}

/// A pin of a snapshot, named by whoever asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// Where the asker is reached.
    pub address: Address,
    /// Which process there.
    pub incarnation: Writer,
    /// Its number there.
    pub number: u64,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.member.0)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", self.time, self.writer.0)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}.{}", self.client, self.number)?;
        if self.child > 0 {
            write!(f, ".m{}", self.child)?;
        }
        Ok(())
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}.{}", self.address, self.incarnation.0, self.number)
    }
}

/// Slots that keys hash to; a partition is a range of them.
const SLOTS: u64 = 4096;

impl PartitionId {
    /// The partition of a key where there are `partitions` of them.
    #[must_use]
    pub fn of(key: &tidemill_lattice::Key, partitions: u16) -> PartitionId {
        let slot = xxhash_rust::xxh3::xxh3_64(key.as_bytes()) % SLOTS;
        let partition = slot * u64::from(partitions.max(1)) / SLOTS;
        PartitionId(u16::try_from(partition).unwrap_or(0))
    }
}
