//! What a home's log holds.

use std::sync::Arc;

use tidemill_lattice::{Cell, Key, Time};

use crate::{PartitionId, RequestId, Seen, Stamp, Step};

/// Deltas of one commit for one partition, one a key.
pub type Deltas = Arc<Vec<(Key, Arc<Cell>)>>;

/// What an answer promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// In the owner's memory. Only for a commit that touches its home partition alone; another is
    /// made [`Durability::Durable`].
    Memory,
    /// In the log tails of the owner and its standby. Without a standby: durable.
    Replicated,
    /// On stable storage.
    #[default]
    Durable,
}

/// A message that a commit sends: a request to be run once it stands.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The home of the request.
    pub home: PartitionId,
    /// What it runs.
    pub steps: Arc<Vec<Vec<Step>>>,
}

/// A commit: everything about it, in one entry of one log.
#[derive(Clone, Debug)]
pub struct Record {
    /// The request.
    pub id: RequestId,
    /// Its place among all commits.
    pub stamp: Stamp,
    /// What it read from.
    pub snapshot: Time,
    /// A hash of its arguments, so that an id used for two requests is noticed.
    pub arguments: u64,
    /// What it changes, by partition.
    pub deltas: Vec<(PartitionId, Deltas)>,
    /// What its steps saw, which is what it answers.
    pub result: Arc<Vec<Seen>>,
    /// What it sends.
    pub messages: Vec<Outgoing>,
    /// What its answer promises.
    pub durability: Durability,
}

impl Record {
    /// Its deltas for a partition, as they are delivered.
    #[must_use]
    pub fn for_partition(&self, home: PartitionId, partition: PartitionId) -> Option<Applied> {
        let (_, deltas) = self.deltas.iter().find(|(to, _)| *to == partition)?;
        Some(Applied {
            stamp: self.stamp,
            home,
            snapshot: self.snapshot,
            deltas: Arc::clone(deltas),
        })
    }

    /// The id of the request that its message of this place is.
    #[must_use]
    pub fn message_id(&self, place: u32) -> RequestId {
        RequestId {
            birth_us: self.stamp.time.micros(),
            client: self.id.client,
            number: self.id.number,
            child: place + 1,
        }
    }
}

/// A delta as a partition's log and its deliveries carry it.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The commit.
    pub stamp: Stamp,
    /// Its home.
    pub home: PartitionId,
    /// What it read from.
    pub snapshot: Time,
    /// Its deltas for the partition.
    pub deltas: Deltas,
}

/// One entry of a partition's log.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A commit of this home.
    Commit(Arc<Record>),
    /// Every delta at or below `through` is in this log: those of other homes that came since the
    /// last mark are here.
    Mark {
        /// The mark.
        through: Time,
        /// What other homes delivered, at or below the mark.
        applied: Vec<Applied>,
    },
    /// The request that a message began has been answered.
    Sent {
        /// The sender.
        id: RequestId,
        /// The message's place.
        place: u32,
    },
}

/// Roughly what deltas take on the wire and in a log.
#[must_use]
pub(crate) fn deltas_bytes(deltas: &[(Key, Arc<Cell>)]) -> usize {
    let mut encoded = Vec::new();
    deltas.iter().fold(4, |sum, (key, cell)| {
        encoded.clear();
        cell.encode(&mut encoded);
        sum + key.as_bytes().len() + encoded.len() + 2
    })
}

impl Entry {
    /// Roughly what it takes in a log.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Entry::Commit(record) => {
                let deltas: usize = record.deltas.iter().map(|(_, d)| deltas_bytes(d)).sum();
                56 + deltas + 16 * record.result.len() + 32 * record.messages.len()
            }
            Entry::Mark { applied, .. } => {
                let deltas: usize = applied.iter().map(|a| 20 + deltas_bytes(&a.deltas)).sum();
                16 + deltas
            }
            Entry::Sent { .. } => 24,
        }
    }
}
