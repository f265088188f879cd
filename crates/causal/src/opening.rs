//! Opening a partition under a new owner, step by step.
//!
//! Fence the log; seal the partition at every member and take the tails; write what the longest
//! tail adds under the new generation; ask every home for what it owes. Pure: it holds what has
//! been answered so far, and says whom to ask again.

use std::collections::BTreeSet;

use tidemill_lattice::Writer;

use crate::standby::Tail;
use crate::{Canaries, Epoch, Generation, LogRead, Partition, PartitionId};

/// How far an opening has come.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// The log is being fenced and read.
    Fencing,
    /// Members are asked to seal the partition.
    Sealing {
        /// The log as it was when it was fenced.
        read: LogRead,
        /// The tails so far.
        tails: Vec<Tail>,
        /// Who has not answered.
        todo: BTreeSet<Writer>,
    },
    /// The log is known and is being written under the new generation, so that no older one can
    /// be taken for longer later on.
    Writing(Box<Partition>),
    /// Homes are asked for what they owe.
    Redoing {
        /// The partition so far.
        partition: Box<Partition>,
        /// Which homes have not answered.
        todo: BTreeSet<PartitionId>,
    },
    /// A newer generation has come first: another epoch will say what is next.
    Overtaken,
}

/// One opening.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) id: PartitionId,
    pub(crate) generation: Generation,
    pub(crate) stage: Stage,
    pub(crate) retry_at_us: u64,
}

impl Opening {
    pub(crate) fn new(id: PartitionId, generation: Generation) -> Opening {
        Opening {
            id,
            generation,
            stage: Stage::Fencing,
            retry_at_us: 0,
        }
    }

    /// The log was fenced.
    pub(crate) fn fenced(&mut self, read: LogRead, own_tail: Option<Tail>, epoch: &Epoch) {
        if matches!(self.stage, Stage::Fencing) {
            let members = epoch.members.iter().map(|placed| placed.member);
            self.stage = Stage::Sealing {
                read,
                tails: own_tail.into_iter().collect(),
                todo: members.collect(),
            };
            self.sealed(self.generation.member, None);
            self.retry_at_us = 0;
        }
    }

    /// A member has sealed the partition.
    pub(crate) fn sealed(&mut self, member: Writer, tail: Option<Tail>) {
        if let Stage::Sealing { tails, todo, .. } = &mut self.stage
            && todo.remove(&member)
        {
            tails.extend(tail);
        }
    }

    /// Goes on to writing once everybody has answered. Answers whether it did.
    pub(crate) fn assemble(&mut self, canaries: Canaries) -> bool {
        let Stage::Sealing { read, tails, todo } = &mut self.stage else {
            return false;
        };
        if !todo.is_empty() {
            return false;
        }
        // Whoever served a generation had written it to the log first, so a tail of another
        // generation than the log's is from before, and whatever it has more was given up.
        let longest = tails
            .iter()
            .filter(|tail| tail.generation == read.generation && tail.end() > read.end())
            .filter(|tail| tail.start <= read.end())
            .max_by_key(|tail| tail.end());
        let missing = longest.map_or(&[][..], |tail| {
            tail.entries
                .get(read.end() - tail.start..)
                .unwrap_or_default()
        });
        let mut partition = Partition::replay(self.id, self.generation, read, missing, canaries);
        partition.urgent = partition.log.end();
        self.stage = Stage::Writing(Box::new(partition));
        self.retry_at_us = 0;
        true
    }

    /// The whole log is on stable storage under this generation.
    pub(crate) fn written(&mut self, partitions: u16) {
        if let Stage::Writing(partition) = &self.stage {
            let todo = (0..partitions).map(PartitionId).filter(|p| *p != self.id);
            self.stage = Stage::Redoing {
                partition: partition.clone(),
                todo: todo.collect(),
            };
            self.retry_at_us = 0;
        }
    }

    /// The log, once it is known: it takes deliveries and answers what it owes.
    pub(crate) fn partition(&self) -> Option<&Partition> {
        match &self.stage {
            Stage::Writing(partition) | Stage::Redoing { partition, .. } => Some(partition),
            _ => None,
        }
    }

    /// See [`Opening::partition`].
    pub(crate) fn partition_mut(&mut self) -> Option<&mut Partition> {
        match &mut self.stage {
            Stage::Writing(partition) | Stage::Redoing { partition, .. } => Some(partition),
            _ => None,
        }
    }

    /// Whether nothing is missing.
    pub(crate) fn is_done(&self) -> bool {
        matches!(&self.stage, Stage::Redoing { todo, .. } if todo.is_empty())
    }
}
